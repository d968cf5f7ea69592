"""Containers that do what their arguments tell them, as a kubelet tells of them. Knows no API server.

An engine's arguments choose its faults, as those of `tests/fakes/engine.py` do: `--load-s`, `--fail-line`, `--hang`,
`--die-after-s`. Time is sped up: a back-off takes a tenth of a second.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.fakes.cluster.programs import Logs, Programs, time_of_now
from tests.fakes.cluster.store import Manifest

BACK_OFF_S = 0.15
OVER = ("Succeeded", "Failed")


@dataclass
class Running:
    """The container of one pod, since it was started last."""

    started: float
    restarts: int = 0
    ended: float | None = None


class Containers:
    """The first container of each pod does what it is told; what is beside it only runs.

    Args:
        has_secret: whether there is a Secret, by namespace and name.
        logs: where what they write is kept.
    """

    def __init__(self, has_secret: Callable[[str, str], bool], logs: Logs) -> None:
        self.missing_images: set[str] = set()
        self.muted: set[str] = set()  # pods whose readiness probe fails
        self.evicted: set[str] = set()  # pods that their node ends for want of memory
        self._has_secret = has_secret
        self._logs = logs
        self._running: dict[str, Running] = {}
        self.programs = Programs(logs, partial(told, beside=()))

    def forget(self, uid: str) -> None:
        self._running.pop(uid, None)

    def end(self, pod: Manifest) -> tuple[bool, Manifest | None]:
        """Bring a deleted pod to its end: whether it may go, and else its status; None where that is as it was."""
        self.forget(pod["metadata"]["uid"])
        return self.programs.end(pod)

    def step(self, pod: Manifest) -> Manifest | None:
        """The status of a pod that is on a node; None where it is as it was."""
        if pod["status"].get("phase") in OVER:
            return None
        if pod["metadata"]["name"] in self.evicted:
            self.programs.kill(pod)
            return _evicted(pod)
        container = pod["spec"]["containers"][0]
        trouble = self._trouble(pod, container)
        beside = [self._beside(pod, each) for each in pod["spec"]["containers"][1:]]
        if trouble is not None:
            return told(pod, {"waiting": trouble}, beside, ready=False)
        runs_to_its_end = pod["spec"].get("restartPolicy") == "Never"
        return self.programs.step(pod) if runs_to_its_end else self._run(pod, container, beside)

    def _beside(self, pod: Manifest, container: Manifest) -> Manifest:
        """A container that runs as soon as it can, and has no probe."""
        trouble = self._trouble(pod, container)
        state: Manifest = {"running": {"startedAt": time_of_now()}} if trouble is None else {"waiting": trouble}
        return _status(container, state, ready=trouble is None, started=trouble is None)

    def _trouble(self, pod: Manifest, container: Manifest) -> Manifest | None:
        """Why the container cannot be started, as the kubelet says it."""
        image = container["image"]
        if image in self.missing_images:
            tried = self._running.setdefault(pod["metadata"]["uid"], Running(time.monotonic()))
            if time.monotonic() - tried.started < BACK_OFF_S:
                return {"reason": "ErrImagePull", "message": f"{image}: not found"}
            return {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}": not found'}
        for variable in container.get("env") or []:
            reference = (variable.get("valueFrom") or {}).get("secretKeyRef")
            if reference and not self._has_secret(pod["metadata"]["namespace"], reference["name"]):
                said = f'secret "{reference["name"]}" not found'
                return {"reason": "CreateContainerConfigError", "message": said}
        return None

    def _run(self, pod: Manifest, container: Manifest, beside: list[Manifest]) -> Manifest | None:
        uid, name, now = pod["metadata"]["uid"], pod["metadata"]["name"], time.monotonic()
        run = self._running.setdefault(uid, Running(now))
        options = _options(container.get("args") or [])
        if run.ended is not None:
            if now - run.ended < BACK_OFF_S:
                waiting = {"reason": "CrashLoopBackOff", "message": "back-off restarting container"}
                return crashed(pod, run, beside, waiting)
            self._running[uid] = run = Running(now, run.restarts)
        if options.fail_line is not None or (options.die_after_s is not None and now - run.started > options.lives_s):
            log = f"{time_of_now()} {options.fail_line or 'ERROR: it died'}\n"
            return self._ended(pod, run, log, beside)
        started = not options.hang and now - run.started >= options.load_s
        ready = started and name not in self.muted
        if ready and (name, False) not in self._logs:
            self._logs[(name, False)] = f"{time_of_now()} INFO: listening\n"
        state = {"running": {"startedAt": time_of_now()}}
        return told(pod, state, beside, ready=ready, started=started, restarts=run.restarts)

    def _ended(self, pod: Manifest, run: Running, log: str, beside: list[Manifest]) -> Manifest | None:
        name = pod["metadata"]["name"]
        self._logs[(name, True)] = self._logs[(name, False)] = log
        run.ended, run.restarts = time.monotonic(), run.restarts + 1
        return crashed(pod, run, beside, None)


def has_failed(pod: Manifest) -> bool:
    """Whether its node has ended it for good: it stays as a record, and counts for nothing."""
    return bool(pod["status"].get("phase") == "Failed")


def is_ready(pod: Manifest) -> bool:
    """Whether it takes requests, as far as the API server was told."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions") or [])


def _evicted(pod: Manifest) -> Manifest:
    """As a kubelet tells of a pod that it ended because its node ran short of something."""
    ended = {"terminated": {"exitCode": 137, "reason": "Error"}}
    status = told(pod, ended, [], ready=False) or {}
    said = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
    why = {"reason": "Evicted", "message": "The node was low on resource: memory. "}
    return {**status, **why, "phase": "Failed", "conditions": [*status["conditions"], said]}


def crashed(pod: Manifest, run: Running, beside: list[Manifest], waiting: Manifest | None) -> Manifest | None:
    """The status of a pod whose container ended; `waiting`: for what it waits since."""
    ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
    state = {"waiting": waiting} if waiting else ended
    return told(pod, state, beside, ready=False, restarts=run.restarts - (waiting is None), last=ended)


def told(
    pod: Manifest,
    state: Manifest,
    beside: list[Manifest],
    *,
    ready: bool,
    started: bool = False,
    restarts: int = 0,
    last: Manifest | None = None,
    phase: str | None = None,
) -> Manifest | None:
    container = pod["spec"]["containers"][0]
    statuses = [_status(container, state, ready=ready, started=started, restarts=restarts, last=last), *beside]
    ready = all(status["ready"] for status in statuses)
    same = _without_times(statuses) == _without_times(pod["status"].get("containerStatuses") or [])
    if same and "running" in state and ready == is_ready(pod):
        return None
    conditions = [
        {"type": "PodScheduled", "status": "True"},
        {"type": "Ready", "status": "True" if ready else "False"},
        *(c for c in pod["status"].get("conditions") or [] if c["type"] == "DisruptionTarget"),
    ]
    phase = phase or ("Pending" if "waiting" in state and not last else "Running")
    return {"phase": phase, "containerStatuses": statuses, "conditions": conditions}


def _status(
    container: Manifest,
    state: Manifest,
    *,
    ready: bool,
    started: bool,
    restarts: int = 0,
    last: Manifest | None = None,
) -> Manifest:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": ready,
        "started": started,
        "restartCount": restarts,
        "state": state,
        "lastState": last or {},
    }


def _without_times(statuses: list[Manifest]) -> list[Manifest]:
    """Statuses with what is compared of them. An API server may leave out what is empty."""
    return [{"lastState": {}, **status, "state": set(status.get("state") or {})} for status in statuses]


@dataclass(frozen=True)
class _Options:
    load_s: float
    fail_line: str | None
    hang: bool
    die_after_s: float | None

    @property
    def lives_s(self) -> float:
        return self.load_s + (self.die_after_s or 0.0)


def _options(args: list[str]) -> _Options:
    def value(flag: str) -> str | None:
        return args[args.index(flag) + 1] if flag in args else None

    die = value("--die-after-s") or value("--die-after-asked-s")  # nobody asks a container
    return _Options(
        float(value("--load-s") or 0), value("--fail-line"), "--hang" in args, None if die is None else float(die)
    )


def lines_of(text: str, query: dict[str, str]) -> str:
    """What is asked for of a log whose lines are stored as `<timestamp> <text>`."""
    lines = text.splitlines()
    if "sinceTime" in query:
        lines = [line for line in lines if line.split(" ", 1)[0] >= query["sinceTime"][:19]]
    if "tailLines" in query:
        lines = lines[-int(query["tailLines"]) :] if int(query["tailLines"]) else []
    if query.get("timestamps") != "true":
        lines = [line.split(" ", 1)[1] for line in lines]
    return "".join(f"{line}\n" for line in lines)
