"""What GPUs multiply, by their names, and what quantized weights ask of them."""

import pytest

from modelops_dagster.domain.capacity import Hardware, parse_hardware, weakest_capability
from modelops_dagster.domain.findings import multiplying_findings
from modelops_dagster.domain.gpus import capability_of, multiplied_from
from modelops_dagster.domain.model_config import ModelConfig


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("NVIDIA H100 80GB HBM3", 9.0),
        ("NVIDIA A100-SXM4-80GB", 8.0),
        ("Tesla T4", 7.5),
        ("NVIDIA L4", 8.9),
        ("NVIDIA GeForce RTX 4090", 8.9),
        ("NVIDIA RTX PRO 6000 Blackwell", 12.0),
        ("NVIDIA B200", 10.0),
        ("h200", 9.0),
        ("NVIDIA Next", None),
    ],
)
def test_a_name_tells_the_capability(name: str, capability: float | None):
    assert capability_of(name) == capability


def test_the_weakest_gpu_counts_and_one_that_is_not_known_leaves_it_open():
    assert weakest_capability(parse_hardware("8xH100-80GB, 2xT4-16GB")) == 7.5
    assert weakest_capability(parse_hardware("8xH100-80GB, 2xNext-16GB")) is None
    assert weakest_capability([Hardware(kind="cpu", name="CPU", memory_bytes=1)]) is None


@pytest.mark.parametrize(
    ("quantization", "gpus", "wanted"),
    [
        ({"quant_method": "fp8"}, "1xA100-80GB", 8.9),
        ({"quant_method": "fp8"}, "1xL4-24GB", None),
        ({"quant_method": "mxfp4"}, "1xH100-80GB", 10.0),
        ({"quant_method": "mxfp4"}, "1xB200-180GB", None),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "1xH100-80GB", 10.0),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "1xT4-16GB", None),
        ({"quant_method": "fp8"}, "1xNext-80GB", None),
    ],
)
def test_weights_that_have_to_be_unpacked_are_told(quantization: dict[str, str], gpus: str, wanted: float | None):
    model = ModelConfig.from_json({"quantization_config": quantization})
    found = list(multiplying_findings(model, parse_hardware(gpus)))
    assert [f.code for f in found] == (["weights_unpacked"] if wanted else [])
    assert all(f"from compute capability {wanted} on" in f.sentence for f in found)


def test_released_as_it_is_nothing_is_asked():
    assert multiplied_from(ModelConfig.from_json({"architectures": ["LlamaForCausalLM"]})) is None
