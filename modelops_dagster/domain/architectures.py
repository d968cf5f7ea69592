"""Whether an engine can load an architecture, from what its installed files say: no import, no weights, no GPU."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.engines import EngineManifest, FailureReason, Rung, RungResult
from modelops_dagster.domain.model_config import ModelConfig
from modelops_dagster.domain.values import Value

SupportKind = Literal[
    "native",
    "transformers_backend",
    "needs_newer_transformers",
    "unsupported",
    "previously_supported",
    "out_of_tree",
    "remote_code",
    "not_generative",
    "not_known",
    "gpu_too_old",
]
# Kinds that are no reason to leave a rung out: it loads, or only starting it tells.
_MAY_LOAD: frozenset[SupportKind] = frozenset({"native", "transformers_backend", "not_known"})


class VllmFacts(Value):
    """What an installed vLLM says it can load."""

    version: str
    native: frozenset[str] = Field(description="architectures with an implementation that writes text")
    through_transformers: frozenset[str] = Field(description="architectures it serves with Transformers' classes")
    not_generative: frozenset[str] = Field(description="architectures it loads for something else than writing text")
    previously: dict[str, str] = Field(description="architecture -> last version that had it")
    out_of_tree: dict[str, str] = Field(description="architecture -> where the plugin for it is")
    model_types: frozenset[str] = Field(description="model types whose configuration vLLM brings itself")
    quantizations: frozenset[str] = Field(description="quantization methods by name")
    min_capabilities: dict[str, int] = Field(
        default_factory=dict, description="quantization method -> ten times the compute capability it asks of a GPU"
    )
    plugins: tuple[str, ...] = Field(default=(), description="installed distributions that may add architectures")


class TransformersFacts(Value):
    """What an installed Transformers says it can load."""

    version: str
    model_types: frozenset[str]
    classes: frozenset[str] = Field(description="names of model classes that its auto classes know")
    generative: frozenset[str] = Field(description="model types with a class that writes text")
    tokenizers: frozenset[str] = Field(default=frozenset(), description="names of tokenizer classes")


class EngineFacts(Value):
    """What one installed environment holds; both None where it holds neither library."""

    version: str = Field(description="version+lock digest, as the ladder remembers it")
    vllm: VllmFacts | None = None
    transformers: TransformersFacts | None = None


class Support(Value):
    """What one rung would do with an architecture."""

    rung: str = Field(description="label of the rung")
    engine_version: str = Field(default="", description="version+lock digest of what was looked at; empty: none is")
    kind: SupportKind
    sentence: str
    caution: str = Field(default="", description="what may stop it all the same, as a sentence; empty: nothing known")

    @property
    def reason(self) -> FailureReason | None:
        """Why the rung need not be started; None when it may hold the model."""
        if self.kind in _MAY_LOAD:
            return None
        if self.kind == "gpu_too_old":
            return "unsupported_scheme"
        return "needs_newer_transformers" if self.kind == "needs_newer_transformers" else "unsupported_architecture"

    @property
    def is_installed(self) -> bool:
        return bool(self.engine_version)

    @property
    def is_native(self) -> bool:
        """Whether it is installed and knows architecture and tokenizer by itself, so that no other code is run."""
        return self.is_installed and self.kind in ("native", "transformers_backend")

    @property
    def result(self) -> RungResult:
        """The same as an entry of a ladder; an engine that is not there is missing, whatever it would support."""
        if not self.is_installed:
            return RungResult(rung=self.rung, reason="engine_missing", detail=self.sentence)
        return RungResult(rung=self.rung, reason=self.reason, detail=self.sentence, engine_version=self.engine_version)


def support(
    rung: Rung,
    manifest: EngineManifest,
    facts: EngineFacts | None,
    model: ModelConfig,
    *,
    code_allowed: bool = False,
    compute_capability: float | None = None,
) -> Support:
    """What `rung` would do with `model`.

    Args:
        rung, manifest: the rung, and the manifest of its engine.
        facts: of the engine's environment; None when it is not installed.
        model: what config.json says.
        code_allowed: an operator let this commit bring code.
        compute_capability: of the weakest GPU there is; None: no GPU, or not known.
    """
    engine = f"{manifest.name} {manifest.version}"
    kind: SupportKind
    if facts is None:
        kind, sentence = "not_known", f"Engine {manifest.name} is not installed, so what it supports is not known."
    elif not model.architectures:
        kind, sentence = "not_known", f"The model states no architecture, so only starting {manifest.name} tells."
    elif facts.vllm is None and facts.transformers is not None:
        kind, sentence = _raw_transformers(engine, facts.transformers, model)
    elif facts.vllm is not None:
        read = _vllm_backend if is_through_transformers(manifest, rung) else _vllm
        kind, sentence = read(engine, facts.vllm, facts.transformers, model)
    else:
        kind, sentence = "not_known", f"{engine} does not list what it supports, so only starting it tells."
    if kind in ("native", "transformers_backend") and not _knows_tokenizer(facts, model):
        name = model.tokenizer_class or "of the model"
        kind = "remote_code"
        sentence = f"{engine} does not know the tokenizer {name}, and nobody allowed code of the repository to be run."
    if kind == "remote_code" and code_allowed:
        kind, sentence = "not_known", f"The model brings code of its own, so only starting {manifest.name} tells."
    caution = ""
    method = model.quantization
    wanted = _wanted_capability(manifest, facts, method)
    if kind in ("native", "transformers_backend") and wanted > (compute_capability or wanted):
        kind = "gpu_too_old"
        sentence = (
            f"{engine} loads {method} weights from compute capability {wanted} on, and there is a GPU with "
            f"{compute_capability}."
        )
    if kind in ("native", "transformers_backend") and facts is not None and facts.vllm is not None and method:
        listed = facts.vllm.quantizations
        if listed and method not in listed and method.replace("_", "-") not in listed:
            caution = f"{engine} does not list the quantization method {method}."
    return Support(
        rung=rung.label,
        engine_version=facts.version if facts is not None else "",
        kind=kind,
        sentence=sentence,
        caution=caution,
    )


def _wanted_capability(manifest: EngineManifest, facts: EngineFacts | None, method: str | None) -> float:
    """The compute capability without which the engine refuses weights of this method; 0: none is needed."""
    if "cuda" not in manifest.accelerators or facts is None or facts.vllm is None or method is None:
        return 0.0
    return facts.vllm.min_capabilities.get(method.replace("_", "-"), facts.vllm.min_capabilities.get(method, 0)) / 10


def _knows_tokenizer(facts: EngineFacts | None, model: ModelConfig) -> bool:
    """Whether the tokenizer needs no code of the repository, or has the name of one that Transformers brings."""
    if not model.tokenizer_code:
        return True
    known = facts.transformers.tokenizers if facts is not None and facts.transformers is not None else frozenset()
    return (model.tokenizer_class or "").removesuffix("Fast") in known


def is_through_transformers(manifest: EngineManifest, rung: Rung) -> bool:
    """Whether the rung's variant makes vLLM use Transformers' classes (`--model-impl transformers`)."""
    arguments = [*manifest.command, *manifest.variants.get(rung.variant or "", ())]
    return ("--model-impl", "transformers") in pairwise(arguments) or "--model-impl=transformers" in arguments


def _vllm(
    engine: str, vllm: VllmFacts, transformers: TransformersFacts | None, model: ModelConfig
) -> tuple[SupportKind, str]:
    names = ", ".join(model.architectures)
    if not _has_any(model, vllm.native | vllm.through_transformers) and vllm.plugins:
        plugins = ", ".join(vllm.plugins)
        return "not_known", f"{engine} does not list {names}, and its plugins ({plugins}) may add it."
    for name in model.architectures:
        if name in vllm.previously:
            last = vllm.previously[name]
            return "previously_supported", (
                f"{name} was supported in vLLM until {last}; an engine of that age is needed."
            )
        if name in vllm.out_of_tree:
            return "out_of_tree", f"{engine} needs a plugin for {name}, which is at {vllm.out_of_tree[name]}."
    if (problem := _unknown_type(engine, vllm, transformers, model)) is not None:
        return problem
    if _has_any(model, vllm.native):
        return "native", f"{engine} knows {names}."
    if _has_any(model, vllm.through_transformers):
        return "transformers_backend", f"{engine} serves {names} with the classes of Transformers."
    return _vllm_backend(engine, vllm, transformers, model)


def _vllm_backend(
    engine: str, vllm: VllmFacts, transformers: TransformersFacts | None, model: ModelConfig
) -> tuple[SupportKind, str]:
    """vLLM with the model class of Transformers, asked for or as its fallback."""
    names = ", ".join(model.architectures)
    if transformers is None:
        return "not_known", f"{engine} has no Transformers that could be read, so only starting it tells."
    if (problem := _unknown_type(engine, vllm, transformers, model)) is not None:
        return problem
    if _has_any(model, vllm.not_generative) and not _has_any(model, vllm.native):
        return "not_generative", f"{engine} loads {names} for something else than writing text."
    if model.architectures[0] in transformers.classes:
        return "transformers_backend", (
            f"{engine} can serve {names} with the classes of its Transformers {transformers.version}."
        )
    if model.remote_code:
        return "remote_code", "The model needs code of its own repository, which nobody allowed to be run."
    return "unsupported", f"{engine} does not support {names}, nor does its Transformers {transformers.version}."


def _raw_transformers(engine: str, transformers: TransformersFacts, model: ModelConfig) -> tuple[SupportKind, str]:
    if model.model_type is None:
        return "not_known", f"The model states no model_type, so only starting {engine} tells."
    if model.model_type not in transformers.model_types:
        return _newer(engine, transformers, model)
    if model.remote_code and model.architectures[0] not in transformers.classes:
        return "remote_code", (
            f"{engine} knows the model type {model.model_type} and not {model.architectures[0]}, for which the model "
            "brings code of its own, which nobody allowed to be run."
        )
    if model.model_type in transformers.generative:
        return "native", f"{engine} knows the model type {model.model_type}."
    return "unsupported", f"{engine} has no class that writes text for the model type {model.model_type}."


def _unknown_type(
    engine: str, vllm: VllmFacts, transformers: TransformersFacts | None, model: ModelConfig
) -> tuple[SupportKind, str] | None:
    """Nothing is loaded whose configuration neither vLLM nor its Transformers can read."""
    if transformers is None or model.model_type is None:
        return None
    if model.model_type in transformers.model_types | vllm.model_types:
        return None
    return _newer(engine, transformers, model)


def _newer(engine: str, transformers: TransformersFacts, model: ModelConfig) -> tuple[SupportKind, str]:
    if model.remote_code:
        return "remote_code", (
            f"{engine} does not know the model type {model.model_type}; the model brings code of its own for it, "
            "which nobody allowed to be run."
        )
    holder = f"The Transformers {transformers.version} of {engine}"
    if engine == f"transformers {transformers.version}":
        holder = engine
    return "needs_newer_transformers", (
        f"{holder} does not know the model type {model.model_type}; a newer one is needed."
    )


def _has_any(model: ModelConfig, names: frozenset[str]) -> bool:
    return any(name in names for name in model.architectures)


def ruled_out(
    rungs: Sequence[Rung], supports: Sequence[Support], versions: Mapping[str, str]
) -> dict[Rung, RungResult]:
    """The rungs that need not be started, with the reason each of them would have been left for.

    Args:
        rungs: the ladder.
        supports: what was found at detection.
        versions: of the engines installed now; what was found for another version says nothing.
    """
    known = {s.rung: s for s in supports}
    found: dict[Rung, RungResult] = {}
    for rung in rungs:
        one = known.get(rung.label)
        if one is not None and one.reason is not None and one.engine_version == versions.get(rung.engine):
            found[rung] = one.result
    return found
