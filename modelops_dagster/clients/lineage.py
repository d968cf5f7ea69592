"""The values of the type chain on disk: one JSON file per materialization, written here and read back here.

Why not pickle, and why not log lines: docs/decisions/0001-values-cross-stages-as-files.md.
"""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Endpoint, Parked
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.report import SuiteReport
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.plan import ReleasePlan
from modelops_dagster.domain.recovery import Recovery
from modelops_dagster.domain.registration import Registration
from modelops_dagster.domain.rehearsal import Rehearsal
from modelops_dagster.domain.values import Value
from modelops_dagster.domain.verdicts import Verdict

# The stages of the chain. A file that names another type is refused, so nothing but these is ever built from disk.
STAGES: dict[str, type[Value]] = {
    cls.__name__: cls
    for cls in (
        Release,
        Rehearsal,
        ReleasePlan,
        Checkpoint,
        Recovery,
        Endpoint,
        Parked,
        SuiteReport,
        Verdict,
        Registration,
    )
}
LATEST = "latest.json"


def _folder(root: Path, asset: str, partition_key: str | None) -> Path:
    # '@' cannot occur in a partition key, so the flattened name is unambiguous
    part = "all" if partition_key is None else partition_key.replace("/", "@")
    if not re.fullmatch(r"[A-Za-z0-9._@-]+", part) or part in {".", ".."}:
        raise InvalidSpec(f"partition key {partition_key!r} is not a repository id: write it as org/name.")
    return root / asset / part


def write_value(root: Path, asset: str, partition_key: str | None, run_id: str, value: Value) -> None:
    """Store `value` as what `run_id` made, and as the latest. `asset` is the key with slashes."""
    folder = _folder(root, asset, partition_key)
    folder.mkdir(parents=True, exist_ok=True)
    body = json.dumps({"type": type(value).__name__, "value": value.model_dump(mode="json")}, indent=1)
    for name in (f"{run_id}.json", LATEST):
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".tmp-")
        with os.fdopen(handle, "w") as out:
            out.write(body)
        Path(temporary).replace(folder / name)


def read_value(root: Path, asset: str, partition_key: str | None, run_id: str | None) -> Any | None:
    """What `run_id` made of the asset, else the latest, else None."""
    folder = _folder(root, asset, partition_key)
    own = folder / f"{run_id}.json"
    path = own if run_id and own.is_file() else folder / LATEST
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    return STAGES[record["type"]].model_validate(record["value"])


def latest_values(root: Path, repo_id: str) -> dict[str, Any]:
    """Every asset's latest value of one model, by asset key with slashes, in the order of the chain."""
    part = repo_id.replace("/", "@")
    found: dict[str, Any] = {}
    for path in sorted(root.glob(f"**/{part}/{LATEST}"), key=lambda p: p.stat().st_mtime_ns):
        record = json.loads(path.read_text())
        key = path.parent.parent.relative_to(root).as_posix()
        found[key] = STAGES[record["type"]].model_validate(record["value"])
    return found


def latest_of(root: Path, asset: str) -> dict[str, Any]:
    """The latest value of one asset for every model that has one, by repo_id."""
    found: dict[str, Any] = {}
    for path in sorted((root / asset).glob(f"*/{LATEST}")):
        record = json.loads(path.read_text())
        found[path.parent.name.replace("@", "/")] = STAGES[record["type"]].model_validate(record["value"])
    return found


def forget_latest(root: Path, asset: str, partition_key: str) -> None:
    """The asset has no latest value any more; what single runs made of it stays."""
    (_folder(root, asset, partition_key) / LATEST).unlink(missing_ok=True)
