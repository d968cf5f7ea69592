"""Latest values over all models, and a latest value that is taken back."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelops_dagster.clients.lineage import forget_latest, latest_of, latest_values, read_value, write_value
from modelops_dagster.domain.architectures import Support
from modelops_dagster.domain.endpoints import Endpoint, Parked
from modelops_dagster.domain.engines import RungResult
from modelops_dagster.domain.errors import ModelParked, PreflightBlocked
from modelops_dagster.domain.hub import ModelRevision, Release
from modelops_dagster.domain.preflight import Preflight
from modelops_dagster.resources.lineage import LineageResource
from tests.fakes.values import a_checkpoint, an_endpoint

REFUSED = RungResult(rung="vllm-cpu", reason="unsupported_architecture")


def endpoint(repo_id: str = "acme/one") -> Endpoint:
    ladder = (REFUSED, RungResult(rung="transformers"))
    return an_endpoint(checkpoint=a_checkpoint(repo_id), engine="transformers", ladder=ladder)


def test_the_latest_of_every_model(tmp_path: Path):
    for repo_id in ("acme/one", "big-co/Two.5_x"):
        for run_id in ("r1", "r2"):
            value = Parked(checkpoint=a_checkpoint(repo_id, digest=run_id), ladder=(), parked_at=datetime.now(UTC))
            write_value(tmp_path, "raw/parked", repo_id, run_id, value)
    found = latest_of(tmp_path, "raw/parked")
    assert {repo_id: value.checkpoint.digest for repo_id, value in found.items()} == {
        "acme/one": "r2",
        "big-co/Two.5_x": "r2",
    }
    assert latest_of(tmp_path, "fp8/parked") == {}
    forget_latest(tmp_path, "raw/parked", "acme/one")
    forget_latest(tmp_path, "raw/parked", "acme/one")
    assert list(latest_of(tmp_path, "raw/parked")) == ["big-co/Two.5_x"]
    assert read_value(tmp_path, "raw/parked", "acme/one", "r1") is not None


def test_a_parked_model_is_remembered_until_a_rung_holds_it(tmp_path: Path):
    lineage = LineageResource(root=str(tmp_path))
    versions = {"vllm-cpu": "0.32.0+a"}
    with (
        pytest.raises(ModelParked),
        lineage.parking("raw", a_checkpoint("acme/one"), "r1", versions),
    ):
        raise ModelParked("parked", ladder=(REFUSED,))
    (parked,) = lineage.waiting(["raw"])
    assert (parked.repo_id, parked.standing, parked.rungs[0].engine_version) == ("acme/one", None, "0.32.0+a")
    assert lineage.known_ladder("raw", a_checkpoint("acme/one"))[0].reason == "unsupported_architecture"
    assert lineage.known_ladder("raw", a_checkpoint("acme/one", digest="sha256:other")) == ()
    with lineage.parking("raw", a_checkpoint("acme/one"), "r2", versions):
        write_value(tmp_path, "raw/endpoint", "acme/one", "r2", endpoint())
    (lower,) = lineage.waiting(["raw"])
    assert lower.standing == "transformers"
    assert list(latest_values(tmp_path, "acme/one")) == ["raw/endpoint"]


def test_any_other_failure_parks_nobody(tmp_path: Path):
    lineage = LineageResource(root=str(tmp_path))
    with pytest.raises(ValueError, match="other"), lineage.parking("raw", a_checkpoint("acme/one"), "r1", {}):
        raise ValueError("other")
    assert lineage.waiting(["raw"]) == []


def test_a_stopped_release_waits_until_one_passes(tmp_path: Path):
    lineage = LineageResource(root=str(tmp_path))
    novel = Support(rung="vllm-cpu", engine_version="0.32.0+a", kind="needs_newer_transformers", sentence="Newer.")
    revision = ModelRevision(repo_id="acme/one", commit_hash="a" * 40)
    release = Release(revision=revision, hub_url="http://h", files=(), preflight=Preflight(supports=(novel,)))
    with pytest.raises(PreflightBlocked), lineage.stopping(release, "r1"):
        raise PreflightBlocked("stopped")
    (stopped,) = lineage.waiting(["raw"])
    assert (stopped.repo_id, stopped.standing, stopped.rungs[0].engine_version) == ("acme/one", None, "0.32.0+a")
    assert latest_values(tmp_path, "acme/one")["release/stopped"] == release
    with lineage.stopping(release, "r2"):
        write_value(tmp_path, "release", "acme/one", "r2", release)
    assert lineage.waiting(["raw"]) == []
    assert lineage.preflight(a_checkpoint("acme/one")) == release.preflight
    other = ModelRevision(repo_id="acme/one", commit_hash="b" * 40)
    assert lineage.preflight(a_checkpoint("acme/one").model_copy(update={"revision": other})) is None
