"""Reading `engine.yaml`: those of this repository, and those an operator puts under `$MODELOPS_HOME/engines`."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelops_dagster.clients.yaml_files import read_yaml
from modelops_dagster.domain.endpoints import ENGINE_NAME, ENGINE_VARIABLE
from modelops_dagster.domain.engines import EngineManifest, EngineOverride
from modelops_dagster.domain.errors import EngineMissing, InvalidSpec
from modelops_dagster.domain.values import Value

MANIFEST_NAME = "engine.yaml"
OVERRIDES_NAME = "models.yaml"
LOCK_NAME = "requirements.lock"
CUDA_LOCK_NAME = "requirements-cuda.lock"  # beside the other: of engines that run on either, where there is a GPU

_PINNED = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)(\[[\w,.-]+\])?==[\w.!+-]+")
_GIT = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)(\[[\w,.-]+\])? @ git\+(?P<url>(https|ssh|file)://\S+)@[0-9a-f]{40}")
_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)(\[[\w,.-]+\])?([<>=!~].*)?")
_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")
# what an engine of an operator takes over from the one it extends, unless it says otherwise
_MERGED = ("environment", "variants")


@dataclass(frozen=True)
class EngineSource:
    """One engine as its files describe it."""

    manifest: EngineManifest
    folder: Path
    lock: Path | None
    """None where packages are resolved at install time."""
    distributions: tuple[Path, ...] = ()
    """Folders that are installed after the lock."""

    def pins(self) -> list[str]:
        """The lock's requirements, less the ones that this engine leaves out or replaces."""
        manifest = self.manifest
        if self.lock is None:
            return []
        over = {_canonical(n) for n in manifest.without} | {
            _canonical(_name_of(r) or "") for r in manifest.requirements
        }
        return [line for line in pinned(self.lock) if _canonical(line.partition("==")[0]) not in over]

    def requirements(self) -> list[str]:
        """What is installed besides, as pip takes it: paths are absolute."""
        return [str(self._path(line)) if _is_path(line) else line for line in self.manifest.requirements]

    def identity(self) -> Iterator[str]:
        """Everything that the environment is built from, as text."""
        yield self.lock.read_text() if self.lock else ""
        for distribution in self.distributions:
            files = sorted(p for p in distribution.rglob("*") if p.is_file())
            yield from (f"{p.relative_to(distribution.parent).as_posix()}\n{p.read_text()}" for p in files)
        yield from (f"without {name}" for name in self.manifest.without)
        for line in self.manifest.requirements:
            yield f"{line} {_digest(self._path(line))}" if _is_path(line) else line

    def _path(self, line: str) -> Path:
        return (self.folder / line).resolve()


class Overrides(Value):
    """`models.yaml`: which engine goes first for which models."""

    overrides: tuple[EngineOverride, ...] = ()


class EngineFolders:
    """The engines under `shipped`, and those of the operator under `own`, which may extend them.

    Args:
        cuda: whether engines that run with a GPU and without are built for one.
    """

    def __init__(self, shipped: Path, own: Path | None = None, *, cuda: Callable[[], bool] = lambda: False) -> None:
        self._shipped, self._own = shipped, None if own == shipped else own
        self._cuda = cuda

    def names(self) -> list[str]:
        """Every engine, in alphabetical order."""
        roots = [root for root in (self._shipped, self._own) if root is not None]
        return sorted({path.parent.name for root in roots for path in root.glob(f"*/{MANIFEST_NAME}")})

    def source(self, name: str) -> EngineSource:
        """One engine.

        Raises:
            EngineMissing: there is no engine of that name.
            InvalidSpec: its engine.yaml does not hold.
        """
        path = self._find(name)
        if path is None:
            known = ", ".join(self.names()) or "none"
            where = f"{self._shipped}" + (f" or {self._own}" if self._own else "")
            raise EngineMissing(f"There is no engine {name!r} under {where}; the engines are: {known}.")
        document = _read(path)
        if "extends" not in document:
            return self._made(path, document, path.parent)
        base_name = str(document["extends"])
        base_path = self._shipped / base_name / MANIFEST_NAME
        if not ENGINE_NAME.fullmatch(base_name) or not base_path.is_file():
            raise InvalidSpec(
                f"{path} extends {base_name!r}, and this platform brings no engine of that name; "
                "`modelops engines list` shows those there are.",
                field="extends",
            )
        base = _read(base_path)
        merged = {**base, **document} | {key: {**base.get(key, {}), **document.get(key, {})} for key in _MERGED}
        return self._made(path, merged, base_path.parent)

    def override(self, repo_id: str) -> EngineOverride | None:
        """What the operator's models.yaml says about a model: the first entry that covers it.

        Raises:
            InvalidSpec: models.yaml does not hold.
        """
        path = None if self._own is None else self._own / OVERRIDES_NAME
        if path is None or not path.is_file():
            return None
        try:
            listed = Overrides.model_validate(_read(path)).overrides
        except ValidationError as error:
            raise _unsound(path, error) from error
        for name in (name for entry in listed for name in entry.engine_environment):
            if not ENGINE_VARIABLE.fullmatch(name):
                raise InvalidSpec(f"{path}: {name} is not a variable an engine is given.", field="engine_environment")
        return next((entry for entry in listed if entry.covers(repo_id)), None)

    def _find(self, name: str) -> Path | None:
        if not ENGINE_NAME.fullmatch(name):
            return None
        for root in (self._own, self._shipped):
            if root is not None and (root / name / MANIFEST_NAME).is_file():
                return root / name / MANIFEST_NAME
        return None

    def _lock(self, manifest: EngineManifest, *folders: Path) -> Path | None:
        """The first folder's that has one; what runs on a GPU is built for it where there is one."""
        on_gpu = "cuda" in manifest.accelerators and self._cuda()
        names = (CUDA_LOCK_NAME, LOCK_NAME) if on_gpu else (LOCK_NAME,)
        return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)

    def _made(self, path: Path, document: dict[str, Any], base: Path) -> EngineSource:
        """The engine of a document; `base` is the folder of the engine it extends, or its own."""
        manifest = _validated(path, document)
        folder = path.parent
        if self._own is not None and folder.parent == self._own and (self._shipped / manifest.name).is_dir():
            raise InvalidSpec(f"{path} has the name of an engine of this platform; give it another.", field="name")
        _check_requirements(path, manifest)
        lock = self._lock(manifest, folder, base)
        if manifest.nightly_index is not None:
            lock = None
        elif lock is None:
            raise InvalidSpec(f"{folder} has no {LOCK_NAME}; compile one as its README says.")
        places = {name: [root / name for root in (folder, base)] for name in manifest.local_distributions}
        for name, found in places.items():
            if not any(place.is_dir() for place in found):
                raise InvalidSpec(f"{path}: there is no folder {name} beside it.", field="local_distributions")
        distributions = tuple(next(place for place in found if place.is_dir()) for found in places.values())
        return EngineSource(manifest, folder, lock, distributions)


def pinned(lock: Path) -> list[str]:
    """The requirements that a lock names, in order, without comments."""
    lines = (line.split("#", 1)[0].strip() for line in lock.read_text().splitlines())
    return [line for line in lines if line]


def _read(path: Path) -> dict[str, Any]:
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise InvalidSpec(f"{path} is not a YAML mapping; write `name: {path.parent.name}` and what follows it.")
    return document


def _validated(path: Path, document: dict[str, Any]) -> EngineManifest:
    try:
        manifest = EngineManifest.model_validate(document)
    except ValidationError as error:
        raise _unsound(path, error) from error
    if manifest.name != path.parent.name:
        raise InvalidSpec(
            f"{path} says name: {manifest.name}, and its folder is called {path.parent.name}; make them equal.",
            field="name",
        )
    return manifest


def _unsound(path: Path, error: ValidationError) -> InvalidSpec:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "the document"
    return InvalidSpec(f"{path} does not hold at {where}: {first['msg']}; correct it.", field=where)


def _check_requirements(path: Path, manifest: EngineManifest) -> None:
    """A requirement names one build for good, or the lineage would not say what served the model."""
    for line in manifest.requirements:
        if _PASSWORD.search(line):
            raise InvalidSpec(
                f"{path}: a requirement holds a password; leave it to git's credential helper.", field="requirements"
            )
        if manifest.nightly_index is not None:
            holds, wanted = _NAMED.fullmatch(line) is not None, "the name of a package"
        elif _is_path(line):
            holds, wanted = (path.parent / line).exists(), "a wheel or folder that is there"
        else:
            holds = bool(_PINNED.fullmatch(line) or _GIT.fullmatch(line))
            wanted = "NAME==VERSION or NAME @ git+https://…@COMMIT with all 40 digits"
        if not holds:
            raise InvalidSpec(f"{path}: the requirement {line!r} is not {wanted}; correct it.", field="requirements")


def _is_path(line: str) -> bool:
    return line.startswith(("/", "./", "../")) and " @ " not in line


def _name_of(line: str) -> str | None:
    """The distribution a requirement installs: of a wheel, its file name says so; of a folder, nothing does."""
    if _is_path(line):
        return Path(line).name.split("-")[0] if line.endswith(".whl") else None
    found = _NAMED.match(line)
    return found["name"] if found else None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.split("[")[0].strip()).lower()


def _digest(path: Path) -> str:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and ".git" not in p.parts)
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.relative_to(path.parent).as_posix()}\0".encode())
        found.update(file.read_bytes())
    return found.hexdigest()
