"""The first thing that does not hold in a document, as one sentence for whoever wrote it."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from modelops_dagster.domain.errors import InvalidSpec

MISSING = "missing"  # as pydantic calls it
RULE = "rule"
"""Type of the errors of `rules.py`, which say what is wrong with the field as the rest of a sentence about it."""


def first_complaint(errors: Sequence[Mapping[str, Any]], *, skip: int = 0) -> tuple[str | None, str]:
    """(field, sentence) of the first validation error.

    Args:
        errors: as `ValidationError.errors()` returns them.
        skip: parts at the beginning of each location that are not of the document.
    """
    first = errors[0]
    field = ".".join(str(part) for part in first["loc"][skip:]) or None
    said = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    if first["type"] == "extra_forbidden":
        return field, f"{field} is not a field of this document; remove it."
    if first["type"] == MISSING:
        return field, f"{field or 'The body'} is missing."
    if first["type"] == RULE:
        return field, f"{field} {said}."
    return field, f"{field}: {said}." if field else f"{said}."


def invalid_spec(error: ValidationError, where: str = "") -> InvalidSpec:
    """The same as an error, with the place the document came from."""
    field, sentence = first_complaint(error.errors())
    more = error.error_count() - 1
    rest = f" ({more} more do{'es' if more == 1 else ''} not hold either.)" if more else ""
    return InvalidSpec(f"{where}: {sentence}{rest}" if where else sentence + rest, field=field)
