"""Compute capabilities: what a GPU multiplies, and what quantized weights ask of it."""

import re

from modelops_dagster.domain.model_config import ModelConfig

# By the words of a GPU's name, as NVIDIA lists them (developer.nvidia.com/cuda-gpus).
CAPABILITIES: dict[str, float] = {
    **dict.fromkeys(("P100",), 6.0),
    **dict.fromkeys(("P4", "P40"), 6.1),
    **dict.fromkeys(("V100",), 7.0),
    **dict.fromkeys(("T4", "2080", "T10"), 7.5),
    **dict.fromkeys(("A100", "A800", "A30"), 8.0),
    **dict.fromkeys(("A2", "A10", "A10G", "A16", "A40", "A4000", "A5000", "A6000", "3080", "3090"), 8.6),
    **dict.fromkeys(("L4", "L20", "L40", "L40S", "4080", "4090"), 8.9),
    **dict.fromkeys(("H20", "H100", "H200", "H800", "GH200"), 9.0),
    **dict.fromkeys(("B100", "B200", "GB200"), 10.0),
    **dict.fromkeys(("B300", "GB300"), 10.3),
    **dict.fromkeys(("5080", "5090", "PRO"), 12.0),
    **dict.fromkeys(("GB10",), 12.1),
}
# From which capability on weights are multiplied as they are; below it vLLM unpacks them first (Marlin), so that they
# take the memory of their scheme and the time of BF16. FP8: the W8A8 scheme of vLLM asks for 8.9; FP4: tensor cores
# have it since 10.0.
MULTIPLIED_FROM: dict[str, float] = {
    **dict.fromkeys(("fp8", "fbgemm_fp8", "modelopt", "float-quantized"), 8.9),
    **dict.fromkeys(("mxfp4", "gpt_oss_mxfp4", "modelopt_fp4", "fp_quant"), 10.0),
    **dict.fromkeys(("nvfp4-pack-quantized", "mxfp4-pack-quantized"), 10.0),
}


def capability_of(name: str) -> float | None:
    """The compute capability of a GPU of this name (`NVIDIA H100 80GB HBM3`, `H100`); None when it is not known."""
    words = re.split(r"[\s-]+", name.upper())
    return next((CAPABILITIES[word] for word in words if word in CAPABILITIES), None)


def multiplied_from(model: ModelConfig) -> float | None:
    """The capability from which on the model's weights are multiplied as they are; None: any, or not known."""
    names = (model.quantization_format, model.quantization)
    return next((MULTIPLIED_FROM[name] for name in names if name in MULTIPLIED_FROM), None)
