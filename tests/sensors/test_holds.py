"""reopened_holds, tick by tick: a hold is asked to be decided again once all its labels are there, and once only."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from modelops_dagster.assets.partitions import models
from modelops_dagster.clients.lineage import write_value
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.lanes import DECIDE_AGAIN, LANES, decide_job
from modelops_dagster.domain.verdicts import Verdict
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import GauntletResource, ScoreResource
from modelops_dagster.sensors.holds import hold_sensor
from tests.clients.grading_parts import grader
from tests.clients.test_calibrations import RULE, SUITE, judging, label, run
from tests.clients.test_regrading import decided
from tests.fakes.sensor_ticks import RequestTicks


@dg.asset(key=["raw", "verdict"], partitions_def=models)
def verdict() -> None:
    """Stands for what a run of the job decides."""


JOBS = {lane.name: dg.define_asset_job(decide_job(lane.name), selection=[verdict], tags=DECIDE_AGAIN) for lane in LANES}


class Ticks(RequestTicks):
    """A home with one graded run and its hold."""

    def __init__(self, home: Path) -> None:
        self.home, self.store = home, ScoreStore(home / "scores")
        with judging().server().in_thread() as server:
            self.report: SuiteReport = run(self.store, grader(server), "r1", home)
        endpoint = self.report.endpoint
        self.repo_id = endpoint.checkpoint.revision.repo_id
        write_value(home / "lineage", "raw/endpoint", self.repo_id, "r1", endpoint)
        (home / "graders.yaml").write_text(json.dumps({"graders": [], "admission": RULE.model_dump()}))
        resources = {
            "gauntlet": GauntletResource(eval_datasets="", policy_name="p", work="", home=str(home)),
            "scores": ScoreResource(root=str(home / "scores")),
            "lineage": LineageResource(root=str(home / "lineage")),
        }
        super().__init__(home, self.repo_id, hold_sensor(JOBS, [SUITE]), resources)


@pytest.fixture
def ticks(tmp_path: Path) -> Iterator[Ticks]:
    found = Ticks(tmp_path)
    yield found
    found.instance.dispose()


@pytest.fixture
def held(ticks: Ticks) -> Verdict:
    found = decided(ticks.store, ticks.report)
    assert found.outcome == "hold"
    return found


def test_a_hold_is_reopened_when_all_its_labels_are_there(ticks: Ticks, held: Verdict):
    assert ticks() == []
    assert ticks.said == "No open hold waits for labels."
    label(ticks.store, 0.5)  # 30 of the 40
    assert ticks() == []
    assert "10 more labels" in ticks.said
    assert ticks() == []
    assert ticks.said == "No new label."
    label(ticks.store, 1.0)
    (request,) = ticks()
    assert (request.job_name, request.partition_key) == ("decide_raw", ticks.repo_id)
    assert request.run_key == f"{held.verdict_id}+labels"
    assert request.tags["modelops/commit_hash"] == held.commit_hash
    assert ticks() == []


def test_a_run_of_the_model_goes_first(ticks: Ticks, held: Verdict):
    label(ticks.store, 1.0)
    other = dg.Definitions([verdict], jobs=list(JOBS.values())).resolve_job_def(decide_job("raw"))
    going = ticks.instance.create_run_for_job(
        other, status=dg.DagsterRunStatus.STARTED, tags={"dagster/partition": ticks.repo_id}
    )
    assert ticks() == []
    assert "a run of it goes first" in ticks.said
    ticks.instance.report_run_canceled(going)
    (request,) = ticks()
    assert request.run_key == f"{held.verdict_id}+labels"


@pytest.mark.parametrize("why", ["closed", "not held", "another revision", "another judge"])
def test_what_labels_cannot_close_is_left_alone(ticks: Ticks, held: Verdict, why: str):
    if why == "closed":
        over = held.model_copy(update={"closes_at": held.decided_at + timedelta(microseconds=1)})
        ticks.store.land_verdict(over, run_id="r1")
    elif why == "not held":
        later = {"verdict_id": "later", "outcome": "pass", "decided_at": held.decided_at + timedelta(microseconds=1)}
        ticks.store.land_verdict(held.model_copy(update=later), run_id="r2")
    elif why == "another revision":
        endpoint = ticks.report.endpoint
        revision = endpoint.checkpoint.revision.model_copy(update={"commit_hash": "d" * 40})
        newer = endpoint.model_copy(
            update={"checkpoint": endpoint.checkpoint.model_copy(update={"revision": revision})}
        )
        write_value(ticks.home / "lineage", "raw/endpoint", ticks.repo_id, "r9", newer)
    else:
        no_judge = tuple(piece.model_copy(update={"run_id": "elsewhere"}) for piece in held.evidence)
        ticks.store.land_verdict(held.model_copy(update={"evidence": no_judge}), run_id="r1")
    label(ticks.store, 1.0)
    assert ticks() == []
