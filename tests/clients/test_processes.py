"""Real processes: identity, groups, ports."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from modelops_dagster.clients import processes
from modelops_dagster.clients.processes import ProcessIdentity
from modelops_dagster.domain.errors import DiskFull, EndpointFailed, PortTaken
from tests.fakes.stack import wait_until

ENVIRON = {"PATH": os.environ["PATH"]}
IGNORE = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
SLEEP = "import time; print('up', flush=True); time.sleep(300)"
WITH_CHILD = (
    "import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {child!r}], start_new_session={own}); "
)

Spawn = Callable[..., ProcessIdentity]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "program.log"


@pytest.fixture
def python(log: Path, tmp_path: Path) -> Iterator[Spawn]:
    """Start Python code as a program of its own; all of it is ended after the test."""
    started: list[ProcessIdentity] = []

    def start(code: str, *, lines: int = 1) -> ProcessIdentity:
        identity = processes.spawn([sys.executable, "-S", "-c", code], ENVIRON, log, tmp_path / "work")
        started.append(identity)
        wait_until(lambda: log.read_text().count("\n") >= lines)
        return identity

    yield start
    for identity in started:
        processes.stop_group(identity, 0.0, log)


def test_spawned_program_has_its_own_session_no_input_and_only_the_given_environment(python: Spawn, log: Path):
    identity = python("import os, sys; print(os.getsid(0) == os.getpid(), sys.stdin.read(), sorted(os.environ))")
    wait_until(lambda: not processes.is_alive(identity))
    assert log.read_text() == "True  ['LC_CTYPE', 'PATH']\n"
    assert log.stat().st_mode & 0o777 == 0o600
    assert processes.exit_code(identity) == 0


def test_no_descriptor_of_ours_reaches_the_program(python: Spawn, log: Path, tmp_path: Path):
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        python("import os; print([os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')[:-1]])")
        assert "secret" not in log.read_text()


def test_log_is_appended_to(python: Spawn, log: Path):
    python("print('one')")
    python("print('two')", lines=2)
    assert log.read_text() == "one\ntwo\n"


def test_program_that_does_not_exist_is_named(log: Path, tmp_path: Path):
    with pytest.raises(EndpointFailed, match=r"'/no/such/engine' cannot be started"):
        processes.spawn(["/no/such/engine"], ENVIRON, log, tmp_path)
    with pytest.raises(EndpointFailed, match="cannot be started"):
        processes.spawn([sys.executable, "a\0b"], ENVIRON, log, tmp_path)


def test_log_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskFull, match=r"file/program\.log cannot be written"):
        processes.spawn(["true"], ENVIRON, tmp_path / "file" / "program.log", tmp_path)


def test_zombie_counts_as_dead(python: Spawn, log: Path):
    code = "import subprocess, sys, time; p = subprocess.Popen(['true']); print(p.pid, flush=True); time.sleep(300)"
    parent = python(code)
    pid = int(log.read_text())
    wait_until(lambda: (stat := processes.read_stat(pid)) is not None and stat.state == "Z")
    zombie = processes.identify(pid)
    assert zombie is not None
    assert not processes.is_alive(zombie)
    assert processes.session_members(parent) == {parent.pid}


def test_reused_pid_is_another_process(python: Spawn):
    identity = python(SLEEP)
    assert processes.is_alive(identity)
    earlier = identity.model_copy(update={"start_ticks": identity.start_ticks - 1})
    before_boot = identity.model_copy(update={"boot_id": "another"})
    for other in (earlier, before_boot):
        assert not processes.is_alive(other)
        assert processes.session_members(other) == frozenset()
        processes.stop_group(other, 0.0)
    assert processes.rebooted_since(before_boot)
    assert processes.is_alive(identity), "it was ended for the sake of a process that no longer exists"


def test_name_with_blanks_and_brackets_is_read(python: Spawn, tmp_path: Path):
    odd = tmp_path / "a) R 1 (b"
    odd.symlink_to("/bin/sleep")
    identity = processes.spawn([str(odd), "300"], ENVIRON, tmp_path / "odd.log", tmp_path)
    stat = processes.read_stat(identity.pid)
    assert stat is not None
    assert (stat.ppid, stat.session, stat.start_ticks) == (os.getpid(), identity.pid, identity.start_ticks)
    processes.stop_group(identity, 1.0)


def test_identity_is_found_again_by_the_log(python: Spawn, log: Path):
    identity = python(SLEEP)
    assert processes.find_by_log(log) == identity
    assert processes.writers_under(log.parent) == {identity.pid: log}
    log.unlink()
    assert processes.find_by_log(log) == identity
    assert processes.find_by_log(log.with_name("other.log")) is None


@pytest.mark.parametrize("own_session", [False, True])
def test_helpers_that_outlive_a_killed_parent_are_seen_and_ended(python: Spawn, log: Path, own_session: bool):
    identity = python(WITH_CHILD.format(child=IGNORE + SLEEP, own=own_session) + SLEEP, lines=2)
    assert len(processes.session_members(identity, log)) == 2
    os.kill(identity.pid, signal.SIGKILL)
    wait_until(lambda: not processes.is_alive(identity))
    assert processes.exit_code(identity) == -signal.SIGKILL
    (pid,) = processes.session_members(identity, log)
    helper = processes.identify(pid)
    assert helper is not None
    processes.stop_group(identity, 0.2, log)
    assert processes.session_members(identity, log) == frozenset()
    assert not processes.is_alive(helper)


def test_program_without_identity_is_ended_by_its_log(python: Spawn, log: Path):
    identity = python(SLEEP)
    processes.stop_group(None, 1.0, log)
    assert not processes.is_alive(identity)


def test_program_that_ignores_sigterm_is_killed_after_its_grace(python: Spawn, log: Path):
    identity = python(IGNORE + SLEEP)
    begun = time.monotonic()
    processes.stop_group(identity, 0.5, log)
    assert 0.4 < time.monotonic() - begun < 30
    assert not processes.is_alive(identity)


def test_program_that_listens_to_sigterm_is_not_kept_waiting(python: Spawn, log: Path):
    identity = python(SLEEP)
    begun = time.monotonic()
    processes.stop_group(identity, 30.0, log)
    assert time.monotonic() - begun < 25
    processes.stop_group(identity, 30.0, log)  # again: nothing to do


def test_stopped_program_is_ended(python: Spawn, log: Path):
    identity = python(SLEEP)
    os.kill(identity.pid, signal.SIGSTOP)
    processes.stop_group(identity, 0.2, log)
    assert not processes.is_alive(identity)


def test_program_outlives_the_one_that_spawned_it(log: Path, tmp_path: Path):
    code = (
        "import os, signal, sys; from pathlib import Path; from modelops_dagster.clients import processes; "
        f"processes.spawn([sys.executable, '-S', '-c', {SLEEP!r}], {{}}, Path({str(log)!r}), Path({str(tmp_path)!r})); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    wait_until(lambda: log.read_text() == "up\n")
    identity = processes.find_by_log(log)
    assert identity is not None
    assert processes.is_alive(identity)
    assert processes.exit_code(identity) is None, "another program's child"
    processes.stop_group(identity, 1.0, log)
    assert not processes.is_alive(identity)


LISTEN = (
    "import socket, time; s = socket.socket(); s.bind((%r, 0)); s.listen(); "
    "print(s.getsockname()[1], flush=True); time.sleep(300)"
)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_port_has_an_owner(python: Spawn, log: Path, host: str):
    identity = python(LISTEN % host)
    port = int(log.read_text())
    assert processes.owns_port(identity, port)
    assert processes.listening_pids(port) == {identity.pid}
    assert processes.someone_listens(port)
    assert processes.who_listens(port) == f"{psutil.Process(identity.pid).name()} (pid {identity.pid})"


def test_port_of_another_program_is_not_ours(python: Spawn):
    identity = python(SLEEP)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert not processes.owns_port(identity, port)
        assert processes.listening_pids(port) == {os.getpid()}
    assert not processes.someone_listens(port)
    assert processes.who_listens(port) is None
    assert processes.listening_pids(port) == frozenset()


def test_connection_is_not_a_listener(python: Spawn, log: Path):
    identity = python(LISTEN % "127.0.0.1")
    port = int(log.read_text())
    with socket.create_connection(("127.0.0.1", port)):
        assert processes.listening_pids(port) == {identity.pid}


def test_free_ports_are_free_distinct_and_below_those_of_outgoing_connections():
    ports: set[int] = set()
    for _ in range(200):
        port = processes.free_port("127.0.0.1", ports)
        assert port not in ports
        ports.add(port)
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(ports) < max(low, 21001)


class Everything:
    def __contains__(self, port: object) -> bool:
        return True


def test_no_free_port_is_said():
    with pytest.raises(PortTaken, match="No free port between"):
        processes.free_port("127.0.0.1", Everything())


def test_a_connection_is_seen_while_it_lasts():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not processes.is_connected(port), "to listen is not to be used"
        with socket.create_connection(("127.0.0.1", port)):
            assert processes.is_connected(port)
            assert not processes.is_connected(port + 1 if port < 65535 else port - 1)
