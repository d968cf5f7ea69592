"""Engines as processes of this machine, on loopback."""

import codecs
import shutil
import tempfile
import uuid
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

import httpx

from modelops_dagster.clients import processes
from modelops_dagster.clients.endpoints.backend import Launcher, Prepared, Replica
from modelops_dagster.domain.endpoints import EndpointSpec, LogChunk
from modelops_dagster.domain.errors import DiskFull, InvalidSpec
from modelops_dagster.domain.lifecycle import Observation

# Engines have no authentication of their own, so nobody but this machine may reach them, whatever the services bind to.
ENGINE_HOST = "127.0.0.1"
KEPT_LOGS = 5
_ASK_TIMEOUT_S = 2.0
_REST_GRACE_S = 2.0


class ProcessBackend:
    """One session of processes per replica, each with a log, a port, an empty working directory and a private folder
    for temporary files of its own.

    `root` gets `logs/<endpoint>/<launch id>.log` and `work/<endpoint>/`. Temporary files go to the system's folder for
    them, since sockets are among them and a socket's path is 107 characters at most.
    """

    def __init__(self, root: Path, launcher: Launcher, *, grace_s: float = 15.0) -> None:
        root = root.resolve()
        self._logs = root / "logs"
        self._work = root / "work"
        self._launcher = launcher
        self._grace_s = grace_s
        self._port_lock = Lock()
        self._handed_out: dict[str, int] = {}  # launch id -> port, between prepare and end
        # trust_env off: a proxy in the environment has no business between us and our own engine
        # and no connection is kept: whoever looks whether an engine is in use must not see the asker
        self._http = httpx.Client(
            trust_env=False, timeout=_ASK_TIMEOUT_S, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def prepare(
        self, spec: EndpointSpec, generation: int, reserved_ports: Collection[int] = (), devices: tuple[str, ...] = ()
    ) -> Prepared:
        """Fix command, port and log. Starts nothing.

        Raises:
            EngineMissing: the engine is not installed.
            InvalidSpec: the engine has no such variant, or the checkpoint directory is not there.
            PortTaken: there is no free port.
        """
        if not Path(spec.checkpoint).is_dir():
            raise InvalidSpec(
                f"Checkpoint {spec.checkpoint} is not a directory; fetch the model again.", field="checkpoint"
            )
        launch_id = uuid.uuid4().hex
        with self._port_lock:
            port = processes.free_port(ENGINE_HOST, {*reserved_ports, *self._handed_out.values()})
            self._handed_out[launch_id] = port
        try:
            launch = self._launcher.launch(spec, ENGINE_HOST, port)
            manifest = self._launcher.manifest(spec.engine)
        except Exception:
            self._handed_out.pop(launch_id, None)
            raise
        self._prune_logs(spec.name)
        replica = Replica(
            launch_id=launch_id,
            generation=generation,
            port=port,
            url=f"http://{ENGINE_HOST}:{port}/v1",
            log_path=str(self._logs / spec.name / f"{launch_id}.log"),
            engine_version=launch.version,
            argv=tuple(launch.argv),
            launched_at=datetime.now(UTC),
            start_timeout_s=spec.start_timeout_s or manifest.start_timeout_s,
            health_path=manifest.health_path,
            devices=devices,
        )
        return Prepared(replica, launch)

    def start(self, spec: EndpointSpec, prepared: Prepared) -> Replica:
        """Start the engine in a session of its own.

        Raises:
            EndpointFailed, DiskFull: the program or its log cannot be opened.
        """
        replica, launch = prepared.replica, prepared.launch
        temporary = _temporary_folder(replica.launch_id)
        try:
            temporary.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise DiskFull(f"{temporary} cannot be made ({error.strerror}); free space or set TMPDIR.") from error
        environ = {**launch.environ, **visible_devices(replica.devices), "TMPDIR": str(temporary)}
        try:
            identity = processes.spawn(launch.argv, environ, Path(replica.log_path), self._work / spec.name)
        except Exception:
            _forget_temporary(replica.launch_id)
            raise
        return replica.model_copy(update={"identity": identity})

    def adopt(self, replica: Replica) -> Replica:
        """Fill in the identity of a process that was started in the instant the controller was killed."""
        self._handed_out[replica.launch_id] = replica.port
        if replica.identity is None:
            return replica.model_copy(update={"identity": processes.find_by_log(Path(replica.log_path))})
        return replica

    def observe(self, spec: EndpointSpec, replica: Replica, *, ask: bool) -> Observation:
        """Look at the engine. It is ready when one of its own processes listens and lists the served model name, and
        its health path, where it has one, says so too."""
        identity = replica.identity
        if identity is None:
            return Observation(alive=False, lost=True)
        if not processes.is_alive(identity):
            lost = processes.rebooted_since(identity)
            return Observation(alive=False, lost=lost, exit_code=processes.exit_code(identity))
        in_use = (spec.scale_to_zero or spec.max_replicas > 1) and processes.is_connected(replica.port, ENGINE_HOST)
        if not ask:
            return Observation(alive=True, in_use=in_use)
        log = Path(replica.log_path)
        if not processes.owns_port(identity, replica.port, ENGINE_HOST, log):
            return Observation(alive=True, ready=False, port_taken_by=self._stranger(replica))
        if replica.health_path is not None and (trouble := self._unwell(replica.url, replica.health_path)):
            return Observation(alive=True, ready=False, detail=trouble, in_use=in_use)
        return self._ask(replica.url, spec.served_model_name).model_copy(update={"in_use": in_use})

    def _stranger(self, replica: Replica) -> str | None:
        if not processes.someone_listens(replica.port, ENGINE_HOST):
            return None
        listeners = processes.listening_pids(replica.port, ENGINE_HOST)
        # asked after the listeners, so an engine that began to listen just now is among its own members
        if listeners <= processes.session_members(replica.identity, Path(replica.log_path)):
            return None
        return processes.who_listens(replica.port, ENGINE_HOST)

    def _unwell(self, url: str, health_path: str) -> str | None:
        """What the health path says against it, as a sentence without its end; None: it is well."""
        where = url.removesuffix("/v1") + health_path
        try:
            answer = self._http.get(where)
        except httpx.HTTPError as error:
            return f"GET {where} said {str(error) or type(error).__name__}"
        return None if answer.status_code == 200 else f"GET {where} said {answer.status_code}"

    def _ask(self, url: str, served_model_name: str) -> Observation:
        """Whether the engine lists the name, and if not, what it says."""
        detail, names = "", list[str]()
        try:
            answer = self._http.get(f"{url}/models")
            answer.raise_for_status()
            names = [str(model["id"]) for model in answer.json()["data"]]
        except httpx.HTTPError as error:
            detail = f"GET {url}/models said {str(error) or type(error).__name__}"
        except (ValueError, KeyError, TypeError):
            detail = f"GET {url}/models did not answer with a list of models"
        if names and served_model_name not in names:
            return Observation(
                alive=True,
                ready=False,
                wrong_name=True,
                detail=f"it answers as {', '.join(names[:5])} and not as {served_model_name}",
            )
        return Observation(alive=True, ready=served_model_name in names, detail=detail)

    def end(self, replica: Replica) -> None:
        """End every process of the replica: SIGTERM, the grace period, SIGKILL; then remove its temporary files.

        Raises:
            EndpointFailed: a process survived.
        """
        whole = replica.identity is not None and processes.is_alive(replica.identity)
        # helpers without their engine have no request to finish, and hold memory that the next start needs
        grace_s = self._grace_s if whole else min(self._grace_s, _REST_GRACE_S)
        processes.stop_group(replica.identity, grace_s, Path(replica.log_path))
        _forget_temporary(replica.launch_id)
        self._handed_out.pop(replica.launch_id, None)

    def end_strangers(self, known: Collection[Replica]) -> list[str]:
        """End engines of this home that no record claims (a record was lost or removed by hand)."""
        claimed = {Path(replica.log_path) for replica in known}
        said = []
        for log in sorted(set(processes.writers_under(self._logs).values()) - claimed):
            pids = ", ".join(str(pid) for pid in sorted(processes.session_members(None, log)))
            processes.stop_group(processes.find_by_log(log), self._grace_s, log)
            _forget_temporary(log.stem)
            said.append(f"Ended an engine of {log.parent.name} that no record claims (pid {pids}).")
        return said

    def tail(self, replica: Replica, lines: int) -> str:
        """The last `lines` lines of the replica's log; empty when there is none."""
        return processes.last_lines(Path(replica.log_path), lines)[0]

    def read_log(self, name: str, *, tail: int, launch_id: str | None = None, offset: int = 0) -> LogChunk:
        """The last `tail` lines of the newest log, or what follows byte `offset` while `launch_id`'s is the newest.

        At most 1 MiB a call; read on from the `offset` that is returned.
        """
        newest = max((self._logs / name).glob("*.log"), key=_written_at, default=None)
        read = self._logs / name / f"{launch_id}.log"
        if (
            launch_id in self._handed_out and read.is_file()
        ):  # of several replicas, whose logs all grow, one is followed
            newest = read
        if newest is None:
            return LogChunk(launch_id=None, text="", offset=0)
        if newest.stem != launch_id:
            text, end = processes.last_lines(newest, tail)
        else:
            with newest.open("rb") as log:
                log.seek(offset)
                data = log.read(processes.MAX_LOG_READ)
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
            text = decoder.decode(data)  # a character that is cut by the end of what is written is left for later
            end = offset + len(data) - len(decoder.getstate()[0])
        return LogChunk(launch_id=newest.stem, text=text, offset=end)

    def forget(self, name: str) -> None:
        """Remove logs and working directory of a deleted endpoint."""
        shutil.rmtree(self._logs / name, ignore_errors=True)
        shutil.rmtree(self._work / name, ignore_errors=True)

    def _prune_logs(self, name: str) -> None:
        ended = [path for path in (self._logs / name).glob("*.log") if path.stem not in self._handed_out]
        logs = sorted(ended, key=_written_at)
        for log in logs[: max(0, len(logs) - KEPT_LOGS + 1)]:
            log.unlink(missing_ok=True)


def _temporary_folder(launch_id: str) -> Path:
    return Path(tempfile.gettempdir()) / f"modelops-{launch_id}"


def _forget_temporary(launch_id: str) -> None:
    """vLLM leaves its sockets behind even where it ends in good order."""
    shutil.rmtree(_temporary_folder(launch_id), ignore_errors=True)


def _written_at(log: Path) -> int:
    """Nanoseconds; 0 when another replica, or a delete, removed it meanwhile."""
    try:
        return log.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def visible_devices(devices: Collection[str]) -> dict[str, str]:
    """The variables that show a program its accelerators and no other; none for a program that was given none."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if devices else {}
