"""Engines for tests: the registry's face with `engine.py` behind it; an endpoint's `engine_args` choose its faults."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.engines import EngineManifest, Rung
from modelops_dagster.domain.errors import EngineMissing, InvalidSpec

SCRIPT = Path(__file__).with_name("engine.py")
# what a cluster runs, in any image with Python: the whole program is in its arguments
COMMAND = ("{env}/bin/python3", "-S", "-c", SCRIPT.read_text(), "--host", "{host}", "--port", "{port}")
COMMAND += ("--served-model-name", "{served_model_name}")


@dataclass(frozen=True)
class FakeLaunch:
    argv: tuple[str, ...]
    environ: dict[str, str]
    version: str = "1.2.3"


class FakeLauncher:
    """Knows one engine, `fake`; any other is missing."""

    def manifests(self) -> dict[str, EngineManifest]:
        return {
            "fake": EngineManifest(
                name="fake",
                summary="for tests",
                version="1.2.3",
                accelerators=("cpu",),
                python=">=3.11",
                platforms=("linux-x86_64",),
                command=COMMAND,
                drain_args=("--shutdown-timeout", "{drain_s}"),
                start_timeout_s=20,
            )
        }

    def manifest(self, name: str) -> EngineManifest:
        if name not in self.manifests():
            raise EngineMissing(f"There is no engine {name!r}; the engines are: fake.")
        return self.manifests()[name]

    def environment(self, name: str) -> Path | None:
        return SCRIPT.parent

    def missing(self, name: str) -> str | None:
        return None

    def unavailable_reason(self, name: str) -> str | None:
        return None

    def rungs(self, accelerator: str, architectures: Sequence[str] = (), repo_id: str = "") -> list[Rung]:
        return [Rung(engine=name) for name in self.manifests()]

    def check_arguments(self, name: str, arguments: Sequence[str]) -> None:
        for argument in arguments:
            if argument.startswith("--no-such"):
                raise InvalidSpec(f"{name} has no argument {argument}.", field="engine_args")

    def launch(self, spec: EndpointSpec, host: str, port: int) -> FakeLaunch:
        self.manifest(spec.engine)
        argv = (sys.executable, "-S", str(SCRIPT), "--host", host, "--port", str(port))
        argv += ("--served-model-name", spec.served_model_name, *spec.engine_args)
        return FakeLaunch(argv, {"PATH": os.environ["PATH"]})
