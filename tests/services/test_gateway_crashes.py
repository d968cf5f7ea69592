"""kill -9 of a worker, of the whole gateway, of an engine in the middle of a stream: what clients see, and the log."""

import asyncio
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import httpx
import openai
import psutil
import pytest

from modelops_dagster.clients.limits import LimitStore
from tests.fakes.backend import FakeBackend
from tests.services.gateway_process import ALIAS, PROMPT, Gateway, target

LOST_S = 3.0  # a second, and what a worker with eight clients adds
ARRIVES_S = 0.5  # what a killed worker had sent is read a moment after its end


class Seen(NamedTuple):
    """What a client saw of one call."""

    call_id: str | None
    ended_s: float
    status: int | None
    whole: bool


class Lateness:
    """How much later than asked for this program goes on, in seconds, at worst; a worker waits as long."""

    def __init__(self) -> None:
        self.worst_s = 0.0

    async def follow(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.05)
            self.worst_s = max(self.worst_s, time.monotonic() - before - 0.05)


async def call_without_pause(gateway: Gateway, key: str, seconds: float) -> list[Seen]:
    """Eight clients that stream, each on connections of its own, for so many seconds."""
    found: list[Seen] = []
    stop = time.monotonic() + seconds
    body = {"model": ALIAS, "messages": [{"role": "user", "content": PROMPT}], "stream": True}

    async def work() -> None:
        while time.monotonic() < stop:
            call_id, status, text = None, None, ""
            try:
                async with (
                    httpx.AsyncClient(timeout=30, headers={"authorization": f"Bearer {key}"}) as client,
                    client.stream("POST", f"{gateway.url}/v1/chat/completions", json=body) as answer,
                ):
                    call_id, status = answer.headers.get("x-litellm-call-id"), answer.status_code
                    async for piece in answer.aiter_text():
                        text += piece
            except httpx.HTTPError:
                await asyncio.sleep(0.05)
            found.append(Seen(call_id, time.monotonic(), status, text.rstrip().endswith("[DONE]")))

    await asyncio.gather(*(work() for _ in range(8)))
    return found


def workers(gateway: Gateway) -> set[int]:
    """Process ids of the workers that say they serve."""
    return {int(p.stem) for p in (gateway.home / "gateway/workers").glob("*.json")}


def test_a_killed_worker_is_replaced_and_the_log_and_the_budget_add_up(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.wait_ready()
    with FakeBackend("alpha", token_delay_s=0.01) as alpha:
        gateway.put(ALIAS, target(alpha).model_copy(update={"usd_per_hour": 36.0}))
        key, record = gateway.keys.create("tester", budget_usd_per_day=1000)
        before, killed_s = workers(gateway), 0.0

        async def run() -> list[Seen]:
            nonlocal killed_s
            calls = asyncio.create_task(call_without_pause(gateway, key, 8))
            await asyncio.sleep(4)
            os.kill(min(before), signal.SIGKILL)
            killed_s = time.monotonic()
            return await calls

        seen = asyncio.run(run())
        deadline = time.monotonic() + 30
        while len(workers(gateway) - before) != 1 or len([p for p in workers(gateway) if psutil.pid_exists(p)]) != 2:
            assert time.monotonic() < deadline, "no worker took the place of the one that was killed"
            gateway.post(key)  # a dead worker's report goes when somebody asks
            httpx.get(f"{gateway.url}/modelops/routes/{ALIAS}")
            time.sleep(0.2)
    time.sleep(2)
    counted = Counter(row["call_id"] for row in gateway.logged())
    assert set(counted.values()) == {1}, "a row comes once"
    whole = [s for s in seen if s.whole]
    assert [s for s in whole if s.ended_s > killed_s], "the other worker went on"
    missing = [s for s in whole if s.call_id not in counted]
    assert all(killed_s - LOST_S <= s.ended_s <= killed_s + ARRIVES_S for s in missing), (
        "lost what was older than a second"
    )
    charged = [row["cost_usd"] for row in gateway.logged() if row["key_id"] == record.key_id and row["cost_usd"]]
    limits = LimitStore(tmp_path / "gateway/limits.sqlite")
    estimates = 8 * 36.0 / 3600 * 10  # of what the killed worker had open, at most
    lost = len(missing) * 36.0 / 3600 * 10
    assert sum(charged) - 1e-9 <= limits.spent_today(record.key_id) <= sum(charged) + estimates + lost
    limits.close()
    gateway.stop()


def test_a_killed_gateway_leaves_no_worker_and_loses_a_second_of_log(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.wait_ready()
    with FakeBackend("alpha", token_delay_s=0.01) as alpha:
        gateway.put(ALIAS, target(alpha))
        key = gateway.key()
        children = psutil.Process(gateway.process.pid).children(recursive=True)

        late = Lateness()

        async def run() -> tuple[list[Seen], float]:
            following = asyncio.create_task(late.follow())
            calls = asyncio.create_task(call_without_pause(gateway, key, 6))
            await asyncio.sleep(4)
            for _ in range(300):  # a busy machine answers late, and then logs a second later
                if gateway.logged():
                    break
                await asyncio.sleep(0.1)
            gateway.process.kill()
            killed = time.monotonic()
            for child in children:
                child.kill()
            following.cancel()
            return await calls, killed

        seen, killed_s = asyncio.run(run())
        assert psutil.wait_procs(children, timeout=20)[1] == []
        counted = Counter(row["call_id"] for row in gateway.logged())
        assert set(counted.values()) == {1}
        whole = [s for s in seen if s.whole]
        missing = [s for s in whole if s.call_id not in counted]
        assert len(whole) > len(missing)
        since_s = killed_s - LOST_S - 10 * late.worst_s
        assert all(s.ended_s >= since_s for s in missing)
        begun = {s.call_id for s in seen if s.status == 200 and not s.whole and s.call_id in counted}
        unfinished = {row["call_id"] for row in gateway.logged() if row["error"] == "Unfinished"}
        assert unfinished <= begun | {s.call_id for s in whole if s.ended_s >= since_s}
        again = Gateway(tmp_path)
        again.wait_ready()
        assert again.post(key).status_code == 200
        again.stop()


HUNG_SOON = """
from modelops_dagster.services.gateway import supervisor, __main__ as program
supervisor.HUNG_S = 3.0
program.main()
"""


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, HUNG_SOON, workers=1)
    gateway.wait_ready()
    with FakeBackend("alpha") as alpha:
        gateway.put(ALIAS, target(alpha))
        key = gateway.key()
        (hung,) = workers(gateway)
        time.sleep(5)
        assert workers(gateway) == {hung}, "one that turns is left alone"
        os.kill(hung, signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while psutil.pid_exists(hung):
            assert time.monotonic() < deadline, "a worker that answers nobody is killed"
            time.sleep(0.2)
        assert gateway.post(key).status_code == 200
        assert "hangs and is killed" in gateway.log.read_text()
    gateway.stop()


def test_workers_whose_parent_was_killed_end_by_themselves(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.wait_ready()
    children = psutil.Process(gateway.process.pid).children(recursive=True)
    assert len(children) == 3, "two workers and the keeper"
    gateway.process.kill()
    gateway.process.wait()
    assert psutil.wait_procs(children, timeout=30)[1] == []


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_dies_in_the_middle_is_a_retried_success_or_a_clear_error(
    gateway: Gateway, backends: tuple[FakeBackend, FakeBackend], alpha: FakeBackend, stream: bool
) -> None:
    _, beta = backends
    gateway.put("acme/dying", target(alpha, weight=99), target(beta, weight=1))
    alpha.break_stream_after, alpha.break_answers, alpha.token_delay_s = 2, True, 0.05
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key(), max_retries=0)
    outcomes = Counter[str]()
    for _ in range(4):
        try:
            answer = client.chat.completions.create(
                model="acme/dying", messages=[{"role": "user", "content": PROMPT}], stream=stream
            )
            if isinstance(answer, openai.Stream):
                text = "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
            else:
                text = answer.choices[0].message.content or ""
            outcomes["whole" if text == "beta t1 t2 t3 t4" else text] += 1
        except openai.APIError as error:
            assert "failed; try again in a moment" in str(error)
            outcomes["error"] += 1
    assert set(outcomes) <= {"whole", "error"}, outcomes
    if not stream:
        assert outcomes == {"whole": 4}, "nothing was shown yet, so another endpoint answers"
