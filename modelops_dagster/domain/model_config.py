"""What a model's config.json says about it, whichever way its author wrote it."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from modelops_dagster.domain.values import Value

# values of a configuration that are looked at; the longest real ones have some thousand
MAX_NODES = 1_000_000


class ModelConfig(Value):
    """The facts this product uses out of config.json."""

    architectures: tuple[str, ...] = ()
    model_type: str | None = None
    dtype: str | None = None
    quantization: str | None = Field(default=None, description="quant_method of a checkpoint released quantized")
    quantization_format: str | None = Field(default=None, description="of compressed-tensors, e.g. float-quantized")
    max_context: int | None = Field(default=None, description="max_position_embeddings, in tokens")
    remote_code: bool = Field(default=False, description="asks for code from the repository (auto_map)")
    tokenizer_class: str | None = None
    tokenizer_code: bool = Field(default=False, description="the tokenizer asks for code from the repository")

    @classmethod
    def from_json(cls, config: object, tokenizer_config: object = None) -> "ModelConfig":
        """Read a parsed config.json, and tokenizer_config.json where the tokenizer is asked about; a field that is
        absent or of the wrong kind is left at its default."""
        if not isinstance(config, Mapping):
            return cls()
        tokenizer: Mapping[str, Any] = tokenizer_config if isinstance(tokenizer_config, Mapping) else {}
        text = config.get("text_config")  # multimodal models keep the language model's fields one level down
        nested: Mapping[str, Any] = text if isinstance(text, Mapping) else {}

        def first(*names: str) -> Any:
            return next((src[n] for src in (config, nested) for n in names if src.get(n) is not None), None)

        architectures = first("architectures")
        quantization = first("quantization_config")
        context = first("max_position_embeddings", "max_seq_len", "n_positions")
        return cls(
            architectures=tuple(map(str, architectures)) if isinstance(architectures, list) else (),
            model_type=_text(first("model_type")),
            dtype=_text(first("dtype", "torch_dtype")),
            quantization=_text(quantization.get("quant_method")) if isinstance(quantization, Mapping) else None,
            quantization_format=_text(quantization.get("format")) if isinstance(quantization, Mapping) else None,
            max_context=context if isinstance(context, int) and context > 0 else None,
            remote_code=asks_for_code(config),
            tokenizer_class=_text(tokenizer.get("tokenizer_class")),
            tokenizer_code=asks_for_code(tokenizer),
        )


def _text(value: object) -> str | None:
    return str(value) if value is not None else None


def asks_for_code(document: object) -> bool:
    """Whether a parsed configuration names classes of the repository to be run (`auto_map`), at whatever depth.

    A nested one counts: engines have loaded the code that a vision tower's configuration named (CVE-2025-66448).
    """
    waiting, seen = [document], 0
    while waiting and seen < MAX_NODES:
        seen += 1
        found = waiting.pop()
        if isinstance(found, Mapping):
            if found.get("auto_map"):
                return True
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found
    return bool(waiting)  # one that is too large to be looked through is not believed


def has_chat_template(paths: Iterable[str], tokenizer_config: object) -> bool:
    """Whether a conversation can be turned into a prompt.

    Args:
        paths: the files of the repository or checkpoint.
        tokenizer_config: the parsed tokenizer_config.json, or None when there is none.
    """
    if any(p in ("chat_template.json", "tekken.json") or p.endswith(".jinja") for p in paths):
        return True
    return isinstance(tokenizer_config, Mapping) and bool(tokenizer_config.get("chat_template"))
