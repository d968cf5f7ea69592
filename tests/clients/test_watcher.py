"""The Watcher's state on disk, its tick over several organisations, and its whitelist file."""

import multiprocessing
import os
import shutil
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from modelops_dagster.clients.hub import HubClient
from modelops_dagster.clients.watcher import Position, Watcher, WatchStore, load_watchlist
from modelops_dagster.clients.watcher.store import OrgRecord
from modelops_dagster.domain.errors import Conflict, HubUnavailable, InvalidSpec
from modelops_dagster.domain.listings import RepoContent, RepoListing
from modelops_dagster.domain.watch_schedule import OrgSchedule, after_failure, after_read, due_orgs
from modelops_dagster.domain.watcher import Detection, OrgState
from modelops_dagster.domain.watchlist import OrgWatch, Watchlist
from modelops_dagster.services.hub_server import RepoSettings, publish
from modelops_dagster.settings import data_folder
from tests.fakes.hub import TOKEN, client, running_hub, write_repo

WHOLE = ("config.json", "model.safetensors")


class MemoryHub:
    """Listings from a dictionary, and a note of who was asked for."""

    def __init__(self, **orgs: int) -> None:
        self.orgs = orgs
        self.asked: list[str] = []
        self.broken: set[str] = set()

    def list_org(self, org: str, deadline: float | None = None) -> list[RepoListing]:
        self.asked.append(org)
        if org in self.broken:
            raise HubUnavailable(f"{org} could not be read; try again.")
        return [
            RepoListing(repo_id=f"{org}/m{n}", commit_hash=f"{n:040x}"[::-1], files=WHOLE)
            for n in range(self.orgs[org])
        ]

    def content(self, repo_id: str, commit_hash: str, *, gated: bool) -> RepoContent:
        return RepoContent(digest=commit_hash)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def watcher(root: Path, hub: MemoryHub, wall: Clock, **options: Any) -> Watcher:
    watchlist = Watchlist(organisations={org: OrgWatch() for org in hub.orgs})
    return Watcher(WatchStore(root), hub, watchlist, 600, wall=wall, **options)


def found(*names: str, decision: str = "onboard") -> list[Detection]:
    return [
        Detection.model_validate({"repo_id": f"acme/{n}", "commit_hash": "1" * 40, "decision": decision, "reason": "r"})
        for n in names
    ]


def logged(store: WatchStore) -> list[str]:
    return [e.detection.repo_id for e in store.log.read(Position(), limit=None).entries]


def test_a_read_is_written_once_and_a_read_without_news_not_at_all(tmp_path: Path):
    store = WatchStore(tmp_path)
    with store.lock():
        store.commit("acme", None, OrgState(), found("a"))
        record = store.record("acme")
        assert record is not None
        stamp = (tmp_path / "orgs" / "acme.json").stat().st_mtime_ns
        store.commit("acme", record, record.state, [])
        assert (tmp_path / "orgs" / "acme.json").stat().st_mtime_ns == stamp
        store.commit("acme", record, record.state, found("b", "c") + found("d", decision="skip"))
    assert logged(store) == ["acme/a", "acme/b", "acme/c"]
    assert store.orgs() == ["acme"]


def test_a_torn_line_is_cut_off_and_a_reader_never_sees_it(tmp_path: Path):
    store = WatchStore(tmp_path)
    with store.lock():
        store.commit("acme", None, OrgState(), found("a"))
    with store.log.path.open("ab") as log:
        log.write(b'{"entry": "acme:2:0", "at"')
    page = store.log.read(Position(), limit=None)
    assert [e.detection.repo_id for e in page.entries] == ["acme/a"]
    with store.lock():
        store.commit("acme", store.record("acme"), OrgState(), found("b"))
    assert [e.detection.repo_id for e in store.log.read(page.next, limit=None).entries] == ["acme/b"]


def test_a_reader_goes_page_by_page_and_starts_again_with_another_log(tmp_path: Path):
    store = WatchStore(tmp_path / "one")
    with store.lock():
        store.commit("acme", None, OrgState(), found("a", "b", "c"))
    page = store.log.read(Position(), limit=2)
    assert len(page.entries) == 2
    assert [e.detection.repo_id for e in store.log.read(page.next, limit=2).entries] == ["acme/c"]
    shutil.rmtree(tmp_path / "one")
    assert store.log.read(page.next, limit=2).entries == []
    with store.lock():
        store.commit("acme", None, OrgState(), found("z"))
    assert [e.detection.repo_id for e in store.log.read(page.next, limit=2).entries] == ["acme/z"]


def test_the_log_knows_when_a_commit_appeared(tmp_path: Path):
    store = WatchStore(tmp_path)
    assert store.log.first_seen("acme/a", "1" * 40) is None, "there is no log yet"
    appeared = datetime(2026, 1, 2, 3, tzinfo=UTC)
    early = [d.model_copy(update={"first_seen": appeared}) for d in found("b")]
    with store.lock():
        store.commit("acme", None, OrgState(), [*found("a"), *early, *found("b"), *found("c", decision="withdraw")])
    at = store.log.read(Position(), limit=1).entries[0].at
    assert store.log.first_seen("acme/a", "1" * 40) == at, "a log of before noted only when it was decided"
    assert store.log.first_seen("acme/b", "1" * 40) == appeared
    assert store.log.first_seen("acme/a", "2" * 40) is None
    assert store.log.first_seen("acme/c", "1" * 40) is None, "going away is not appearing"


class _KilledStore(WatchStore):
    """Ends its process for real after the organisation's record is written."""

    def _write_org(self, org: str, record: OrgRecord) -> None:
        super()._write_org(org, record)
        os.kill(os.getpid(), signal.SIGKILL)


def _commit_and_die(root: Path) -> None:
    store = _KilledStore(root)
    with store.lock():
        store.commit("acme", None, OrgState(), found("a", "b"))


def _hold(root: Path) -> None:
    with WatchStore(root).lock():
        (root / "held").touch()
        time.sleep(30)


def test_a_killed_writer_is_completed_by_the_next_one(tmp_path: Path):
    process = multiprocessing.get_context("spawn").Process(target=_commit_and_die, args=(tmp_path,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    store = WatchStore(tmp_path)
    assert logged(store) == []
    for _ in range(2):
        with store.lock():
            assert logged(store) == ["acme/a", "acme/b"]


def test_one_tick_at_a_time_and_a_killed_one_frees_the_state(tmp_path: Path):
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(tmp_path,))
    process.start()
    deadline = time.monotonic() + 20
    while not (tmp_path / "held").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(Conflict), WatchStore(tmp_path).lock():
        pass
    process.kill()
    process.join(10)
    with WatchStore(tmp_path).lock(wait_s=5):
        pass


def test_a_tick_out_of_time_is_resumed_where_it_stopped(tmp_path: Path):
    hub, clock = MemoryHub(**{f"o{n}": 1 for n in range(6)}), Clock()
    spent = iter(range(100))
    one = watcher(tmp_path, hub, clock, clock=lambda: float(next(spent)))
    report = one.tick(3.0)
    assert (len(report.read), len(report.postponed)) == (3, 3)
    first = list(hub.asked)
    watcher(tmp_path, hub, clock).tick(time.monotonic() + 60)
    assert sorted(hub.asked) == sorted(hub.orgs)
    assert set(hub.asked[len(first) :]).isdisjoint(first)
    hub.asked.clear()
    watcher(tmp_path, hub, clock).tick(time.monotonic() + 60)
    assert hub.asked == []
    clock.now += 600
    watcher(tmp_path, hub, clock).tick(time.monotonic() + 60)
    assert len(hub.asked) == 6


def test_a_broken_organisation_is_tried_less_and_less_often(tmp_path: Path):
    hub, clock = MemoryHub(good=1, bad=1), Clock()
    hub.broken = {"bad"}
    tries = 0
    for _ in range(100):
        report = watcher(tmp_path, hub, clock).tick(time.monotonic() + 60)
        tries += "bad" in report.problems
        clock.now += 60
    assert 4 <= tries <= 9
    assert hub.asked.count("good") >= 10
    assert WatchStore(tmp_path).schedule()["bad"].failures == tries
    hub.broken = set()
    clock.now += 4000
    assert watcher(tmp_path, hub, clock).tick(time.monotonic() + 60).problems == {}
    assert WatchStore(tmp_path).schedule()["bad"].failures == 0


def test_a_hub_that_is_away_is_not_asked_a_thousand_times(tmp_path: Path):
    hub, clock = MemoryHub(**{f"o{n}": 1 for n in range(30)}), Clock()
    hub.broken = set(hub.orgs)
    report = watcher(tmp_path, hub, clock).tick(time.monotonic() + 60)
    assert len(hub.asked) == 5
    assert len(report.postponed) == 25


def test_a_nudge_is_served_first_and_once_and_an_unknown_one_is_dropped(tmp_path: Path):
    hub, clock = MemoryHub(a=1, b=1, c=1), Clock()
    store = WatchStore(tmp_path)
    watcher(tmp_path, hub, clock).tick(time.monotonic() + 60)
    hub.asked.clear()
    store.nudge("c")
    store.nudge("stranger")
    watcher(tmp_path, hub, clock).tick(time.monotonic() + 60)
    watcher(tmp_path, hub, clock).tick(time.monotonic() + 60)
    assert hub.asked == ["c"]
    assert store.nudged() == frozenset()


def test_when_an_organisation_is_due():
    late, later = OrgSchedule(due_at=10), OrgSchedule(due_at=90)
    assert due_orgs(["a", "b", "c", "d"], {"a": later, "b": late, "d": OrgSchedule(due_at=101)}, {"d"}, 100, 600) == [
        "d",
        "c",
        "b",
        "a",
    ]
    assert due_orgs(["a"], {"a": OrgSchedule(due_at=10**9)}, set(), 100, 600) == ["a"]
    assert after_read(100, 600).due_at == 700
    assert after_read(100, 600, waits=True).due_at == 100
    pauses, schedule = [], None
    for _ in range(9):
        schedule = after_failure(schedule, 0, 600, "why")
        pauses.append(schedule.due_at)
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_the_example_whitelist_holds(tmp_path: Path):
    shutil.copyfile(data_folder("deploy") / "watch.example.yaml", tmp_path / "watch.yaml")
    watchlist = load_watchlist(tmp_path, ("acme",), ["default"])
    assert sorted(watchlist.organisations) == ["Qwen", "acme", "mistralai"]
    mistral = watchlist.of("mistralai")
    fits = RepoListing(
        repo_id="mistralai/Ministral-8B-Instruct-2512",
        commit_hash="1" * 40,
        pipeline_tag="text-generation",
        tags=("license:apache-2.0",),
        parameters=8 * 10**9,
    )
    assert mistral.objection(fits) is None
    for change, words in (
        ({"repo_id": "mistralai/Ministral-8B-Instruct-Base"}, "excluded"),
        ({"repo_id": "mistralai/Ministral-8B"}, "matches no pattern"),
        ({"pipeline_tag": "any-to-any"}, "task any-to-any"),
        ({"tags": ("license:other",)}, "licence other"),
        ({"tags": ()}, "licence none"),
        ({"parameters": 675 * 10**9}, "675.0 billion"),
    ):
        assert words in str(mistral.objection(fits.model_copy(update=change)))
    assert "400.0 GB" in str(mistral.size_objection(400 * 10**9))
    assert watchlist.of("Qwen").objection(fits) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("organisations: [a]", "organisations"),
        ("organisations:\n  acme: {tasks: [text-to-video]}", "is not a task that is served"),
        ("organisations:\n  acme: {lanes: [fp9]}", "is not a lane"),
        ("organisations:\n  acme: {max_size_gb: -1}", "organisations.acme.max_size_gb"),
        ("organisations:\n  acme: {size: 3}", "organisations.acme.size"),
        ("organisations:\n  ../etc: {}", "is not the name of an organisation"),
        ("organisations:\n  acme: {policy: nope}", "asks for the policy 'nope'"),
        ("organisations: {", "is not YAML"),
    ],
)
def test_a_mistake_in_the_whitelist_is_named(tmp_path: Path, text: str, words: str):
    (tmp_path / "watch.yaml").write_text(text)
    with pytest.raises(InvalidSpec, match=words) as error:
        load_watchlist(tmp_path, (), ["default"])
    assert "\n" not in error.value.sentence


def test_the_content_of_a_commit_is_what_an_engine_reads(tmp_path: Path):
    with running_hub(tmp_path / "hub") as server:
        source = write_repo(tmp_path / "a")
        first = publish(server.root, "acme/one", source)
        (source / "README.md").write_text("another text")
        (source / "LICENSE").write_text("terms")
        second = publish(server.root, "acme/one", source)
        (source / "chat_template.jinja").write_text("{{ messages }}")
        third = publish(server.root, "acme/one", source, settings=RepoSettings(gated="manual"))
        hub = client(server)
        a, b, c = (hub.content("acme/one", x.commit_hash, gated=False) for x in (first, second, third))
        assert a.digest == b.digest != c.digest
        assert a.weight_bytes == (source / "model.safetensors").stat().st_size
        assert not hub.content("acme/one", third.commit_hash, gated=True).readable
        assert HubClient(server.url, TOKEN).content("acme/one", third.commit_hash, gated=True).readable
        with pytest.raises(InvalidSpec):
            hub.content("acme/one", "0" * 40, gated=False)
