"""Limits of keys: they hold over processes and restarts, err to the careful side, and free themselves."""

import multiprocessing
import os
import signal
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelops_dagster.clients.limits import LimitStore, Use
from modelops_dagster.domain.gateway import KeyRecord

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


def key(rpm: int | None = None, tpm: int | None = None, budget: float | None = None) -> KeyRecord:
    return KeyRecord(
        key_id="1" * 16,
        key_sha256="1" * 64,
        alias="me",
        rpm=rpm,
        tpm=tpm,
        budget_usd_per_day=budget,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> LimitStore:
    return LimitStore(tmp_path / "limits.sqlite", now=clock)


def test_requests_are_counted_in_any_60_seconds(store: LimitStore, clock: Clock) -> None:
    three = key(rpm=3)
    for number in range(3):
        assert store.admit(three, f"c{number}", tokens=0, usd=0) is None
        clock.now += 10
    refused = store.admit(three, "c3", tokens=0, usd=0)
    assert refused is not None
    assert (refused.limit, refused.retry_after_s) == ("rpm", 30)
    clock.now += refused.retry_after_s
    assert store.admit(three, "c4", tokens=0, usd=0) is None
    assert store.admit(three, "c5", tokens=0, usd=0) is not None, "the window slides, it does not start anew"


def test_tokens_count_as_estimated_until_they_are_known(store: LimitStore, clock: Clock) -> None:
    thousand = key(tpm=1000)
    assert store.admit(thousand, "a", tokens=1200, usd=0) is None, "a call alone is let in, however long"
    refused = store.admit(thousand, "b", tokens=1, usd=0)
    assert refused is not None
    assert refused.limit == "tpm"
    store.settle([Use("a", 100, 0.0)])
    assert store.admit(thousand, "b", tokens=1, usd=0) is None
    store.settle([Use("a", 5000, 0.0), Use("unknown", 5000, 0.0)])
    assert store.admit(thousand, "c", tokens=1, usd=0) is None, "a call is settled once"


def test_a_budget_is_a_days_and_is_renewed_at_midnight_utc(store: LimitStore, clock: Clock) -> None:
    one = key(budget=1.0)
    for number in range(4):
        assert store.admit(one, f"c{number}", tokens=0, usd=0.25) is None
    refused = store.admit(one, "c4", tokens=0, usd=0.25)
    assert refused is not None
    assert (refused.limit, refused.retry_after_s) == ("budget", 12 * 3600)
    store.settle([Use("c0", 0, 0.05)])
    assert store.spent_today(one.key_id) == pytest.approx(0.8)
    assert store.admit(one, "c5", tokens=0, usd=0.5) is None
    assert store.admit(one, "c6", tokens=0, usd=0.5) is not None
    clock.now += 12 * 3600
    assert store.admit(one, "c7", tokens=0, usd=0.5) is None


def test_a_key_without_limits_is_not_counted(store: LimitStore, tmp_path: Path) -> None:
    assert store.admit(key(), "a", tokens=10**9, usd=10**9) is None
    assert not (tmp_path / "limits.sqlite").exists()


def _spend(path: Path, number: int, results: "multiprocessing.Queue[int]") -> None:
    store = LimitStore(path, now=Clock())
    results.put(sum(store.admit(key(rpm=50), f"{number}-{i}", tokens=0, usd=0) is None for i in range(40)))


def test_a_limit_holds_over_processes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[int] = context.Queue()
    path = tmp_path / "limits.sqlite"
    workers = [context.Process(target=_spend, args=(path, n, results)) for n in range(3)]
    for worker in workers:
        worker.start()
    assert sum(results.get(timeout=120) for _ in workers) == 50
    for worker in workers:
        worker.join(30)


def _die_inside(path: Path) -> None:
    store = LimitStore(path, now=Clock())
    store.admit(key(budget=1.0), "lost", tokens=0, usd=0.75)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_worker_had_open_stays_counted_as_estimated(tmp_path: Path) -> None:
    path = tmp_path / "limits.sqlite"
    worker = multiprocessing.get_context("spawn").Process(target=_die_inside, args=(path,))
    worker.start()
    worker.join(120)
    assert worker.exitcode == -signal.SIGKILL
    again = LimitStore(path, now=Clock())
    assert again.spent_today("1" * 16) == 0.75
    assert again.admit(key(budget=1.0), "next", tokens=0, usd=0.5) is None
    assert again.admit(key(budget=1.0), "after", tokens=0, usd=0.5) is not None


def test_a_store_that_cannot_be_read_is_an_error_and_not_a_yes(tmp_path: Path) -> None:
    path = tmp_path / "limits.sqlite"
    path.write_bytes(b"this is no database, and long enough to be taken for one" * 20)
    with pytest.raises(sqlite3.Error):
        LimitStore(path).admit(key(rpm=1), "a", tokens=0, usd=0)
