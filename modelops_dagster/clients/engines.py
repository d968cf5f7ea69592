"""The engines this machine knows: what their manifests say, which are installed, and how one is started."""

import hashlib
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import ValidationError

from modelops_dagster.clients.engine_install import (
    LOCK_NAME,
    MARKER_NAME,
    EnvironmentBuilder,
    clean_environment,
    exclusive,
)
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.engines import EngineManifest, Rung
from modelops_dagster.domain.errors import EngineMissing, InvalidSpec
from modelops_dagster.domain.ladder import Accelerator, rungs_for

MANIFEST_NAME = "engine.yaml"
WORKERS = Path(__file__).resolve().parent.parent / "workers"

_PLACEHOLDER = re.compile(
    r"\{(env|engine_dir|workers|cpus|checkpoint|host|port|served_model_name|max_context)\}", re.ASCII
)
_SPECIFIER = re.compile(r"(>=|<)\s*(\d+)\.(\d+)")


@dataclass(frozen=True)
class Launch:
    """How to start an engine for one endpoint. `environ` is the whole environment of the process."""

    argv: tuple[str, ...]
    environ: dict[str, str] = field(repr=False)
    version: str


class EngineRegistry:
    """Engines under `engines_dir`, with their environments in `cache_dir`/engines.

    An environment's folder is named after everything it was built from, so a changed lock is a new environment and
    two checkouts can share a cache. An environment without its marker is never used.
    """

    def __init__(self, engines_dir: Path, cache_dir: Path) -> None:
        self._engines_dir = engines_dir
        self._environments_dir = cache_dir / "engines"

    def manifests(self) -> dict[str, EngineManifest]:
        """Every engine by name, in alphabetical order.

        Raises:
            InvalidSpec: an engine.yaml does not hold.
        """
        found = sorted(self._engines_dir.glob(f"*/{MANIFEST_NAME}"))
        return {path.parent.name: _read_manifest(path) for path in found}

    def manifest(self, name: str) -> EngineManifest:
        """One engine's manifest.

        Raises:
            EngineMissing: there is no engine of that name.
        """
        if not (self._engines_dir / name / MANIFEST_NAME).is_file():
            known = ", ".join(self.manifests()) or "none"
            raise EngineMissing(f"There is no engine {name!r} under {self._engines_dir}; the engines are: {known}.")
        return _read_manifest(self._engines_dir / name / MANIFEST_NAME)

    def target(self, name: str) -> Path:
        """Where the environment is or would be: named after the lock and everything else it is built from."""
        manifest = self.manifest(name)
        engine_dir = self._engines_dir / name
        parts = [f"{sys.implementation.cache_tag} {sys.platform}-{platform.machine()}"]
        parts.append((engine_dir / LOCK_NAME).read_text())
        for distribution in manifest.local_distributions:
            files = sorted(p for p in (engine_dir / distribution).rglob("*") if p.is_file())
            parts += [f"{p.relative_to(engine_dir).as_posix()}\n{p.read_text()}" for p in files]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return self._environments_dir / f"{name}-{digest[:12]}"

    def environment(self, name: str) -> Path | None:
        """The folder of the installed environment, or None where it is missing, incomplete or outdated."""
        target = self.target(name)
        # bin/python is a link to the interpreter the venv was made with, which may have been removed since
        whole = (target / MARKER_NAME).is_file() and (target / "bin" / "python").exists()
        return target if whole else None

    def unavailable_reason(self, name: str) -> str | None:
        """Why the engine cannot be installed on this machine, as one sentence; None when it can."""
        manifest = self.manifest(name)
        here = f"{sys.platform}-{platform.machine().lower()}"
        if here not in manifest.platforms:
            return f"Engine {name} has wheels for {', '.join(manifest.platforms)} and this machine is {here}."
        if not _python_fits(manifest.python, sys.version_info[:2]):
            running = f"{sys.version_info[0]}.{sys.version_info[1]}"
            return f"Engine {name} needs Python {manifest.python} and this is Python {running}."
        return None

    def rungs(self, accelerator: str, architectures: Sequence[str] = ()) -> list[Rung]:
        """The ladder on this machine, highest rung first; `accelerator` is cpu, cuda, or auto to look for a GPU."""
        found: Accelerator = "cuda" if accelerator == "cuda" or (accelerator == "auto" and has_gpu()) else "cpu"
        return rungs_for(found, self.manifests(), architectures)

    def installed_versions(self) -> dict[str, str]:
        """What runs here, by engine: its version and the digest of its lock, for a newer lock may bring a newer
        Transformers to the same version of the engine."""
        versions = {name: manifest.version for name, manifest in self.manifests().items() if manifest.serves}
        here = {name: self.environment(name) for name in versions}
        return {name: f"{versions[name]}+{at.name.rpartition('-')[2]}" for name, at in here.items() if at is not None}

    def install(self, name: str, progress: Callable[[str], None]) -> Path:
        """Build the engine's environment unless it is there already; returns its folder.

        `progress` receives short lines at most every two seconds or so. Safe to call from several processes at once:
        one builds, the others wait and find it done.

        Raises:
            EngineMissing: it cannot be installed here, or pip failed.
            DiskFull: there is no room for it.
        """
        installed = self.environment(name)
        if installed:
            return installed
        reason = self.unavailable_reason(name)
        if reason:
            raise EngineMissing(f"{reason[:-1]}; use another engine, `modelops engines list` shows them.")
        manifest = self.manifest(name)
        target = self.target(name)
        with exclusive(target.with_name(f"{target.name}.lock"), progress, waiting_for=name) as lock_fd:
            if self.environment(name) is None:
                EnvironmentBuilder(
                    manifest=manifest,
                    engine_dir=self._engines_dir / name,
                    target=target,
                    lock_fd=lock_fd,
                    environ=os.environ,
                    progress=progress,
                ).build()
        return target

    def launch(self, spec: EndpointSpec, host: str, port: int, environ: Mapping[str, str] | None = None) -> Launch:
        """The command and the environment that serve `spec` on `host`:`port`. Starts nothing.

        `environ` is what the engine's environment is drawn from (this process's by default): a short list of harmless
        variables is passed on, everything else and everything that looks like a secret stays behind.

        Raises:
            EngineMissing: the engine is unknown or not installed.
            InvalidSpec: the engine has no such variant, or does not serve.
        """
        manifest = self.manifest(spec.engine)
        if not manifest.serves:
            raise InvalidSpec(f"Engine {spec.engine} does not serve models; choose another one.", field="engine")
        if spec.variant is not None and spec.variant not in manifest.variants:
            known = ", ".join(manifest.variants) or "none"
            raise InvalidSpec(
                f"Engine {spec.engine} has no variant {spec.variant!r}; its variants are: {known}.", field="variant"
            )
        env = self.environment(spec.engine)
        if env is None:
            raise EngineMissing(f"Engine {spec.engine} is not installed; run `modelops engines install {spec.engine}`.")
        values = {
            "env": str(env),
            "engine_dir": str(self._engines_dir / spec.engine),
            "workers": str(WORKERS),
            "cpus": str(_usable_cpus()),
            "checkpoint": spec.checkpoint,
            "host": host,
            "port": str(port),
            "served_model_name": spec.served_model_name,
            "max_context": None if spec.max_context is None else str(spec.max_context),
        }
        argv = _fill_command(manifest.command, values)
        argv += [_fill(item, values) for item in manifest.variants.get(spec.variant or "", ())]
        argv += spec.engine_args
        process_environ = clean_environment(os.environ if environ is None else environ, env)
        process_environ |= {name: _fill(value, values) for name, value in manifest.environment.items()}
        return Launch(argv=tuple(argv), environ=process_environ, version=manifest.version)

    def program(self, name: str, *arguments: str, environ: Mapping[str, str] | None = None) -> Launch:
        """The command and the environment of an engine that does not serve but does one task. Starts nothing.

        Raises:
            EngineMissing: the engine is unknown or not installed.
        """
        manifest, env = self.manifest(name), self.environment(name)
        if env is None:
            raise EngineMissing(f"Engine {name} is not installed; run `modelops engines install {name}`.")
        values: dict[str, str | None] = {"env": str(env), "workers": str(WORKERS), "cpus": str(_usable_cpus())}
        process_environ = clean_environment(os.environ if environ is None else environ, env)
        process_environ |= {key: _fill(value, values) for key, value in manifest.environment.items()}
        argv = (*(_fill(item, values) for item in manifest.command), *arguments)
        return Launch(argv=argv, environ=process_environ, version=manifest.version)


def has_gpu() -> bool:
    """Whether the NVIDIA driver is loaded and has a device."""
    return any(Path("/proc/driver/nvidia/gpus").glob("*")) or Path("/dev/nvidia0").exists()


def _read_manifest(path: Path) -> EngineManifest:
    try:
        manifest = EngineManifest.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise InvalidSpec(f"{path} does not hold at {where}: {first['msg']}; correct it.", field=where) from error
    except yaml.YAMLError as error:
        raise InvalidSpec(f"{path} is not YAML ({error}); correct it.") from error
    if manifest.name != path.parent.name:
        raise InvalidSpec(
            f"{path} says name: {manifest.name}, and its folder is called {path.parent.name}; make them equal.",
            field="name",
        )
    if not (path.parent / LOCK_NAME).is_file():
        raise InvalidSpec(f"{path.parent} has no {LOCK_NAME}; compile one as its README says.")
    return manifest


def _python_fits(specifier: str, version: tuple[int, int]) -> bool:
    """Whether `version` lies in a comma-separated list of `>=X.Y` and `<X.Y`."""
    for clause in specifier.split(","):
        found = _SPECIFIER.fullmatch(clause.strip())
        if not found:
            raise InvalidSpec(f"python: {specifier!r} does not hold; use >=X.Y and <X.Y.", field="python")
        bound = (int(found[2]), int(found[3]))
        if (version < bound) if found[1] == ">=" else (version >= bound):
            return False
    return True


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _fill(text: str, values: Mapping[str, str | None]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found[1]] or "", text)


def _fill_command(command: tuple[str, ...], values: Mapping[str, str | None]) -> list[str]:
    """Fill the placeholders in; an item whose placeholder has no value goes, and the flag before it goes with it."""
    argv: list[str] = []
    for item in command:
        if any(values[name] is None for name in _PLACEHOLDER.findall(item)):
            if argv and argv[-1].startswith("-") and "=" not in item:
                argv.pop()
            continue
        argv.append(_fill(item, values))
    return argv
