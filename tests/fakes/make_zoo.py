"""Write tiny checkpoints of many architectures, with random weights: `python make_zoo.py TOKENIZER_FOLDER OUT`.

Run with the `transformers` engine's own interpreter. All share one tokenizer, whose vocabulary and special tokens the
configs take over. Nothing is fetched.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers as t

CONTEXT = 512
SMALL: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
HEADS: dict[str, Any] = {**SMALL, "head_dim": 64}
REMOTE_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own_code"


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig


raise RuntimeError("code of the repository was run")
"""


def models() -> dict[str, tuple[Any, Any]]:
    """Config and model class by name."""
    vision = t.CLIPVisionConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    mamba = {k: SMALL[k] for k in ("vocab_size", "hidden_size", "num_hidden_layers", "bos_token_id", "eos_token_id")}
    return {
        "llama": (t.LlamaConfig(**HEADS), t.LlamaForCausalLM),
        "qwen3": (t.Qwen3Config(**HEADS), t.Qwen3ForCausalLM),
        "gemma3": (t.Gemma3TextConfig(**HEADS, sliding_window=128), t.Gemma3ForCausalLM),
        "mistral": (t.MistralConfig(**HEADS), t.MistralForCausalLM),
        "phi3": (t.Phi3Config(**SMALL), t.Phi3ForCausalLM),
        "mixtral": (t.MixtralConfig(**HEADS, num_local_experts=4, num_experts_per_tok=2), t.MixtralForCausalLM),
        "gpt2": (
            t.GPT2Config(
                vocab_size=49152, n_embd=128, n_layer=2, n_head=2, n_positions=CONTEXT, bos_token_id=1, eos_token_id=2
            ),
            t.GPT2LMHeadModel,
        ),
        "mamba": (t.MambaConfig(**mamba, state_size=16), t.MambaForCausalLM),
        "bert": (
            t.BertConfig(
                vocab_size=49152, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2
            ),
            t.BertForMaskedLM,
        ),
        "llava": (
            t.LlavaConfig(vision_config=vision, text_config=t.LlamaConfig(**HEADS), image_token_index=3),
            t.LlavaForConditionalGeneration,
        ),
    }


def write(folder: Path, tokenizer: Path, config: Any, model_class: Any) -> None:
    torch.manual_seed(0)
    model = model_class(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(tokenizer / name, folder / name)


def change(source: Path, target: Path, **config: Any) -> None:
    shutil.copytree(source, target)
    found = json.loads((target / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps(found, indent=1))


def main() -> None:
    tokenizer, out = Path(sys.argv[1]), Path(sys.argv[2])
    for name, (config, model_class) in models().items():
        write(out / name, tokenizer, config, model_class)
        print(name, flush=True)
    change(out / "llama", out / "unknown", model_type="foo_moe", architectures=["FooForCausalLM"])
    auto_map = {"AutoConfig": "own_code.OwnConfig", "AutoModelForCausalLM": "own_code.OwnForCausalLM"}
    change(
        out / "llama", out / "remote_code", model_type="own_code", architectures=["OwnForCausalLM"], auto_map=auto_map
    )
    (out / "remote_code" / "own_code.py").write_text(REMOTE_CODE)


if __name__ == "__main__":
    main()
