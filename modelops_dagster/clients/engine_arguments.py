"""Asking an installed engine about its own arguments. Each answer is kept beside the environment it is about."""

import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.engine_arguments import ArgumentCatalog
from modelops_dagster.domain.engines import EngineManifest
from modelops_dagster.domain.errors import EngineFailed

PROGRAM = Path(__file__).resolve().parent.parent / "workers" / "describe_arguments.py"
OWN_SERVER = PROGRAM.parent / "serve_transformers" / "__main__.py"
TIMEOUT_S = 180.0  # vLLM is imported for it: 10 s alone, a minute on a busy machine
LAST_LINES = 3


def ask_catalog(manifest: EngineManifest, version: str, env: Path, environ: Mapping[str, str]) -> ArgumentCatalog:
    """Every argument of the engine in `env`, of its own parser.

    Raises:
        EngineFailed: the parser could not be asked.
    """
    kept = env.parent / "arguments" / f"{env.name}-{_key(manifest)}.json"
    document = _read(kept)
    if document is None:
        document = _ask(manifest, env, environ, list(manifest.argument_parser), None)
        write_whole(kept, json.dumps(document), is_durable=False)
    return ArgumentCatalog.model_validate({"engine": manifest.name, "version": version, **document})


def ask_parser(manifest: EngineManifest, env: Path, environ: Mapping[str, str], arguments: Sequence[str]) -> str | None:
    """What the engine's parser says against the arguments; None when it takes them.

    Raises:
        EngineFailed: the parser could not be asked.
    """
    kept = env.parent / "arguments" / f"{env.name}-{_key(manifest, *arguments)}.json"
    document = _read(kept)
    if document is None:
        document = _ask(manifest, env, environ, ["--parse", *manifest.argument_parser], list(arguments))
        write_whole(kept, json.dumps(document), is_durable=False)
    return None if document["error"] is None else str(document["error"])


def _key(manifest: EngineManifest, *arguments: str) -> str:
    """What the answer depends on besides the environment: the question, and who asks."""
    parts = [PROGRAM.read_bytes(), OWN_SERVER.read_bytes(), json.dumps([manifest.argument_parser, arguments]).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _ask(
    manifest: EngineManifest, env: Path, environ: Mapping[str, str], words: list[str], given: list[str] | None
) -> Any:
    argv = [str(env / "bin" / "python"), "-P", str(PROGRAM), *words]
    try:
        done = subprocess.run(
            argv, env=dict(environ), input=json.dumps(given), capture_output=True, text=True,
            timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return json.loads(done.stdout)
        said = " ".join(done.stderr.splitlines()[-LAST_LINES:]) or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        said = f"no answer in {TIMEOUT_S:g} s"
    except (OSError, ValueError) as error:
        said = str(error)
    raise EngineFailed(
        f"The argument parser of engine {manifest.name} could not be asked ({said[-300:]}); "
        f"see that `{env / 'bin' / 'python'}` works, or install the engine again.",
        reason="crash",
    )


def _read(path: Path) -> Any | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
