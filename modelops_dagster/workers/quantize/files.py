"""What can be said of a quantized checkpoint from its files alone: complete, finite, of the expected types and size."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors import safe_open

# scheme -> the type that holds the quantized weights
STORED_AS = {"FP8_DYNAMIC": "F8_E4M3", "FP8_BLOCK": "F8_E4M3", "W8A8": "I8", "W4A16": "I32"}
MAX_NAMED = 3


def look_at_files(original: Path, candidate: Path, scheme: str) -> dict[str, Any]:
    """Read every tensor of the candidate once.

    Returns:
        problems (sentences), dtypes (type -> tensors), size_ratio (candidate / original bytes of weights), parameters
        of the original.
    """
    before, after = _headers(original), _headers(candidate)
    problems = _config_problems(candidate, scheme, after)
    dtypes = Counter(dtype for dtype, _ in after.values())
    wanted = STORED_AS.get(scheme)
    if wanted is not None and not dtypes[wanted]:
        found = ", ".join(sorted(dtypes)) or "nothing"
        problems.append(f"no weight is stored as {wanted}, which {scheme} needs; there is {found}")
    lost = sorted(name for name in before if name not in after and f"{name}_packed" not in after)
    if lost:
        problems.append(f"{len(lost)} tensors of the original are missing, e.g. {lost[0]}")
    problems += _not_finite(candidate)
    sizes = [sum(p.stat().st_size for p in folder.glob("*.safetensors")) for folder in (candidate, original)]
    ratio = sizes[0] / sizes[1] if sizes[1] else 0.0
    if ratio >= 1.0:
        problems.append(f"it is {ratio:.2f} times as large as the original, so nothing was won")
    parameters = sum(_count(shape) for _, shape in before.values())
    return {"problems": problems, "dtypes": dict(dtypes), "size_ratio": round(ratio, 4), "parameters": parameters}


def _headers(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor name -> (type, shape), over all files."""
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dictionary
                part = tensors.get_slice(name)
                found[name] = (part.get_dtype(), tuple(part.get_shape()))
    return found


def _config_problems(candidate: Path, scheme: str, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> list[str]:
    config = json.loads((candidate / "config.json").read_text())
    stated = config.get("quantization_config")
    if not isinstance(stated, dict) or stated.get("quant_method") != "compressed-tensors":
        return ["config.json does not say how it is quantized, so every engine would read it as unquantized"]
    if scheme != "FP8_BLOCK":
        return []
    for group in stated.get("config_groups", {}).values():
        block = (group.get("weights") or {}).get("block_structure")
        if block:
            odd = [
                f"{name} {shape[0]}x{shape[1]}"
                for name, (dtype, shape) in tensors.items()
                if dtype == "F8_E4M3" and len(shape) == 2 and (shape[0] % block[0] or shape[1] % block[1])
            ]
            if odd:
                shown = ", ".join(odd[:MAX_NAMED])
                return [f"{len(odd)} layers cannot be cut into blocks of {block[0]}x{block[1]}, e.g. {shown}"]
    return []


def _not_finite(candidate: Path) -> list[str]:
    """A sentence when a weight or a scale is NaN or infinite."""
    import torch

    bad: list[str] = []
    for path in sorted(candidate.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(name)
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor.to(torch.float32)).all()):
                    bad.append(name)
    if not bad:
        return []
    return [f"{len(bad)} tensors hold NaN or infinite values: {', '.join(bad[:MAX_NAMED])}"]


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
