"""What changes the odds of the next token: penalties, biases, and a JSON schema that the answer has to follow."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .protocol import Refused


class Penalties:
    """Presence and frequency penalties over what was written so far, and a bias per token, as OpenAI defines them:
    logit - frequency * count - presence * (count > 0) + bias.
    """

    def __init__(self, presence: float, frequency: float, bias: Mapping[int, float]) -> None:
        self._presence, self._frequency, self._bias = presence, frequency, bias
        self._written: Counter[int] = Counter()

    def take(self, token_id: int) -> None:
        self._written[token_id] += 1

    def __call__(self, _ids: Any, logits: Any) -> Any:
        """A logits processor."""
        if self._frequency or self._presence:
            for token_id, count in self._written.items():
                logits[0, token_id] -= self._frequency * count + self._presence
        for token_id, bias in self._bias.items():
            logits[0, token_id] += bias
        return logits


class Grammars:
    """Makes constraints for one tokenizer; what is read from that is read once, on the first request that needs it."""

    def __init__(self, tokenizer: Any, vocabulary: int, eos: Sequence[int]) -> None:
        self._hf, self._vocabulary, self._eos = tokenizer, vocabulary, list(eos)
        self._tokenizer: Any = None

    def follow(self, schema: str) -> "Constraint":
        """A constraint to answers of a JSON schema.

        Raises:
            Refused: the schema does not hold, or this model's tokenizer cannot be followed.
        """
        import llguidance
        import llguidance.hf

        if self._tokenizer is None:
            if not self._eos:
                raise Refused("this model has no end token, so it can follow no schema.", param="response_format")
            try:
                self._tokenizer = llguidance.hf.from_tokenizer(
                    self._hf, n_vocab=self._vocabulary, eos_token=list(self._eos)
                )
            except ValueError as error:
                raise Refused(f"this model can follow no schema: {error}", param="response_format") from error
        try:
            # one spelling of the white space: small models lose themselves in it
            grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False})
            matcher = llguidance.LLMatcher(self._tokenizer, grammar)
        except ValueError as error:
            raise Refused(f"the schema of response_format does not hold: {error}", param="response_format") from error
        if matcher.is_error():
            said = matcher.get_error()
            raise Refused(f"the schema of response_format does not hold: {said}", param="response_format")
        return Constraint(matcher, self._eos)


class Constraint:
    """Keeps one answer within its grammar. Used from the generating thread."""

    def __init__(self, matcher: Any, eos: Sequence[int]) -> None:
        self._matcher, self._eos = matcher, eos

    @property
    def finished(self) -> bool:
        """Whether nothing more can follow."""
        return bool(self._matcher.is_stopped())

    def take(self, token_id: int) -> None:
        if token_id not in self._eos:
            self._matcher.consume_token(token_id)

    def __call__(self, _ids: Any, logits: Any) -> Any:
        """A logits processor: what does not fit becomes impossible."""
        import torch

        size = logits.shape[-1]
        packed = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.int32)
        fits = ((packed.unsqueeze(1) >> torch.arange(32)) & 1).flatten()[:size].bool()
        if fits.shape[0] < size:  # rows that pad the embedding
            fits = torch.nn.functional.pad(fits, (0, size - fits.shape[0]))
        return logits.masked_fill(~fits.to(logits.device), float("-inf"))
