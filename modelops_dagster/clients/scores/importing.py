"""`modelops scores import`: files that another tool wrote, read whole, and landed as advisory scores.

Everything is read and checked before the first row lands; what has landed from the same file before stays as it is.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.errors import InvalidSpec, ModelOpsError
from modelops_dagster.domain.gauntlet.imported import ImportedTask, Tool, imported_samples, imported_scores
from modelops_dagster.domain.gauntlet.inspect_results import ended_badly, inspect_task
from modelops_dagster.domain.gauntlet.lm_eval import lm_eval_tasks
from modelops_dagster.domain.gauntlet.nemo_results import nemo_bundle, nemo_results
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.hub import ModelRevision

NO_COMMIT = "0" * 40
"""Where neither the tool nor the user says which commit was scored, as git has it."""
LM_EVAL_FILE = re.compile(r"(?:results|samples_(?P<task>.+))_(?P<time>\d{4}-\d\d-\d\dT[\d.:-]+)\.jsonl?")
LANDED = """
    select distinct 'scores', run_id, suite from scores where list_contains($runs, run_id)
    union all select distinct 'samples', run_id, suite from samples where list_contains($runs, run_id)
"""
Lines = list[tuple[str, Mapping[str, Any]]]


class Found(NamedTuple):
    """A task, and the commit of the model where the tool knew it."""

    task: ImportedTask
    commit_hash: str | None = None


class Landed(NamedTuple):
    """What became of one task."""

    task: ImportedTask
    revision: ModelRevision
    run_id: str
    is_new: bool


def read_files(tool: Tool, paths: Sequence[Path]) -> list[Found]:
    """Every task that the files hold; of lm-eval, a samples file brings its task of the results beside it.

    Raises:
        InvalidSpec: a file cannot be read, is another tool's, or lacks what belongs to it.
    """
    read = {"lm-eval": _lm_eval, "nemo": _nemo, "inspect": _inspect}[tool]
    found: dict[tuple[str, str], Found] = {}
    for path in paths:
        try:
            for one in read(path):
                key = (one.task.source, one.task.task)
                if key not in found or one.task.answers:
                    found[key] = one
        except (AttributeError, TypeError, KeyError, ValueError, OverflowError) as error:
            raise InvalidSpec(
                f"{path} is not built as {tool} builds it ({type(error).__name__}); check the file and --format."
            ) from error
    return list(found.values())


def land_imported(
    store: ScoreStore, found: Sequence[Found], repo_id: str, commit_hash: str | None, lane: str
) -> list[Landed]:
    """Land the tasks' scores and answers, each once.

    Args:
        store: the score history.
        found: as `read_files` gives them.
        repo_id: the model that was scored.
        commit_hash: which commit of it; None: what the tool says, else the null id.
        lane: which lane's scores they are.

    Raises:
        DiskFull: no space; nothing of it is left.
    """
    out = []
    for task, told in found:
        revision = ModelRevision(repo_id=repo_id, commit_hash=commit_hash or told or NO_COMMIT)
        out.append(Landed(task, revision, task.run_id(revision, lane), False))
    there = set(store.query(LANDED, {"runs": [one.run_id for one in out]})[1])
    wanted: list[tuple[int, str, list[Row]]] = []
    for number, one in enumerate(out):
        for table, rows in (("samples", imported_samples), ("scores", imported_scores)):
            landing = [] if (table, one.run_id, one.task.suite) in there else rows(one.task, one.revision, lane)
            if landing:
                wanted.append((number, table, landing))
    written: list[Path] = []
    try:
        for number, table, rows_ in wanted:
            written.append(store.land(table, rows_, repo_id=repo_id, run_id=out[number].run_id))
            out[number] = out[number]._replace(is_new=True)
    except (ModelOpsError, OSError):
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return out


def _lm_eval(path: Path) -> list[Found]:
    named = LM_EVAL_FILE.fullmatch(path.name)
    if named is None:
        raise InvalidSpec(
            f"{path.name} is neither results_<time>.json nor samples_<task>_<time>.jsonl, as lm-eval names its files."
        )
    time, wanted = named["time"], named["task"]
    results = path.with_name(f"results_{time}.json")
    if not results.is_file():
        raise InvalidSpec(
            f"{path.name} has no {results.name} beside it, which says the version and the settings; put it there."
        )
    beside = {wanted: path} if wanted else _samples_beside(path, time)
    document, source = _document(results, json.loads)
    samples = {task: _lines(file) for task, file in beside.items()}
    tasks, commit_hash = lm_eval_tasks(document, results.name, source, samples)
    kept = [task for task in tasks if wanted in (None, task.task)]
    if not kept:
        raise InvalidSpec(f"{results.name} has no task {wanted!r}, of which {path.name} is; take both from one run.")
    return [Found(task, commit_hash) for task in kept]


def _samples_beside(results: Path, time: str) -> dict[str, Path]:
    found = ((LM_EVAL_FILE.fullmatch(p.name), p) for p in sorted(results.parent.glob("samples_*.jsonl")))
    return {named["task"]: path for named, path in found if named and named["time"] == time}


def _nemo(path: Path) -> list[Found]:
    if path.suffix in (".yml", ".yaml"):
        document, source = _document(path, _yaml)
        at = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
        return [Found(task) for task in nemo_results(document, path.name, source, at)]
    bundles = [path] if path.suffix == ".json" else sorted(path.parent.glob("eval-*.json"))
    if len(bundles) != 1:
        raise InvalidSpec(
            f"{path.name} needs one eval-*.json beside it, which says the benchmark, the version and the settings; "
            f"there are {len(bundles)}."
        )
    lines = path if path.suffix == ".jsonl" else path.with_name("results.jsonl")
    document, source = _document(bundles[0], json.loads)
    return [Found(nemo_bundle(document, bundles[0].name, source, _lines(lines) if lines.is_file() else []))]


def _inspect(path: Path) -> list[Found]:
    if path.suffix != ".json":
        raise InvalidSpec(
            f"{path.name} is not a log as JSON; `inspect log convert --to json --output-dir DIR {path.name}` makes one."
        )
    task, _ = read_log(path)
    if all(answer.score is None for answer in task.answers):
        raise InvalidSpec(f"{path.name} holds no sample with a score; give the log of a run that ended.")
    return [Found(task)]


def read_log(path: Path, code: str = "") -> tuple[ImportedTask, str]:
    """One eval log of Inspect, and why its run did not come to its end ('' when it did).

    Args:
        path: of the log, as JSON.
        code: digest of the task's file, where it is known.

    Raises:
        InvalidSpec: it cannot be read, or is another tool's.
    """
    document, source = _document(path, json.loads)
    return inspect_task(document, path.name, source, code), ended_badly(document)


def _yaml(text: str) -> Any:
    # times and other values that JSON has no word for become text
    return json.loads(json.dumps(yaml.safe_load(text), default=str))


def _document(path: Path, parse: Callable[[str], Any]) -> tuple[Mapping[str, Any], str]:
    """A file's mapping, and the digest of its bytes."""
    text = _text(path)
    try:
        document = parse(text)
    except (ValueError, yaml.YAMLError) as error:
        kind = "YAML" if parse is _yaml else "JSON"
        raise InvalidSpec(f"{path} is not {kind}: {' '.join(str(error).split())}.") from error
    if not isinstance(document, dict):
        raise InvalidSpec(f"{path} holds no mapping; check the file and --format.")
    return document, "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _lines(path: Path) -> Lines:
    return [(f"{path.name}:{n}", _line(line, f"{path.name}:{n}")) for n, line in _numbered(_text(path).split("\n"))]


def _numbered(lines: Iterable[str]) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _line(line: str, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise InvalidSpec(f"{where} is not JSON: {error}; a run that was cut off leaves such a line.") from error
    if not isinstance(found, dict):
        raise InvalidSpec(f"{where} is not a JSON object; check the file and --format.")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InvalidSpec(f"{path} cannot be read ({said}); check the path.") from error
