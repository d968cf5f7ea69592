"""Making a quantized checkpoint of one recipe. Everything is written to the folder the request names, nothing else."""

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

from .reports import Failed, Reporter
from .texts import read_texts, token_rows

WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json")
READABLE = 0o644


def make(request: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Quantize `request["checkpoint"]` into `request["output"]`.

    Returns:
        How it was done: path (oneshot or model_free_ptq), group_size, samples, tokens, notes, versions.

    Raises:
        Failed: the recipe does not fit this model or this engine.
    """
    import torch

    source, output, recipe = Path(request["checkpoint"]), Path(request["output"]), request["recipe"]
    torch.manual_seed(request["seed"])
    unknown = _unknown_architecture(source)
    if unknown is None:
        made = _oneshot(request, source, output, recipe, reporter)
    elif recipe["method"] == "rtn" and not recipe["group_sizes"]:
        reporter.say(f"{unknown}: quantizing file by file, without a model class")
        made = {**_model_free(source, output, recipe), "notes": [f"{unknown}: done file by file by model_free_ptq"]}
    else:
        raise Failed("needs_newer_transformers", f"{unknown}, and {recipe['name']} has to run the model.")
    _copy_the_rest(source, output)
    packages = ("llmcompressor", "compressed-tensors", "transformers", "torch")
    return {**made, "versions": {name: importlib.metadata.version(name) for name in packages}}


def _unknown_architecture(source: Path) -> str | None:
    """Why this Transformers cannot build the model, as a half sentence; None when it can."""
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM

    version = transformers.__version__
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError):
        model_type = json.loads((source / "config.json").read_text()).get("model_type")
        return f"Transformers {version} does not know the model type {model_type}"
    if type(config) not in AutoModelForCausalLM._model_mapping:
        return f"Transformers {version} has no text generation for {config.model_type}"
    return None


def _oneshot(
    request: dict[str, Any], source: Path, output: Path, recipe: dict[str, Any], reporter: Reporter
) -> dict[str, Any]:
    import torch
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reporter.say("loading the checkpoint")
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto", local_files_only=True, trust_remote_code=False)
    group_size, notes = choose_group_size(_inputs(model, recipe["ignore"]), recipe["group_sizes"])
    for note in notes:
        reporter.say(note)
    data: dict[str, Any] = {}
    tokens = 0
    if recipe["method"] != "rtn":
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False)
        rows = token_rows(
            read_texts(Path(request["calibration"])),
            tokenizer,
            samples=request["samples"],
            max_tokens=request["max_tokens"],
            seed=request["seed"],
        )
        tokens = sum(len(row) for row in rows["input_ids"])
        # one sample a batch and none padded: what is calibrated on is text and nothing else
        data = {"dataset": rows, "max_seq_length": request["max_tokens"], "num_calibration_samples": len(rows)}
        reporter.say(f"calibrating on {len(rows)} samples, {tokens} tokens")
    if recipe["method"] == "awq" and not torch.accelerator.is_available():
        _leave_memory_unpinned()
    reporter.say("quantizing")
    oneshot(model=model, recipe=_modifiers(recipe, group_size), **data)
    reporter.say("saving")
    model.save_pretrained(output, save_compressed=True)
    samples = data.get("num_calibration_samples", 0)
    return {"path": "oneshot", "group_size": group_size, "samples": samples, "tokens": tokens, "notes": notes}


def _model_free(source: Path, output: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    from llmcompressor import model_free_ptq

    # nothing is known of the model, so what is not a projection has to be named
    ignore = [*recipe["ignore"], "re:.*embed_tokens", "re:.*embeddings?$"]
    model_free_ptq(str(source), str(output), scheme=recipe["scheme"], ignore=ignore, max_workers=1, device="cpu")
    return {"path": "model_free_ptq", "group_size": None, "samples": 0, "tokens": 0}


def _inputs(model: Any, ignore: list[str]) -> dict[str, int]:
    """Input width of every layer that will be quantized, by its name."""
    import torch
    from compressed_tensors.utils import match_named_modules

    found = match_named_modules(model, ["Linear"], ignore)
    return {name: module.in_features for name, module in found if isinstance(module, torch.nn.Linear)}


def choose_group_size(inputs: dict[str, int], wanted: list[int]) -> tuple[int | None, list[str]]:
    """The first of the wanted group sizes that divides every layer's input, and what has to be said of it.

    Args:
        inputs: layer name -> input width.
        wanted: group sizes, best first; empty when the scheme has none.

    Raises:
        Failed: none of them does.
    """
    if not wanted:
        return None, []
    for size in wanted:
        odd = {name: width for name, width in inputs.items() if width % size}
        if not odd:
            if size == wanted[0]:
                return size, []
            name, width = next((n, w) for n, w in inputs.items() if w % wanted[0])
            return size, [f"group size {size} instead of {wanted[0]}, which does not divide the {width} of {name}"]
    name, width = next(iter(odd.items()))
    sizes = ", ".join(map(str, wanted))
    raise Failed("group_size", f"None of the group sizes {sizes} divides the {width} inputs of {name}.")


def _modifiers(recipe: dict[str, Any], group_size: int | None) -> list[Any]:
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier

    target: dict[str, Any] = {"ignore": recipe["ignore"]}
    if group_size is None:
        target |= {"targets": ["Linear"], "scheme": recipe["scheme"]}
    else:
        weights = {"num_bits": 4, "type": "int", "symmetric": recipe["symmetric"]}
        weights |= {"strategy": "group", "group_size": group_size}
        target["config_groups"] = {"group_0": {"targets": ["Linear"], "weights": weights}}
    if recipe["method"] == "gptq":
        return [GPTQModifier(**target)]
    smoothing = [AWQModifier()] if recipe["method"] == "awq" else []
    return [*smoothing, QuantizationModifier(**target)]


def _leave_memory_unpinned() -> None:
    """Keep AWQ from pinning memory for an accelerator that is not there, which ends in a RuntimeError.

    llmcompressor 0.14.0.1 pins its cache of activations without asking. The attribute is replaced in this process
    only; pinning changes where a copy is made from and nothing that is computed.
    """
    from llmcompressor.pipelines.cache import IntermediatesCache

    def leave(self: Any, *_: Any, **__: Any) -> None:
        del self

    IntermediatesCache.pin_memory = leave


def _copy_the_rest(source: Path, output: Path) -> None:
    """Tokenizer, chat template, licence and generation settings exactly as released; every file readable by all."""
    for path in sorted(p for p in source.rglob("*") if p.is_file() and not p.is_symlink()):
        relative = path.relative_to(source)
        made_here = relative.name == "config.json" or relative.name.endswith(WEIGHT_SUFFIXES)
        if made_here or relative.name.startswith(".") or relative.suffix in (".py", ".bin", ".pt", ".pth", ".pkl"):
            continue
        target = output / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for path in output.rglob("*"):
        if path.is_file():
            path.chmod(READABLE)  # llm-compressor writes weights that only their owner may read
