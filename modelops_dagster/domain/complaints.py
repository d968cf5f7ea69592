"""What does not hold in a file that a person wrote, in words that person knows."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

WORDS = {"a valid tuple": "a list", "a valid list": "a list", "a valid dictionary": "a mapping"}
"""Files are YAML or JSON, and know nothing of Python's types."""


def first_fault(error: ValidationError) -> tuple[str, str]:
    """(field, words) of the first thing that does not hold; the field is empty where it is the whole document.

    No value is told: somebody may have written a secret where its name belongs.
    """
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), plain(first)


def plain(fault: Mapping[str, Any]) -> str:
    """The words of one of `ValidationError.errors()`, as a clause without a full stop."""
    if fault["type"] == "extra_forbidden":
        return "this field is not known; check the spelling"
    if fault["type"] == "missing":
        return "this field is missing"
    said = str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
    if fault["type"] == "model_type":  # its message names a class of ours
        return "this has to be a mapping"
    for theirs, ours in WORDS.items():
        said = said.replace(theirs, ours)
    return said.replace("Input should be", "this has to be")
