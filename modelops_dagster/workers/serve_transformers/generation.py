"""The model, and the one thread that runs it."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import metrics
from .jobs import FinishReason, Job, Piece, Token
from .loading import FALLBACK_CONTEXT, load
from .protocol import Refused
from .rows import Row, score
from .steering import Constraint, Grammars

if TYPE_CHECKING:
    from .batching import Batch

log = logging.getLogger(__name__)
SCORED_AT_ONCE = 128  # prompt positions


class Engine:
    """Loads one checkpoint and answers jobs: up to `max_at_once` of them side by side, the others in their order."""

    def __init__(
        self,
        checkpoint: str,
        max_context: int | None,
        *,
        trust_remote_code: bool = False,
        made_up_weights: bool = False,
        max_at_once: int = 1,
    ) -> None:
        self.checkpoint = checkpoint
        self.max_context = max_context or FALLBACK_CONTEXT
        self.ready = False
        self.failure: str | None = None
        self.defaults: dict[str, Any] = {}
        self._asked_context = max_context
        self._trust_remote_code, self._made_up_weights = trust_remote_code, made_up_weights
        self._model: Any = None
        self._tokenizer: Any = None
        self._eos: list[int] = []
        self._grammars: Grammars | None = None
        # fast tokenizers fail with "Already borrowed" when two threads use one
        self._tokenizer_lock = threading.Lock()
        self._max_at_once = max_at_once
        # where a seed decides, and everything else; the same one where sequences cannot be decoded together
        self._batches: dict[bool, Batch] = {}
        self._rows: list[Row] = []  # of each batch in its order; used by the generating thread alone
        self._queue: deque[Job] = deque()
        self._news = threading.Condition()
        self._stopping = threading.Event()

    def start(self, on_failure: Callable[[], None]) -> None:
        """Load in the background, generate one token, then answer; `on_failure` is called when loading failed."""

        def run() -> None:
            begun = time.monotonic()
            try:
                self._load()
                self._warm_up()
            except Exception as error:
                log.exception("loading failed")
                self.failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
                on_failure()
                return
            self.ready = True
            log.info("ready after %.1f s, context %d tokens", time.monotonic() - begun, self.max_context)
            self._answer_all()

        threading.Thread(target=run, name="generate", daemon=True).start()

    def stop(self) -> None:
        """End the running requests and the waiting ones."""
        self._stopping.set()
        with self._news:
            self._news.notify()

    def submit(self, job: Job) -> None:
        """Queue a job; its pieces come through `job.post`."""
        with self._news:
            if self._stopping.is_set():
                raise Refused("the engine is stopping.", status=503)
            metrics.WAITING.inc()
            self._queue.append(job)
            self._news.notify()

    def require_schema(self, schema: str) -> None:
        """Refuse a schema that cannot be followed, before its request is queued."""
        with self._tokenizer_lock:
            self._follow(schema)

    def _follow(self, schema: str) -> Constraint:
        if self._grammars is None:
            vocabulary = int(self._model.get_input_embeddings().weight.shape[0])
            self._grammars = Grammars(self._tokenizer, vocabulary, self._eos)
        return self._grammars.follow(schema)

    def require_known(self, ids: Sequence[int], param: str = "prompt") -> None:
        """Refuse ids that the model has no embedding for; they would end the process on some devices."""
        size = self._model.get_input_embeddings().weight.shape[0]
        if any(not 0 <= i < size for i in ids):
            raise Refused(f"{param} has token ids outside 0..{size - 1}.", param=param)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        with self._tokenizer_lock:
            return list(self._tokenizer.encode(text, add_special_tokens=special))

    def render_chat(
        self,
        messages: list[dict[str, str]],
        template_kwargs: Mapping[str, Any],
        tools: list[dict[str, Any]] | None = None,
    ) -> list[int]:
        """The prompt of a conversation, as token ids, by the checkpoint's own template (sandboxed by Transformers).

        Raises:
            Refused: there is no template, or it does not accept these messages.
        """
        import jinja2

        with self._tokenizer_lock:
            if not self._tokenizer.chat_template:
                raise Refused("this model has no chat template; use /v1/completions.", param="messages")
            try:
                ids = self._tokenizer.apply_chat_template(
                    messages,
                    tools=tools,
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=False,
                    **template_kwargs,
                )
            except (jinja2.TemplateError, TypeError, ValueError) as error:
                raise Refused(f"the chat template refuses these messages: {error}", param="messages") from error
        return list(ids)

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        with self._tokenizer_lock:
            return str(self._tokenizer.decode(ids, skip_special_tokens=not special))

    def _load(self) -> None:
        loaded = load(
            self.checkpoint,
            self._asked_context,
            trust_remote_code=self._trust_remote_code,
            made_up_weights=self._made_up_weights,
        )
        self._model, self._tokenizer, self._eos = loaded.model, loaded.tokenizer, loaded.eos
        self.max_context, self.defaults = loaded.max_context, loaded.defaults

    def _warm_up(self) -> None:
        """One token, and whether several sequences can be decoded together."""
        import torch

        from .batching import Apart, batch_for

        with torch.inference_mode():
            prompt = self.encode("Hello") or self._eos[:1]
            self._batches = dict.fromkeys((True, False), Apart(self._model))
            pieces: list[Piece] = []
            self._begin(Job(prompt=prompt, max_tokens=1, post=pieces.append, is_warm_up=True))
            if pieces[-1].error:
                raise RuntimeError(f"the model loads and does not generate: {pieces[-1].error}")
            if self._max_at_once > 1:
                probes = [self.encode("One, two, three, four") or 2 * prompt, prompt]
                self._batches[False] = batch_for(self._model, probes)

    def _answer_all(self) -> None:
        """Until told to stop: read one more prompt, then a token for everybody."""
        import torch

        with torch.inference_mode():
            while self._wait_for_work():
                if self._queue and len(self._rows) < self._max_at_once:
                    self._admit()
                for batch in self._batches.values():
                    self._step(batch)
        for row in self._rows:
            self._end(row, "cancelled")
        with self._news:
            waiting, self._queue = list(self._queue), deque()
        for job in waiting:
            self._turn_away(job)

    def _wait_for_work(self) -> bool:
        with self._news:
            self._news.wait_for(lambda: self._queue or self._rows or self._stopping.is_set())
        return not self._stopping.is_set()

    def _admit(self) -> None:
        job = self._queue.popleft()
        if job.cancelled.is_set():
            self._turn_away(job)
            return
        metrics.WAITING.dec()
        metrics.RUNNING.inc()
        self._begin(job)

    def _turn_away(self, job: Job) -> None:
        metrics.WAITING.dec()
        job.post(Piece(finish_reason="cancelled"))
        metrics.FINISHED.labels("cancelled").inc()

    def _begin(self, job: Job) -> None:
        """Read the prompt and write the first token; what needs more joins the batch."""
        import torch

        # in company a model rounds differently, and what a seed draws would depend on who else is there
        batch = self._batches[job.seed is not None and bool(job.sampling["do_sample"])]
        try:
            with self._tokenizer_lock:
                constraint = self._follow(job.schema) if job.schema is not None else None
            row = Row(job, batch, self.decode, self._eos, constraint, self._model.device)
            if not job.is_warm_up:
                metrics.PROMPT_TOKENS.inc(len(job.prompt))
            if job.echo:
                ids = torch.tensor([job.prompt], device=self._model.device)
                job.post(Piece(text=self.decode(job.prompt), tokens=self._score_prompt(ids, job.logprobs)))
            if job.max_tokens == 0:
                self._end(row, "length")
                return
            logits, state = batch.read(job.prompt)
            row.take(logits)
            if row.reason is not None:
                self._count(job, row.reason)
                return
            batch.join(state)
            self._rows.append(row)
        except Exception as error:
            self._fail(job, error)

    def _step(self, batch: "Batch") -> None:
        """One token for every row of a batch; those that are done leave it."""
        for row in self._rows_of(batch):
            if row.job.cancelled.is_set():
                self._end(row, "cancelled")
        self._drop_ended(batch)
        rows = self._rows_of(batch)
        if not rows:
            return
        try:
            logits = batch.step([row.last for row in rows])
        except Exception as error:
            for row in rows:
                self._break_off(row, error)
            self._drop_ended(batch)
            return
        for index, row in enumerate(rows):
            try:
                row.take(logits[index])
            except Exception as error:
                self._break_off(row, error)
            else:
                if row.reason is not None:
                    self._count(row.job, row.reason)
        self._drop_ended(batch)

    def _rows_of(self, batch: "Batch") -> list[Row]:
        """In the order of the batch."""
        return [row for row in self._rows if row.batch is batch]

    def _drop_ended(self, batch: "Batch") -> None:
        rows = self._rows_of(batch)
        left = [index for index, row in enumerate(rows) if not row.ended]
        if len(left) < len(rows):
            batch.keep(left)
            self._rows = [row for row in self._rows if row.batch is not batch or not row.ended]

    def _break_off(self, row: Row, error: Exception) -> None:
        row.ended = True
        self._fail(row.job, error)

    def _end(self, row: Row, reason: FinishReason) -> None:
        row.finish(reason)
        self._count(row.job, row.reason or reason)

    def _fail(self, job: Job, error: Exception) -> None:
        log.error("a request failed", exc_info=error)
        job.post(Piece(error=f"{type(error).__name__}: {error}"))
        self._count(job, "error")

    def _count(self, job: Job, reason: str) -> None:
        if not job.is_warm_up:
            metrics.RUNNING.dec()
            metrics.FINISHED.labels(reason).inc()
            metrics.DURATION.observe(time.monotonic() - job.arrived)

    def _score_prompt(self, ids: Any, top: int | None) -> tuple[Token, ...]:
        """The prompt's tokens; with log-probabilities from the second on, the first follows nothing."""
        prompt = [int(i) for i in ids[0]]
        if top is None:
            return tuple(Token(i) for i in prompt)
        logits = self._model(ids).logits[0, :-1]
        scored = [Token(prompt[0])]
        for start in range(0, len(prompt) - 1, SCORED_AT_ONCE):
            rows = logits[start : start + SCORED_AT_ONCE].float().log_softmax(-1)
            scored += [score(row, prompt[start + offset + 1], top) for offset, row in enumerate(rows)]
        return tuple(scored)
