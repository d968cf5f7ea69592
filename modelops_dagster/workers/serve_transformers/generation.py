"""The model, and the one thread that runs it."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from . import metrics
from .loading import FALLBACK_CONTEXT, load
from .protocol import Refused
from .steering import Constraint, Grammars, Penalties
from .text_stream import TextStream

log = logging.getLogger(__name__)
FinishReason = Literal["stop", "length", "cancelled"]
LOWEST_LOGPROB = -9999.0  # JSON has no infinity
SCORED_AT_ONCE = 128  # prompt positions


@dataclass(frozen=True)
class Token:
    """One token; with its log-probability and the likeliest alternatives, best first, when they were asked for."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """Text that is safe to show and the tokens since the last piece. The last piece has a reason or an error."""

    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish_reason: FinishReason | None = None
    error: str | None = None


@dataclass
class Job:
    """One prompt to answer. `post` is called from the generating thread."""

    prompt: list[int]
    max_tokens: int
    post: Callable[[Piece], None]
    sampling: dict[str, Any] = field(default_factory=lambda: {"do_sample": False})
    seed: int | None = None
    stops: tuple[str, ...] = ()
    logprobs: int | None = None
    echo: bool = False
    ignore_eos: bool = False
    schema: str | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    is_warm_up: bool = False
    arrived: float = field(default_factory=time.monotonic)
    cancelled: threading.Event = field(default_factory=threading.Event)


class Engine:
    """Loads one checkpoint and answers jobs in the order they came."""

    def __init__(
        self,
        checkpoint: str,
        max_context: int | None,
        *,
        trust_remote_code: bool = False,
        made_up_weights: bool = False,
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
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")
        self._stopping = threading.Event()

    def start(self, on_failure: Callable[[], None]) -> None:
        """Load in the background and generate one token; `on_failure` is called when that did not work."""

        def load() -> None:
            begun = time.monotonic()
            try:
                self._load()
                self._warm_up()
            except Exception as error:
                log.exception("loading failed")
                self.failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
                on_failure()
            else:
                self.ready = True
                log.info("ready after %.1f s, context %d tokens", time.monotonic() - begun, self.max_context)

        self._thread.submit(load)

    def stop(self) -> None:
        """End the running request and the waiting ones."""
        self._stopping.set()
        self._thread.shutdown(wait=False)

    def submit(self, job: Job) -> None:
        """Queue a job; its pieces come through `job.post`."""
        if self._stopping.is_set():
            raise Refused("the engine is stopping.", status=503)
        metrics.WAITING.inc()
        self._thread.submit(self._work, job)

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
        pieces: list[Piece] = []
        prompt = self.encode("Hello") or self._eos[:1]
        self._answer(Job(prompt=prompt, max_tokens=1, post=pieces.append, is_warm_up=True))
        if pieces[-1].error:
            raise RuntimeError(f"the model loads and does not generate: {pieces[-1].error}")

    def _work(self, job: Job) -> None:
        metrics.WAITING.dec()
        reason = "cancelled"
        if job.cancelled.is_set() or self._stopping.is_set():
            job.post(Piece(finish_reason="cancelled"))
        else:
            with metrics.RUNNING.track_inprogress():
                reason = self._answer(job)
        metrics.FINISHED.labels(reason).inc()
        metrics.DURATION.observe(time.monotonic() - job.arrived)

    def _answer(self, job: Job) -> str:
        import torch

        try:
            with torch.inference_mode():
                return self._generate(job)
        except Exception as error:
            log.exception("a request failed")
            job.post(Piece(error=f"{type(error).__name__}: {error}"))
            return "error"

    def _generate(self, job: Job) -> FinishReason:
        import torch

        ids = torch.tensor([job.prompt], device=self._model.device)
        if not job.is_warm_up:
            metrics.PROMPT_TOKENS.inc(len(job.prompt))
        if job.echo:
            job.post(Piece(text=self.decode(job.prompt), tokens=self._score_prompt(ids, job.logprobs)))
        if job.max_tokens == 0:
            job.post(Piece(finish_reason="length"))
            return "length"
        if job.seed is None:
            torch.seed()
        else:
            torch.manual_seed(job.seed)
        with self._tokenizer_lock:
            constraint = self._follow(job.schema) if job.schema is not None else None
        watch = _Watch(job, TextStream(self.decode, job.stops), self._stopping, constraint)
        extra: dict[str, Any] = {"min_new_tokens": job.max_tokens} if job.ignore_eos else {}
        output = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=job.max_tokens,
            eos_token_id=self._eos or None,
            pad_token_id=self._eos[0] if self._eos else 0,
            stopping_criteria=[watch.after_token],
            logits_processor=watch.processors(),
            **job.sampling,
            **extra,
        )
        reason: FinishReason = "length"
        rest = watch.stream.finish()
        if watch.stream.stopped or int(output[0, -1]) in self._eos or (constraint and constraint.finished):
            reason = "stop"
        elif job.cancelled.is_set() or self._stopping.is_set():
            reason = "cancelled"
        job.post(Piece(text=rest, finish_reason=reason))
        return reason

    def _score_prompt(self, ids: Any, top: int | None) -> tuple[Token, ...]:
        """The prompt's tokens; with log-probabilities from the second on, the first follows nothing."""
        prompt = [int(i) for i in ids[0]]
        if top is None:
            return tuple(Token(i) for i in prompt)
        logits = self._model(ids).logits[0, :-1]
        scored = [Token(prompt[0])]
        for start in range(0, len(prompt) - 1, SCORED_AT_ONCE):
            rows = logits[start : start + SCORED_AT_ONCE].float().log_softmax(-1)
            scored += [_score(row, prompt[start + offset + 1], top) for offset, row in enumerate(rows)]
        return tuple(scored)


class _Watch:
    """Looks on while generate() runs: posts each token and says when it is enough."""

    def __init__(self, job: Job, stream: TextStream, stopping: threading.Event, constraint: Constraint | None) -> None:
        self.stream = stream
        self._constraint = constraint
        self._penalties = Penalties(job.presence_penalty, job.frequency_penalty, job.logit_bias)
        self._job = job
        self._stopping = stopping
        self._logprobs: Any = None
        self._count = 0

    def processors(self) -> list[Any]:
        """Logits processors, in their order: log-probabilities are those of the model, not of what steers it."""
        job = self._job
        found: list[Any] = [] if job.logprobs is None else [self.before_token]
        if job.presence_penalty or job.frequency_penalty or job.logit_bias:
            found.append(self._penalties)
        return [*found, self._constraint] if self._constraint else found

    def before_token(self, _ids: Any, logits: Any) -> Any:
        """A logits processor that changes nothing: sees them before temperature and top-p."""
        self._logprobs = logits[0].float().log_softmax(-1)
        return logits

    def after_token(self, ids: Any, _scores: Any, **_: Any) -> Any:
        """A stopping criterion."""
        import torch

        self._count += 1
        if not self._job.is_warm_up:
            metrics.OUTPUT_TOKENS.inc()
            if self._count == 1:
                metrics.TTFT.observe(time.monotonic() - self._job.arrived)
        chosen = int(ids[0, -1])
        self._penalties.take(chosen)
        if self._constraint:
            self._constraint.take(chosen)
        wanted = self._job.logprobs
        token = Token(chosen) if wanted is None else _score(self._logprobs, chosen, wanted)
        self._job.post(Piece(text=self.stream.feed(chosen), tokens=(token,)))
        enough = self.stream.stopped or self._job.cancelled.is_set() or self._stopping.is_set()
        enough = enough or (self._constraint is not None and self._constraint.finished)
        return torch.full((ids.shape[0],), enough, dtype=torch.bool, device=ids.device)


def _score(logprobs: Any, chosen: int, top: int) -> Token:
    best = logprobs.topk(top) if top else None
    alternatives = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best is not None else ()
    return Token(
        token_id=chosen,
        logprob=max(float(logprobs[chosen]), LOWEST_LOGPROB),
        top=tuple((i, max(value, LOWEST_LOGPROB)) for i, value in alternatives),
    )
