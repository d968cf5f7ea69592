"""`modelops preflight` as a person and as a program call it."""

import json
from pathlib import Path

import pytest

from modelops_dagster.clients.lineage import write_value
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.preflight import Finding, Preflight
from modelops_dagster.services.hub_server import HubServer
from tests.fakes.commands import modelops_beside
from tests.fakes.hub import released, write_repo

WORKING = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 128}


def test_exit_codes_and_both_ways_of_speaking(hub: HubServer, tmp_path: Path):
    released(hub, write_repo(tmp_path / "model", config=WORKING))
    blocked = modelops_beside(hub, tmp_path, "preflight", "acme/one", "--json")
    assert blocked.returncode == 1, blocked
    document = json.loads(blocked.stdout)
    assert document["blocked"] is True
    assert "no_engine" in [f["code"] for f in document["findings"]]  # none is installed in this cache
    assert document["plan"]["arithmetic"][0].startswith("weights: ")
    passed = modelops_beside(
        hub, tmp_path, "preflight", "acme/one", "--accept", "no_engine", MODELOPS_GPUS="2x8xH100-80GB"
    )
    assert passed.returncode == 0, passed
    assert "1 GPU: TP=1, PP=1; fits on 2 nodes of 8 x H100 with 80 GB, 16 x 2,048 tokens" in passed.stdout
    assert "no_engine" in passed.stdout
    strict = modelops_beside(
        hub, tmp_path, "preflight", "acme/one", "--accept", "no_engine", MODELOPS_LICENSES="mit, bsd"
    )
    assert (strict.returncode, "apache-2.0 is not of mit, bsd" in " ".join(strict.stdout.split())) == (1, True), strict


@pytest.mark.parametrize(
    ("arguments", "environ", "words"),
    [
        (("preflight", "acme/none"), {}, "has no model acme/none"),
        (("preflight", "acme"), {}, "write org/name"),
        (("preflight", "acme/one", "--ref", "v9"), {}, "no branch, tag or commit 'v9'"),
        (("preflight", "acme/one"), {"MODELOPS_GPUS": "many"}, "'many' does not declare GPUs"),
        (("preflight", "acme/one", "--accept", "code"), {}, "'code' is no finding that can be accepted"),
        (("onboard", "acme/one", "--accept", "code"), {}, "'code' is no finding that can be accepted"),
    ],
)
def test_mistakes_are_sentences(
    hub: HubServer, tmp_path: Path, arguments: tuple[str, ...], environ: dict[str, str], words: str
):
    released(hub, write_repo(tmp_path / "model"))
    done = modelops_beside(hub, tmp_path, *arguments, **environ)
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (2, True, False), done


def test_show_tells_the_plan_and_what_stopped_a_release(hub: HubServer, tmp_path: Path):
    release: Release = released(hub, write_repo(tmp_path / "model"))
    finding = Finding(severity="blocks", code="too_large", sentence="It does not fit on anything.")
    stopped = release.model_copy(update={"preflight": Preflight(findings=(finding,))})
    write_value(tmp_path / "lineage", "release/stopped", "acme/one", "run", stopped)
    shown = modelops_beside(hub, tmp_path, "models", "show", "acme/one")
    assert shown.returncode == 0, shown
    assert "was stopped before any weight was fetched" in shown.stdout
    assert "It does not fit on anything." in shown.stdout
    assert "plan: no rung can hold it" in shown.stdout
