"""Pictures as markup: what stands where, and that text in them is text."""

import xml.etree.ElementTree as ET

import pytest

from modelops_dagster.domain.pictures import Curve, Span, curves, intervals, short


def read(picture: str) -> ET.Element:
    return ET.fromstring(picture)  # noqa: S314 - drawn by us


def test_a_span_lies_where_its_numbers_say():
    drawn = read(intervals([Span(label="a", value=0.5, low=0.25, high=0.75, bar=0.4, tone="pass")]))
    (dot,) = drawn.iter("circle")
    span = next(e for e in drawn.iter("line") if e.get("class") == "span pass")
    assert [float(span.get("x1", 0)), float(dot.get("cx", 0)), float(span.get("x2", 0))] == [295.0, 370.0, 445.0]


def test_an_axis_is_widened_to_hold_everything():
    drawn = read(intervals([Span(label="a", value=-3.0)], low=-0.1, high=0.1, zero=True))
    (dot,) = drawn.iter("circle")
    assert float(dot.get("cx", 0)) == 220.0


@pytest.mark.parametrize("label", ["<b>&\"'", "x" * 100])
def test_labels_are_text(label: str):
    for drawn in (
        intervals([Span(label=label, value=0.5)]),
        curves([Curve(label=label, points=((1, 2), (2, 4)))], x_label=label, y_label=label),
    ):
        assert "<b>" not in drawn
        read(drawn)


def test_curves_start_at_zero_and_end_at_the_highest():
    drawn = read(curves([Curve(label="a", points=((0, 0), (4, 10)))], x_label="x", y_label="y"))
    (line,) = drawn.iter("polyline")
    assert line.get("points") == "56.0,162.0 356.0,12.0"


def test_labels_of_lines_that_end_together_stand_apart_and_above_the_axis():
    lines = [Curve(label=name, points=((0, 0), (4, y))) for name, y in (("low", 1), ("high", 100), ("lower", 0))]
    drawn = read(curves(lines, x_label="x", y_label="y"))
    at = {text.text: float(text.get("y", 0)) for text in drawn.iter("text")}
    assert at["lower"] == 162.0 + 4
    assert at["low"] <= at["lower"] - 13
    assert at["high"] == 12.0 + 4


def test_each_curve_is_named_in_its_own_colour():
    lines = [Curve(label=name, points=((0, 0), (4, y))) for name, y in (("low", 1), ("high", 100))]
    drawn = read(curves(lines, x_label="x", y_label="y"))
    colours = {text.text: text.get("class") for text in drawn.iter("text") if text.text in ("low", "high")}
    assert colours == {"low": "c0", "high": "c1"}


def test_numbers_of_an_axis_do_not_stand_on_each_other():
    drawn = read(curves([Curve(label="a", points=tuple((x, x) for x in (1, 2, 64)))], x_label="x", y_label="y"))
    below = [text.text for text in drawn.iter("text") if text.get("y") == "177"]
    assert sorted(below) == ["2", "64"]


def test_of_a_long_name_the_end_stays():
    names = [f"organisation/A-Model-Of-Some-Length-{size}-Instruct" for size in ("8B", "70B")]
    assert len({short(name) for name in names}) == 2
    assert {len(short(name)) for name in names} == {30}
    assert short("acme/tiny") == "acme/tiny"


def test_nothing_to_draw_is_an_empty_picture():
    read(curves([], x_label="x", y_label="y"))
