"""An engine made up for tests, and a pip that sees nothing but what a test offers it."""

import os
import sys
import zipfile
from pathlib import Path

import pytest

from modelops_dagster.clients.engine_manifests import MANIFEST_NAME
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.endpoints import EndpointSpec

HERE = f"{sys.platform}-{os.uname().machine}"
MANIFEST = f"""
name: tiny
summary: made up for tests
version: "1.0"
accelerators: [cpu]
python: ">=3.11"
platforms: [{HERE}]
command: ["{{env}}/bin/python", --model, "{{checkpoint}}", "--port={{port}}", --context, "{{max_context}}", "{{{{x}}}}"]
variants: {{loud: [--verbose, "{{cpus}}"]}}
environment: {{THREADS: "{{cpus}}", WORKERS: "{{workers}}", BESIDE: "{{engine_dir}}"}}
"""


def write_engine(root: Path, name: str = "tiny", *, lock: str = "", manifest: str = MANIFEST) -> None:
    folder = root / "engines" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_NAME).write_text(manifest.replace("name: tiny", f"name: {name}"))
    (folder / "requirements.lock").write_text(lock)


def write_wheel(folder: Path, name: str, version: str) -> None:
    """The smallest thing that pip installs."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture
def pip_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """pip sees an index of ours, which is empty, and nothing else."""
    index = tmp_path / "index"
    index.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", index.as_uri())
    return tmp_path


@pytest.fixture
def registry(pip_home: Path) -> EngineRegistry:
    write_engine(pip_home)
    return EngineRegistry(pip_home / "engines", pip_home / "cache")


@pytest.fixture
def installed(registry: EngineRegistry) -> EngineRegistry:
    """The engine is installed, as far as anybody can see."""
    pretend_installed(registry)
    return registry


def pretend_installed(registry: EngineRegistry) -> None:
    target = registry.target("tiny")
    (target / "bin").mkdir(parents=True)
    (target / "bin" / "python").symlink_to(sys.executable)
    (target / ".complete").write_text("{}")


def spec(**changes: object) -> EndpointSpec:
    values: dict[str, object] = {
        "name": "small",
        "checkpoint": "/models/a {port} b",
        "checkpoint_digest": "sha256:x",
        "engine": "tiny",
        "served_model_name": "acme/small",
        "max_context": 512,
    }
    return EndpointSpec.model_validate(values | changes)
