"""What landed since a snapshot, found by the folders: any mix of published and unpublished is the whole history."""

import os
import random
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from modelops_dagster.clients.scores import ScoreStore, landing, news, snapshot
from modelops_dagster.clients.scores.offering import names_of
from modelops_dagster.clients.scores.snapshot import ALL_TABLES
from modelops_dagster.clients.scores.views import LATEST, VIEWS
from modelops_dagster.domain.scores import TABLES
from tests.clients.score_rows import NOW, score, verdict

LONG_AGO_NS = 1_700_000_000 * 10**9
HOUR_NS = 3600 * 10**9
QUESTIONS = [
    *(f"from {name}" for name in (*TABLES, *LATEST, *VIEWS)),
    "select * from score_history where repo_id = 'org/m1'",
    "from flips_between('org/m0', 'org/m1', 'quality')",
]


class History:
    """What happens to it, happens one a second, a long time ago: folders settle as they do in the course of days.

    Unless it is `hasty`: then all of it happens now, as fast as it can.
    """

    def __init__(self, root: Path, seed: int, *, hasty: bool) -> None:
        self.store, self.chance, self.moment = ScoreStore(root), random.Random(seed), 0  # noqa: S311
        self.hasty = hasty

    def happens(self) -> str:
        what = self.chance.choice(["land"] * 6 + ["again", "late", "older", "remove", "verdict", "publish"])
        files = sorted(self.store.landing.root.rglob("*.parquet"))
        before = {folder: folder.stat().st_mtime_ns for folder in {path.parent for path in files}}
        if what in ("land", "again", "late", "older"):
            self._land(what)
        elif what == "verdict":
            at = NOW + timedelta(seconds=self.moment)
            made = verdict(self.chance.choice(["pass", "fail"]), f"{self.chance.randrange(6):016d}", at)
            self.store.land_verdict(made, run_id=f"v{self.moment}")
        elif what == "remove" and files:
            self.chance.choice(files).unlink()
        elif what == "publish":
            self.store.publish()
        self.moment += 1
        for folder in self.store.landing.root.glob("*/*/*"):
            if not self.hasty and before.get(folder) != folder.stat().st_mtime_ns:
                self._happened(folder)
        if what in ("late", "older", "remove"):
            self.store.publish()  # what happens in a minute that is long over is seen from then on
        return what

    def _land(self, what: str) -> None:
        number = self.chance.randrange(4)
        run, repo_id = f"run-{self.moment if what == 'land' else self.chance.randrange(6)}", f"org/m{number}"
        at = NOW + timedelta(seconds=self.chance.randrange(1000))
        shared = {"value": self.chance.random(), "evaluated_at": at, "instrument": f"i{self.chance.randrange(2)}"}
        paths = [self.store.land("scores", [score(run, repo_id, **shared)], repo_id=repo_id, run_id=run)]
        sample: dict[str, Any] = {"run_id": run, "repo_id": repo_id, "lane": "raw", "suite": "quality", "epoch": 0}
        sample |= {"item_uid": "q", "sample_id": "q", "score": float(self.chance.randrange(2)), "endpoint": "e"}
        paths.append(self.store.land("samples", [sample], repo_id=repo_id, run_id=run))
        if what in ("late", "older"):  # brought from elsewhere, into a minute that is long over
            for path in paths:
                folder = path.parents[1].with_name("day=2026-01-02") / f"000{self.chance.randrange(3)}"
                folder.mkdir(parents=True, exist_ok=True)
                moved = path.replace(folder / path.name)
                if what == "older":
                    os.utime(moved, ns=(1, 1 + self.moment))

    def _happened(self, folder: Path) -> None:
        at = LONG_AGO_NS + self.moment * 10**9
        for path in folder.glob("*.parquet"):
            if path.stat().st_mtime_ns > LONG_AGO_NS + 10**15:
                os.utime(path, ns=(at, at))
        os.utime(folder, ns=(at, at))

    def answers(self) -> dict[str, list[str]]:
        return {sql: sorted(map(str, self.store.query(sql)[1])) for sql in QUESTIONS}

    def recomputed(self, root: Path) -> dict[str, list[str]]:
        """The answers of a history that is made anew of the landed files."""
        anew = ScoreStore(root)
        shutil.copytree(self.store.landing.root, anew.landing.root)
        with duckdb.connect(str(anew.publish()), read_only=True) as published:
            published.execute("set TimeZone = 'UTC'")
            return {sql: sorted(map(str, published.execute(sql).fetchall())) for sql in QUESTIONS}


@pytest.mark.parametrize(("seed", "hasty"), [(0, False), (1, False), (2, True)])
def test_any_mix_of_published_and_unpublished_is_the_whole_history(tmp_path: Path, seed: int, hasty: bool):
    history, told = History(tmp_path / "grown", seed, hasty=hasty), []
    for round_ in range(4):
        told += [history.happens() for _ in range(8)]
        whole = history.recomputed(tmp_path / f"anew-{round_}")
        assert history.answers() == whole, told
    history.store.publish()
    assert history.answers() == whole, told


def test_a_folder_that_nothing_happened_to_is_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """However much lies in it: a question asks the folders, and a publish too."""
    store, looked = ScoreStore(tmp_path), list[str]()
    look = landing.Landing.stamps
    monkeypatch.setattr(landing.Landing, "stamps", lambda self, folders: looked.extend(folders) or look(self, folders))
    paths = [
        store.land(table, [row], repo_id="org/model", run_id="run-1")
        for table, row in (("scores", score()), ("samples", {"run_id": "run-1", "repo_id": "org/model"}))
    ]
    for path in paths:
        os.utime(path.parent, ns=(LONG_AGO_NS, LONG_AGO_NS))
    store.publish()
    looked.clear()
    assert store.query("from leaderboard")[1]
    assert store.query("from samples")[1]
    store.publish()
    assert looked == []
    late = store.land("samples", [{"run_id": "run-2", "repo_id": "org/model"}], repo_id="org/model", run_id="run-2")
    assert store.query("from leaderboard")[1]
    assert looked == [], "nobody asked for samples"
    assert len(store.query("from samples")[1]) == 2
    assert looked == [late.parent.relative_to(store.landing.root).as_posix()]


class Busy:
    """A home whose folders change while a publisher looks through them, within one tick of the filesystem's clock."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.looked, self.landed = ScoreStore(root), list[str](), 0
        self._change, self._tick_ns = monkeypatch, time.time_ns()
        # on the slowest machine a test takes place just now
        monkeypatch.setattr(news, "SETTLED_NS", HOUR_NS)
        monkeypatch.setattr(news, "MARK_NS", 2 * HOUR_NS)
        look = landing.Landing.stamps
        monkeypatch.setattr(
            landing.Landing, "stamps", lambda landing_, folders: self.looked.extend(folders) or look(landing_, folders)
        )

    def lands(self) -> Path:
        """One file, with its folder's time as every other left it; the folder."""
        self.landed += 1
        run = f"run-{self.landed}"
        folder = self.store.landing.root / "scores" / "day=2099-01-01" / "0000"
        folder.mkdir(parents=True, exist_ok=True)
        path = self.store.land("scores", [score(run)], repo_id="org/model", run_id=run)
        path.rename(folder / path.name)
        os.utime(folder, ns=(self._tick_ns, self._tick_ns))
        return folder

    def lands_during(self, step: str, *, before: bool) -> None:
        """Once, when a publisher marks (`mark`) or looks (`stamps`)."""
        real = getattr(landing.Landing, step)

        def meanwhile(landing_: landing.Landing, folders: Any) -> Any:
            self._change.setattr(landing.Landing, step, real)
            if before:
                self.lands()
            found = real(landing_, folders)
            if not before:
                self.lands()
            return found

        self._change.setattr(landing.Landing, step, meanwhile)

    def is_whole(self) -> bool:
        runs = [run for (run,) in self.store.query("select run_id from scores order by run_id")[1]]
        return runs == [f"run-{number + 1}" for number in range(self.landed)]


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Busy:
    return Busy(tmp_path, monkeypatch)


@pytest.mark.parametrize("again", [False, True], ids=["first", "next"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("step", ["mark", "stamps"])
def test_what_lands_while_a_publisher_looks_counts_once(busy: Busy, step: str, before: bool, again: bool):
    busy.lands()
    if again:
        busy.store.publish()
        busy.lands()
    busy.lands_during(step, before=before)
    busy.store.publish()
    assert busy.landed == 2 + again
    assert busy.is_whole()
    busy.store.publish()
    assert busy.is_whole()


def test_a_file_in_the_same_tick_as_the_last_one_published_is_seen(busy: Busy):
    busy.lands()
    busy.store.publish()
    busy.lands()
    assert busy.is_whole()


def test_what_just_landed_and_was_published_is_not_looked_at_again(busy: Busy):
    """However lately it landed: a question of the next moment costs what one of the next day does."""
    busy.store.land("scores", [score("now")], repo_id="org/model", run_id="now")
    busy.store.publish()
    busy.store.land("scores", [score("again")], repo_id="org/model", run_id="again")
    busy.store.publish()
    busy.looked.clear()
    assert len(busy.store.query("from scores")[1]) == 2
    assert busy.looked == []


def test_a_publisher_that_dies_after_it_marked_hides_nothing_from_readers(busy: Busy, monkeypatch: pytest.MonkeyPatch):
    """Also when the file landed in the tick of the last one published: its mark is not the mark of that one."""
    folder = busy.lands()
    busy.store.publish()
    marked = folder.stat().st_mtime_ns
    busy.lands()
    changed = folder.stat().st_mtime_ns

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(snapshot, "load", dies)
        busy.store.publish()
    assert folder.stat().st_mtime_ns not in (marked, changed)
    assert busy.is_whole()


def test_a_folder_that_cannot_be_marked_is_looked_at_again(busy: Busy, monkeypatch: pytest.MonkeyPatch):
    """It belongs to somebody else, whose files are in one tick of the filesystem's clock too."""

    def refuses(_: landing.Landing, folders: dict[str, int]) -> dict[str, int]:
        return {path: (busy.store.landing.root / path).stat().st_mtime_ns for path in folders}

    monkeypatch.setattr(landing.Landing, "mark", refuses)
    busy.lands()
    busy.store.publish()
    busy.lands()
    assert busy.is_whole()


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("from leaderboard", {"scores", "verdicts"}),
        ("SELECT * FROM Score_History WHERE repo_id = 'samples'", {"scores", "samples"}),
        ('select 1 from "verdicts"', {"verdicts"}),
        ("from flips", {"verdicts", "samples"}),
        ("from flips_between('a', 'b', 'c')", {"samples", "scores"}),
        ("FROM SPEND", {"gateway_requests"}),
        ("from fallbacks, time_to_preview", {"rungs", "registrations"}),
        ("show tables", set(ALL_TABLES)),
        ("from no_such_view", set(ALL_TABLES)),
        ("from query('from sc' || 'ores')", set(ALL_TABLES)),
        ("from query_table('sco' || 'res')", set(ALL_TABLES)),
    ],
)
def test_a_statement_reads_the_tables_that_its_words_name(sql: str, tables: set[str]):
    assert names_of(sql) & ALL_TABLES.keys() == tables


def test_a_table_that_a_statement_puts_together_is_whole(tmp_path: Path):
    store = ScoreStore(tmp_path)
    store.publish()
    store.land("scores", [score()], repo_id="org/model", run_id="run-1")
    for sql in ("from query('from sc' || 'ores')", "from query_table('scores')", "FROM Scores", 'from "SCORES"'):
        assert len(store.query(sql)[1]) == 1, sql
