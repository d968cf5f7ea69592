"""Which calls are let in while the gateway itself cannot keep up: a queue on a clock of its own, a starved worker."""

import asyncio
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from statistics import median
from typing import NamedTuple

import httpx

from modelops_dagster.services.gateway.admission import Refusal
from modelops_dagster.services.gateway.backlog import AT_ONCE, TICK_S, Backlog
from tests.fakes.backend import FakeBackend
from tests.services.gateway_process import ALIAS, PROMPT, Gateway, target

TARGET_S = 0.5


class Queue:
    """A worker that sends calls on one after the other, at a pace of its own, on a clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.complaints: list[str] = []
        self.backlog = Backlog(TARGET_S, complain=self.complaints.append, now=lambda: self.now_s)
        self.waits: list[float] = []
        self.refused: list[Refusal] = []
        self.idle = 0
        self._queued: deque[tuple[str, float, asyncio.Future[Refusal | None] | None]] = deque()
        self._made = 0

    def run(self, seconds: float, *, come_per_s: int, go_per_s: int, late_s: float = 0.0) -> None:
        """Ticks of the loop, with the calls that come and go in each."""
        for number in range(int(seconds / TICK_S)):
            self.now_s += TICK_S + late_s
            for _ in range(self._in_tick(number, come_per_s)):
                self.come()
            for _ in range(self._in_tick(number, go_per_s)):
                self._go()
            self.backlog.look(late_s)
            told = [turn.result() for _, _, turn in self._queued if turn is not None and turn.done()]
            self.refused += [refusal for refusal in told if refusal is not None]
            self._queued = deque(q for q in self._queued if q[2] is None or not q[2].done() or q[2].result() is None)

    def come(self, *, batch: bool = False) -> None:
        refusal = self.backlog.refusal(batch=batch)
        if refusal is not None:
            self.refused.append(refusal)
            return
        self._made += 1
        turn = self.backlog.enter(str(self._made), batch=batch)
        self._queued.append((str(self._made), self.now_s, turn))

    def _go(self) -> None:
        if not self._queued:
            self.idle += 1
            return
        call_id, entered_s, turn = self._queued.popleft()
        assert turn is None or turn.done(), "who came first goes first"
        self.backlog.leave(call_id)
        self.waits.append(self.now_s - entered_s)

    @staticmethod
    def _in_tick(number: int, per_s: int) -> int:
        return int((number + 1) * TICK_S * per_s) - int(number * TICK_S * per_s)


def on_a_loop(test: Callable[[], None]) -> Callable[[], None]:
    """The test on an event loop, which turns are promises of."""

    @wraps(test)
    def run() -> None:
        async def body() -> None:
            test()

        asyncio.run(body())

    return run


@on_a_loop
def test_what_comes_through_is_let_in() -> None:
    queue = Queue()
    queue.run(30, come_per_s=80, go_per_s=100)
    assert (queue.refused, queue.backlog.limit, queue.complaints) == ([], None, [])


@on_a_loop
def test_of_too_many_calls_as_many_are_let_in_as_come_through_in_time() -> None:
    queue = Queue()
    queue.run(60, come_per_s=400, go_per_s=100)
    assert max(queue.waits[-2000:]) < 2 * TARGET_S, "a call that was let in waits as long as the target says"
    assert queue.idle == 0, "no call is refused that could have been sent on"
    assert len(queue.refused) > 60 * 250
    assert len(queue.complaints) == 1
    queue.run(5, come_per_s=50, go_per_s=100)
    refused = len(queue.refused)
    queue.run(20, come_per_s=50, go_per_s=100)
    assert len(queue.refused) == refused, "when it is over everybody is let in again"
    assert queue.backlog.limit is None


@on_a_loop
def test_of_those_that_wait_already_batches_are_turned_away_first_and_then_who_came_last() -> None:
    queue = Queue()
    for number in range(1000):
        queue.come(batch=number % 10 == 0)
    queue.run(3, come_per_s=0, go_per_s=100)
    told = Counter(r.code for r in queue.refused)
    assert told["batch_waits"] > 50, "those that were not sent on yet"
    assert told["overloaded"] > 500
    assert len(queue.waits) + len(queue.refused) == 1000
    assert len(queue.waits) > 150, "who came first is sent on as before"
    assert max(queue.waits) < 2.5, "nobody waits to the end of a queue that is ten seconds long"


@on_a_loop
def test_a_pause_is_no_queue() -> None:
    queue = Queue()
    queue.run(10, come_per_s=50, go_per_s=100)
    queue.now_s += 5
    for _ in range(50):
        queue.come()
    queue.backlog.look(5.0)
    queue.run(10, come_per_s=50, go_per_s=100)
    assert queue.refused == []


@on_a_loop
def test_calls_that_hang_stop_no_other() -> None:
    queue = Queue()
    for number in range(AT_ONCE):
        assert queue.backlog.enter(f"hangs {number}", batch=False) is None
    held = queue.backlog.enter("held up", batch=False)
    assert held is not None
    assert not held.done()
    queue.run(2, come_per_s=0, go_per_s=0)
    assert held.result() is None, "its turn comes when those before it have been at it for too long"
    queue.backlog.leave("held up")
    queue.run(30, come_per_s=1, go_per_s=100)
    assert queue.refused == []


@on_a_loop
def test_a_loop_that_is_late_lets_in_one_call_after_the_other_until_it_is_in_time() -> None:
    queue = Queue()
    queue.run(10, come_per_s=0, go_per_s=0, late_s=2 * TARGET_S)
    assert queue.backlog.limit == 1
    assert queue.backlog.refusal(batch=False) is None
    queue.come()
    refusal = queue.backlog.refusal(batch=False)
    assert refusal is not None
    assert (refusal.status, refusal.code, refusal.retry_after_s) == (503, "overloaded", 1.0)
    queue.run(2, come_per_s=0, go_per_s=100)
    assert queue.backlog.refusal(batch=False) is None


@on_a_loop
def test_batches_wait_before_anybody_is_refused() -> None:
    queue = Queue()
    assert queue.backlog.refusal(batch=True) is None
    queue.run(10, come_per_s=0, go_per_s=0, late_s=2 * TARGET_S)
    refusal = queue.backlog.refusal(batch=True)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (429, "batch_waits")


# --- a real worker that gets a twentieth of the processor ------------------------------------------------------------


class Asked(NamedTuple):
    """One call as its client saw it."""

    seconds: float
    status: int
    code: str | None
    retry_after_s: float | None


@contextmanager
def starved(pid: int, *, run_s: float = 0.01, stop_s: float = 0.19) -> Iterator[None]:
    """The process runs in pulses, as on a machine whose processor others have taken."""
    over = threading.Event()

    def pulse() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(stop_s)
            os.kill(pid, signal.SIGCONT)
            time.sleep(run_s)

    thread = threading.Thread(target=pulse)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def crowd(gateway: Gateway, key: str, clients: int, seconds: float) -> list[Asked]:
    """So many clients that ask again as soon as they are answered, or when they were told to."""
    found: list[Asked] = []
    stop_s = time.monotonic() + seconds
    body = {"model": "acme/quick", "messages": [{"role": "user", "content": PROMPT}]}

    async def work(client: httpx.AsyncClient) -> None:
        while time.monotonic() < stop_s:
            began_s = time.monotonic()
            answer = await client.post(f"{gateway.url}/v1/chat/completions", json=body)
            took_s = time.monotonic() - began_s
            code = answer.json()["error"]["code"] if answer.status_code != 200 else None
            again = answer.headers.get("retry-after")
            found.append(Asked(took_s, answer.status_code, code, float(again) if again else None))
            await asyncio.sleep(float(again or 0))

    many = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(timeout=120, limits=many, headers={"authorization": f"Bearer {key}"}) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))
    return found


def test_a_starved_worker_says_come_again_and_cuts_no_stream(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, workers=1, settings={"MODELOPS_GATEWAY_MAX_WAIT_S": str(TARGET_S)})
    gateway.wait_ready()
    with FakeBackend("slow", tokens=40, token_delay_s=0.1) as slow, FakeBackend("quick") as quick:
        gateway.put(ALIAS, target(slow))
        gateway.put("acme/quick", target(quick))
        key = gateway.key()
        assert gateway.post(key, "acme/quick").status_code == 200
        (worker,) = (int(p.stem) for p in (tmp_path / "gateway/workers").glob("*.json"))

        async def run() -> tuple[str, list[Asked]]:
            async def stream() -> str:
                body = {"model": ALIAS, "messages": [{"role": "user", "content": PROMPT}], "stream": True}
                async with httpx.AsyncClient(timeout=120, headers={"authorization": f"Bearer {key}"}) as client:
                    return (await client.post(f"{gateway.url}/v1/chat/completions", json=body)).text

            streaming = asyncio.create_task(stream())
            while not slow.bodies:
                await asyncio.sleep(0.05)
            with starved(worker):
                asked = await crowd(gateway, key, clients=60, seconds=15)
                return await streaming, asked

        streamed, asked = asyncio.run(run())
        outcomes = Counter((a.status, a.code) for a in asked)
        assert set(outcomes) == {(200, None), (503, "overloaded")}, outcomes
        assert all(a.retry_after_s is not None and a.retry_after_s >= 1 for a in asked if a.status == 503)
        refused_s = median(a.seconds for a in asked if a.status == 503)
        assert refused_s < 40, "a client is told at once, where it would have waited until its patience ended"
        assert streamed.rstrip().endswith("[DONE]"), "what is being answered goes on"
        assert streamed.count("t39") == 1
        assert "more of the processor" in gateway.log.read_text()
        rows = [row for row in gateway.logged() if row["error"] == "overloaded"]
        assert {row["key_alias"] for row in rows} == {"tester"}, "a refused call is a row like any other"
        deadline = time.monotonic() + 60
        while gateway.post(key, "acme/quick").status_code != 200:
            assert time.monotonic() < deadline, "it lets calls in again when it has its processor back"
            time.sleep(0.5)
    gateway.stop()
