"""The alerts sensor on an instance of its own, with real runs behind it: each event is told once, to a real webhook."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.clients.lineage import write_value
from modelops_dagster.domain.alerts import AlertCursor
from modelops_dagster.domain.errors import EndpointFailed, ModelParked
from modelops_dagster.domain.verdicts import Verdict
from modelops_dagster.resources.lineage import LineageIOManager, LineageResource
from modelops_dagster.resources.watch import AlertResource
from modelops_dagster.sensors import alerts as sensor_module
from modelops_dagster.sensors.alerts import alert_sensor
from tests.fakes.alert_receivers import HttpReceiver

COMMIT = "b" * 40
models = dg.DynamicPartitionsDefinition(name="models")


def a_verdict(repo_id: str, outcome: str = "pass") -> Verdict:
    return Verdict.model_validate(
        {"verdict_id": f"v-{repo_id}-{outcome}", "outcome": outcome, "reason": f"{outcome}: all well.", "policy": "p"}
        | {"policy_digest": "d", "criteria": (), "repo_id": repo_id, "commit_hash": COMMIT, "lane": "raw"}
        | {"endpoint": "e", "decided_at": datetime.now(UTC)}
    )


@dg.asset(key=["raw", "verdict"], partitions_def=models)
def verdict(context: dg.AssetExecutionContext) -> Verdict:
    """Judges every model well, except those whose name says what happens to them."""
    name = context.partition_key
    with clear_failure():
        if name.endswith("parked"):
            raise ModelParked(f"{name} is parked, no engine could serve it: vllm: unsupported_architecture (no).")
        if name.endswith("broken"):
            raise EndpointFailed(f"Endpoint of {name} went away; run this step again.")
    if name.endswith("bug"):
        raise ZeroDivisionError("a bug")
    return a_verdict(name)


class Scene:
    """One home, one instance, one webhook."""

    def __init__(self, home: Path, hook: HttpReceiver) -> None:
        self.home, self.hook, self.cursor = home, hook, ""
        (home / "dagster").mkdir()
        self.instance = dg.DagsterInstance.local_temp(str(home / "dagster"))
        channel = {"name": "hook", "type": "webhook", "url": hook.url}
        (home / "alerts.yaml").write_text(yaml.safe_dump({"channels": [channel]}))
        self.sensor = alert_sensor(30, "http://ui", "http://hub")

    def tick(self) -> str:
        resources = {
            "alerts": AlertResource(folder=str(self.home / "alerts"), config_path=str(self.home / "alerts.yaml")),
            "lineage": LineageResource(root=str(self.home / "lineage")),
        }
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor, resources=resources) as context:
            found = self.sensor.evaluate_tick(context)
        assert not found.run_requests
        self.cursor = found.cursor or self.cursor
        return found.skip_message or ""

    def run(self, repo_id: str, **tags: str) -> str:
        self.instance.add_dynamic_partitions("models", [repo_id])
        resources = {"io_manager": LineageIOManager(root=str(self.home / "lineage"))}
        done = dg.materialize(
            [verdict], partition_key=repo_id, instance=self.instance, resources=resources, raise_on_error=False,
            tags={k.replace("__", "/"): v for k, v in tags.items()},
        )  # fmt: skip
        return done.run_id

    def queue(self, repo_id: str, source: str = "hub") -> None:
        """What hub_releases leaves behind: a run that waits in the queue."""
        tags = {"dagster/partition": repo_id, "modelops/source": source, "modelops/commit_hash": COMMIT}
        self.instance.create_run_for_job(
            dg.Definitions([verdict], jobs=[dg.define_asset_job("onboard")]).resolve_job_def("onboard"), tags=tags
        )

    def age(self, hours: float) -> None:
        """The same as if what is undecided had been detected so much earlier."""
        cursor = AlertCursor.model_validate_json(self.cursor)
        older = {key: at - timedelta(hours=hours) for key, at in cursor.undecided.items()}
        self.cursor = cursor.model_copy(update={"undecided": older}).model_dump_json()

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(a["kind"], a["title"]) for r in self.hook.taken for a in r.json()["alerts"]]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(sensor_module, "SETTLE", timedelta(0))
    with HttpReceiver().running() as hook:
        yield Scene(tmp_path, hook)


def test_what_was_before_the_first_tick_is_not_told(scene: Scene):
    scene.run("acme/old")
    scene.run("acme/old-bug")
    assert scene.tick() == "0 events; 0 messages sent, 0 waiting"
    scene.tick()
    assert scene.told == []


def test_a_verdict_is_told_once(scene: Scene):
    scene.tick()
    scene.run("acme/one")
    assert scene.tick() == "1 event; 1 message sent, 0 waiting"
    scene.tick()
    assert scene.told == [("verdict", "PASS: acme/one")]
    assert scene.hook.taken[0].json()["url"] == "http://ui/assets/raw/verdict?partition=acme%2Fone"


def test_failures_say_the_step_and_the_sentence(scene: Scene):
    scene.tick()
    run_id = scene.run("acme/broken")
    scene.run("acme/bug")
    scene.run("acme/parked")
    scene.run("acme/retried-bug", dagster__will_retry="true")
    for _ in range(3):
        scene.tick()
    assert sorted(scene.told) == [
        ("failure", "Failed: acme/broken"),
        ("failure", "Failed: acme/bug"),
        ("parked", "Parked: acme/parked"),
    ]
    by_title = {r.json()["title"]: r.json() for r in scene.hook.taken}
    broken = by_title["Failed: acme/broken"]
    assert broken["lines"] == ["step raw__verdict", "Endpoint of acme/broken went away; run this step again."]
    assert broken["url"] == f"http://ui/runs/{run_id}"
    assert "a bug" in by_title["Failed: acme/bug"]["lines"][1]
    assert by_title["Parked: acme/parked"]["lines"] == ["vllm: unsupported_architecture (no)."]


def test_many_releases_at_once_are_one_message(scene: Scene):
    scene.tick()
    for number in range(12):
        scene.queue(f"acme/m{number:02}")
    scene.queue("acme/by-hand", source="cli")
    for _ in range(3):
        scene.tick()
    (message,) = scene.hook.taken
    assert message.json()["title"] == "12 new releases"
    assert message.json()["lines"][-1] == "and 8 more"
    assert len(AlertCursor.model_validate_json(scene.cursor).undecided) == 12


def test_a_late_model_is_told_at_twenty_hours_and_at_twenty_four(scene: Scene):
    scene.tick()
    scene.queue("acme/slow")
    scene.queue("acme/fast")
    scene.tick()
    scene.run("acme/fast")
    scene.tick()
    for hours in (19, 2, 1, 3, 10):  # 19, 21, 22, 25 and 35 hours after detection
        scene.age(hours)
        scene.tick()
    late = [title for kind, title in scene.told if kind == "deadline_at_risk"]
    assert late == ["3.0 h left: acme/slow", "Late: acme/slow"]
    assert AlertCursor.model_validate_json(scene.cursor).undecided == {}


def test_a_channel_that_is_down_and_a_file_that_does_not_hold_lose_nothing(scene: Scene):
    scene.tick()
    good = (scene.home / "alerts.yaml").read_text()
    (scene.home / "alerts.yaml").write_text("channels: [{name: hook, type: pigeon}]")
    scene.run("acme/one")
    assert "alerts.yaml: channels.0" in scene.tick()
    (scene.home / "alerts.yaml").write_text(good)
    scene.hook.failing = [500]
    assert "0 messages sent, 1 waiting; channel hook: 127.0.0.1 answered 500" in scene.tick()
    assert scene.told == []


def test_when_the_outbox_cannot_be_written_the_events_are_read_again(scene: Scene):
    scene.tick()
    (scene.home / "alerts").write_text("a file where the folder belongs")
    scene.run("acme/one")
    scene.tick()
    (scene.home / "alerts").unlink()
    scene.tick()
    assert scene.told == [("verdict", "PASS: acme/one")]


def test_a_verdict_is_the_one_of_its_own_run(scene: Scene):
    """Two runs of one model between two ticks: the values are those of the runs, not twice the latest."""
    scene.tick()
    first = scene.run("acme/one")
    write_value(scene.home / "lineage", "raw/verdict", "acme/one", first, a_verdict("acme/one", "hold"))
    scene.run("acme/one")
    scene.tick()
    assert sorted(scene.told) == [("verdict", "HOLD: acme/one"), ("verdict", "PASS: acme/one")]
