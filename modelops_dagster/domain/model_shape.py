"""The sizes of a model that decide how much memory it takes and into how many parts it can be cut.

Everything is read from config.json, in whichever of its dialects that is written.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from modelops_dagster.domain.values import Value

LayerKind = Literal["full", "sliding", "latent", "recurrent"]
# Names that config.json files use for one layer's kind, by what the layer keeps per token.
_SLIDING = frozenset({"sliding_attention", "sliding", "local_attention", "chunked_attention"})
_RECURRENT = frozenset(
    {"linear_attention", "mamba", "mamba2", "conv", "short_conv", "recurrent", "lightning_attention"}
)
_NO_STATE = frozenset({"mlp", "moe"})
# Every n-th layer sees the whole context, where the family's config.json leaves it to its code.
_EVERY_NTH_FULL = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6, "cohere2": 4}
# What the family's code assumes where config.json leaves it out, as its smaller releases do.
_ASSUMED: dict[str, dict[str, int]] = {
    "gemma3_text": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256},
}
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")


class LayerGroup(Value):
    """Layers that keep the same for every token they have seen."""

    kind: LayerKind
    layers: int
    kv_heads: int = Field(default=1, description="1 for latent attention, whose one vector all heads share")
    values_per_head: int = Field(default=0, description="numbers kept per token and head: key and value, or the latent")
    window: int | None = Field(default=None, description="tokens after which the oldest is forgotten; None: none is")

    def bytes_per_token(self, bytes_per_value: float, tensor_parallel: int = 1) -> float:
        """On one GPU. Heads are divided among GPUs until each has one; a latent vector is on every GPU (vLLM's
        `AttentionSpec` and `MLAAttentionSpec`)."""
        heads = max(1, self.kv_heads // tensor_parallel)
        return self.layers * heads * self.values_per_head * bytes_per_value

    def tokens(self, context: int) -> int:
        """How many tokens of a sequence of `context` are kept."""
        return min(context, self.window) if self.window else context


class Grid(Value):
    """How the numbers of a quantized weight share their scales."""

    method: str
    group: int | None = Field(default=None, description="consecutive inputs with one scale")
    block: tuple[int, int] | None = Field(default=None, description="outputs x inputs with one scale")
    covers_all: bool = Field(default=True, description="nothing but embeddings and the head is left out")


class ModelShape(Value):
    """Layers, heads and widths of the language model."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    intermediate: tuple[int, ...] = Field(default=(), description="widths of feed-forward parts: dense, experts")
    groups: tuple[LayerGroup, ...]
    kv_value_bytes: float = Field(default=2.0, description="of one number in the KV cache")
    grid: Grid | None = None

    @property
    def is_latent(self) -> bool:
        return any(g.kind == "latent" for g in self.groups)

    def kv_bytes_per_token(self, tensor_parallel: int = 1) -> float:
        """Of one token, while every layer still keeps it; bytes on one GPU."""
        return sum(g.bytes_per_token(self.kv_value_bytes, tensor_parallel) for g in self.groups)

    def kv_bytes(self, context: int, tensor_parallel: int = 1) -> float:
        """Of one sequence of `context` tokens; bytes on one GPU, all layers."""
        return sum(g.bytes_per_token(self.kv_value_bytes, tensor_parallel) * g.tokens(context) for g in self.groups)

    def split_problem(self, tensor_parallel: int) -> str | None:
        """Why vLLM refuses to cut the model into so many parts, as the end of a sentence; None when it does not."""
        n = tensor_parallel
        if self.heads % n:
            return f"{self.heads} attention heads are not a multiple of {n}"
        if not self.is_latent and self.kv_heads % n and n % self.kv_heads:
            return f"{self.kv_heads} key-value heads are neither a multiple nor a divisor of {n}"
        return self._grid_problem(n)

    def _grid_problem(self, n: int) -> str | None:
        """Scales must not be shared across a cut (vLLM: `validate_fp8_block_shape`, group sizes of WNA16)."""
        if self.grid is None:
            return None
        rows = [("feed-forward", width) for width in self.intermediate]
        if not self.is_latent:  # there the width is that of the values
            rows.append(("attention output", self.heads * self.head_dim))
        if self.grid.group:
            inputs = [*rows, ("hidden", self.hidden)] if n == 1 else rows
            return _indivisible(inputs, n, self.grid.group, "group size")
        if self.grid.block:
            keys = [] if self.is_latent else [("key", max(n, self.kv_heads) * self.head_dim)]
            return _indivisible([*rows, *keys], n, self.grid.block[0], "block size")
        return None

    @classmethod
    def from_json(cls, config: object) -> "ModelShape | None":
        """Read a parsed config.json; None when it does not state layers, heads and widths."""
        if not isinstance(config, Mapping):
            return None
        text = _language_model(config)
        read = _Reader(text)
        layers, hidden = (
            read.integer("num_hidden_layers", "n_layer", "num_layers"),
            read.integer("hidden_size", "n_embd", "d_model"),
        )
        heads = read.integer("num_attention_heads", "n_head", "num_heads")
        if not layers or not hidden or not heads:
            return None
        kv_heads = read.integer("num_key_value_heads", "num_kv_heads", "multi_query_group_num") or heads
        head_dim = read.integer("head_dim", "attention_head_dim", "kv_channels") or hidden // heads
        quantization = config.get("quantization_config") or text.get("quantization_config")
        widths = (
            read.integer("intermediate_size", "ffn_hidden_size", "n_inner"),
            read.integer("moe_intermediate_size"),
        )
        return cls(
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            hidden=hidden,
            intermediate=tuple(dict.fromkeys(w for w in widths if w)),
            groups=tuple(_groups(read, layers, kv_heads, head_dim)),
            kv_value_bytes=1.0 if _has_fp8_cache(quantization) else 2.0,
            grid=_grid(quantization),
        )


def _indivisible(widths: Sequence[tuple[str, int]], n: int, unit: int, name: str) -> str | None:
    for what, width in widths:
        if width % (n * unit):
            cut = f" cut into {n}" if n > 1 else ""
            return f"the {what} width {width}{cut} is no multiple of the {name} {unit}"
    return None


class _Reader:
    """Fields of the language model's configuration; what its family assumes stands in for what it leaves out."""

    def __init__(self, text: Mapping[str, Any]) -> None:
        self.text = text
        self.model_type = str(text.get("model_type") or "")
        self._assumed = _ASSUMED.get(self.model_type, {})

    def integer(self, *names: str) -> int | None:
        for source in (self.text, self._assumed):
            for name in names:
                value = source.get(name)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
        return None

    def names(self, field: str) -> list[str] | None:
        value = self.text.get(field)
        return [str(v) for v in value] if isinstance(value, list) and value else None


def _language_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of config.json that describes the language model; multimodal ones keep it one or two levels down."""
    if config.get("num_hidden_layers") or config.get("n_layer"):
        return config
    for name in _NESTED:
        nested = config.get(name)
        if isinstance(nested, Mapping):
            return _language_model(nested)
    return config


def _groups(read: _Reader, layers: int, kv_heads: int, head_dim: int) -> Iterator[LayerGroup]:
    """The layers by what they keep, each kind once."""
    lora, rope = read.integer("kv_lora_rank"), read.integer("qk_rope_head_dim")
    kinds = _kinds(read, layers)
    shared = read.integer("num_kv_shared_layers") or 0
    kinds = kinds[: len(kinds) - shared] if shared < len(kinds) else kinds  # the last ones read what others keep
    full, sliding = kinds.count("full"), kinds.count("sliding")
    if lora and rope:
        yield LayerGroup(kind="latent", layers=full, values_per_head=lora + rope)
    elif full:
        yield LayerGroup(
            kind="full",
            layers=full,
            kv_heads=read.integer("num_global_key_value_heads") or kv_heads,
            values_per_head=2 * (read.integer("global_head_dim") or head_dim),
        )
    if sliding:
        window = read.integer("sliding_window", "attention_chunk_size")
        yield LayerGroup(kind="sliding", layers=sliding, kv_heads=kv_heads, values_per_head=2 * head_dim, window=window)
    if recurrent := kinds.count("recurrent"):
        yield LayerGroup(kind="recurrent", layers=recurrent)


def _kinds(read: _Reader, layers: int) -> list[LayerKind]:
    """What each layer that keeps anything is, in order."""
    if (pattern := read.text.get("hybrid_override_pattern")) and isinstance(pattern, str):
        return [{"*": "full", "M": "recurrent"}[c] for c in pattern if c in "*M"]  # type: ignore[misc]
    if stated := read.names("layer_types") or read.names("layers_block_type"):
        return [_kind(name) for name in stated if name not in _NO_STATE]
    if (period := read.integer("attn_layer_period")) is not None:
        offset = read.integer("attn_layer_offset") or 0
        return ["full" if i % period == offset else "recurrent" for i in range(layers)]
    if isinstance(listed := read.text.get("attn_layer_indices"), list):
        return ["full" if i in listed else "recurrent" for i in range(layers)]
    if (every := read.integer("full_attention_interval")) is not None:
        return ["recurrent" if (i + 1) % every else "full" for i in range(layers)]
    if read.integer("sliding_window") and read.text.get("use_sliding_window", True):
        nth = read.integer("sliding_window_pattern") or _EVERY_NTH_FULL.get(read.model_type)
        first = read.integer("max_window_layers") if "use_sliding_window" in read.text else None
        if nth:
            return ["sliding" if (i + 1) % nth else "full" for i in range(layers)]
        return ["full" if first and i < first else "sliding" for i in range(layers)]
    return ["full"] * layers


def _kind(name: str) -> LayerKind:
    if name in _SLIDING:
        return "sliding"
    return "recurrent" if name in _RECURRENT else "full"  # an unknown kind is taken for the one that needs most


def _has_fp8_cache(quantization: object) -> bool:
    if not isinstance(quantization, Mapping):
        return False
    scheme = quantization.get("kv_cache_scheme")
    return isinstance(scheme, Mapping) and scheme.get("num_bits") == 8


def _grid(quantization: object) -> Grid | None:
    """How the scales are laid out; None for weights that are not quantized, or have one scale per row or tensor."""
    if not isinstance(quantization, Mapping):
        return None
    method = str(quantization.get("quant_method") or "")
    left_out = quantization.get("modules_to_not_convert") or quantization.get("ignore") or ()
    covers_all = isinstance(left_out, list | tuple) and all(
        str(name).endswith(("lm_head", "embed_tokens", "gate")) for name in left_out
    )
    block, group = quantization.get("weight_block_size"), quantization.get("group_size")
    groups = quantization.get("config_groups")
    for entry in groups.values() if isinstance(groups, Mapping) else ():
        weights = entry.get("weights") if isinstance(entry, Mapping) else None
        if isinstance(weights, Mapping):
            block = block or weights.get("block_structure")
            group = group or weights.get("group_size")
    if isinstance(block, list | tuple) and len(block) == 2 and all(isinstance(n, int) and n > 0 for n in block):
        return Grid(method=method, block=(block[0], block[1]), covers_all=covers_all)
    if isinstance(group, int) and group > 0:
        return Grid(method=method, group=group, covers_all=covers_all)
    return None
