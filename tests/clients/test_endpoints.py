"""The process backend with the fake engine, and the records."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TypeVar

import pytest

from modelops_dagster.clients import processes
from modelops_dagster.clients.endpoints import EndpointRecord, Prepared, ProcessBackend, RecordStore, Replica
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState
from modelops_dagster.domain.engines import EngineManifest
from modelops_dagster.domain.errors import DiskFull, EndpointFailed, EngineMissing, InvalidSpec
from modelops_dagster.domain.lifecycle import Observation
from tests.fakes.launcher import FakeLaunch, FakeLauncher
from tests.fakes.stack import wait_until
from tests.fakes.threads import Quiet, http_server

T = TypeVar("T")


def spec_of(tmp_path: Path, *engine_args: str, name: str = "small", engine: str = "fake") -> EndpointSpec:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir(exist_ok=True)
    return EndpointSpec(
        name=name,
        checkpoint=str(checkpoint),
        checkpoint_digest="sha256:0",
        engine=engine,
        engine_args=engine_args,
        served_model_name="small@abc",
    )


class Machine:
    """A backend, and every replica it started in this test."""

    def __init__(self, root: Path, launcher: FakeLauncher | None = None) -> None:
        self.backend = ProcessBackend(root, launcher or FakeLauncher(), grace_s=0.5)
        self.started: list[Replica] = []

    def start(self, spec: EndpointSpec) -> Replica:
        replica = self.backend.start(spec, self.backend.prepare(spec, 1))
        self.started.append(replica)
        return replica

    def seen(self, spec: EndpointSpec, replica: Replica, good: Callable[[Observation], object]) -> Observation:
        return wait_until(lambda: self.backend.observe(spec, replica, ask=True), good)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "controller")
    yield machine
    for replica in machine.started:
        machine.backend.end(replica)


def members(replica: Replica) -> frozenset[int]:
    return processes.session_members(replica.identity, Path(replica.log_path))


@contextmanager
def stranger(port: int) -> Iterator[None]:
    """Another program on the port; it says 200 to everything and claims to serve the model."""

    class Handler(Quiet, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"data": [{"id": "small@abc"}]}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http_server(Handler, port):
        yield


def test_engine_is_ready_when_its_own_socket_lists_the_name(machine: Machine, tmp_path: Path):
    spec = spec_of(tmp_path, "--load-s", "0.3")
    replica = machine.start(spec)
    assert machine.backend.observe(spec, replica, ask=True) == Observation(alive=True, ready=False)
    assert machine.seen(spec, replica, lambda o: o.ready) == Observation(alive=True, ready=True)
    assert machine.backend.observe(spec, replica, ask=False) == Observation(alive=True)
    assert replica.url == f"http://127.0.0.1:{replica.port}/v1"
    assert replica.engine_version == "1.2.3"
    assert "--served-model-name" in replica.argv
    machine.backend.end(replica)
    assert not members(replica)
    assert not machine.backend.observe(spec, replica, ask=True).alive


def test_stranger_on_the_port_is_named_and_never_taken_for_ready(machine: Machine, tmp_path: Path):
    spec = spec_of(tmp_path, "--hang")
    replica = machine.start(spec)
    with stranger(replica.port):
        seen = machine.backend.observe(spec, replica, ask=True)
    assert seen.alive
    assert seen.ready is False
    assert seen.port_taken_by is not None
    assert f"(pid {os.getpid()})" in seen.port_taken_by


class WithHealth(FakeLauncher):
    """The same engine, with a health path in its manifest."""

    def __init__(self, health_path: str) -> None:
        self._health_path = health_path

    def manifest(self, name: str) -> EngineManifest:
        return super().manifest(name).model_copy(update={"health_path": self._health_path})


@pytest.mark.parametrize(("path", "ready"), [("/health", True), ("/nowhere", False)])
def test_a_health_path_has_its_say_beside_the_name(tmp_path: Path, path: str, ready: bool):
    machine = Machine(tmp_path / "controller", WithHealth(path))
    spec = spec_of(tmp_path)
    replica = machine.start(spec)
    try:
        seen = machine.seen(spec, replica, lambda o: o.ready or o.detail)
        assert seen.ready is ready
        assert ready or seen.detail == f"GET http://127.0.0.1:{replica.port}/nowhere said 404"
    finally:
        machine.backend.end(replica)


def test_wrong_name_is_said(machine: Machine, tmp_path: Path):
    spec = spec_of(tmp_path, "--wrong-name")
    seen = machine.seen(spec, machine.start(spec), lambda o: o.wrong_name)
    assert seen.ready is False
    assert seen.detail == "it answers as somebody-else and not as small@abc"


def test_engine_that_accepts_and_does_not_answer_is_not_ready(machine: Machine, tmp_path: Path):
    spec = spec_of(tmp_path, "--mute")
    seen = machine.seen(spec, machine.start(spec), lambda o: o.detail)
    assert seen.ready is False
    assert "timed out" in seen.detail


def test_exit_code_and_last_lines_of_an_engine_that_ended(machine: Machine, tmp_path: Path):
    spec = spec_of(tmp_path, "--fail-line", "ValueError: é not supported")
    replica = machine.start(spec)
    assert machine.seen(spec, replica, lambda o: not o.alive) == Observation(alive=False, exit_code=1)
    assert machine.backend.tail(replica, 1) == "ValueError: é not supported"
    assert machine.backend.tail(replica, 9).splitlines()[0] == "INFO: loading"


def test_worker_that_outlives_a_killed_engine_goes_with_end(machine: Machine, tmp_path: Path):
    spec = spec_of(tmp_path, "--child", "--ignore-sigterm")
    replica = machine.start(spec)
    machine.seen(spec, replica, lambda o: o.ready)
    wait_until(lambda: members(replica), lambda pids: len(pids) == 2)
    assert replica.identity is not None
    os.kill(replica.identity.pid, signal.SIGKILL)
    assert machine.seen(spec, replica, lambda o: not o.alive).exit_code == -signal.SIGKILL
    assert len(members(replica)) == 1
    machine.backend.end(replica)
    assert not members(replica)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("ended_by", ["us", "a kill", "a later controller"])
def test_temporary_files_are_private_and_go_with_the_replica(
    temporary: Path, machine: Machine, tmp_path: Path, ended_by: str
):
    replica = machine.start(spec_of(tmp_path))
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert replica.identity is not None
    environ = Path(f"/proc/{replica.identity.pid}/environ")
    wait_until(environ.read_bytes, lambda read: f"TMPDIR={folder}\0".encode() in read)
    (folder / "socket").touch()
    match ended_by:
        case "us":
            machine.backend.end(replica)
        case "a kill":
            os.kill(replica.identity.pid, signal.SIGKILL)
            machine.backend.end(replica)
        case "a later controller":
            ProcessBackend(tmp_path / "controller", FakeLauncher()).end_strangers([])
    assert not list(temporary.iterdir())


def test_what_could_not_be_started_leaves_no_temporary_files(temporary: Path, machine: Machine, tmp_path: Path):
    spec = spec_of(tmp_path)
    prepared = machine.backend.prepare(spec, 1)
    nowhere = Prepared(prepared.replica, FakeLaunch(("/no/such/program",), {}))
    with pytest.raises(EndpointFailed, match="cannot be started"):
        machine.backend.start(spec, nowhere)
    assert not list(temporary.iterdir())
    temporary.rmdir()
    with pytest.raises(DiskFull, match="cannot be made"):
        machine.backend.start(spec, prepared)


def test_another_backend_adopts_by_record_and_by_log(machine: Machine, tmp_path: Path):
    spec = spec_of(tmp_path)
    replica = machine.start(spec)
    later = ProcessBackend(tmp_path / "controller", FakeLauncher())
    assert later.adopt(replica) == replica
    assert later.adopt(replica.model_copy(update={"identity": None})) == replica, "killed before it wrote the identity"
    machine.seen(spec, replica, lambda o: o.ready)
    never = replica.model_copy(update={"identity": None, "log_path": str(tmp_path / "controller/logs/small/never.log")})
    assert later.observe(spec, later.adopt(never), ask=True) == Observation(alive=False, lost=True)


def test_restart_of_the_machine_is_nobodys_fault(machine: Machine, tmp_path: Path):
    spec = spec_of(tmp_path)
    replica = machine.start(spec)
    assert replica.identity is not None
    before = replica.model_copy(update={"identity": replica.identity.model_copy(update={"boot_id": "earlier"})})
    assert machine.backend.observe(spec, before, ask=True) == Observation(alive=False, lost=True)


def test_engines_that_no_record_claims_are_ended(machine: Machine, tmp_path: Path):
    kept, lost = machine.start(spec_of(tmp_path, name="kept")), machine.start(spec_of(tmp_path, "--child", name="lost"))
    wait_until(lambda: members(lost), lambda pids: len(pids) == 2)
    (sentence,) = ProcessBackend(tmp_path / "controller", FakeLauncher()).end_strangers([kept])
    assert sentence.startswith("Ended an engine of lost that no record claims (pid ")
    assert members(kept)
    assert not members(lost)


def test_two_replicas_never_get_one_port(machine: Machine, tmp_path: Path):
    spec = spec_of(tmp_path)
    ports = [machine.backend.prepare(spec, 1).replica.port for _ in range(100)]
    assert len(set(ports)) == 100


def test_what_cannot_be_prepared_says_why(machine: Machine, tmp_path: Path):
    with pytest.raises(EngineMissing, match="There is no engine 'vllm'"):
        machine.backend.prepare(spec_of(tmp_path, engine="vllm"), 1)
    gone = spec_of(tmp_path)
    Path(gone.checkpoint).rmdir()
    with pytest.raises(InvalidSpec, match="is not a directory; fetch the model again") as caught:
        machine.backend.prepare(gone, 1)
    assert caught.value.field == "checkpoint"


def test_log_that_cannot_be_opened_is_said(machine: Machine, tmp_path: Path):
    (tmp_path / "controller").mkdir()
    (tmp_path / "controller" / "logs").write_text("in the way")
    with pytest.raises((DiskFull, EndpointFailed), match="cannot be written"):
        machine.start(spec_of(tmp_path))


def test_log_is_read_in_pieces_over_restarts(machine: Machine, tmp_path: Path):
    folder = tmp_path / "controller" / "logs" / "small"
    folder.mkdir(parents=True)
    first, second = folder / "a.log", folder / "b.log"
    backend = machine.backend
    assert backend.read_log("nothing", tail=5).launch_id is None
    first.write_bytes("one\ntwo\nthré".encode()[:-1])
    chunk = backend.read_log("small", tail=1)
    assert (chunk.launch_id, chunk.text) == ("a", "thr�")
    chunk = backend.read_log("small", tail=1, launch_id="a", offset=8)
    assert (chunk.text, chunk.offset) == ("thr", 11), "half a character waits for its other half"
    first.write_bytes("one\ntwo\nthré\n".encode())
    assert backend.read_log("small", tail=1, launch_id="a", offset=11).text == "é\n"
    second.write_text("new\nstart\n")
    os.utime(second, (time.time() + 5, time.time() + 5))
    chunk = backend.read_log("small", tail=10, launch_id="a", offset=11)
    assert (chunk.launch_id, chunk.text, chunk.offset) == ("b", "new\nstart", 10)


def test_only_the_last_logs_are_kept(machine: Machine, tmp_path: Path):
    spec = spec_of(tmp_path, "--fail-line", "x")
    for _ in range(8):
        replica = machine.start(spec)
        machine.seen(spec, replica, lambda o: not o.alive)
        machine.backend.end(replica)
    assert len(list(Path(replica.log_path).parent.iterdir())) == 5
    machine.backend.forget("small")
    assert not Path(replica.log_path).parent.exists()


# records


def record_of(tmp_path: Path, name: str = "small") -> EndpointRecord:
    now = datetime.now(UTC)
    return EndpointRecord(spec=spec_of(tmp_path, name=name), desired="Running", state=EndpointState.BUILDING, since=now)


def test_records_come_back_as_they_were(tmp_path: Path):
    store = RecordStore(tmp_path / "endpoints")
    assert store.load_all() == ({}, [])
    record = record_of(tmp_path)
    store.save(record)
    store.save(record_of(tmp_path, "other"))
    assert store.load_all()[0]["small"] == record
    store.delete("other")
    store.delete("other")
    assert set(store.load_all()[0]) == {"small"}


def test_unreadable_record_is_put_aside_and_named(tmp_path: Path):
    store = RecordStore(tmp_path)
    store.save(record_of(tmp_path))
    (tmp_path / "half.json").write_text('{"spec": {"name"')
    (tmp_path / "moved.json").write_text(record_of(tmp_path).model_dump_json())
    records, complaints = store.load_all()
    assert set(records) == {"small"}
    assert [("half" in c, "moved" in c) for c in complaints] == [(True, False), (False, True)]
    assert (tmp_path / "half.json.unreadable").exists()
    assert store.load_all()[1] == []


def test_write_that_is_cut_leaves_the_old_record(tmp_path: Path):
    store = RecordStore(tmp_path / "endpoints")
    old = record_of(tmp_path)
    store.save(old)
    (tmp_path / "endpoints" / ".small.tmp").write_text('{"spec"')  # what a kill leaves behind
    assert store.load_all() == ({"small": old}, [])
    store.save(old.model_copy(update={"restarts": 1}))
    assert store.load_all()[0]["small"].restarts == 1


def test_full_disk_is_a_sentence(tmp_path: Path):
    (tmp_path / "endpoints").mkdir()
    (tmp_path / "endpoints" / ".small.tmp").mkdir()
    with pytest.raises(DiskFull, match="endpoints cannot be written"):
        RecordStore(tmp_path / "endpoints").save(record_of(tmp_path))


def test_url_is_shown_only_while_the_wanted_engine_answers(tmp_path: Path):
    backend = ProcessBackend(tmp_path / "controller", FakeLauncher())
    record = record_of(tmp_path)
    replica = backend.prepare(record.spec, 1).replica
    assert record.model_copy(update={"replica": replica}).status().url is None
    running = record.model_copy(update={"replica": replica, "state": EndpointState.RUNNING})
    assert running.status().url == replica.url
    for change in ({"replica_generation": 2}, {"condition": "Unreachable"}, {"desired": "Stopped"}):
        assert running.model_copy(update=change).status().url is None
