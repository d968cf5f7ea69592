"""Research jobs with real processes: queued, run, preempted, resumed, cancelled, adopted by the next controller."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelops_dagster.clients import processes
from modelops_dagster.clients.endpoints import Demand, LiveStore, RecordStore
from modelops_dagster.clients.research import JobProcesses
from modelops_dagster.domain.alerts import Alert
from modelops_dagster.domain.endpoints import Priority
from modelops_dagster.domain.errors import InvalidSpec, NotFound
from modelops_dagster.domain.research import JobRequest, JobState, ResearchJob
from modelops_dagster.domain.scarcity import Claim, Holding
from modelops_dagster.services.controller.accelerators import Accelerators
from modelops_dagster.services.controller.idleness import Idleness
from modelops_dagster.services.controller.research import ResearchDesk
from modelops_dagster.services.controller.wishes import Ledger
from tests.fakes.training import TRAINING, WAITS

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


class Rival:
    """Something more important that waits for accelerators, or has them."""

    def __init__(self) -> None:
        self.waiting: list[Claim] = []
        self.having: list[Holding] = []

    def claims(self) -> list[Claim]:
        return self.waiting

    def holdings(self) -> list[Holding]:
        return self.having


class World:
    """A desk on a folder, with two accelerators and no endpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[Alert] = []
        ledger = Ledger(RecordStore(folder / "endpoints"), LiveStore(folder))
        self.accelerators = Accelerators(("0", "1"), ledger, Idleness(Demand(folder)), lambda _: None)
        self.rival = Rival()
        self.accelerators.users.append(self.rival)
        self.desk = ResearchDesk(
            JobProcesses(folder / "research"), self.accelerators, self.told.append, run=asyncio.to_thread, tick_s=0.02
        )

    def request(self, code: str, **fields: object) -> JobRequest:
        values = {"command": (sys.executable, "-S", "-c", code), "owner": "ada", "directory": str(self.folder)}
        return JobRequest.model_validate({**values, "grace_s": 5, **fields})

    async def until(self, job_id: str, good: Callable[[ResearchJob], object]) -> ResearchJob:
        deadline = time.monotonic() + 20
        while not good(job := self.desk.get(job_id)):
            assert time.monotonic() < deadline, f"it did not happen in time: {job}, {self.log(job_id)}"
            await asyncio.sleep(0.02)
        return job

    async def over(self, job_id: str) -> ResearchJob:
        return await self.until(job_id, lambda job: job.state in ("Succeeded", "Failed", "Cancelled"))

    def log(self, job_id: str) -> str:
        return self.desk.processes.read_log(job_id, 50)

    async def says(self, job_id: str, word: str) -> None:
        await self.until(job_id, lambda _: word in self.log(job_id))

    def members(self, job_id: str) -> frozenset[int]:
        return processes.session_members(None, self.desk.processes.log(job_id))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["World"]:
        await self.desk.open()
        try:
            yield self
        finally:
            await self.desk.close(keep=False)


def play(folder: Path, scene: Callable[[World], Awaitable[None]]) -> None:
    async def act() -> None:
        async with World(folder).opened() as world:
            await scene(world)

    asyncio.run(act())


def production(count: int) -> Claim:
    return Claim(owner="prod", priority=Priority.PRODUCTION, count=count, since=datetime.now(UTC))


@pytest.mark.parametrize(
    ("code", "state", "exit_code"),
    [("print('hello')", JobState.SUCCEEDED, 0), ("raise SystemExit(3)", JobState.FAILED, 3)],
)
def test_a_job_runs_to_its_end(tmp_path: Path, code: str, state: JobState, exit_code: int):
    async def scene(world: World) -> None:
        job = await world.over(world.desk.submit(world.request(code)).job_id)
        assert (job.state, job.exit_code, job.pid) == (state, exit_code, None)
        assert [a.outcome for a in job.attempts] == ["ended"]
        assert job.gpu_hours > 0
        assert job.lost_gpu_hours == 0
        assert "hello" in world.log(job.job_id) or f"exit code 3; `modelops research logs {job.job_id}`" in job.message
        assert not list(world.accelerators.holdings())

    play(tmp_path, scene)


def test_a_program_that_is_not_there_fails_with_its_name(tmp_path: Path):
    async def scene(world: World) -> None:
        job = await world.over(world.desk.submit(world.request("", command=("no-such-program",))).job_id)
        assert (job.state, job.exit_code) == (JobState.FAILED, 127)
        assert "no-such-program: No such file" in world.log(job.job_id)

    play(tmp_path, scene)


def test_a_preempted_job_saves_its_work_and_resumes_when_there_is_room(tmp_path: Path):
    async def scene(world: World) -> None:
        job_id = world.desk.submit(world.request(TRAINING, gpus=2)).job_id
        await world.says(job_id, "training on 0,1")
        world.rival.waiting = [production(1)]
        answer = world.accelerators.claim(world.rival.waiting[0])
        assert answer.to_evict == (job_id,)
        job = await world.until(job_id, lambda job: job.state is JobState.QUEUED and job.preemptions)
        assert world.members(job_id) == frozenset()
        assert job.gpu_hours > 0
        assert job.lost_gpu_hours < job.gpu_hours, "what came before the checkpoint is not lost"
        assert world.accelerators.claim(world.rival.waiting[0]).devices == ("0",)
        assert (await world.until(job_id, lambda job: "Waits for 2" in job.message)).devices == ()
        world.rival.waiting = []
        world.accelerators.settle("prod")
        job = await world.over(job_id)
        assert (job.state, job.preemptions, len(job.attempts)) == (JobState.SUCCEEDED, 1, 2)
        assert "resumed on 0,1" in world.log(job_id)
        (alert,) = world.told
        assert (alert.kind, alert.subject, alert.lines[1]) == ("preempted", "ada", "made room for prod")

    play(tmp_path, scene)


def test_a_job_that_does_not_end_in_time_is_killed_and_loses_everything(tmp_path: Path):
    async def scene(world: World) -> None:
        job_id = world.desk.submit(world.request(STUBBORN, gpus=1, grace_s=0.2)).job_id
        await world.says(job_id, "up")
        world.rival.waiting = [production(2)]
        assert world.accelerators.claim(world.rival.waiting[0]).to_evict == (job_id,)
        job = await world.until(job_id, lambda job: job.preemptions)
        assert world.members(job_id) == frozenset()
        assert job.lost_gpu_hours == job.gpu_hours > 0
        world.desk.cancel(job_id)
        assert (await world.over(job_id)).message == "Cancelled before it ran."

    play(tmp_path, scene)


def test_jobs_wait_for_their_turn_and_can_be_cancelled(tmp_path: Path):
    async def scene(world: World) -> None:
        first = world.desk.submit(world.request(STUBBORN, gpus=2, grace_s=0.2)).job_id
        await world.says(first, "up")
        second = world.desk.submit(world.request("print(1)", gpus=1)).job_id
        waiting = await world.until(second, lambda job: job.message)
        assert waiting.message == f"Waits for 1 accelerator: 0 of 2 are free; {first} (research) has 2."
        world.desk.cancel(first)
        assert (await world.over(first)).state is JobState.CANCELLED
        assert (await world.over(second)).state is JobState.SUCCEEDED
        assert [job.job_id for job in world.desk.list()] == [second, first]
        assert world.desk.cancel(second).state is JobState.SUCCEEDED, "what is over stays as it is"

    play(tmp_path, scene)


def test_what_cannot_be_run_is_refused(tmp_path: Path):
    async def scene(world: World) -> None:
        with pytest.raises(InvalidSpec, match="asks for 3 accelerators and this machine has 2"):
            world.desk.submit(world.request("", gpus=3))
        with pytest.raises(InvalidSpec, match="is not a directory here"):
            world.desk.submit(world.request("", directory="/no/such/folder"))
        with pytest.raises(NotFound, match="modelops research list"):
            world.desk.get("job-1")
        assert world.desk.list() == ()

    play(tmp_path, scene)
    for field, value in [
        ("priority", "production"),
        ("environment", {"HF_TOKEN": "x"}),
        ("environment", {"A-B": "x"}),
        ("directory", "here"),
        ("command", ()),
        ("command", ("a\0",)),
    ]:
        with pytest.raises(ValueError, match=field):
            World(tmp_path).request("", **{field: value})


def test_a_stopped_controller_ends_jobs_and_its_successor_starts_them_again(tmp_path: Path):
    started: list[str] = []

    async def first(world: World) -> None:
        started.append(world.desk.submit(world.request(TRAINING)).job_id)
        await world.says(started[0], "training")

    async def second(world: World) -> None:
        job = await world.over(started[0])
        assert [a.outcome for a in job.attempts] == ["stopped", "ended"]
        assert job.state is JobState.SUCCEEDED

    play(tmp_path, first)
    assert World(tmp_path).members(started[0]) == frozenset()
    play(tmp_path, second)


def test_a_killed_controllers_job_goes_on_and_its_exit_code_is_known(tmp_path: Path):
    started: list[ResearchJob] = []

    async def killed() -> None:
        world = World(tmp_path)
        await world.desk.open()
        job_id = world.desk.submit(world.request(WAITS)).job_id
        started.append(await world.until(job_id, lambda job: job.pid))  # and then nobody closes the desk

    async def successor(world: World) -> None:
        (before,) = started
        job = world.desk.get(before.job_id)
        assert (job.state, job.pid, job.devices) == (JobState.RUNNING, before.pid, ("0",))
        assert [h.owner for h in world.accelerators.holdings()] == [job.job_id]
        (tmp_path / "go").touch()
        job = await world.over(job.job_id)
        assert (job.state, job.exit_code, len(job.attempts)) == (JobState.FAILED, 5, 1)

    asyncio.run(killed())
    play(tmp_path, successor)
