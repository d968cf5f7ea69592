"""Several sequences in one forward pass. Imported where torch is.

A sequence is read alone, and then joins the others: its keys and values are aligned with theirs at the right end, with
padding on the left that the attention mask hides. That works for caches that keep keys and values as they are, in full
or in a window. Sequences of any other model (state space, linear attention) are decoded in turn, a token each.
"""

import copy
import inspect
import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

log = logging.getLogger(__name__)
State = dict[str, Any]  # what a model is given besides the next token, as generate() keeps it
# bfloat16 rounds differently in a batch; a wrong position or mask changes far more
TOLERANCE = 0.05


class Batch(Protocol):
    """Sequences that are decoded side by side, in the order in which they joined."""

    def read(self, prompt: Sequence[int]) -> tuple[Any, State]:
        """Logits of the token after `prompt`, [vocabulary], and what `join` wants."""

    def join(self, state: State) -> None:
        """Decode this sequence from now on."""

    def step(self, tokens: Sequence[int]) -> Any:
        """Append one token to each sequence; logits of the tokens after, [sequences, vocabulary]."""

    def keep(self, indices: Sequence[int]) -> None:
        """Forget all sequences but these; the order stays."""


class Apart:
    """One sequence after the other, each with a cache of its own."""

    def __init__(self, model: Any) -> None:
        self._model = model
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._one_row = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._states: list[State] = []

    def read(self, prompt: Sequence[int]) -> tuple[Any, State]:
        ids = torch.tensor([list(prompt)], device=self._model.device)
        state: State = {"attention_mask": torch.ones_like(ids), "use_cache": True, **self._one_row}
        if self._takes_positions:
            state["position_ids"] = torch.arange(len(prompt), device=ids.device)[None]
        logits, state = self._forward(ids, state, is_first_iteration=True)
        return logits[0], state

    def join(self, state: State) -> None:
        self._states.append(state)

    def step(self, tokens: Sequence[int]) -> Any:
        rows = []
        for index, (token, state) in enumerate(zip(tokens, self._states, strict=True)):
            logits, self._states[index] = self._decode([token], state)
            rows.append(logits)
        return torch.cat(rows)

    def keep(self, indices: Sequence[int]) -> None:
        self._states = [self._states[i] for i in indices]

    def _decode(self, tokens: Sequence[int], state: State) -> tuple[Any, State]:
        ids = torch.tensor([[token] for token in tokens], device=self._model.device)
        return self._forward(ids, state, next_sequence_length=1)

    def _forward(self, ids: Any, state: State, **how: Any) -> tuple[Any, State]:
        """One pass as generate() makes it, so that models which override its steps are served as well."""
        inputs = self._model.prepare_inputs_for_generation(ids, **how, **state)
        output = self._model(**inputs, return_dict=True)
        state = self._model._update_model_kwargs_for_generation(output, state)
        if self._takes_positions:
            state["position_ids"] = state["position_ids"][..., -1:]
        return output.logits[:, -1].float(), state


class Together(Apart):
    """All sequences in one forward pass, over one cache."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._all: State | None = None

    @staticmethod
    def can_hold(state: State) -> bool:
        """Whether the cache of a sequence can be put beside others."""
        cache = state.get("past_key_values")
        if cache is None or type(cache) is not DynamicCache:
            return False
        return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)

    def join(self, state: State) -> None:
        states = [state] if self._all is None else [self._all, state]
        self._all = _beside(states, max(s["past_key_values"].get_seq_length() for s in states))

    def step(self, tokens: Sequence[int]) -> Any:
        assert self._all is not None  # noqa: S101  (nobody steps before somebody joined)
        logits, self._all = self._decode(tokens, self._all)
        return logits

    def keep(self, indices: Sequence[int]) -> None:
        if self._all is None or not indices:
            self._all = None
            return
        chosen = torch.tensor(list(indices))  # on the CPU, which indexes tensors of every device
        state = {name: value[chosen] if torch.is_tensor(value) else value for name, value in self._all.items()}
        state["past_key_values"].batch_select_indices(chosen)
        # the mask has the next token's place already; the longest that is left decides how much padding goes
        longest = int(state["attention_mask"].sum(-1).max()) - 1
        self._all = _beside([state], longest)


def _beside(states: Sequence[State], length: int) -> State:
    """States in one, aligned at the right end, with `length` tokens in the cache: padded or cut on the left."""
    caches = [s["past_key_values"] for s in states]
    cache = copy.copy(caches[0])
    cache.layers = [_layer(layers, length) for layers in zip(*(c.layers for c in caches), strict=True)]
    found = {**states[0], "past_key_values": cache}
    found["attention_mask"] = torch.cat([_fitted(s["attention_mask"], length + 1, dim=-1) for s in states])
    if "position_ids" in found:
        found["position_ids"] = torch.cat([s["position_ids"] for s in states])
    return found


def _layer(layers: Sequence[Any], length: int) -> Any:
    layer = copy.copy(layers[0])
    if not layer.is_initialized:  # it shares the keys of another layer
        return layer
    held = length
    if type(layer) is DynamicSlidingWindowLayer:
        held, layer.cumulative_length = min(length, layer.sliding_window - 1), length
    layer.keys = torch.cat([_fitted(other.keys, held, dim=-2) for other in layers])
    layer.values = torch.cat([_fitted(other.values, held, dim=-2) for other in layers])
    return layer


def _fitted(tensor: Any, length: int, dim: int) -> Any:
    """`length` places of dimension `dim`, the last ones: what lacks is zero, what is too much goes."""
    there = tensor.shape[dim]
    if there >= length:
        return tensor.narrow(dim, there - length, length)
    shape = list(tensor.shape)
    shape[dim] = length - there
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)


def batch_for(model: Any, probes: Sequence[Sequence[int]]) -> Batch:
    """The batch that fits the model: together where that gives the same logits as apart, which is tried out.

    Args:
        model: a loaded one.
        probes: two prompts of different lengths.
    """
    apart, together = Apart(model), Together(model)
    states = [apart.read(probe)[1] for probe in probes]
    if not all(map(Together.can_hold, states)):
        log.info("sequences are decoded in turn: this model's cache cannot be shared")
        return apart
    for state in states:
        together.join(state)
    for state in states:
        apart.join(state)
    tokens = [probe[0] for probe in probes]
    try:
        found = together.step(tokens)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        log.warning("sequences are decoded in turn, since this model fails in a batch: %s", error)
        return Apart(model)
    wanted = apart.step(tokens)
    difference = float(((found - wanted).norm(dim=-1) / wanted.norm(dim=-1).clamp_min(1e-9)).max())
    if not difference <= TOLERANCE:  # also when it is no number
        log.warning("sequences are decoded in turn, since a batch changes this model's logits by %.3g", difference)
        return Apart(model)
    log.info("sequences are decoded together; a batch changes logits by %.2g", difference)
    return Together(model)
