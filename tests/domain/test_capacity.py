"""Plans from metadata alone: a golden table of real shapes, and what config.json may leave out."""

from typing import Any

import pytest

from modelops_dagster.domain.capacity import Demand, Hardware, Layout, Plan, make_plan, parse_hardware, size_text
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.model_shape import ModelShape

LLAMA = {"num_key_value_heads": 8, "head_dim": 128}
SHAPES: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "num_hidden_layers": 30,
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
    },
    "Llama-3.1-8B": LLAMA
    | {"num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32, "intermediate_size": 14336},
    "Llama-3.1-70B": LLAMA
    | {"num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads": 64, "intermediate_size": 28672},
    "Llama-3.1-405B": LLAMA
    | {"num_hidden_layers": 126, "hidden_size": 16384, "num_attention_heads": 128, "intermediate_size": 53248},
    "Qwen3-30B-A3B": {
        "num_hidden_layers": 48,
        "hidden_size": 2048,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "sliding_window": None,
        "use_sliding_window": False,
        "max_window_layers": 48,
    },
    "DeepSeek-V3": {
        "num_hidden_layers": 61,
        "hidden_size": 7168,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    },
    "Gemma-3-27B": {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "num_hidden_layers": 62,
            "hidden_size": 5376,
            "num_attention_heads": 32,
            "num_key_value_heads": 16,
            "head_dim": 128,
            "intermediate_size": 21504,
            "sliding_window": 1024,
        },
    },
    "Gemma-3-4B": {  # its release leaves the heads to the family's code
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "num_hidden_layers": 34,
            "hidden_size": 2560,
            "intermediate_size": 10240,
            "sliding_window": 1024,
        },
    },
    "Qwen3-Next-80B-A3B": {
        "num_hidden_layers": 48,
        "hidden_size": 2048,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "full_attention_interval": 4,
        "moe_intermediate_size": 512,
    },
}


def shape(name: str, **more: Any) -> ModelShape:
    found = ModelShape.from_json(SHAPES[name] | more)
    assert found is not None
    return found


def planned(name: str, gigabytes: float, gpus: str, *, context: int = 8192, sequences: int = 16, **more: Any) -> Plan:
    demand = Demand(weight_bytes=int(gigabytes * 1e9), shape=shape(name, **more), context=context, sequences=sequences)
    return make_plan(demand, parse_hardware(gpus))


@pytest.mark.parametrize(
    ("name", "per_token"),
    [
        ("SmolLM2-135M", 23_040),  # as vLLM's own log has it: 46,592 tokens in 1 GiB, in blocks of 128
        ("Llama-3.1-8B", 128 * 1024),
        ("Llama-3.1-70B", 320 * 1024),
        ("Llama-3.1-405B", 504 * 1024),
        ("DeepSeek-V3", 70_272),
        ("Qwen3-30B-A3B", 96 * 1024),
        ("Gemma-3-27B", 62 * 2 * 16 * 128 * 2),
        ("Gemma-3-4B", 34 * 2 * 4 * 256 * 2),
        ("Qwen3-Next-80B-A3B", 12 * 2 * 2 * 256 * 2),
    ],
)
def test_bytes_per_token(name: str, per_token: int):
    assert shape(name).kv_bytes_per_token() == per_token


def test_a_gibibyte_holds_as_many_tokens_of_smollm2_as_vllm_says():
    tokens = 2**30 / shape("SmolLM2-135M").kv_bytes_per_token()
    assert int(tokens // 128 * 128) == 46_592


@pytest.mark.parametrize(
    ("name", "gigabytes", "gpus", "fits", "layout"),
    [
        ("SmolLM2-135M", 0.27, "1xT4-16GB", "yes", (1, 1, 1)),
        ("Llama-3.1-8B", 16.1, "8xH100-80GB", "yes", (1, 1, 1)),
        ("Llama-3.1-8B", 8.5, "8xH100-80GB", "yes", (1, 1, 1)),
        ("Llama-3.1-8B", 16.1, "4xL4-24GB", "yes", (2, 1, 1)),
        ("Llama-3.1-70B", 141.1, "8xH100-80GB", "yes", (4, 1, 1)),
        ("Llama-3.1-70B", 72.7, "8xH100-80GB", "yes", (2, 1, 1)),
        ("Llama-3.1-405B", 811.7, "2x8xH100-80GB", "yes", (8, 2, 2)),
        ("Llama-3.1-405B", 811.7, "8xH100-80GB", "no", (8, 2, 2)),
        ("Llama-3.1-405B", 410.0, "8xH100-80GB", "yes", (8, 1, 1)),
        ("Qwen3-30B-A3B", 61.1, "8xH100-80GB", "yes", (2, 1, 1)),
        ("DeepSeek-V3", 688.6, "2x8xH100-80GB", "yes", (8, 2, 2)),
        ("DeepSeek-V3", 688.6, "8xH200-141GB", "yes", (8, 1, 1)),
        ("DeepSeek-V3", 688.6, "8xH100-80GB", "no", (8, 2, 2)),
        ("Gemma-3-27B", 54.9, "8xH100-80GB", "yes", (2, 1, 1)),
        ("Gemma-3-27B", 54.9, "8xH200-141GB", "yes", (1, 1, 1)),
        ("Llama-3.1-70B", 141.1, "1xH100-80GB", "no", (4, 1, 1)),  # counted in the nodes such GPUs come in
    ],
)
def test_golden_plans(name: str, gigabytes: float, gpus: str, fits: str, layout: tuple[int, int, int]):
    plan = planned(name, gigabytes, gpus)
    assert plan.layout is not None
    found = (plan.layout.tensor_parallel, plan.layout.pipeline_parallel, plan.layout.nodes)
    assert (plan.fits, found) == (fits, layout), plan.arithmetic


def test_the_arithmetic_can_be_done_again_on_paper():
    plan = planned("Llama-3.1-70B", 141.1, "8xH100-80GB")
    assert plan.arithmetic == (
        "weights: 141 GB",
        "KV of 80 full layers: 8 heads x 256 numbers x 2 bytes = 327,680 bytes/token",
        "KV cache: 16 x 8,192 tokens = 42.9 GB",
        "each GPU at 4 GPUs: TP=4, PP=1: 141 GB / 4 x 1.1 + KV 10.7 GB + 3 GB = 52.5 GB of 80 GB x 0.92 = 73.6 GB",
    )
    assert plan.summary == "4 GPUs: TP=4, PP=1; fits on 8 x H100 with 80 GB, 16 x 8,192 tokens"


def test_windows_bound_what_a_long_context_costs():
    gemma = shape("Gemma-3-27B")
    assert [(g.kind, g.layers, g.window) for g in gemma.groups] == [("full", 10, None), ("sliding", 52, 1024)]
    per_layer = 2 * 16 * 128 * 2
    assert gemma.kv_bytes(100_000) == per_layer * (10 * 100_000 + 52 * 1024)
    assert gemma.kv_bytes(1000) == per_layer * 62 * 1000
    listed = shape("Llama-3.1-8B", layer_types=["sliding_attention", "full_attention"] * 16, sliding_window=128)
    assert [(g.kind, g.layers, g.window) for g in listed.groups] == [("full", 16, None), ("sliding", 16, 128)]
    mistral = shape("Llama-3.1-8B", sliding_window=4096)
    assert [(g.kind, g.window) for g in mistral.groups] == [("sliding", 4096)]
    unused = shape("Llama-3.1-8B", sliding_window=4096, use_sliding_window=False)
    assert [g.kind for g in unused.groups] == ["full"]


@pytest.mark.parametrize(
    ("more", "full", "recurrent"),
    [
        ({"full_attention_interval": 4}, 8, 24),
        ({"layer_types": ["linear_attention", "full_attention"] * 16}, 16, 16),
        ({"attn_layer_period": 8, "attn_layer_offset": 4}, 4, 28),
        ({"attn_layer_indices": [9, 18, 27]}, 3, 29),
        ({"hybrid_override_pattern": "M-M*-M-*"}, 2, 3),
        ({"layer_types": ["moe", "mamba", "attention"] * 10}, 10, 10),
    ],
)
def test_layers_without_a_cache_are_not_counted(more: dict[str, Any], full: int, recurrent: int):
    groups = {g.kind: g.layers for g in shape("Llama-3.1-8B", **more).groups}
    assert groups == {"full": full, "recurrent": recurrent}
    assert shape("Llama-3.1-8B", **more).kv_bytes_per_token() == full * 2 * 8 * 128 * 2


def test_heads_are_divided_until_each_gpu_has_one_and_latents_are_not_divided():
    assert shape("Qwen3-30B-A3B").kv_bytes_per_token(8) == shape("Qwen3-30B-A3B").kv_bytes_per_token() / 4
    assert shape("DeepSeek-V3").kv_bytes_per_token(8) == shape("DeepSeek-V3").kv_bytes_per_token()


def test_a_quantized_cache_and_shared_layers_take_less():
    cache = {"quantization_config": {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}}}
    assert shape("Llama-3.1-8B", **cache).kv_bytes_per_token() == 64 * 1024
    assert shape("Llama-3.1-8B", num_kv_shared_layers=16).kv_bytes_per_token() == 64 * 1024


@pytest.mark.parametrize(
    ("name", "n", "more", "problem"),
    [
        ("SmolLM2-135M", 2, {}, "9 attention heads are not a multiple of 2"),
        ("SmolLM2-135M", 3, {}, None),
        ("Llama-3.1-8B", 16, {}, None),  # key-value heads are replicated
        ("Llama-3.1-8B", 2, {"num_key_value_heads": 5}, "5 key-value heads are neither"),
        ("DeepSeek-V3", 16, {}, None),
        ("DeepSeek-V3", 32, {}, "feed-forward width 18432 cut into 32 is no multiple of the block size 128"),
        (
            "SmolLM2-135M",
            1,
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}},
            "attention output width 576 is no multiple of the block size 128",
        ),
        (
            "SmolLM2-135M",
            1,
            {"quantization_config": {"quant_method": "gptq", "group_size": 128}},
            "576 is no multiple of the group size 128",
        ),
        ("SmolLM2-135M", 1, {"quantization_config": {"quant_method": "gptq", "group_size": 64}}, None),
        ("SmolLM2-135M", 1, {"quantization_config": {"quant_method": "gptq", "group_size": -1}}, None),
        (
            "Llama-3.1-8B",
            1,
            {
                "quantization_config": {
                    "quant_method": "compressed-tensors",
                    "config_groups": {"group_0": {"weights": {"group_size": 96}}},
                }
            },
            "the group size 96",
        ),
    ],
)
def test_what_vllm_refuses_to_cut(name: str, n: int, more: dict[str, Any], problem: str | None):
    found = shape(name, **more).split_problem(n)
    assert (found is None) if problem is None else (found is not None and problem in found), found


def test_nine_heads_are_not_cut_but_put_one_behind_the_other():
    plan = planned("SmolLM2-135M", 30.0, "4xL4-24GB", sequences=1)
    assert plan.layout == Layout(tensor_parallel=1, pipeline_parallel=2, nodes=1)


def test_tight_is_told_with_what_still_fits():
    plan = planned("Llama-3.1-8B", 16.1, "1xL4-24GB", sequences=64)
    assert plan.fits == "tight"
    assert 1 <= plan.sequences < 64
    least = planned("Llama-3.1-8B", 20.0, "1xL4-24GB")
    assert (least.fits, least.sequences) == ("tight", 1)
    assert planned("Llama-3.1-8B", 23.0, "1xL4-24GB").fits == "no"


def test_alternatives_are_named():
    demand = Demand(
        weight_bytes=811_700_000_000,
        parameters=405_900_000_000,
        shape=shape("Llama-3.1-405B"),
        context=8192,
        sequences=16,
    )
    plan = make_plan(demand, parse_hardware("8xH100-80GB"))
    assert plan.alternatives == (
        "quantized to FP8_DYNAMIC it takes 426 GB and needs 8 GPUs: TP=8, PP=1",
        "quantized to W4A16 it takes 244 GB and needs 8 GPUs: TP=8, PP=1",
        "GPUs of 141 GB would do with 8 GPUs: TP=8, PP=1",
    )


def test_the_first_kind_of_gpu_that_fits_is_taken():
    plan = planned("Llama-3.1-70B", 141.1, "4xL4-24GB,8xH100-80GB")
    assert plan.hardware.name == "H100"


def test_memory_of_this_machine():
    machine = Hardware(kind="cpu", name="CPU", memory_bytes=32 * 10**9, available_bytes=10 * 10**9)

    def plan(gigabytes: int) -> Plan:
        demand = Demand(weight_bytes=gigabytes * 10**9, shape=shape("Llama-3.1-8B"), context=2048, sequences=4)
        return make_plan(demand, [machine])

    assert [plan(n).fits for n in (6, 9, 16, 33)] == ["yes", "tight", "tight", "no"]
    assert plan(6).summary == "fits on CPU, 32 GB of memory, 4 x 2,048 tokens"


def test_without_a_shape_only_the_weights_count():
    assert ModelShape.from_json({"model_type": "llama"}) is None
    assert ModelShape.from_json(None) is None
    demand = Demand(weight_bytes=100 * 10**9, context=2048, sequences=4)
    plan = make_plan(demand, parse_hardware("8xH100-80GB"))
    assert plan.layout == Layout(pipeline_parallel=2)
    assert "not counted" in plan.arithmetic[1]


def test_declared_gpus():
    (one,) = parse_hardware("2x8xH100-80GB")
    assert (one.nodes, one.per_node, one.name, one.memory_bytes, one.source) == (2, 8, "H100", 80 * 10**9, "declared")
    assert [h.name for h in parse_hardware("8xA100-SXM4-40GB, 1xT4-16GiB")] == ["A100-SXM4", "T4"]
    assert parse_hardware("") == ()
    for text in ("8xH100", "H100-80GB", "0xH100-80GB", "8xH100-0GB", "8 H100 80GB"):
        with pytest.raises(InvalidSpec, match="write \\[NODESx\\]COUNTxNAME"):
            parse_hardware(text)


def test_sizes_are_read_by_people():
    assert [size_text(n) for n in (72, 4_096, 269_060_552, 16_060_000_000, 811_700_000_000)] == [
        "72 bytes",
        "4.1 kB",
        "269 MB",
        "16.1 GB",
        "812 GB",
    ]
