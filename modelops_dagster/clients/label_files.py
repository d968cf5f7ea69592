"""Tasks as a file that somebody fills in, and labels back from it: JSONL or CSV, by the ending of its name."""

import csv
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from modelops_dagster.clients.labels import Graded, said_by
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.grading import question_text
from modelops_dagster.domain.labels import SAID, Answer, Label, Task

COLUMNS = ("task", "question", "target", "criteria", "left", "right", "choices", "said", "comment", "author", "at")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_tasks(path: Path, tasks: Sequence[Task], graded: Graded) -> None:
    """One task a line, in the order to be labelled in, without a hint of whose answer it is. `said` is to be filled.

    Raises:
        InvalidSpec: the name ends neither in .jsonl nor in .csv, is taken, or cannot be written.
    """
    rows = [_row(task, graded) for task in tasks]
    is_csv = _is_csv(path)
    try:
        # a spreadsheet takes a file without this mark for an older encoding
        with path.open("x", encoding="utf-8-sig" if is_csv else "utf-8", newline="") as file:
            if not is_csv:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                return
            out = csv.DictWriter(file, COLUMNS)
            out.writeheader()
            # a spreadsheet would run what begins like a formula; none of these columns is read back
            out.writerows({k: f"'{v}" if v.startswith(FORMULA) else v for k, v in row.items()} for row in rows)
    except FileExistsError as error:
        raise InvalidSpec(f"{path} is there already, perhaps filled in; name another file.") from error
    except OSError as error:
        raise InvalidSpec(f"{path} cannot be written ({error.strerror}); name another file.") from error


def _row(task: Task, graded: Graded) -> dict[str, str]:
    sample, rubric = graded.samples[task.answer.item_uid]
    texts = [answer.text for answer in task.sides]
    return {
        "task": task.uid,
        "question": question_text(sample),
        "target": "\n".join(sample.targets),
        "criteria": "\n".join((rubric.asks, *(f"- {text}" for text in rubric.criteria.values()))),
        "left": texts[0],
        "right": texts[1] if len(texts) > 1 else "",
        "choices": " ".join(SAID[task.kind]),
        "said": "",
        "comment": "",
        "author": "",
        "at": "",
    }


def read_filled(path: Path, tasks: Sequence[Task], author: str) -> list[tuple[Label, Answer]]:
    """The labels of a file whose lines have `task` and `said`; empty ones are skipped.

    A line may name its own `author` and the time (`at`, ISO 8601 with an offset); `author` and now stand in.

    Raises:
        InvalidSpec: the file cannot be read, says nothing, or a line does not hold; then nothing of it is taken.
    """
    known = {task.uid: task for task in tasks}
    found = []
    for number, row in _lines(path):
        said = str(row.get("said") or "").strip().lower()
        if not said:
            continue
        where = f"{path}:{number}"
        task = known.get(str(row.get("task") or "").strip())
        if task is None:
            raise InvalidSpec(f"{where}: there is no task {row.get('task')!r}; export them again.", field="task")
        try:
            details: dict[str, Any] = {"comment": str(row.get("comment") or "").strip()}
            if at := str(row.get("at") or "").strip():
                details["labelled_at"] = _time(at)
            label = said_by(task, said, str(row.get("author") or "").strip() or author, **details)
        except ValueError as error:
            raise InvalidSpec(f"{where}: {' '.join(str(error).split())}.", field="said") from error
        found.append((label, task.answer))
    if not found:
        raise InvalidSpec(
            f"No line of {path} says anything: fill the column `said` with one of `choices`.", field="said"
        )
    return found


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"the time {text} has no offset, as in 2026-01-31T12:00:00+00:00")
    return at


def _lines(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    is_csv = _is_csv(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if is_csv:
                header = file.readline()
                file.seek(0)
                # spreadsheets write the separator of their country
                reader = csv.DictReader(file, delimiter=max(",;\t", key=header.count))
                lacking = [name for name in ("task", "said") if name not in (reader.fieldnames or ())]
                if lacking:
                    raise InvalidSpec(f"{path} has no column {lacking[0]!r}; export the tasks again.", field=lacking[0])
                return [(number, row) for number, row in enumerate(reader, start=2)]
            out: list[tuple[int, Mapping[str, Any]]] = []
            for number, line in enumerate(file, start=1):
                row = json.loads(line) if line.strip() else {}
                if not isinstance(row, dict):
                    raise InvalidSpec(f"{path}:{number} is not a JSON object.")
                out.append((number, row))
            return out
    except json.JSONDecodeError as error:
        raise InvalidSpec(f"{path}:{number} is not JSON: {error.msg}.") from error
    except csv.Error as error:
        raise InvalidSpec(f"{path} is not CSV: {error}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{path} cannot be read ({type(error).__name__}); check the path.") from error


def _is_csv(path: Path) -> bool:
    if path.suffix not in (".jsonl", ".csv"):
        raise InvalidSpec(f"{path.name} ends neither in .jsonl nor in .csv; name such a file.", field="file")
    return path.suffix == ".csv"
