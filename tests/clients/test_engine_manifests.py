"""The engines of this repository: what their manifests and locks must hold."""

import tomllib
from pathlib import Path

from modelops_dagster.clients.engine_manifests import pinned
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.kubernetes.site import IMAGE_REPOSITORY

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = (ROOT / "docs" / "kubernetes.md").read_text()


def test_every_engine_of_the_repository_holds():
    registry = EngineRegistry(ROOT / "engines", Path("/nonexistent"))
    manifests = registry.manifests()
    assert {"vllm", "vllm-nightly", "vllm-cpu", "transformers"} <= set(manifests)
    for name, manifest in manifests.items():
        folder = ROOT / "engines" / name
        assert {"README.md", "Dockerfile"} <= {path.name for path in folder.iterdir()}
        if manifest.nightly_index is not None:
            assert not (folder / "requirements.lock").exists()
            continue
        lines = pinned(folder / "requirements.lock")
        assert all("==" in line and "://" not in line and not line.startswith("-") for line in lines), name
        distribution = "inspect-ai" if name == "inspect" else name
        assert f"{distribution}=={manifest.version}" in lines
        assert (folder / "requirements.in").is_file()
        for cuda in folder.glob("requirements-cuda.lock"):
            assert {"cuda", "cpu"} <= set(manifest.accelerators), name
            assert not [line for line in pinned(cuda) if "+" in line or "://" in line]
            ours = {line for line in lines if not line.startswith("torch==")}
            assert ours <= set(pinned(cuda)), f"{name}: the locks differ in more than what a GPU needs"
            recipe = (folder / "Dockerfile").read_text()
            assert "\nARG LOCK=requirements.lock\n" in recipe
            assert f"\nCOPY engines/{name}/${{LOCK}} /tmp/requirements.lock\n" in recipe
            assert f"-t {IMAGE_REPOSITORY}/{name}:{manifest.version}-cuda" in DOCUMENTED


def test_every_serving_engine_can_be_told_that_an_operator_allowed_code():
    manifests = EngineRegistry(ROOT / "engines", Path("/nonexistent")).manifests()
    told = {name: m.remote_code_args for name, m in manifests.items() if m.serves}
    assert told == dict.fromkeys(("transformers", "vllm", "vllm-cpu", "vllm-nightly"), ("--trust-remote-code",))
    assert not any("--trust-remote-code" in m.command for m in manifests.values())


def test_every_serving_engine_can_be_told_to_finish_its_calls_before_it_ends():
    manifests = EngineRegistry(ROOT / "engines", Path("/nonexistent")).manifests()
    told = {name: m.drain_args[0] for name, m in manifests.items() if m.serves}
    vllm = dict.fromkeys(("vllm", "vllm-cpu", "vllm-nightly"), "--shutdown-timeout")
    assert told == {**vllm, "transformers": "--drain-s"}
    assert {m.drain_args[1:] for m in manifests.values() if m.serves} == {("{drain_s}",)}


def test_the_vllm_distribution_fits_its_engine():
    registry = EngineRegistry(ROOT / "engines", Path("/nonexistent"))
    project = tomllib.loads((ROOT / "engines/vllm-cpu/vllm-distribution/pyproject.toml").read_text())["project"]
    version = registry.manifest("vllm-cpu").version
    assert project["version"] == f"{version}+cpu"
    assert project["dependencies"] == [f"vllm-cpu=={version}"]
