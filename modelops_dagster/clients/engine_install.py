"""Building one engine's environment, and the variables its programs start with. Used by `clients.engines`."""

import fcntl
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from modelops_dagster.clients.engine_manifests import EngineSource
from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.errors import DiskFull, EngineMissing

MARKER_NAME = ".complete"
RESOLVED_NAME = "resolved.lock"  # what a nightly environment was made of
PROGRESS_INTERVAL_S = 2.0
# Of the one question that comes before pip's own patience, which is for a network that broke off.
ASK_RETRIES = 1
ASK_TIMEOUT_S = 5

_COLLECTED = re.compile(r"(?:Collecting|Requirement already satisfied:) ([A-Za-z0-9._-]+)")
_NOT_OFFERED = ("No matching distribution found for", "Could not find a version that satisfies the requirement")
_RETRYING = "WARNING: Retrying ("
_NOT_CONNECTED = re.compile(r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ProxyError")
_SYSTEM_REASON = re.compile(r"\[Errno -?\d+\] ([^'\")]+)")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_URL_CREDENTIALS = re.compile(r"://[^/@\s]+@")
_SECRET_NAME = re.compile(r"(^|_)(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$|PASSWORD|SECRET", re.IGNORECASE)
# An engine is somebody else's program: it is given what it needs to run and nothing of the operator's session.
_PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_[A-Z]+|TZ|TMPDIR|XDG_(CACHE|CONFIG|DATA)_HOME|LD_LIBRARY_PATH"
    r"|(CUDA|NVIDIA|NCCL)_[A-Z0-9_]+"
)
# What would make the new environment's pip install somewhere else, or see somebody else's packages.
_NOT_FOR_PIP = frozenset(
    {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER"}
    | {"PIP_REQUIRE_VIRTUALENV", "PIP_QUIET", "PIP_REQUIREMENT", "PIP_CONSTRAINT", "PIP_PYTHON"}
)


def without_credentials(text: str) -> str:
    """The text with whatever stands before the @ of an address in it removed."""
    return _URL_CREDENTIALS.sub("://***@", text)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name must not reach a program that we did not write."""
    return bool(_SECRET_NAME.search(name))


def clean_environment(environ: Mapping[str, str], env: Path) -> dict[str, str]:
    """The variables that a program in the environment `env` starts with, drawn from `environ`."""
    kept = {name: value for name, value in environ.items() if _PASSED_ON.fullmatch(name) and not is_secret_name(name)}
    kept["PATH"] = os.pathsep.join([str(env / "bin"), kept.get("PATH", os.defpath)])
    kept["PYTHONNOUSERSITE"] = "1"
    kept["PYTHONUNBUFFERED"] = "1"
    return kept


@contextmanager
def exclusive(path: Path, progress: Callable[[str], None], waiting_for: str) -> Iterator[int]:
    """Hold an advisory lock on `path` and yield its file descriptor.

    The descriptor is handed to the programs that build, so that one which outlives a killed parent keeps the lock
    until it has ended and nobody rebuilds the directory under it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another install of {waiting_for} to end")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle.fileno()


@dataclass(frozen=True)
class _PipResult:
    returncode: int
    lines: tuple[str, ...] = field(repr=False)

    @property
    def not_offered(self) -> bool:
        return any(phrase in line for line in self.lines for phrase in _NOT_OFFERED)

    @property
    def disk_full(self) -> bool:
        return any("No space left on device" in line for line in self.lines)

    @property
    def last_line(self) -> str:
        """pip's own last words, errors first, with any credentials of an index removed."""
        errors = [line for line in self.lines if line.startswith("ERROR:")]
        last = (errors or [line for line in self.lines if line.strip()] or ["pip said nothing"])[-1]
        told = without_credentials(" ".join(last.removeprefix("ERROR:").split()))
        # pip says of an index that it could not reach only that it has no such package
        lost = any(line.startswith(_RETRYING) for line in self.lines) and self.not_offered
        return f"the package index cannot be reached; {told}" if lost else told

    @property
    def not_connected(self) -> str | None:
        """Why no index could be connected to, in the system's words; None when pip failed otherwise, or did not."""
        tries = [line for line in self.lines if line.startswith(_RETRYING)]
        if self.returncode == 0 or not tries or not all(_NOT_CONNECTED.search(line) for line in tries):
            return None
        found = _SYSTEM_REASON.search(tries[-1])
        return found[1].strip() if found else "no answer"


class EnvironmentBuilder:
    """Makes the environment of one engine at its final place (a venv cannot be moved), with the marker written last."""

    def __init__(
        self,
        *,
        source: EngineSource,
        target: Path,
        lock_fd: int,
        environ: Mapping[str, str],
        progress: Callable[[str], None],
    ) -> None:
        self._source = source
        self._manifest = source.manifest
        self._version = source.manifest.version
        self._target = target
        self._lock_fd = lock_fd
        self._progress = progress
        self._environ = {
            name: value
            for name, value in environ.items()
            if name not in _NOT_FOR_PIP and (name.startswith("PIP_") or not is_secret_name(name))
        }

    def build(self) -> None:
        """Wipe what a killed install left, then build.

        Raises:
            EngineMissing: pip or venv failed; says why in pip's own last line.
            DiskFull: there was no room for it.
        """
        started = time.monotonic()
        if self._target.exists():
            self._progress("removing what an unfinished install left")
            shutil.rmtree(self._target, ignore_errors=True)
        self._target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._make_venv()
            self._require_an_index()
            self._install_local_builds()
            self._install_lock()
            self._install_local_distributions()
            if self._manifest.nightly_index is None:
                self._install_requirements()
            else:
                self._install_newest(self._manifest.nightly_index)
        except BaseException:
            shutil.rmtree(self._target, ignore_errors=True)
            raise
        self._write_marker(seconds=time.monotonic() - started)

    def _make_venv(self) -> None:
        self._progress("creating its environment")
        argv = [sys.executable, "-m", "venv", str(self._target)]
        done = subprocess.run(
            argv,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            pass_fds=(self._lock_fd,),
        )
        self._check(_PipResult(done.returncode, tuple(done.stdout.splitlines())))

    def _require_an_index(self) -> None:
        """Tell at once when there is no network: pip alone would try every address for most of a minute.

        Asks for the page of one package. An index that answers slowly, or has no such package, is left to pip.
        """
        wanted = self._source.pins() or (self._source.requirements() if self._manifest.nightly_index else [])
        name = _NAME.match(wanted[0]) if wanted else None
        if name is None:
            return
        result = self._run_pip("index", "versions", f"--retries={ASK_RETRIES}", f"--timeout={ASK_TIMEOUT_S}", name[0])
        if (reason := result.not_connected) is not None:
            raise EngineMissing(
                f"Engine {self._manifest.name} could not be installed, as no package index can be reached ({reason}): "
                f"check the network, the proxy and pip's index, then run `modelops engines install "
                f"{self._manifest.name}`."
            )

    def _install_local_builds(self) -> None:
        """Install the pins with a local version (torch==2.13.0+cpu), which public indexes seldom carry.

        They go first and by themselves, so that the second index is asked for them and for nothing else.
        """
        builds = [line for line in self._source.pins() if "+" in line]
        if not builds:
            return
        named = ", ".join(builds)
        self._progress(f"downloading {named}")
        result = self._pip(*builds, only_binary=True)
        source = "the configured index"
        if result.not_offered and self._manifest.wheel_index:
            source = without_credentials(self._manifest.wheel_index)
            self._progress(f"{named} is not on the configured index; downloading from {source}")
            result = self._pip(*builds, "--extra-index-url", self._manifest.wheel_index, only_binary=True)
        self._check(result)
        self._progress(f"installed {named} from {source}")

    def _install_lock(self) -> None:
        pins = self._source.pins()
        if not pins:
            return
        with tempfile.NamedTemporaryFile("w", suffix=".lock") as lock:
            lock.write("\n".join(pins))
            lock.flush()
            self._check(self._pip("-r", lock.name, only_binary=True, expected=len(pins)))

    def _install_local_distributions(self) -> None:
        for folder in self._source.distributions:
            self._install_folder(folder, "--no-build-isolation")

    def _install_folder(self, folder: Path, *options: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            # setuptools writes build/ and *.egg-info beside the sources, which may be read-only
            source = Path(shutil.copytree(folder, Path(scratch) / folder.name))
            self._check(self._pip(*options, str(source), only_binary=False))

    def _install_requirements(self) -> None:
        for requirement in self._source.requirements():
            self._progress(f"installing {requirement}")
            if Path(requirement).is_dir():
                self._install_folder(Path(requirement))
            else:
                self._check(self._pip(requirement, only_binary=False))

    def _install_newest(self, index: str) -> None:
        """Resolve the newest of each requirement, pre-releases included, and write down what that came to."""
        wanted = self._source.requirements()
        self._progress(f"resolving the newest {', '.join(wanted)} from {without_credentials(index)}")
        self._check(self._pip("--pre", "--extra-index-url", index, *wanted, only_binary=True, dependencies=True))
        argv = [str(self._target / "bin" / "python"), "-m", "pip", "freeze", "--disable-pip-version-check"]
        frozen = subprocess.run(
            argv, env=self._environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        ).stdout
        (self._target / RESOLVED_NAME).write_text(frozen)
        name = wanted[0].lower()
        found = [line for line in frozen.lower().splitlines() if line.startswith((f"{name}==", f"{name} @"))]
        self._version = found[0].removeprefix(f"{name}==") if found else self._version
        self._progress(f"resolved {name} {self._version}")

    def _pip(self, *arguments: str, only_binary: bool, expected: int = 0, dependencies: bool = False) -> _PipResult:
        options = ["--progress-bar=off"]
        options += [] if dependencies else ["--no-deps"]
        options += ["--only-binary=:all:"] if only_binary else []
        return self._run_pip("install", *options, *arguments, expected=expected)

    def _run_pip(self, *words: str, expected: int = 0) -> _PipResult:
        argv = [str(self._target / "bin" / "python"), "-m", "pip", "--no-input", "--disable-pip-version-check"]
        process = subprocess.Popen(
            [*argv, *words],
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=(self._lock_fd,),
        )
        try:
            lines = self._relay(process, expected)
            return _PipResult(process.wait(), lines)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _relay(self, process: "subprocess.Popen[str]", expected: int) -> tuple[str, ...]:
        """Read pip to its end; report the packages collected, then the ones unpacked, when `expected` is above 0."""
        assert process.stdout is not None  # noqa: S101  (asked for with PIPE above)
        incoming: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        stdout = process.stdout

        def read() -> None:
            for line in stdout:
                incoming.put(line.rstrip())
            incoming.put(None)

        threading.Thread(target=read, daemon=True).start()
        lines: list[str] = []
        collected, unpacking, reported = 0, False, 0.0
        while True:
            try:
                line = incoming.get(timeout=PROGRESS_INTERVAL_S)
            except queue.Empty:
                line = ""
            if line is None:
                return tuple(lines)
            lines += [line] if line else []
            unpacking = unpacking or line.startswith("Installing collected packages")
            found = _COLLECTED.match(line)
            collected += bool(found)
            now = time.monotonic()
            if not expected or now - reported < PROGRESS_INTERVAL_S:
                continue
            if unpacking:
                self._progress(f"unpacking {min(self._distributions(), expected)}/{expected}")
                reported = now
            elif found:
                self._progress(f"downloading {collected}/{expected} {found[1]}")
                reported = now

    def _distributions(self) -> int:
        """How many of the lock's distributions are in place; pip is there from the start."""
        found = self._target.glob("lib/python*/site-packages/*.dist-info")
        return sum(1 for path in found if not path.name.startswith("pip-"))

    def _check(self, result: _PipResult) -> None:
        if result.returncode == 0:
            return
        name = self._manifest.name
        if result.disk_full:
            raise DiskFull(
                f"There is no room for engine {name} under {self._target.parent}; free some gigabytes, "
                f"then run `modelops engines install {name}` again."
            )
        raise EngineMissing(
            f"Engine {name} could not be installed ({result.last_line}); "
            f"mend that, then run `modelops engines install {name}`."
        )

    def _write_marker(self, *, seconds: float) -> None:
        document = {
            "engine": self._manifest.name,
            "version": self._version,
            "python": sys.version.split()[0],
            "install_seconds": round(seconds, 1),
        }
        write_whole(self._target / MARKER_NAME, json.dumps(document) + "\n")
