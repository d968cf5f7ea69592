"""Spans and moments as people write them: 30s, 15m, 24h, 7d, or an ISO 8601 time."""

import re
from datetime import UTC, datetime, timedelta

from modelops_dagster.domain.errors import InvalidSpec

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SPAN = re.compile(r"(\d{1,6})([smhd])", re.ASCII)


def parse_span(text: str) -> timedelta | None:
    """The span, or None when `text` is none: a whole number and s, m, h or d."""
    found = _SPAN.fullmatch(text)
    return timedelta(**{UNITS[found[2]]: int(found[1])}) if found else None


def parse_moment(text: str, now: datetime, field: str) -> datetime:
    """The moment, UTC: an ISO 8601 time (without an offset it is UTC), or how long ago it was.

    Raises:
        InvalidSpec: it is neither, or lies outside the years that can be told.
    """
    span = parse_span(text)
    try:
        if span is not None:
            return now - span
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidSpec(
            f"{field}={text!r} is no time; write how long ago (24h, 7d) or a time such as 2026-05-01T12:00:00Z.",
            field=field,
        ) from None
