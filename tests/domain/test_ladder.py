"""Rungs, the reading of logs, and the eye for garbage."""

import pytest

from modelops_dagster.domain.engines import EngineManifest, Rung
from modelops_dagster.domain.ladder import (
    MAX_DETAIL,
    classify_failure,
    diagnose,
    garbage_reason,
    panel_garbage_reason,
    rungs_for,
)


def manifest(
    name: str, *, accelerators: tuple[str, ...] = ("cpu",), serves: bool = True, variants: tuple[str, ...] = ()
):
    return EngineManifest(
        name=name,
        summary="",
        version="1",
        accelerators=accelerators,
        python=">=3.11",
        platforms=("linux-x86_64",),
        command=("x",),
        serves=serves,
        variants=dict.fromkeys(variants, ("--x",)),
    )


CPU = {
    "vllm-cpu": manifest("vllm-cpu", variants=("transformers-backend",)),
    "transformers": manifest("transformers"),
    "quantizer": manifest("quantizer", serves=False),
}


def labels(rungs: list[Rung]) -> list[str]:
    return [rung.label for rung in rungs]


def test_rungs_on_a_cpu():
    assert labels(rungs_for("cpu", CPU)) == ["vllm-cpu", "vllm-cpu:transformers-backend", "transformers"]


def test_a_rung_needs_its_engine_and_its_variant():
    assert labels(rungs_for("cpu", {"vllm-cpu": manifest("vllm-cpu")})) == ["vllm-cpu"]
    assert rungs_for("cpu", {}) == []


def test_rungs_with_a_gpu_end_on_the_cpu():
    known = CPU | {"vllm": manifest("vllm", accelerators=("cuda",), variants=("transformers-backend",))}
    assert labels(rungs_for("cuda", known)) == [
        "vllm",
        "vllm:transformers-backend",
        "transformers",
        "vllm-cpu",
        "vllm-cpu:transformers-backend",
    ]
    assert "vllm" not in labels(rungs_for("cpu", known))


@pytest.mark.parametrize(
    ("architectures", "has_rungs"),
    [
        ((), True),
        (("LlamaForCausalLM",), True),
        (("ChatGLMModel",), True),
        (("BertForMaskedLM",), False),
        (("BertForSequenceClassification", "LlamaForCausalLM"), True),
    ],
)
def test_a_model_that_writes_no_text_has_no_rungs(architectures: tuple[str, ...], has_rungs: bool):
    assert bool(rungs_for("cpu", CPU, architectures)) is has_rungs


# Lines as vLLM 0.32 and Transformers 5.23 write them.
LOGS = [
    (
        "needs_newer_transformers",
        "the model type foo_moe",
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, The checkpoint you are trying to load has model type `foo_moe` but Transformers does not "
        "recognize this architecture. This could be because of an issue with the checkpoint",
    ),
    (
        "unsupported_architecture",
        "the architecture 'FooForCausalLM'",
        "  Value error, Model architectures ['FooForCausalLM'] are not supported for now. Supported architectures: x",
    ),
    (
        "unsupported_architecture",
        "until v0.24.0",
        "  Value error, Model architecture Grok1ForCausalLM was supported in vLLM until v0.24.0, and is not supported",
    ),
    (
        "unsupported_architecture",
        "never run",
        "  Value error, The repository /models/x contains custom code which must be executed to correctly load the "
        "model.\nThe checkpoint has model type `foo_moe` but Transformers does not recognize this architecture",
    ),
    (
        "unsupported_architecture",
        "T5Config",
        "ValueError: Unrecognized configuration class <class 'transformers.models.t5.T5Config'> for this kind",
    ),
    (
        "out_of_memory",
        "2.00 GiB more",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79.1 GiB",
    ),
    (
        "out_of_memory",
        "98304000 bytes more",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 98304000 bytes. Error code 12 (Cannot allocate memory)",
    ),
    (
        "out_of_memory",
        "needs 4.00 GiB of KV cache and there is room for 1.00 GiB",
        "ValueError: To serve at least one request with the model's max seq len (8192), (4.00 GiB KV cache is needed, "
        "which is larger than the available KV cache memory (1.00 GiB). Based on the available memory",
    ),
    (
        "custom_kernel",
        "block_n = 128",
        "(Worker pid=7) ERROR 11-21 03:43:59 [multiproc_executor.py:9] ValueError: Weight output_partition_size = 576 "
        "is not divisible by weight quantization block_n = 128.",
    ),
    (
        "bad_config",
        "max_context 100000 is longer than the model's own context (max_position_embeddings=8192",
        "  Value error, User-specified max_model_len (100000) is greater than the derived max_model_len "
        "(max_position_embeddings=8192 or model_max_length=None in model's config.json).",
    ),
    (
        "bad_config",
        "do not have the shapes",
        "RuntimeError: You set `ignore_mismatched_sizes` to `False`, thus raising an error. For details look at the",
    ),
    (
        "custom_kernel",
        "libnuma.so.1 is missing",
        "ImportError: libnuma.so.1: cannot open shared object file: No such file or directory",
    ),
    (
        "custom_kernel",
        "needs the package torchvision",
        "ERROR 11-26 [registry.py:9] ModuleNotFoundError: No module named 'torchvision'\n  Value error, Model "
        "architectures ['LlavaForConditionalGeneration'] failed to be inspected. Please check the logs",
    ),
    (
        "unsupported_architecture",
        "cannot load its own code",
        "  Value error, Model architectures ['OddForCausalLM'] failed to be inspected. Please check the logs.",
    ),
    (
        "bad_config",
        "Can't load image processor",
        "OSError: Can't load image processor for '/models/x'. If you were trying to load it from the Hub, make sure",
    ),
    ("crash", "took its port", "OSError: [Errno 98] Address already in use"),
    ("bad_config", "--no-such-flag", "vllm: error: unrecognized arguments: --no-such-flag"),
    (
        "bad_config",
        "Unknown quantization method: mystery",
        "ValidationError: 1 validation error\n  Value error, Unknown quantization method: mystery. Must be one of [",
    ),
    (
        "bad_config",
        "longer than the model's own 8192 tokens",
        "2026-11-21 04:00:00,123 ERROR serve_transformers: cannot serve /m: ValueError: max_context 9000 is longer "
        "than the model's own 8192 tokens",
    ),
]


@pytest.mark.parametrize(("reason", "said", "log"), LOGS, ids=[f"{r}-{i}" for i, (r, _, _) in enumerate(LOGS)])
def test_a_log_is_classified_and_summed_up(reason: str, said: str, log: str):
    noise = "INFO: Started server process\n" * 30
    found, detail = diagnose(noise + log + "\n" + noise, exit_code=1)
    assert found == reason
    assert said in detail
    assert len(detail) <= MAX_DETAIL
    assert "\n" not in detail


def test_the_root_cause_is_told_and_not_its_echo():
    log = (
        "(EngineCore pid=9) ERROR 11-21 03:43:59 [core.py:12] KeyError: 'layers.0.odd'\n"
        "(APIServer pid=8) Traceback (most recent call last):\n"
        "(APIServer pid=8) RuntimeError: Engine core initialization failed. See root cause above.\n"
        "(APIServer pid=8) vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.\n"
        "nanobind: leaked 4 instances!\n"
        ' - leaked instance 0x7f of type "x"\n'
    )
    assert diagnose(log, exit_code=1) == ("crash", "It ended with exit code 1: KeyError: 'layers.0.odd'")


def test_no_exception_leaves_the_last_line():
    assert diagnose("loading\nSegmentation fault\n", exit_code=-11)[1].endswith("Segmentation fault")
    assert diagnose("", exit_code=1) == ("crash", "It ended with exit code 1 and said nothing.")
    assert diagnose("") == ("crash", "It ended and said nothing.")


@pytest.mark.parametrize("exit_code", [-9, 137])
def test_a_kill_by_the_system_is_want_of_memory(exit_code: int):
    assert classify_failure("loading weights", exit_code) == "out_of_memory"


def test_time_ran_out():
    reason, detail = diagnose("Loading safetensors: 10%\rLoading safetensors: 12%", timed_out=True)
    assert reason == "timeout"
    assert detail.endswith("Loading safetensors: 12%")
    assert classify_failure("CUDA out of memory", timed_out=True) == "out_of_memory"


def test_words_of_a_healthy_start_are_no_symptom():
    healthy = "non-default args: {'trust_remote_code': False, 'max_model_len': 2048}\nUsing FLASH_ATTN backend\n"
    assert classify_failure(healthy, 1) == "crash"


@pytest.mark.parametrize(
    "text",
    ["", " \n ", "caf\ufffd", "the " * 12, "!" * 40, "abcabc" * 10, "no no no no no no no no yes no"],
)
def test_garbage(text: str):
    assert garbage_reason(text)


@pytest.mark.parametrize(
    "text",
    [
        "Paris.",
        "4",
        "no no no",
        "The sea is wide, and the sea is deep.",
        "= = = =\n",
        "ha" * 5,
        "----------------"[:12],
    ],
)
def test_text(text: str):
    assert garbage_reason(text) is None


def test_a_panel_is_judged_by_most_of_it():
    assert panel_garbage_reason(["", "Paris.", "Rome."]) is None
    assert panel_garbage_reason(["", "", "Rome."]) == "it is empty"
    assert panel_garbage_reason([]) is None
