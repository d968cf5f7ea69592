"""Small pictures as inline SVG: intervals and curves. Colours come from the page's style sheet."""

import math
from collections.abc import Sequence
from html import escape

from pydantic import Field

from modelops_dagster.domain.policies import shown
from modelops_dagster.domain.values import Value

Point = tuple[float, float]
LABEL_HEIGHT, TICK_WIDTH = 13, 16


class Span(Value):
    """One row of a picture of intervals."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    bar: float | None = Field(default=None, description="what it is held against")
    tone: str = Field(default="plain", description="a class of the style sheet: pass, hold, fail or plain")


class Curve(Value):
    """One line of a picture of curves."""

    label: str
    points: tuple[Point, ...]


def intervals(spans: Sequence[Span], *, low: float = 0.0, high: float = 1.0, zero: bool = False) -> str:
    """One row per span: a dot, its interval as a line, its bar as a tick.

    Args:
        low, high: ends of the axis; widened to hold every span.
        zero: draw a line at zero, for differences.
    """
    ends = [e for s in spans for e in (s.value, s.low, s.high, s.bar) if e is not None]
    low, high = min([low, *ends]), max([high, *ends])
    left, width, row = 220, 300, 22
    height = row * len(spans) + 20

    def at(value: float) -> float:
        return left + width * (value - low) / ((high - low) or 1)

    parts = [_open(left + width + 90, height, "; ".join(f"{s.label} {shown(s.value)}" for s in spans))]
    for tick in _ticks(low, high):
        x = at(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 18}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 5}" text-anchor="middle">{tick:g}</text>')
    if zero:
        parts.append(f'<line class="axis" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="0" y2="{height - 18}"/>')
    for i, span in enumerate(spans):
        y = row * i + row / 2
        start, end = at(low if span.low is None else span.low), at(high if span.high is None else span.high)
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(short(span.label))}</text>')
        if span.low is not None or span.high is not None:
            parts.append(f'<line class="span {escape(span.tone)}" x1="{start:.1f}" x2="{end:.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="{escape(span.tone)}" cx="{at(span.value):.1f}" cy="{y}" r="4"/>')
        if span.bar is not None:
            x = at(span.bar)
            parts.append(f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8}" y2="{y + 8}"/>')
        parts.append(f'<text class="value" x="{left + width + 8}" y="{y + 4:.1f}">{shown(span.value)}</text>')
    return "".join([*parts, "</svg>"])


def curves(lines: Sequence[Curve], *, x_label: str, y_label: str) -> str:
    """Lines over a shared pair of axes that start at zero, each labelled at its end."""
    left, top, width, height = 56, 12, 300, 150
    points = [p for line in lines for p in line.points]
    x_high, y_high = max([x for x, _ in points], default=1) or 1, max([y for _, y in points], default=1) or 1

    def at(point: Point) -> str:
        return f"{left + width * point[0] / x_high:.1f},{top + height * (1 - point[1] / y_high):.1f}"

    parts = [_open(left + width + 110, top + height + 36, f"{y_label} by {x_label}")]
    for tick in _ticks(0, y_high):
        y = top + height * (1 - tick / y_high)
        parts.append(f'<line class="grid" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for x in _apart(sorted({x for x, _ in points}), TICK_WIDTH * x_high / width):
        parts.append(
            f'<text class="tick" x="{left + width * x / x_high:.1f}" y="{top + height + 15}" '
            f'text-anchor="middle">{x:g}</text>'
        )
    parts.append(f'<text class="tick" x="{left + width / 2}" y="{top + height + 31}" text-anchor="middle">')
    parts.append(f"{escape(x_label)}</text>")
    for i, line in enumerate(lines):
        path = " ".join(at(p) for p in line.points)
        parts.append(f'<polyline class="curve c{i % 4}" points="{path}"/>')
        parts.extend(
            f'<circle class="c{i % 4}" cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3"/>' for p in path.split()
        )
    # the lowest label stands at its line's end, those above it where there is room
    below = math.inf
    for line in sorted((line for line in lines if line.points), key=lambda line: line.points[-1][1]):
        below = min(top + height * (1 - line.points[-1][1] / y_high), below - LABEL_HEIGHT)
        tone = f"c{lines.index(line) % 4}"
        parts.append(
            f'<text class="{tone}" x="{left + width + 8}" y="{below + 4:.1f}">{escape(short(line.label))}</text>'
        )
    return "".join([*parts, "</svg>"])


def _apart(numbers: Sequence[float], least: float) -> list[float]:
    """Those of ascending numbers that are so far apart, the largest among them."""
    kept: list[float] = []
    for number in reversed(numbers):
        if not kept or kept[-1] - number >= least:
            kept.append(number)
    return kept


def short(label: str, room: int = 30) -> str:
    """What fits beside a picture. The middle goes: names of one kind begin alike, and differ at their ends."""
    if len(label) <= room:
        return label
    tail = (room - 1) * 3 // 5
    return f"{label[: room - 1 - tail]}…{label[-tail:]}"


def _open(width: float, height: float, text: str) -> str:
    # wide pictures shrink on a phone, small ones do not grow on a wall
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px" role="img" '
        f'aria-label="{escape(text, quote=True)}">'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers from `low` to `high`."""
    step = 10 ** math.floor(math.log10((high - low) or 1))
    step = next(s for s in (step / 5, step / 2, step, step * 2) if (high - low) / s <= 7)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]
