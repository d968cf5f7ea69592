"""endpoint_health and endpoint_reaper against a real controller, a real instance and real routes."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from modelops_dagster.clients.lineage import write_value
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.gateway import RouteTarget, with_targets
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.lanes import endpoint_name
from modelops_dagster.domain.upkeep import UpkeepPolicy
from modelops_dagster.domain.verdicts import Verdict
from modelops_dagster.resources.lineage import LineageResource
from modelops_dagster.resources.platform import ControllerResource, GatewayResource
from modelops_dagster.resources.watch import AlertResource
from modelops_dagster.sensors.endpoints import health_sensor, reaper_sensor
from tests.fakes.stack import Stack

AT = datetime(2026, 1, 2, tzinfo=UTC)
REVISION = ModelRevision(repo_id="acme/one", commit_hash="c" * 40)
OURS = endpoint_name(REVISION, "raw")
AT_ONCE = UpkeepPolicy(dead_after_s=0, idle_after_s=0, forget_after_s=0)


class Ticks:
    """The daemon's part: resources of one home, and the cursor from tick to tick."""

    def __init__(self, stack: Stack) -> None:
        home = stack.home
        (home / "dagster").mkdir(parents=True)
        self.instance = dg.DagsterInstance.local_temp(str(home / "dagster"))
        self.routes = RouteStore(home / "gateway")
        self.lineage = home / "lineage"
        self.cursor: str | None = None
        self.resources = {
            "controller": ControllerResource(),
            "gateway": GatewayResource(url="http://127.0.0.1:9", root=str(home / "gateway")),
            "alerts": AlertResource(folder=str(home / "alerts"), config_path=str(home / "alerts.yaml")),
            "lineage": LineageResource(root=str(self.lineage)),
        }

    def health(self) -> list[dg.AssetObservation]:
        context = dg.build_sensor_context(self.instance, cursor=self.cursor, resources=self.resources)
        result = health_sensor(AT_ONCE)(context)
        if isinstance(result, dg.SkipReason):
            return []
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        events = list(result.asset_events or [])
        assert all(isinstance(e, dg.AssetObservation) for e in events)
        return events  # type: ignore[return-value]

    def reaper(self) -> str:
        context = dg.build_sensor_context(self.instance, resources=self.resources)
        result = reaper_sensor(AT_ONCE)(context)
        assert isinstance(result, dg.SkipReason)
        return str(result.skip_message)


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    stack = Stack(tmp_path)
    for name, value in stack.settings.environ().items():
        monkeypatch.setenv(name, value)
    yield stack
    stack.down()


def put(ticks: Ticks, alias: str, *names: str, tags: tuple[str, ...] = ("preview",)) -> None:
    targets = [
        RouteTarget(endpoint=n, url="http://127.0.0.1:9/v1", served_model_name=n, commit_hash="c", tags=tags)
        for n in names
    ]
    ticks.routes.put(with_targets(None, alias, targets, at=AT), 0)


def test_health_is_observed_when_it_changes(stack: Stack):
    ticks = Ticks(stack)
    assert ticks.health() == [], "no controller, nothing to say"
    stack.up()
    stack.ready(name="mine")
    stack.ready(name=OURS, model=f"{REVISION.repo_id}@{REVISION.commit_hash}")
    seen = {e.asset_key.to_user_string(): e for e in ticks.health()}
    assert set(seen) == {"endpoints/mine", "raw/endpoint"}
    assert seen["raw/endpoint"].partition == "acme/one"
    assert seen["raw/endpoint"].metadata["state"].value == "Running"
    assert seen["endpoints/mine"].partition is None
    for event in seen.values():
        ticks.instance.report_runless_asset_event(event)
    assert ticks.health() == []
    stack.client.stop("mine")
    stack.client.wait_stopped("mine")
    assert [e.metadata["state"].value for e in ticks.health()] == ["Stopped"]


def test_a_dead_preview_is_withdrawn_and_told(stack: Stack):
    ticks = Ticks(stack)
    stack.up()
    stack.ready(name="well")
    stack.client.apply(stack.spec("--die", name="dead"))
    assert stack.client.wait_ready("dead", 30).state is EndpointState.DEPLOY_FAILED
    put(ticks, "acme/preview", "dead", "well")
    put(ticks, "acme/alone", "dead")
    put(ticks, "acme/gone", "nobody", "well")
    put(ticks, "acme/production", "dead", tags=())
    ticks.health()
    left = {r.alias: [t.endpoint for t in r.targets] for r in ticks.routes.list()}
    assert left == {"acme/preview": ["well"], "acme/gone": ["well"], "acme/production": ["dead"]}
    told = "".join(p.read_text() for p in (stack.home / "alerts").rglob("*") if p.is_file())
    assert "Preview withdrawn: acme/alone" in told
    assert "acme/production" not in told
    version = {r.alias: r.version for r in ticks.routes.list()}
    ticks.health()
    assert version == {r.alias: r.version for r in ticks.routes.list()}


def test_what_nobody_holds_is_stopped_then_deleted(stack: Stack):
    ticks = Ticks(stack)
    assert "modelops up" in ticks.reaper()
    stack.up()
    model = f"{REVISION.repo_id}@{REVISION.commit_hash}"
    stack.ready(name=OURS, model=model)
    stack.ready(name="mine")
    put(ticks, "acme/one", OURS)
    assert ticks.reaper() == "Every endpoint is held by somebody, or too young."
    route = ticks.routes.get("acme/one")
    assert route is not None
    ticks.routes.delete("acme/one", route.version)

    hold = Verdict.model_validate(
        {"verdict_id": "v", "outcome": "hold", "reason": "r", "policy": "p", "policy_digest": "d", "criteria": ()}
        | {"repo_id": REVISION.repo_id, "commit_hash": REVISION.commit_hash, "lane": "raw", "endpoint": OURS}
        | {"decided_at": AT}
    )
    write_value(ticks.lineage, "raw/verdict", REVISION.repo_id, "r1", hold)
    assert "held by somebody" in ticks.reaper()
    write_value(ticks.lineage, "raw/verdict", REVISION.repo_id, "r2", hold.model_copy(update={"outcome": "fail"}))

    ticks.instance.create_run_for_job(
        dg.GraphDefinition(name="onboard").to_job(), status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": REVISION.repo_id},
    )  # fmt: skip
    assert "held by somebody" in ticks.reaper()
    (run,) = ticks.instance.get_runs()
    ticks.instance.report_run_canceled(run)

    assert ticks.reaper() == f"{OURS}: stopped, no route, run or verdict holds it"
    stack.client.wait_stopped(OURS)
    assert "held by nobody" in ticks.reaper()
    stack.client.wait_deleted(OURS)
    assert "held by somebody" in ticks.reaper()
    assert stack.state("mine") is EndpointState.RUNNING
