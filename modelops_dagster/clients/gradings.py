"""A table of gradings and labels as a CSV file, for calibrating a grader against people."""

import csv
from pathlib import Path
from typing import NamedTuple

from modelops_dagster.domain.errors import InvalidSpec

COLUMNS = ("grade", "human", "chance")


class Grading(NamedTuple):
    """One answer: the grader's score in [0, 1], a person's or None, and the chance it had of being shown to one."""

    grade: float
    human: float | None
    chance: float


def read_gradings(path: Path) -> list[Grading]:
    """The rows of a file with the columns `grade` and `human` (empty: not labelled) and, optionally, `chance`.

    Raises:
        InvalidSpec: the file is missing, or a line does not hold; names the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lacking = [c for c in COLUMNS[:2] if c not in (reader.fieldnames or ())]
            if lacking:
                raise InvalidSpec(
                    f"{path} has no column {lacking[0]!r}; give grade and human, and chance where routed."
                )
            return [_grading(row, f"{path}:{number}") for number, row in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"{path} cannot be read as CSV ({type(error).__name__}); check the path.") from error


def _grading(row: dict[str, str], where: str) -> Grading:
    values: list[float | None] = []
    for column in COLUMNS:
        text = (row.get(column) or "").strip()
        try:
            value = float(text) if text else None
        except ValueError:
            value = -1.0
        if value is not None and not 0 <= value <= 1:
            raise InvalidSpec(f"{where}: {column} is {text!r}; it has to be a number from 0 to 1.", field=column)
        values.append(value)
    grade, human, chance = values
    if grade is None:
        raise InvalidSpec(f"{where}: grade is empty; every answer needs one.", field="grade")
    return Grading(grade, human, 1.0 if chance is None else chance)
