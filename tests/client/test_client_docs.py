"""docs/client.md: its example runs, and the verbs it names are there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from modelops_dagster.client import ModelOpsClient
from modelops_dagster.clients.keys import KeyStore
from tests.fakes.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "client.md").read_text()


def test_the_example_runs(stack: Stack, tmp_path: Path):
    """As it stands there, but for where the weights are and which engine loads them."""
    (example,) = re.findall(r"<!-- runs -->\n```python\n(.*?)```", PAGE, re.S)
    weights = tmp_path / "models"
    for commit in ("1f3a9c2", "8be41d0"):
        (weights / "sentiment" / commit).mkdir(parents=True)
    stack.up()
    KeyStore(stack.home / "gateway").create("payer")
    program = example.replace("/models/", f"{weights}/").replace('"vllm-cpu"', '"fake"')
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **stack.settings.environ()},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^sentiment-1 Running http://127\.0\.0\.1:\d+/v1$", done.stdout, re.M)
    assert "healthy: 1 of 1 ready" in done.stdout
    assert re.search(r"^\+ sentiment-2@\w+: weight 500", done.stdout, re.M)
    assert re.search(r"^in_progress 0$", done.stdout, re.M)


def test_the_verbs_it_names_are_there():
    named = {
        verb
        for line in PAGE.splitlines()
        if line.startswith("| ")
        for cell in line.split("|")[1:3]
        for verb in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b|\b(?:start|stop|restart|apply)\b", cell)
    }
    assert len(named) > 12
    assert {verb for verb in named if not callable(getattr(ModelOpsClient, verb, None))} == set()
