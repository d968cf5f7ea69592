"""Spans of time as people write them: 30s, 15m, 24h, 7d."""

from datetime import timedelta
from typing import Any

import click

from modelops_dagster.domain.timespans import parse_span


class Duration(click.ParamType[timedelta]):
    """A whole number and a unit."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The span, or a usage error that says how to write one."""
        if isinstance(value, timedelta):
            return value
        span = parse_span(str(value))
        if span is None:
            self.fail(f"{value!r} is no duration; write a whole number and s, m, h or d, e.g. 7d.", param, ctx)
        return span


DURATION = Duration()
