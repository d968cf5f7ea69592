"""From a directory to a model that can be asked."""

import logging
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)
FALLBACK_CONTEXT = 2048  # tokens, for a model that names no length
MADE_UP_LAYERS = 2  # of a model whose weights are made up: they are all built alike


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer, and what its authors say about sampling."""

    model: Any
    tokenizer: Any
    eos: list[int]
    max_context: int
    defaults: dict[str, Any]


def load(checkpoint: str, asked_context: int | None, *, trust_remote_code: bool, made_up_weights: bool) -> Loaded:
    """Load what the configuration asks for.

    Args:
        checkpoint: directory.
        asked_context: tokens; the model's own length when None.
        trust_remote_code: the checkpoint's own Python files may run.
        made_up_weights: only configuration and tokenizer are there; a few layers get random weights.

    Raises:
        ValueError, OSError, ImportError: Transformers cannot load it; says why.
    """
    import torch
    import transformers

    log.info("loading %s with transformers %s", checkpoint, transformers.__version__)
    common: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    config = transformers.AutoConfig.from_pretrained(checkpoint, **common)
    own = getattr(config.get_text_config(), "max_position_embeddings", None)
    if own and asked_context and asked_context > own:
        raise ValueError(f"max_context {asked_context} is longer than the model's own {own} tokens")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint, **common)
    own_classes = (getattr(config, "auto_map", None) or {}) if trust_remote_code else {}
    text_only = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or "AutoModelForCausalLM" in own_classes
    auto = transformers.AutoModelForCausalLM if text_only else transformers.AutoModelForImageTextToText
    if made_up_weights:
        model = _made_up(auto, config, trust_remote_code).to("cuda" if torch.cuda.is_available() else "cpu")
    else:
        where = {"device_map": "auto"} if torch.cuda.is_available() else {}
        model = auto.from_pretrained(checkpoint, dtype="auto", use_safetensors=True, **where, **common)
    eos = model.generation_config.eos_token_id
    if eos is None:
        eos = tokenizer.eos_token_id
    return Loaded(
        model=model.eval(),
        tokenizer=tokenizer,
        eos=[] if eos is None else [eos] if isinstance(eos, int) else list(eos),
        max_context=asked_context or own or FALLBACK_CONTEXT,
        defaults=_take_sampling_defaults(model.generation_config),
    )


def _made_up(auto: Any, config: Any, trust_remote_code: bool) -> Any:
    """The architecture with random weights, cut down to a few layers. How weights are quantized says nothing then."""
    text = config.get_text_config()
    layers = getattr(text, "num_hidden_layers", None)
    if isinstance(layers, int) and layers > MADE_UP_LAYERS:
        for name, value in list(vars(text).items()):
            if isinstance(value, list) and len(value) == layers:  # one entry a layer, such as layer_types
                setattr(text, name, value[:MADE_UP_LAYERS])
        text.num_hidden_layers = MADE_UP_LAYERS
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return auto.from_config(config, trust_remote_code=trust_remote_code)


def _take_sampling_defaults(config: Any) -> dict[str, Any]:
    """What the model's authors recommend; taken out of `config`, so that greedy requests stay greedy."""
    found: dict[str, Any] = {"temperature": 1.0}
    for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty"):
        value = getattr(config, name, None)
        if value is not None and (config.do_sample or name == "repetition_penalty"):
            found[name] = value
        setattr(config, name, None)
    config.do_sample = False
    return found
