"""What each rung would do with a model, and which rungs need not be started."""

from typing import Any

import pytest

from modelops_dagster.clients.architectures import read_transformers, read_vllm
from modelops_dagster.domain.architectures import EngineFacts, Support, ruled_out, support
from modelops_dagster.domain.engines import EngineManifest, Rung
from modelops_dagster.domain.model_config import ModelConfig
from tests.fakes.packages import write_transformers, write_vllm

VLLM, BACKEND, RAW = Rung(engine="vllm"), Rung(engine="vllm", variant="backend"), Rung(engine="transformers")


def manifest(name: str) -> EngineManifest:
    return EngineManifest(
        name=name,
        summary="",
        version="9.1.0" if name == "vllm" else "7.2.0",
        accelerators=("cpu",),
        python=">=3.11",
        platforms=("linux-x86_64",),
        command=("x",),
        variants={"backend": ("--model-impl", "transformers")},
    )


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EngineFacts]:
    packages = write_vllm(write_transformers(tmp_path_factory.mktemp("packages")))
    vllm, transformers = read_vllm(packages), read_transformers(packages)
    return {
        "vllm": EngineFacts(version="9.1.0+abc", vllm=vllm, transformers=transformers),
        "transformers": EngineFacts(version="7.2.0+def", transformers=transformers),
    }


def judged(facts: dict[str, EngineFacts], rung: Rung, architecture: str | None, **config: Any) -> Support:
    stated = {"architectures": [architecture]} if architecture else {}
    model = ModelConfig.from_json(stated | config)
    return support(rung, manifest(rung.engine), facts.get(rung.engine), model)


CODE = {"auto_map": {"AutoModel": "modeling.X"}}


@pytest.mark.parametrize(
    ("architecture", "config", "kinds"),
    [
        ("LlamaForCausalLM", {"model_type": "llama"}, ("native", "transformers_backend", "native")),
        ("Gemma3ForConditionalGeneration", {"model_type": "gemma3"}, ("native", "transformers_backend", "native")),
        ("LlamaForCausalLM", {"model_type": "llama"} | CODE, ("native", "transformers_backend", "native")),
        ("ArceeForCausalLM", {"model_type": "arcee"}, ("transformers_backend", "transformers_backend", "native")),
        ("Olmo9ForCausalLM", {"model_type": "olmo9"}, ("transformers_backend", "transformers_backend", "native")),
        (
            "DeepseekV32ForCausalLM",
            {"model_type": "deepseek_v32"},
            ("native", "unsupported", "needs_newer_transformers"),
        ),
        ("FreshForCausalLM", {"model_type": "fresh"}, ("needs_newer_transformers",) * 3),
        ("NovelForCausalLM", {"model_type": "novel"}, ("needs_newer_transformers",) * 3),
        ("NovelForCausalLM", {"model_type": "novel"} | CODE, ("remote_code",) * 3),
        ("NovelForCausalLM", {"model_type": "llama"}, ("unsupported", "unsupported", "native")),
        ("NovelForCausalLM", {"model_type": "llama"} | CODE, ("remote_code",) * 3),
        ("Grok1ForCausalLM", {"model_type": "grok1"}, ("previously_supported",) + ("needs_newer_transformers",) * 2),
        ("BartForConditionalGeneration", {"model_type": "bart"}, ("out_of_tree", "unsupported", "unsupported")),
        ("BertModel", {"model_type": "bert"}, ("not_generative", "not_generative", "unsupported")),
        (None, {"model_type": "llama"}, ("not_known",) * 3),
        ("LlamaForCausalLM", {}, ("native", "transformers_backend", "not_known")),
    ],
)
def test_support(
    facts: dict[str, EngineFacts], architecture: str | None, config: dict[str, Any], kinds: tuple[str, ...]
):
    found = [judged(facts, rung, architecture, **config) for rung in (VLLM, BACKEND, RAW)]
    assert tuple(s.kind for s in found) == kinds, [s.sentence for s in found]
    assert all(s.sentence.endswith(".") for s in found)


@pytest.mark.parametrize(
    ("tokenizer", "kinds"),
    [
        ({"tokenizer_class": "OwnTokenizer"}, ("native", "transformers_backend", "native")),
        ({"tokenizer_class": "OwnTokenizer"} | CODE, ("remote_code",) * 3),
        (CODE, ("remote_code",) * 3),
        ({"tokenizer_class": "LlamaTokenizerFast"} | CODE, ("native", "transformers_backend", "native")),
    ],
)
def test_a_tokenizer_of_the_repository_is_code_unless_transformers_brings_its_class(
    facts: dict[str, EngineFacts], tokenizer: dict[str, Any], kinds: tuple[str, ...]
):
    model = ModelConfig.from_json({"architectures": ["LlamaForCausalLM"], "model_type": "llama"} | CODE, tokenizer)
    found = [support(r, manifest(r.engine), facts.get(r.engine), model) for r in (VLLM, BACKEND, RAW)]
    assert tuple(s.kind for s in found) == kinds, [s.sentence for s in found]
    assert [s.is_native for s in found] == [kind != "remote_code" for kind in kinds]
    allowed = support(VLLM, manifest("vllm"), facts["vllm"], model, code_allowed=True)
    assert allowed.kind == (kinds[0] if kinds[0] != "remote_code" else "not_known")


def test_an_engine_that_is_not_there_or_may_have_more_is_not_known(facts: dict[str, EngineFacts]):
    absent = judged({}, VLLM, "LlamaForCausalLM", model_type="llama")
    assert (absent.kind, absent.is_installed, absent.result.reason) == ("not_known", False, "engine_missing")
    empty = judged({"vllm": EngineFacts(version="1+x")}, VLLM, "LlamaForCausalLM", model_type="llama")
    assert (empty.kind, empty.is_installed, empty.reason) == ("not_known", True, None)
    vllm = facts["vllm"].vllm
    assert vllm is not None
    extended = facts["vllm"].model_copy(update={"vllm": vllm.model_copy(update={"plugins": ("acme_vllm",)})})
    assert judged({"vllm": extended}, VLLM, "NovelForCausalLM", model_type="novel").kind == "not_known"
    assert judged({"vllm": extended}, VLLM, "LlamaForCausalLM", model_type="llama").kind == "native"


@pytest.mark.parametrize(
    ("capability", "kind", "reason"),
    [(7.0, "gpu_too_old", "unsupported_scheme"), (7.5, "native", None), (9.0, "native", None), (None, "native", None)],
)
def test_a_gpu_that_an_engine_has_no_kernels_for_rules_its_rung_out(
    facts: dict[str, EngineFacts], capability: float | None, kind: str, reason: str | None
):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    quantized = ModelConfig.from_json(config | {"quantization_config": {"quant_method": "fp8"}})
    cuda = manifest("vllm").model_copy(update={"accelerators": ("cuda",)})
    found = support(VLLM, cuda, facts["vllm"], quantized, compute_capability=capability)
    assert (found.kind, found.reason) == (kind, reason)
    if reason:
        assert found.sentence == (
            "vllm 9.1.0 loads fp8 weights from compute capability 7.5 on, and there is a GPU with 7.0."
        )
    plain = support(VLLM, cuda, facts["vllm"], ModelConfig.from_json(config), compute_capability=capability)
    on_cpu = support(VLLM, manifest("vllm"), facts["vllm"], quantized, compute_capability=capability)
    assert (plain.kind, on_cpu.kind) == ("native", "native")


def test_a_quantization_that_is_not_listed_is_a_caution(facts: dict[str, EngineFacts]):
    def caution(method: str) -> str:
        config = {"model_type": "llama", "quantization_config": {"quant_method": method}}
        return judged(facts, VLLM, "LlamaForCausalLM", **config).caution

    assert caution("fp8") == caution("compressed_tensors") == ""
    assert "quantization method exl9" in caution("exl9")


def test_only_what_was_found_for_the_installed_version_rules_out(facts: dict[str, EngineFacts]):
    rungs = [VLLM, BACKEND, RAW]
    found = [judged(facts, rung, "NovelForCausalLM", model_type="novel") for rung in rungs]
    now = {"vllm": "9.1.0+abc", "transformers": "7.2.0+def"}
    skipped = ruled_out(rungs, found, now)
    assert list(skipped) == rungs
    assert {r.reason for r in skipped.values()} == {"needs_newer_transformers"}
    assert ruled_out(rungs, found, {**now, "vllm": "9.2.0+abd"}).keys() == {RAW}
    assert ruled_out(rungs, found, {}) == {}
    assert ruled_out(rungs, [], now) == {}
    llama = [judged(facts, rung, "LlamaForCausalLM", model_type="llama") for rung in rungs]
    assert ruled_out(rungs, llama, now) == {}
