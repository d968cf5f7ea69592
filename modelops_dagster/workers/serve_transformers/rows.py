"""One answer on its way: from logits to the next token, from tokens to pieces of text."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import metrics
from .jobs import FinishReason, Job, Piece, Token
from .steering import Constraint, Penalties
from .text_stream import TextStream

if TYPE_CHECKING:
    from .batching import Batch

LOWEST_LOGPROB = -9999.0  # JSON has no infinity


class Row:
    """Takes the logits of one sequence, a token at a time, and posts what comes of them.

    Args:
        job: what was asked.
        batch: where its sequence is decoded.
        decode: token ids to text.
        eos: tokens that end an answer.
        constraint: keeps the answer within a grammar; None: free text.
        device: where logits come from.
    """

    def __init__(
        self,
        job: Job,
        batch: "Batch",
        decode: Callable[[Sequence[int]], str],
        eos: Sequence[int],
        constraint: Constraint | None,
        device: Any,
    ) -> None:
        import torch

        self.job, self.batch = job, batch
        self.last = 0
        self.reason: FinishReason | None = None
        self.ended = False
        self._stream = TextStream(decode, job.stops)
        self._eos = eos
        self._constraint = constraint
        self._penalties = Penalties(job.presence_penalty, job.frequency_penalty, job.logit_bias)
        self._shapers = _shapers(job.sampling)
        self._ids = torch.tensor([job.prompt], device=device) if "repetition_penalty" in job.sampling else None
        self._generator = torch.Generator(device=device)
        self._generator.seed() if job.seed is None else self._generator.manual_seed(job.seed)
        self._count = 0

    def take(self, logits: Any) -> None:
        """Choose the next token out of `logits`, [vocabulary], post it, and see whether it was the last one."""
        job = self.job
        # of the model, not of what steers it
        logprobs = None if job.logprobs is None else logits.log_softmax(-1)
        chosen = self._choose(logits[None].clone())
        self._count += 1
        if not job.is_warm_up:
            metrics.OUTPUT_TOKENS.inc()
            if self._count == 1:
                metrics.TTFT.observe(time.monotonic() - job.arrived)
        self.last = chosen
        self._penalties.take(chosen)
        if self._constraint:
            self._constraint.take(chosen)
        token = Token(chosen) if logprobs is None else score(logprobs, chosen, job.logprobs or 0)
        job.post(Piece(text=self._stream.feed(chosen), tokens=(token,)))
        self._see_whether_it_ends(chosen)

    def finish(self, reason: FinishReason) -> None:
        """Post the last piece."""
        rest = self._stream.finish()
        self.reason, self.ended = "stop" if self._stream.stopped else reason, True
        self.job.post(Piece(text=rest, finish_reason=self.reason))

    def _choose(self, logits: Any) -> int:
        """One of [1, vocabulary]."""
        import torch

        if self._ids is not None:
            logits = _repetition(self.job.sampling["repetition_penalty"])(self._ids, logits)
        logits = self._penalties(None, logits)
        if self._constraint:
            logits = self._constraint(None, logits)
        for shaper in self._shapers:
            logits = shaper(None, logits)
        if self.job.sampling["do_sample"]:
            chosen = int(torch.multinomial(logits.softmax(-1), 1, generator=self._generator))
        else:
            chosen = int(logits.argmax(-1))
        if self._ids is not None:
            self._ids = torch.cat([self._ids, self._ids.new_tensor([[chosen]])], dim=-1)
        return chosen

    def _see_whether_it_ends(self, chosen: int) -> None:
        is_end = chosen in self._eos and not self.job.ignore_eos
        is_whole = self._constraint is not None and self._constraint.finished
        if self._stream.stopped or is_end or is_whole:
            self.finish("stop")
        elif self._count >= self.job.max_tokens:
            self.finish("length")


def _repetition(penalty: float) -> Any:
    import transformers

    return transformers.RepetitionPenaltyLogitsProcessor(penalty)


def _shapers(sampling: dict[str, Any]) -> list[Any]:
    """What narrows the choice, in the order of generate(); none of it where nothing is drawn."""
    import transformers

    if not sampling["do_sample"]:
        return []
    found: list[Any] = []
    if (temperature := sampling.get("temperature", 1.0)) != 1.0:
        found.append(transformers.TemperatureLogitsWarper(float(temperature)))
    if top_k := sampling.get("top_k"):
        found.append(transformers.TopKLogitsWarper(int(top_k)))
    if (top_p := sampling.get("top_p", 1.0)) < 1.0:
        found.append(transformers.TopPLogitsWarper(float(top_p)))
    if min_p := sampling.get("min_p"):
        found.append(transformers.MinPLogitsWarper(float(min_p)))
    return found


def score(logprobs: Any, chosen: int, top: int) -> Token:
    """A token with its log-probability out of `logprobs`, [vocabulary], and the `top` likeliest."""
    best = logprobs.topk(top) if top else None
    alternatives = zip(best.indices.tolist(), best.values.tolist(), strict=True) if best is not None else ()
    return Token(
        token_id=chosen,
        logprob=max(float(logprobs[chosen]), LOWEST_LOGPROB),
        top=tuple((i, max(value, LOWEST_LOGPROB)) for i, value in alternatives),
    )
