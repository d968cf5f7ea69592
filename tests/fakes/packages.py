"""A `site-packages` folder with as much of vLLM and Transformers as is read without importing them."""

from pathlib import Path

from modelops_dagster.clients.engine_install import MARKER_NAME
from modelops_dagster.clients.engines import EngineRegistry

REGISTRY = """
import torch.nn as nn  # never imported here

_TEXT_GENERATION_MODELS = {
    # [Decoder-only]
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM"),
    "DeepseekV32ForCausalLM": ("deepseek_v2", "DeepseekV3ForCausalLM"),
    "FreshForCausalLM": ("fresh", "FreshForCausalLM"),
}
_EMBEDDING_MODELS = {
    "BertModel": ("bert", "BertEmbeddingModel"),
    **{k: (mod, arch) for k, (mod, arch) in _TEXT_GENERATION_MODELS.items() if arch == "LlamaForCausalLM"},
}
_MULTIMODAL_MODELS = {"Gemma3ForConditionalGeneration": ("gemma3_mm", "Gemma3ForConditionalGeneration")}
_TRANSFORMERS_SUPPORTED_MODELS = {"ArceeForCausalLM": ("transformers", "TransformersForCausalLM")}
_PREVIOUSLY_SUPPORTED_MODELS = {"Grok1ForCausalLM": "0.24.0"}
_OOT_SUPPORTED_MODELS = {"BartForConditionalGeneration": "https://example.org/bart-plugin"}
_VLLM_MODELS = {**_TEXT_GENERATION_MODELS, **_EMBEDDING_MODELS}
"""
CONFIGS = (
    '_CONFIG_REGISTRY: dict[str, type] = LazyConfigDict(deepseek_v32="DeepseekV3Config", chatglm="ChatGLMConfig")\n'
)
QUANTIZATION = 'QuantizationMethods = Literal["awq", "fp8", "compressed-tensors"]\n'
FP8 = """
class Fp8Config(QuantizationConfig):
    @classmethod
    def get_name(cls) -> QuantizationMethods:
        return "fp8"

    @classmethod
    def get_min_capability(cls) -> int:
        return 75

class Awq(QuantizationConfig):
    def get_name(self): return "auto_awq"
    def get_min_capability(cls): return 75

class Odd(QuantizationConfig):
    def get_name(self): return "odd"
    def get_min_capability(cls): return WANTED
"""
AUTO = """
CONFIG_MAPPING_NAMES = OrderedDict(
    [("llama", "LlamaConfig"), ("gemma3", "Gemma3Config"), ("arcee", "ArceeConfig"), ("bert", "BertConfig"),
     ("olmo9", "Olmo9Config"), ("bart", "BartConfig")]
)
"""
CONFIGURATION = """
from .auto_mappings import CONFIG_MAPPING_NAMES
CONFIG_MAPPING_NAMES.update({"late": "LateConfig"})
CONFIG_MAPPING_NAMES = OrderedDict(**{"gpt-sw3": "GPT2Config"}, **CONFIG_MAPPING_NAMES)
"""
MODELING = """
MODEL_MAPPING_NAMES = OrderedDict([("bert", "BertModel"), ("llama", "LlamaModel")])
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = OrderedDict(
    [("llama", "LlamaForCausalLM"), ("arcee", "ArceeForCausalLM"), ("olmo9", "Olmo9ForCausalLM")]
)
MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES = OrderedDict([("gemma3", "Gemma3ForConditionalGeneration")])
MODEL_FOR_CAUSAL_LM_MAPPING = _LazyAutoMapping(CONFIG_MAPPING_NAMES, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
"""
TOKENIZERS = """
TOKENIZER_MAPPING_NAMES = OrderedDict([("llama", "LlamaTokenizer" if is_tokenizers_available() else None)])
"""


def write_vllm(packages: Path) -> Path:
    """vLLM 9.1.0."""
    _write(packages / "vllm/model_executor/models/registry.py", REGISTRY)
    _write(packages / "vllm/transformers_utils/config.py", CONFIGS)
    _write(packages / "vllm/model_executor/layers/quantization/__init__.py", QUANTIZATION)
    _write(packages / "vllm/model_executor/layers/quantization/fp8.py", FP8)
    _write(packages / "vllm-9.1.0.dist-info/entry_points.txt", "[vllm.general_plugins]\nown = vllm.own:register\n")
    return packages


def write_transformers(packages: Path) -> Path:
    """Transformers 7.2.0."""
    auto = packages / "transformers/models/auto"
    _write(auto / "auto_mappings.py", AUTO)
    _write(auto / "configuration_auto.py", CONFIGURATION)
    _write(auto / "modeling_auto.py", MODELING)
    _write(auto / "tokenization_auto.py", TOKENIZERS)
    (packages / "transformers-7.2.0.dist-info").mkdir(parents=True, exist_ok=True)
    return packages


def write_environment(registry: EngineRegistry, name: str, *, vllm: bool) -> Path:
    """What stands for the installed environment of an engine of `registry`."""
    target = registry.target(name)
    packages = write_transformers(target / "lib" / "python3.11" / "site-packages")
    if vllm:
        write_vllm(packages)
    _write(target / "bin" / "python", "")
    _write(target / MARKER_NAME, "")
    return target


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
