"""The Hub sensor on a real Dagster instance against a real Hub server: what each tick asks to be run."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from modelops_dagster.clients.watcher import WatchStore
from modelops_dagster.clients.watcher.store import OrgRecord
from modelops_dagster.resources.hub_watch import HubWatchResource
from modelops_dagster.sensors.hub import HubCursor, hub_sensor
from modelops_dagster.services.hub_server import HubServer, RepoSettings, publish
from tests.fakes.hub import running_hub, write_repo

LATER = 4_000_000_000.0


class Ticks:
    """Sensor evaluations one after the other, as the daemon makes them: each gets the cursor of the one before."""

    def __init__(self, hub: HubServer, home: Path, instance: dg.DagsterInstance) -> None:
        self.hub, self.home, self.instance = hub, home, instance
        self.cursor: str | None = None
        self.orgs = ["acme"]
        self.sensor = hub_sensor("onboard", interval_s=600)
        self.last: dg.SensorResult | None = None

    def watch(self) -> HubWatchResource:
        return HubWatchResource(
            home=str(self.home),
            hub_url=self.hub.url,
            gateway_url="http://127.0.0.1:1",
            policies=str(self.home / "policies"),
            orgs=self.orgs,
            interval_s=600,
        )

    def __call__(self, *, due: bool = True, keep: bool = True) -> list[str]:
        """One tick; returns the run keys. `keep`: Dagster got as far as to write the cursor down."""
        if due:
            (self.home / "watcher" / "schedule.json").unlink(missing_ok=True)
        with dg.build_sensor_context(instance=self.instance, cursor=self.cursor) as context:
            result = self.sensor(context, hub_watch=self.watch())
        assert isinstance(result, dg.SensorResult), result
        self.last = result
        if keep and result.cursor is not None:
            self.cursor = result.cursor
        return [r.run_key or "" for r in result.run_requests or []]

    @property
    def said(self) -> str:
        assert self.last is not None
        return str(self.last.skip_reason.skip_message) if self.last.skip_reason else ""

    def publish(self, name: str, folder: Path, content: bytes, *, readme: str = "a", org: str = "acme") -> str:
        source = write_repo(folder / f"{name}-{content.hex()}-{readme}", weights=content)
        (source / "README.md").write_text(readme)
        return f"{org}/{name}@{publish(self.hub.root, f'{org}/{name}', source).commit_hash}"


@pytest.fixture
def ticks(tmp_path: Path) -> Iterator[Ticks]:
    with running_hub(tmp_path / "hub") as hub, dg.DagsterInstance.ephemeral() as instance:
        (tmp_path / "home").mkdir()
        yield Ticks(hub, tmp_path / "home", instance)


def test_baseline_release_fix_and_documents(ticks: Ticks, tmp_path: Path):
    ticks.publish("old", tmp_path, b"0000")
    ticks.hub.faults.unavailable = 2
    assert ticks() == []
    assert ticks.cursor is None, "a cursor says that there is a baseline"
    assert ticks() == []
    assert ticks.cursor
    first = ticks.publish("one", tmp_path, b"1111")
    assert ticks() == [first]
    request = ticks.last.run_requests[0]  # type: ignore[union-attr,index]
    assert request.partition_key == "acme/one"
    assert request.run_config["ops"]["release"]["config"]["ref"] == first.split("@")[1]
    assert ticks.last.dynamic_partitions_requests  # type: ignore[union-attr]
    assert ticks() == []
    ticks.publish("one", tmp_path, b"1111", readme="b")
    ticks.publish("old", tmp_path, b"0000", readme="b")
    assert ticks() == []
    second = ticks.publish("one", tmp_path, b"2222", readme="b")
    third = ticks.publish("old", tmp_path, b"3333")
    assert sorted(ticks()) == sorted([second, third])


def test_nothing_is_asked_of_the_hub_before_it_is_due_unless_it_was_nudged(ticks: Ticks, tmp_path: Path):
    assert ticks() == []
    asked = len(ticks.hub.faults.requests)
    new = ticks.publish("one", tmp_path, b"1111")
    assert ticks(due=False) == []
    assert len(ticks.hub.faults.requests) == asked
    WatchStore(ticks.home / "watcher").nudge("acme")
    assert ticks(due=False) == [new]
    assert ticks(due=False) == []


def test_one_broken_organisation_does_not_stop_the_others(ticks: Ticks, tmp_path: Path):
    ticks.orgs = ["acme", "other"]
    ticks.publish("x", tmp_path, b"0000", org="other")
    assert ticks() == []
    record = ticks.home / "watcher" / "orgs" / "acme.json"
    whole = record.read_text()
    record.write_text(whole[:-5])
    new = ticks.publish("y", tmp_path, b"1111", org="other")
    fixed = ticks.publish("one", tmp_path, b"2222")
    assert ticks() == [new]
    record.write_text(whole)
    assert ticks() == [fixed]


def test_a_hub_that_fails_changes_nothing(ticks: Ticks, tmp_path: Path):
    assert ticks() == []
    new = ticks.publish("one", tmp_path, b"1111")
    ticks.hub.faults.unavailable = 2
    assert ticks() == []
    assert "503" in ticks.said
    schedule = WatchStore(ticks.home / "watcher").schedule()["acme"]
    assert schedule.failures == 1
    assert ticks() == [new]


def test_two_hundred_releases_in_one_tick(ticks: Ticks, tmp_path: Path):
    assert ticks() == []
    source = write_repo(tmp_path / "many")
    for n in range(200):
        publish(ticks.hub.root, f"acme/m{n}", source)
    found = ticks()
    assert len(set(found)) == len(found) == 200
    assert ticks() == []


def test_a_cursor_that_was_never_written_down_asks_for_the_same_runs_again(ticks: Ticks, tmp_path: Path):
    """Dagster died after the Watcher's state was written: the run keys are the same, so Dagster makes each run once."""
    assert ticks() == []
    new = ticks.publish("one", tmp_path, b"1111")
    assert ticks(keep=False) == [new]
    assert ticks() == [new]
    assert ticks() == []


def test_a_kill_between_state_and_log_loses_nothing(ticks: Ticks, tmp_path: Path):
    assert ticks() == []
    new = ticks.publish("one", tmp_path, b"1111")

    class Killed(BaseException):
        pass

    class Killer(WatchStore):
        def _write_org(self, org: str, record: OrgRecord) -> None:
            super()._write_org(org, record)
            raise Killed

    class KilledResource(HubWatchResource):
        def store(self) -> WatchStore:
            return Killer(Path(self.home) / "watcher")

    healthy = ticks.watch
    ticks.watch = lambda: KilledResource(**healthy().model_dump())  # type: ignore[method-assign]
    with pytest.raises(Killed):
        ticks()
    ticks.watch = healthy  # type: ignore[method-assign]
    assert ticks(due=False) == [new]
    assert ticks() == []


def test_what_the_terminal_found_is_run_too(ticks: Ticks, tmp_path: Path):
    assert ticks() == []
    new = ticks.publish("one", tmp_path, b"1111")
    watch = ticks.watch()
    report = watch.tick(watch.watchlist(), LATER, orgs=["acme"])
    assert [d.decision for d in report.detections] == ["onboard"]
    assert ticks(due=False) == [new]


def test_a_deleted_repository_is_owed_a_withdrawal_until_the_platform_answers(ticks: Ticks, tmp_path: Path):
    for name in ("one", "two"):
        ticks.publish(name, tmp_path, name.encode())
    assert ticks() == []
    os.rename(ticks.hub.root / "acme" / "one", tmp_path / "gone")
    assert ticks() == ticks() == []
    assert ticks.cursor is not None
    owed = HubCursor.model_validate_json(ticks.cursor).owed
    assert [(e.detection.repo_id, e.detection.decision) for e in owed] == [("acme/one", "withdraw")]
    assert ticks() == []
    assert HubCursor.model_validate_json(ticks.cursor).owed == owed


def test_filters_lanes_and_policy(ticks: Ticks, tmp_path: Path):
    (ticks.home / "policies").mkdir()
    (ticks.home / "policies" / "strict.yaml").write_text("")
    wish = "{exclude: ['*-base'], policy: strict, lanes: [raw, int8]}"
    (ticks.home / "watch.yaml").write_text(f"organisations:\n  acme: {wish}\n")
    assert ticks() == []
    wanted = ticks.publish("one", tmp_path, b"1111")
    ticks.publish("one-base", tmp_path, b"2222")
    assert ticks() == [wanted]
    request = ticks.last.run_requests[0]  # type: ignore[union-attr,index]
    assert request.tags["modelops/policy"] == "strict"
    assert request.tags["modelops/lanes"] == "raw,int8"


def test_a_whitelist_with_a_mistake_is_told_in_one_sentence(ticks: Ticks):
    (ticks.home / "watch.yaml").write_text("organisations:\n  acme: {task: [x]}\n")
    assert ticks() == []
    assert "organisations.acme.task" in ticks.said
    (ticks.home / "watch.yaml").unlink()
    ticks.orgs = []
    assert ticks() == []
    assert "watch.yaml" in ticks.said


def test_a_gated_repository_is_onboarded_once_it_is_opened(ticks: Ticks, tmp_path: Path):
    assert ticks() == []
    publish(ticks.hub.root, "acme/g", write_repo(tmp_path / "g"), settings=RepoSettings(gated="manual"))
    assert ticks() == ticks() == []
    commit = publish(ticks.hub.root, "acme/g", write_repo(tmp_path / "g"), settings=RepoSettings())
    assert ticks() == [f"acme/g@{commit.commit_hash}"]
    assert ticks() == []


def test_an_old_cursor_is_no_obstacle(ticks: Ticks, tmp_path: Path):
    ticks.cursor = '{"orgs": {"acme": {}}}'
    assert ticks() == []
    new = ticks.publish("one", tmp_path, b"1111")
    assert ticks() == [new]


def test_one_made_public_long_after_its_creation_is_a_release(ticks: Ticks, tmp_path: Path):
    created = datetime(2025, 2, 20, tzinfo=UTC)
    source = write_repo(tmp_path / "late")
    settings = RepoSettings(private=True, created_at=created)
    commit = publish(ticks.hub.root, "acme/late", source, settings=settings)
    assert ticks() == ticks() == []
    published = RepoSettings(created_at=created)
    assert publish(ticks.hub.root, "acme/late", source, settings=published) == commit  # no new commit, no new date
    assert ticks() == [f"acme/late@{commit.commit_hash}"]
    assert ticks() == []


def test_one_created_empty_is_a_release_when_it_is_filled(ticks: Ticks, tmp_path: Path):
    assert ticks() == []
    (ticks.hub.root / "acme" / "later").mkdir(parents=True)
    assert ticks() == []
    shown = write_repo(tmp_path / "half")
    (shown / "model.safetensors").unlink()
    publish(ticks.hub.root, "acme/later", shown)
    assert ticks() == []
    commit = publish(ticks.hub.root, "acme/later", write_repo(tmp_path / "whole"))
    assert ticks() == [f"acme/later@{commit.commit_hash}"]
    assert ticks() == []


def test_a_whole_round_is_reported_once_an_interval(ticks: Ticks, tmp_path: Path):
    """What the freshness of the asset `watcher` rests on."""

    def reported() -> list[dict[str, object]]:
        assert ticks.last is not None
        events = [e for e in ticks.last.asset_events if isinstance(e, dg.AssetMaterialization)]
        return [{k: v.value for k, v in e.metadata.items() if isinstance(v, dg.IntMetadataValue)} for e in events]

    ticks.orgs = ["acme", "other"]
    ticks.hub.faults.unavailable = 2
    ticks()
    assert reported() == [], "a Hub that was away"
    ticks()
    assert reported() == [{"organisations_followed": 2, "organisations_read": 2, "revisions_found": 0}]
    ticks.publish("one", tmp_path, b"1111")
    assert len(ticks()) == 1
    assert reported() == [], "a moment ago"
    cursor = HubCursor.model_validate_json(ticks.cursor or "")
    assert cursor.told_at is not None
    earlier = cursor.told_at - timedelta(seconds=600)
    ticks.cursor = cursor.model_copy(update={"told_at": earlier}).model_dump_json()
    ticks(due=False)
    assert reported() == [], "nothing was due"
    ticks()
    assert len(reported()) == 1
