"""`modelops scores export`: stored runs as files that another tool opens."""

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelops_dagster.clients.scores.answers import answers
from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.inspect_log import inspect_log, log_name
from modelops_dagster.domain.gauntlet.samples import Sample

ASKED = "select distinct suite, endpoint from samples where run_id = ? order by suite, endpoint"
METRICS = "select * from scores where run_id = $run_id and suite = $suite and endpoint = $endpoint order by metric"


def inspect_logs(
    store: ScoreStore, run_id: str, suites: Sequence[str], samples: Mapping[str, Sample]
) -> list[dict[str, Any]]:
    """A run's logs, one per suite and endpoint that answered it.

    Args:
        store: the score history.
        run_id: whose.
        suites: only these; empty: all.
        samples: the suites' samples by uid, for targets.

    Raises:
        InvalidSpec: the run, or a suite of it, has no stored samples.
    """
    found = [(suite, endpoint) for suite, endpoint in store.query(ASKED, [run_id])[1]]
    if not found:
        raise InvalidSpec(
            f"there are no samples of run {run_id!r}; `modelops scores --sql 'from runs'` lists the runs.",
            field="run_id",
        )
    there = sorted({suite for suite, _ in found})
    if missing := sorted(set(suites) - set(there)):
        raise InvalidSpec(
            f"run {run_id!r} has no samples of suite {missing[0]!r}; it has those of {', '.join(there)}.",
            field="suite",
        )
    logs = []
    for suite, endpoint in found:
        if not suites or suite in suites:
            columns, rows = store.query(METRICS, {"run_id": run_id, "suite": suite, "endpoint": endpoint})
            metrics = [dict(zip(columns, row, strict=True)) for row in rows]
            logs.append(inspect_log(answers(store, run_id, suite, endpoint), metrics, samples))
    return logs


def write_logs(logs: Sequence[Mapping[str, Any]], to: Path) -> list[Path]:
    """One log into a file whose name ends in .json, or any number into a folder, under the names the viewer expects.

    Raises:
        InvalidSpec: several logs for one file, or it cannot be written.
    """
    if to.suffix == ".json" and len(logs) > 1:
        listed = ", ".join(f"{log['eval']['task']} of {log['eval']['model_args']['endpoint']}" for log in logs)
        raise InvalidSpec(
            f"{to.name} holds one log and the run has {len(logs)} ({listed}); name a folder, or a suite with --suite.",
            field="output",
        )
    paths = [to if to.suffix == ".json" else to / log_name(log) for log in logs]
    try:
        for path, log in zip(paths, logs, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
            try:
                temporary.write_text(json.dumps(log, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidSpec(f"{to} cannot be written ({error.strerror}); name another place.", field="output") from error
    return paths
