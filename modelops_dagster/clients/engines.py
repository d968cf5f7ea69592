"""The engines this machine knows: what their manifests say, which are installed, and how one is started."""

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Protocol, Self

from modelops_dagster.clients.engine_arguments import ask_catalog, ask_parser
from modelops_dagster.clients.engine_install import MARKER_NAME, EnvironmentBuilder, clean_environment, exclusive
from modelops_dagster.clients.engine_manifests import CUDA_LOCK_NAME, EngineFolders
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.engine_arguments import ArgumentCatalog, find_problem, needs_parser
from modelops_dagster.domain.engine_commands import fill, fill_command
from modelops_dagster.domain.engines import EngineManifest, EngineOverride, Rung
from modelops_dagster.domain.errors import EngineMissing, InvalidSpec
from modelops_dagster.domain.ladder import Accelerator, rungs_for

WORKERS = Path(__file__).resolve().parent.parent / "workers"

_SPECIFIER = re.compile(r"(>=|<)\s*(\d+)\.(\d+)")


@dataclass(frozen=True)
class Launch:
    """How to start an engine for one endpoint. `environ` is the whole environment of the process."""

    argv: tuple[str, ...]
    environ: dict[str, str] = field(repr=False)
    version: str


class EngineSettings(Protocol):
    """What of an installation's settings says which engines it has."""

    @property
    def engines(self) -> Path: ...

    @property
    def cache(self) -> Path: ...

    @property
    def own_engines(self) -> Path: ...

    @property
    def images_for(self) -> str: ...


class EngineRegistry:
    """Engines under `engines_dir` and the operator's own under `own_dir`; their environments in `cache_dir`/engines.

    An environment's folder is named after everything it was built from, so a changed lock is a new environment and
    two checkouts can share a cache; one of nightly packages is named after its day, and the newest counts. An
    environment without its marker is never used.

    Args:
        images_for: cpu, cuda, or auto to look for a GPU here: engines are started from images on a cluster, built for
            that, and none need be installed here. Empty: engines are installed here.
        gpu: whether this machine has one.
        today: the day a nightly environment is named after.
    """

    def __init__(
        self,
        engines_dir: Path,
        cache_dir: Path,
        own_dir: Path | None = None,
        *,
        images_for: str = "",
        gpu: Callable[[], bool] | None = None,
        today: Callable[[], date] = date.today,
    ) -> None:
        self._gpu = gpu or has_gpu
        self._folders = EngineFolders(
            engines_dir, own_dir, cuda=lambda: self.accelerator(images_for or "auto") == "cuda"
        )
        self._environments_dir = cache_dir / "engines"
        self._in_images = bool(images_for)
        self._today = today

    @classmethod
    def from_settings(cls, settings: EngineSettings) -> Self:
        """The engines of one installation."""
        return cls(settings.engines, settings.cache, settings.own_engines, images_for=settings.images_for)

    def manifests(self) -> dict[str, EngineManifest]:
        """Every engine by name, in alphabetical order.

        Raises:
            InvalidSpec: an engine.yaml does not hold.
        """
        return {name: self.manifest(name) for name in self._folders.names()}

    def manifest(self, name: str) -> EngineManifest:
        """One engine's manifest.

        Raises:
            EngineMissing: there is no engine of that name.
            InvalidSpec: its engine.yaml does not hold.
        """
        source = self._folders.source(name)
        for_gpus = self._in_images and source.lock is not None and source.lock.name == CUDA_LOCK_NAME
        return source.manifest.model_copy(update={"one_image": True}) if for_gpus else source.manifest

    def target(self, name: str) -> Path:
        """Where the environment is or would be: named after everything it is built from, or after today."""
        source = self._folders.source(name)
        if source.manifest.nightly_index is not None:
            return self._environments_dir / f"{name}-{self._today():%Y%m%d}"
        parts = [f"{sys.implementation.cache_tag} {sys.platform}-{platform.machine()}", *source.identity()]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return self._environments_dir / f"{name}-{digest[:12]}"

    def environment(self, name: str) -> Path | None:
        """The folder of the installed environment, or None where it is missing, incomplete or outdated."""
        candidates = [self.target(name)]
        if self.manifest(name).nightly_index is not None:
            candidates = sorted(self._environments_dir.glob(f"{name}-[0-9]*"), reverse=True)
        return next((path for path in candidates if _is_whole(path)), None)

    def missing(self, name: str) -> str | None:
        """Why no endpoint can be started on the engine, as one sentence; None when one can.

        Raises:
            EngineMissing: there is no engine of that name.
            InvalidSpec: its engine.yaml does not hold.
        """
        if self.environment(name) is not None or (self._in_images and self.manifest(name).serves):
            return None
        hint = f"Engine {name} is not installed; run `modelops engines install {name}`."
        return self.unavailable_reason(name) or hint

    def unavailable_reason(self, name: str) -> str | None:
        """Why the engine cannot be installed on this machine, as one sentence; None when it can."""
        manifest = self.manifest(name)
        here = f"{sys.platform}-{platform.machine().lower()}"
        if here not in manifest.platforms:
            return f"Engine {name} has wheels for {', '.join(manifest.platforms)} and this machine is {here}."
        if not _python_fits(manifest.python, sys.version_info[:2]):
            running = f"{sys.version_info[0]}.{sys.version_info[1]}"
            return f"Engine {name} needs Python {manifest.python} and this is Python {running}."
        if "cpu" not in manifest.accelerators and not self._gpu():
            return f"Engine {name} needs an NVIDIA GPU and this machine shows none."
        return None

    def override(self, repo_id: str) -> EngineOverride | None:
        """The engine that the operator wants for a model before any other."""
        return self._folders.override(repo_id)

    def rungs(self, accelerator: str, architectures: Sequence[str] = (), repo_id: str = "") -> list[Rung]:
        """The ladder on this machine, highest rung first; `accelerator` is cpu, cuda, or auto to look for a GPU.

        Raises:
            InvalidSpec: an engine.yaml or models.yaml does not hold.
            EngineMissing: models.yaml names an engine that there is none of.
        """
        manifests = self.manifests()
        rungs = [
            r
            for r in rungs_for(self.accelerator(accelerator), manifests, architectures)
            if manifests[r.engine].is_for(architectures)
        ]
        override = self.override(repo_id)
        if override is None:
            return rungs
        first = Rung(engine=self.manifest(override.engine).name, variant=override.variant)
        return [first, *(rung for rung in rungs if rung != first)]

    def accelerator(self, wish: str) -> Accelerator:
        """What engines run on; `wish` is cpu, cuda, or auto to look for a GPU."""
        return "cuda" if wish == "cuda" or (wish == "auto" and self._gpu()) else "cpu"

    def installed_versions(self) -> dict[str, str]:
        """What runs here, by engine: its version and the digest of its lock, for a newer lock may bring a newer
        Transformers to the same version of the engine."""
        serving = [name for name, manifest in self.manifests().items() if manifest.serves]
        here = {name: self.environment(name) or (self.target(name) if self._in_images else None) for name in serving}
        return {n: f"{self.version(n)}+{at.name.rpartition('-')[2]}" for n, at in here.items() if at is not None}

    def version(self, name: str) -> str:
        """The version for the lineage: with what an operator put over it; of a nightly, what was resolved."""
        manifest = self.manifest(name)
        env = self.environment(name) if manifest.nightly_index is not None else None
        return str(json.loads((env / MARKER_NAME).read_text())["version"]) if env else manifest.full_version

    def install(self, name: str, progress: Callable[[str], None]) -> Path:
        """Build the engine's environment unless it is there already; returns its folder.

        `progress` receives short lines at most every two seconds or so. Safe to call from several processes at once:
        one builds, the others wait and find it done.

        Raises:
            EngineMissing: it cannot be installed here, or pip failed.
            DiskFull: there is no room for it.
        """
        target = self.target(name)
        if _is_whole(target):
            return target
        reason = self.unavailable_reason(name)
        if reason:
            raise EngineMissing(f"{reason[:-1]}; use another engine, `modelops engines list` shows them.")
        with exclusive(target.with_name(f"{target.name}.lock"), progress, waiting_for=name) as lock_fd:
            if not _is_whole(target):
                EnvironmentBuilder(
                    source=self._folders.source(name),
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
            InvalidSpec: the engine has no such variant, does not serve, or does not take the arguments.
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
        if spec.engine_args:
            self.check_arguments(spec.engine, spec.engine_args)
        values = {
            "env": str(env),
            "engine_dir": str(self._folders.source(spec.engine).folder),
            "workers": str(WORKERS),
            "cpus": str(_usable_cpus()),
            "checkpoint": spec.checkpoint,
            "host": host,
            "port": str(port),
            "served_model_name": spec.served_model_name,
            "max_context": None if spec.max_context is None else str(spec.max_context),
        }
        argv = fill_command(manifest.command, values)
        argv += [fill(item, values) for item in manifest.variants.get(spec.variant or "", ())]
        argv += spec.engine_args
        process_environ = clean_environment(os.environ if environ is None else environ, env)
        process_environ |= {name: fill(value, values) for name, value in manifest.environment.items()}
        process_environ |= manifest.hidden_gpus(spec.gpus) | spec.engine_environment
        return Launch(argv=tuple(argv), environ=process_environ, version=self.version(spec.engine))

    def arguments(self, name: str) -> ArgumentCatalog | None:
        """What the installed engine takes, asked of its own parser once per environment; None: it has none to ask.

        Raises:
            EngineMissing: the engine is unknown or not installed.
            EngineFailed: its parser could not be asked.
        """
        manifest = self.manifest(name)
        env = self.environment(name)
        if env is None:
            raise EngineMissing(f"Engine {name} is not installed; run `modelops engines install {name}`.")
        if not manifest.argument_parser:
            return None
        return ask_catalog(manifest, self.version(name), env, self._question_environ(manifest, env))

    def check_arguments(self, name: str, arguments: Sequence[str]) -> None:
        """See that the installed engine takes these arguments, before anything is started.

        Raises:
            EngineMissing: the engine is unknown or not installed.
            InvalidSpec: it does not take them; says why and what was probably meant.
            EngineFailed: its parser could not be asked.
        """
        catalog = self.arguments(name)
        env = self.environment(name)
        if catalog is None or env is None:
            return
        manifest = self.manifest(name)
        problem = find_problem(catalog, arguments, manifest.command)
        if problem is None and needs_parser(catalog, arguments):
            said = ask_parser(manifest, env, self._question_environ(manifest, env), arguments)
            problem = f"Engine {name} does not take these arguments: {said}; correct them." if said else None
        if problem:
            raise InvalidSpec(problem, field="engine_args")

    def _question_environ(self, manifest: EngineManifest, env: Path) -> dict[str, str]:
        values = {"env": str(env), "workers": str(WORKERS), "engine_dir": "", "cpus": "1"}
        environ = {name: fill(value, values) for name, value in manifest.environment.items()}
        return clean_environment(os.environ, env) | environ

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
        process_environ |= {key: fill(value, values) for key, value in manifest.environment.items()}
        argv = (*(fill(item, values) for item in manifest.command), *arguments)
        return Launch(argv=argv, environ=process_environ, version=manifest.version)


def has_gpu() -> bool:
    """Whether the NVIDIA driver is loaded and has a device."""
    return any(Path("/proc/driver/nvidia/gpus").glob("*")) or Path("/dev/nvidia0").exists()


def _is_whole(target: Path) -> bool:
    # bin/python is a link to the interpreter the venv was made with, which may have been removed since
    return (target / MARKER_NAME).is_file() and (target / "bin" / "python").exists()


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
