"""When there is a rehearsal, and what of it binds the ladder."""

import pytest

from modelops_dagster.domain.capacity import GB, Hardware, Plan
from modelops_dagster.domain.engines import Rung, RungResult
from modelops_dagster.domain.hub import ModelRevision, Release, RepoFile
from modelops_dagster.domain.preflight import Preflight
from modelops_dagster.domain.rehearsal import Rehearsal, Wish, why_none

REVISION = ModelRevision(repo_id="acme/one", commit_hash="a" * 40)
CPU = Hardware(kind="cpu", name="CPU", memory_bytes=64 * GB)
GPU = Hardware(kind="cuda", name="H100", memory_bytes=80 * GB)


def release(hardware: Hardware | None, size_gb: int = 20, fits: str = "yes") -> Release:
    plan = hardware and Plan(hardware=hardware, layout=None, fits=fits, context=2048, sequences=1)
    file = RepoFile(path="model.safetensors", size_bytes=size_gb * GB, sha256="0" * 64, git_sha1=None)
    return Release(revision=REVISION, hub_url="http://hub", files=(file,), preflight=Preflight(plan=plan))


@pytest.mark.parametrize(
    ("found", "wish", "running", "said"),
    [
        (release(GPU), "auto", (), None),
        (release(GPU), "off", (), "turned off"),
        (release(GPU, size_gb=1), "auto", (), "here before an engine has started"),
        (release(GPU, size_gb=1), "on", (), None),
        (release(GPU), "on", ("other-raw",), "in use by other-raw"),
        (release(GPU, fits="tight"), "on", (), "not sure that the weights fit"),
        (release(GPU, fits="no"), "on", (), "not sure that the weights fit"),
        (release(None), "on", (), "not sure that the weights fit here"),
        (release(CPU), "auto", (), "MODELOPS_REHEARSAL=on"),
        (release(CPU), "on", ("other-raw",), None),
    ],
)
def test_a_rehearsal_never_takes_what_the_fetch_or_others_need(
    found: Release, wish: Wish, running: tuple[str, ...], said: str | None
):
    reason = why_none(found, wish, running)
    assert (reason is None) is (said is None)
    assert said is None or said in (reason or "")


def test_only_reasons_that_no_weight_changes_bind_and_only_for_the_version_they_were_seen_on():
    rungs = [Rung(engine=name) for name in ("vllm", "vllm-nightly", "sglang", "other", "transformers")]
    seen = [
        RungResult(rung="vllm", reason="unsupported_architecture", detail="No.", engine_version="1+a"),
        RungResult(rung="vllm-nightly", reason="needs_newer_transformers", detail="No.", engine_version="1+a"),
        RungResult(rung="sglang", reason="timeout", detail="Slow.", engine_version="1+a"),
        RungResult(rung="other", reason="out_of_memory", detail="Full.", engine_version="1+a"),
        RungResult(rung="transformers", detail="It loads.", engine_version="1+a"),
    ]
    versions = dict.fromkeys((r.engine for r in rungs), "1+a")
    rehearsal = Rehearsal(revision=REVISION, results=tuple(seen))
    assert rehearsal.ruled_out(rungs, versions) == {rungs[0]: seen[0], rungs[1]: seen[1]}
    assert rehearsal.ruled_out(rungs, {**versions, "vllm": "2+a"}) == {rungs[1]: seen[1]}
