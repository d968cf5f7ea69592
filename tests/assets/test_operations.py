"""The jobs that people click, run by Dagster against real routes: what changes, what is kept of it, what is refused."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import dagster as dg
import pytest

from modelops_dagster.assets.operations import promote, roll_back, start_endpoint, stop_endpoint
from modelops_dagster.clients.lineage import write_value
from modelops_dagster.clients.reports.pages import page_name
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.canary import Bounds
from modelops_dagster.domain.gateway import Grant, Route, RouteTarget, with_targets
from modelops_dagster.domain.rollout import start_canary
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import GatewayResource, ScoreResource
from tests.assets.known_controller import known_controller
from tests.clients.score_rows import verdict
from tests.clients.test_backfills import Controller

ALIAS = "org/model"
AT = datetime(2026, 1, 2, tzinfo=UTC)
SAID = Grant(by="ada", reason="the first one there was", at=AT)
OPS = {
    promote: "promote_endpoint",
    roll_back: "roll_back_route",
    start_endpoint: "start_one",
    stop_endpoint: "stop_one",
}


class Scene(NamedTuple):
    """One alias at `old`; `new` and `other` run beside it, `off` does not."""

    home: Path
    controller: Controller
    routes: RouteStore
    instance: dg.DagsterInstance

    def click(self, job: dg.JobDefinition, **config: Any) -> dg.ExecuteInProcessResult:
        resources = {
            "gateway": GatewayResource(url="http://127.0.0.1:9", root=str(self.home / "gateway")),
            "controller": known_controller(self.controller),
            "lineage": LineageResource(root=str(self.home / "lineage")),
            "scores": ScoreResource(root=str(self.home / "scores")),
        }
        return job.execute_in_process(
            run_config={"ops": {OPS[job]: {"config": config}}},
            resources=resources,
            instance=self.instance,
            raise_on_error=False,
        )

    def refused(self, job: dg.JobDefinition, **config: Any) -> str:
        """The one sentence of a run that failed."""
        done = self.click(job, **config)
        assert not done.success
        failure = done.failure_data_for_node(OPS[job])
        assert failure is not None
        assert failure.user_failure_data is not None, failure.error
        assert self.instance.get_run_by_id(done.run_id).status is dg.DagsterRunStatus.FAILURE  # type: ignore[union-attr]
        return str(failure.user_failure_data.description)

    def shown(self, job: dg.JobDefinition, **config: Any) -> dict[str, Any]:
        """What a click that succeeded shows in the UI: a table as its rows."""
        done = self.click(job, **config)
        assert done.success
        (output,) = [e.step_output_data for e in done.all_events if e.event_type is dg.DagsterEventType.STEP_OUTPUT]
        values = {name: item.value for name, item in output.metadata.items()}
        return values | {
            name: [dict(row.data) for row in item.records]
            for name, item in output.metadata.items()
            if isinstance(item, dg.TableMetadataValue)
        }

    def shares(self) -> dict[str, int]:
        route = self.routes.get(ALIAS)
        assert route is not None
        total = sum(t.weight for t in route.targets)
        return {t.endpoint: 100 * t.weight // total for t in route.targets}

    def trail(self) -> list[tuple[int, str | None]]:
        return [(route.version, route.reason) for route in self.routes.history(ALIAS)]


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """One with its records on disk, as an installation has."""
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster"))) as made:
        yield made


@pytest.fixture
def scene(tmp_path: Path, instance: dg.DagsterInstance) -> Scene:
    running = dict.fromkeys(("old", "new", "other"), "Running")
    routes = RouteStore(tmp_path / "gateway")
    routes.put(with_targets(None, ALIAS, [_target("old", SAID)], at=AT, reason="made"), 0)
    return Scene(tmp_path, Controller("http://127.0.0.1:1/v1", {**running, "off": "Stopped"}), routes, instance)


def _target(name: str, grant: Grant | None = None) -> RouteTarget:
    url = f"http://127.0.0.1:1/{name}/v1"
    return RouteTarget(endpoint=name, url=url, served_model_name="fake", commit_hash="a" * 40, grant=grant)


def _passed(scene: Scene, name: str) -> str:
    """A verdict that passed the endpoint, where the chain keeps it."""
    # the controller of these tests serves a folder that is not named by a commit
    found = verdict().model_copy(update={"endpoint": name, "commit_hash": "1"})
    write_value(scene.home / "lineage", "raw/verdict", ALIAS, "r", found)
    return found.verdict_id


def test_what_a_verdict_passed_is_promoted_and_the_other_stays_for_a_roll_back(scene: Scene):
    verdict_id = _passed(scene, "new")
    done = scene.click(promote, alias=ALIAS, endpoint="new")
    assert done.success
    assert scene.shares() == {"old": 0, "new": 100}
    assert scene.trail() == [(1, "made"), (2, "promoted new")]
    route = scene.routes.get(ALIAS)
    assert route is not None
    assert [t.grant and t.grant.verdict_id for t in route.targets] == [None, verdict_id]
    back = scene.click(roll_back, alias=ALIAS)
    assert back.success
    assert scene.shares() == {"old": 100}
    assert scene.trail()[2:] == [(3, "back to version 1")]
    recorded = [scene.instance.get_run_by_id(click.run_id) for click in (done, back)]
    assert [run and (run.job_name, run.status.value) for run in recorded] == [
        ("promote", "SUCCESS"),
        ("roll_back", "SUCCESS"),
    ]


def test_without_a_name_the_canary_is_promoted(scene: Scene):
    route = scene.routes.get(ALIAS)
    assert route is not None
    scene.routes.put(start_canary(route, _target("new", SAID), 5, Bounds(), at=AT), 1)
    assert scene.click(promote, alias=ALIAS).success
    promoted = scene.routes.get(ALIAS)
    assert promoted is not None
    assert (scene.shares()["new"], promoted.canary) == (100, None)


def test_an_override_is_kept_with_who_and_why(scene: Scene):
    done = scene.click(
        promote, alias=ALIAS, endpoint="new", override_by="ada", override_reason="checked by hand, ticket 12"
    )
    assert done.success

    def grant(route: Route) -> tuple[str | None, str | None]:
        found = next(t.grant for t in route.targets if t.endpoint == "new")
        assert found is not None
        return found.by, found.reason

    assert grant(scene.routes.history(ALIAS)[-1]) == ("ada", "checked by hand, ticket 12")
    assert scene.click(roll_back, alias=ALIAS).success
    assert grant(scene.routes.history(ALIAS)[1]) == ("ada", "checked by hand, ticket 12"), "after it is undone as well"


def test_a_version_is_gone_back_to_by_its_number(scene: Scene):
    for name in ("new", "other"):
        assert scene.click(promote, alias=ALIAS, endpoint=name, override_by="ada", override_reason="a trial").success
    assert scene.click(roll_back, alias=ALIAS, to_version=1).success
    assert scene.shares() == {"old": 100}
    assert scene.trail()[-1] == (4, "back to version 1")


@pytest.mark.parametrize(
    ("job", "config", "sentence"),
    [
        (promote, {"alias": "org/nobody"}, "there is no route 'org/nobody'; the aliases are: org/model."),
        (promote, {"alias": "../../etc"}, "'../../etc' "),
        (promote, {}, "route 'org/model' has no canary; name the endpoint to promote."),
        (promote, {"endpoint": "nwe"}, "there is no endpoint 'nwe' behind 'org/model' (old) or at the controller; "),
        (promote, {"endpoint": "off"}, "endpoint off is Stopped and answers nothing; start it with "),
        (promote, {"endpoint": "new"}, "no verdict passed 'new'"),
        (
            promote,
            {"endpoint": "new", "override_by": "ada"},
            "an override needs override_by and override_reason; give both or none.",
        ),
        (
            promote,
            {"endpoint": "new", "override_by": "ada", "override_reason": "ok"},
            "override_reason must say why, in 3 to 500 characters.",
        ),
        (roll_back, {"alias": "org/nobody"}, "there is no route 'org/nobody'; the aliases are: org/model."),
        (roll_back, {}, "route 'org/model' has no such earlier version; the ones to go back to are: none."),
        (
            roll_back,
            {"to_version": 7},
            "route 'org/model' has no such earlier version; the ones to go back to are: none.",
        ),
    ],
)
def test_a_wrong_click_ends_in_one_sentence_and_changes_nothing(
    scene: Scene, job: dg.JobDefinition, config: dict[str, Any], sentence: str
):
    said = scene.refused(job, **({"alias": ALIAS} | config))
    assert sentence in said
    assert "\n" not in said
    assert "Traceback" not in said
    assert scene.trail() == [(1, "made")]
    assert scene.routes.aliases() == (ALIAS,)


def test_a_changed_route_is_shown_with_numbers_a_table_and_links(scene: Scene):
    report = scene.home / "reports" / page_name(ALIAS)
    report.parent.mkdir()
    report.touch()
    verdict_id = _passed(scene, "new")
    shown = scene.shown(promote, alias=ALIAS, endpoint="new")
    assert list(shown)[:3] == ["version", "endpoints_serving", "route"]
    assert (shown["version"], shown["endpoints_serving"], shown["served"]) == (2, 1, False), "no gateway runs"
    rows = {row["endpoint"]: row for row in shown["route"]}
    assert {name: row["share"] for name, row in rows.items()} == {"old": "0 %", "new": "100 %"}
    assert (rows["new"]["entitled by"], rows["old"]["entitled by"]) == (verdict_id, f"{SAID.by}: {SAID.reason}")
    assert shown["endpoint"].endswith("/endpoints/new")
    assert shown["report"] == str(report)
    assert shown["gateway"] == "http://127.0.0.1:9"
    assert "new" in shown["diff"]
    back = scene.shown(roll_back, alias=ALIAS)
    assert (back["version"], back["endpoints_serving"]) == (3, 1)
    assert [(row["endpoint"], row["share"]) for row in back["route"]] == [("old", "100 %")]
    assert back["endpoint"].endswith("/endpoints/old")


def test_what_has_no_page_is_not_linked(scene: Scene):
    """A hosted API has none here, and a model that nothing was decided about has no report."""
    hosted = _target("hosted", SAID).model_copy(update={"provider": "openai", "url": ""})
    scene.routes.put(with_targets(None, "org/hosted", [hosted], at=AT, reason="made"), 0)
    shown = scene.shown(promote, alias="org/hosted", endpoint="hosted")
    assert shown["endpoints_serving"] == 1
    assert not {"endpoint", "report"} & shown.keys()


def test_an_endpoint_is_started_and_stopped_by_a_click(scene: Scene):
    for job, state in ((start_endpoint, "Running"), (stop_endpoint, "Stopped")):
        shown = scene.shown(job, endpoint="off")
        assert scene.controller.states["off"] == state
        assert (shown["state"], shown["status"][0]["state"], shown["aliases"]) == (state, state, 0)
        assert shown["endpoint"].endswith("/endpoints/off")
    assert shown["stop_seconds"] >= 0


def test_stopping_says_which_aliases_name_the_endpoint(scene: Scene):
    shown = scene.shown(stop_endpoint, endpoint="old")
    assert list(shown)[:3] == ["stop_seconds", "aliases", "status"]
    assert (shown["aliases"], shown["status"][0]["aliases that name it"]) == (1, f"{ALIAS} (100 %)")


def test_an_endpoint_that_does_not_start_says_why(scene: Scene):
    scene.controller.states["broken"] = "Stopped"
    assert scene.refused(start_endpoint, endpoint="broken") == "broken is RuntimeError: out of memory"
