"""The embedded default: a small model made from a Python package, so that the demo needs no Hub."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from modelops_dagster.clients.engine_install import clean_environment, exclusive
from modelops_dagster.clients.engines import WORKERS, EngineRegistry
from modelops_dagster.domain.errors import EngineFailed

ENGINE = "transformers"
MODEL_NAME = "SmolLM2-135M-Instruct"
CONVERTER = WORKERS / "convert_gguf.py"
LAST_LINES = 15


def ensure_demo_model(registry: EngineRegistry, cache_dir: Path, progress: Callable[[str], None]) -> Path:
    """The directory of the demonstration checkpoint, converted first where it is missing (about 20 s on two cores).

    The folder above it is named after the converter, so a corrected converter makes a new checkpoint. Installs the
    `transformers` engine when that is missing.

    Raises:
        EngineMissing: the `transformers` engine cannot be installed.
        EngineFailed: the conversion broke, or its result was not sound.
    """
    digest = hashlib.sha256(CONVERTER.read_bytes()).hexdigest()[:12]
    target = cache_dir / "demo" / digest / MODEL_NAME
    if target.is_dir():
        return target
    environment = registry.install(ENGINE, progress)
    with exclusive(target.parent / "lock", progress, waiting_for=MODEL_NAME) as lock_fd:
        if not target.is_dir():
            partial = target.with_name(f"{MODEL_NAME}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            _convert(environment, partial, lock_fd, progress)
            os.replace(partial, target)  # noqa: PTH105  (named for what it is: atomic)
    return target


def _convert(environment: Path, output: Path, lock_fd: int, progress: Callable[[str], None]) -> None:
    log_path = output.with_suffix(".log")
    argv = [str(environment / "bin" / "python"), "-I", str(CONVERTER), str(output)]
    environ = clean_environment(os.environ, environment) | {"HF_HUB_OFFLINE": "1"}
    with log_path.open("w+") as log:
        process = subprocess.Popen(
            argv, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            pass_fds=(lock_fd,),
        )  # fmt: skip
        assert process.stdout is not None  # noqa: S101  (asked for with PIPE above)
        try:
            for line in process.stdout:
                progress(line.rstrip())
            returncode = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        log_tail = "\n".join(log.read().splitlines()[-LAST_LINES:])
    if returncode != 0:
        said = (log_tail.splitlines() or ["it said nothing"])[-1]
        raise EngineFailed(
            f"{MODEL_NAME} could not be made (exit {returncode}: {said}); the whole log is {log_path}.",
            reason="crash",
            log_tail=log_tail,
        )
    log_path.unlink()
