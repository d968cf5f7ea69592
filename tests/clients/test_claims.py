"""Claims: one owner at a time, and a dead one blocks nobody."""

import json
import threading
import time
from pathlib import Path

from modelops_dagster.clients.checkpoints.claims import claim


def test_a_claim_of_another_machine_is_taken_over_when_it_falls_silent(tmp_path: Path):
    path = tmp_path / "c.claim"
    path.write_text(json.dumps({"token": "t", "machine": "elsewhere", "pid": 1, "started": 0}))
    started = time.monotonic()
    with claim(path, stale_after_s=0.4, poll_s=0.02) as held:
        assert 0.4 <= time.monotonic() - started < 30
        held.confirm()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_is_kept_alive_is_waited_for(tmp_path: Path):
    order: list[str] = []

    def second() -> None:
        with claim(tmp_path / "c.claim", stale_after_s=0.5, beat_s=0.05, poll_s=0.02):
            order.append("second")

    with claim(tmp_path / "c.claim", beat_s=0.05) as held:
        waiter = threading.Thread(target=second)
        waiter.start()
        time.sleep(1.0)
        held.confirm()
        order.append("first")
    waiter.join()
    assert order == ["first", "second"]


def test_an_empty_claim_and_many_waiters_end_in_one_owner_at_a_time(tmp_path: Path):
    path = tmp_path / "c.claim"
    path.write_text("")  # its owner was killed between making and writing it
    inside: list[int] = []
    most: list[int] = []

    def work(n: int) -> None:
        with claim(path, stale_after_s=0.3, beat_s=0.05, poll_s=0.01):
            inside.append(n)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(n)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert most == [1] * 8
    assert list(tmp_path.iterdir()) == []
