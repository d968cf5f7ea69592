"""Reading what other tools write: nothing of it is taken on trust, and a damaged file is one sentence."""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.report import Metric

# two-sided 95 % of a normal distribution
Z_95 = 1.959964


def field(document: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str, tool: str) -> Any:
    """A field that the tool always writes.

    Raises:
        InvalidSpec: it is missing or of another type, so the file is damaged or another tool's.
    """
    value = document.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        what = "lacks" if value is None else "has another kind of"
        raise InvalidSpec(f"{where} {what} {name!r}, so it is not what {tool} writes; check the file and --format.")
    return value


def number(value: Any) -> float | None:
    """A finite number, or None; tools also write NaN, and words such as N/A."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def share(value: Any) -> float | None:
    """A score from 0 to 1, or None: a log-likelihood is no score of an answer."""
    found = number(value)
    return found if found is not None and 0 <= found <= 1 else None


def moment(text: str, where: str) -> datetime:
    """A time with its offset.

    Raises:
        InvalidSpec: it is none.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise InvalidSpec(f"{where} has the time {text!r}, which is no time with an offset; check the file.")
    return at


def with_stderr(name: str, value: float, stderr: float | None, n: int) -> Metric:
    """A metric with the normal 95 % interval of the standard error that the tool gives."""
    low, high = (None, None) if stderr is None else (value - Z_95 * stderr, value + Z_95 * stderr)
    return Metric(name=name, value=value, ci_low=low, ci_high=high, n=n)
