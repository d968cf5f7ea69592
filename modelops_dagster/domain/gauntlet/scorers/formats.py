"""Scorers for the form of an answer: members of a JSON object, and instructions a program can check."""

import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers.answers import compiled
from modelops_dagster.domain.gauntlet.scorers.score import Score
from modelops_dagster.domain.gauntlet.text import normal
from modelops_dagster.domain.values import Value

JsonType = Literal["string", "number", "integer", "boolean", "array", "object", "null"]
_MISSING = object()


def json_type(value: object) -> str:
    """The JSON name of a parsed value's type; a whole number is an `integer`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    return {float: "number", str: "string", list: "array", dict: "object"}[type(value)]


class FieldRule(Value):
    """What one member must be. Rules that are not given do not apply."""

    type: JsonType | None = None
    equals: Any = Field(default=_MISSING)
    one_of: tuple[Any, ...] | None = None
    pattern: str | None = None
    min: float | None = None
    max: float | None = None
    min_items: int | None = None
    max_items: int | None = None
    required: bool = True

    def fault(self, value: object) -> str | None:
        """Why the value breaks the rule, or None."""
        kind = json_type(value)
        if self.type is not None and kind != self.type and not (self.type == "number" and kind == "integer"):
            return f"is {kind}, not {self.type}"
        if "equals" in self.model_fields_set and not same(value, self.equals):
            return f"is {value!r}, not {self.equals!r}"
        if self.one_of is not None and not any(same(value, v) for v in self.one_of):
            return f"is {value!r}, none of {list(self.one_of)!r}"
        if self.pattern is not None and not (isinstance(value, str) and compiled(self.pattern).search(value)):
            return f"does not match {self.pattern!r}"
        if self.min is not None or self.max is not None:
            if isinstance(value, bool) or not isinstance(value, int | float):
                return "is not a number"
            if (
                not (self.min if self.min is not None else -math.inf)
                <= value
                <= (self.max if self.max is not None else math.inf)
            ):
                return f"is {value:g}, outside {self.min} to {self.max}"
        if self.min_items is not None or self.max_items is not None:
            if not isinstance(value, list):
                return "is not an array"
            if (
                not (self.min_items or 0)
                <= len(value)
                <= (self.max_items if self.max_items is not None else len(value))
            ):
                return f"has {len(value)} items"
        return None


class JsonFieldsParams(Value):
    fields: dict[str, FieldRule] = Field(default_factory=dict)
    only_json: bool = False
    extra: bool = True

    @model_validator(mode="after")
    def _patterns_compile(self) -> Self:
        for rule in self.fields.values():
            if rule.pattern is not None:
                compiled(rule.pattern)
        return self


def same(left: object, right: object) -> bool:
    """JSON equality: 1 equals 1.0, true does not equal 1, texts are compared in normal form."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return math.isclose(left, right, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(left, str) and isinstance(right, str):
        return normal(left) == normal(right)
    if isinstance(left, list) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    return left == right


def _objects(text: str) -> Iterator[tuple[dict[str, Any], int, int]]:
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            at = text.find("{", at + 1)
            continue
        if isinstance(value, dict):
            yield value, at, end
        at = text.find("{", end)


def member(value: object, path: str) -> object:
    """The value at a dotted path (`items.0.price`), or a sentinel that `is _MISSING`."""
    for step in path.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return _MISSING
    return value


def json_fields(sample: Sample, answer: str, params: JsonFieldsParams) -> Score:
    found = next(_objects(answer), None)
    if found is None:
        return Score(0.0, "no JSON object")
    value, start, end = found
    if params.only_json and (answer[:start].strip() or answer[end:].strip()):
        return Score(0.0, "text around the JSON object")
    wanted: dict[str, Any] = json.loads(sample.targets[0]) if sample.targets and sample.targets[0].strip() else {}
    for key, expected in wanted.items():
        if key not in value:
            return Score(0.0, f"{key!r} is missing")
        if not same(value[key], expected):
            return Score(0.0, f"{key!r} is {value[key]!r}, not {expected!r}")
    for path, rule in params.fields.items():
        got = member(value, path)
        if got is _MISSING:
            if rule.required:
                return Score(0.0, f"{path!r} is missing")
            continue
        if fault := rule.fault(got):
            return Score(0.0, f"{path!r} {fault}")
    if not params.extra:
        known = set(wanted) | {path.split(".")[0] for path in params.fields}
        if others := sorted(set(value) - known):
            return Score(0.0, f"unexpected {others[0]!r}")
    return Score(1.0, "every field holds")


def check_json_fields(sample: Sample, params: JsonFieldsParams) -> None:
    target = sample.targets[0] if sample.targets else ""
    if target.strip():
        try:
            wanted = json.loads(target)
        except json.JSONDecodeError as error:
            raise ValueError(f"target is not JSON: {error}") from None
        if not isinstance(wanted, dict):
            raise ValueError("target is not a JSON object")
    elif not params.fields:
        raise ValueError("neither target nor fields: every JSON object would pass")


class FormatCheck(Value):
    """One instruction a program can check."""

    check: str
    min: int | None = None
    max: int | None = None
    exactly: int | None = None
    text: str | None = None
    texts: tuple[str, ...] = ()
    at_least: int = 1
    pattern: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.check in _COUNTS:
            if self.min is None and self.max is None and self.exactly is None:
                raise ValueError(f"{self.check} needs min, max or exactly")
        elif self.check in ("starts_with", "ends_with"):
            if not self.text:
                raise ValueError(f"{self.check} needs text")
        elif self.check in ("includes", "excludes"):
            if not self.texts:
                raise ValueError(f"{self.check} needs texts")
        elif self.check == "matches":
            if self.pattern is None:
                raise ValueError("matches needs a pattern")
            compiled(self.pattern)
        elif self.check not in _PREDICATES:
            raise ValueError(f"{self.check!r} is not a format check")
        return self


class FormatParams(Value):
    checks: tuple[FormatCheck, ...] = Field(min_length=1)


def _lines(text: str, pattern: str) -> int:
    return sum(1 for line in text.splitlines() if re.match(pattern, line))


def _is_json(text: str) -> bool:
    try:
        json.loads(re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip()))
    except (json.JSONDecodeError, RecursionError):
        return False
    return True


def _title_case(text: str) -> bool:
    words = [w for w in re.findall(r"[^\s]+", text) if w[0].isalpha()]
    return bool(words) and all(w[0].isupper() for w in words)


_COUNTS: dict[str, Callable[[str], int]] = {
    "word_count": lambda t: len(re.findall(r"\w+(?:[-'’]\w+)*", t)),
    "sentence_count": lambda t: len([s for s in re.split(r"[.!?]+(?=\s|$)", t) if s.strip(" \n\"'*")]),
    "line_count": lambda t: sum(1 for line in t.splitlines() if line.strip()),
    "paragraph_count": lambda t: len([p for p in re.split(r"\n\s*\n", t) if p.strip()]),
    "bullet_count": lambda t: _lines(t, r"\s*[-*•]\s+\S"),
    "numbered_count": lambda t: _lines(t, r"\s*\d+[.)]\s+\S"),
    "char_count": len,
}
_PREDICATES: dict[str, Callable[[str], bool]] = {
    "all_lowercase": lambda t: any(c.isalpha() for c in t) and t == t.lower(),
    "all_uppercase": lambda t: any(c.isalpha() for c in t) and t == t.upper(),
    "title_case": _title_case,
    "no_digits": lambda t: not any(c.isdigit() for c in t),
    "no_commas": lambda t: "," not in t,
    "only_ascii": str.isascii,
    "quoted": lambda t: len(t) > 2 and t[0] in '"“' and t[-1] in '"”',
    "json": _is_json,
}


def _format_fault(text: str, rule: FormatCheck) -> str | None:
    if rule.check in _COUNTS:
        n = _COUNTS[rule.check](text)
        low = rule.exactly if rule.exactly is not None else (rule.min or 0)
        high = rule.exactly if rule.exactly is not None else rule.max
        return None if n >= low and (high is None or n <= high) else f"{rule.check} is {n}"
    if rule.check in _PREDICATES:
        return None if _PREDICATES[rule.check](text) else f"{rule.check} does not hold"
    flat = normal(text)
    if rule.check == "matches":
        return None if compiled(rule.pattern or "").search(text) else f"does not match {rule.pattern!r}"
    if rule.check == "starts_with":
        return None if flat.startswith(normal(rule.text or "")) else f"does not start with {rule.text!r}"
    if rule.check == "ends_with":
        return None if flat.endswith(normal(rule.text or "")) else f"does not end with {rule.text!r}"
    counts = {t: flat.count(normal(t)) for t in rule.texts}
    if rule.check == "excludes":
        return next((f"contains {t!r}" for t, n in counts.items() if n), None)
    return next((f"has {t!r} {n} times" for t, n in counts.items() if n < rule.at_least), None)


def form(_: Sample, answer: str, params: FormatParams) -> Score:
    text = answer.strip()
    faults = [fault for rule in params.checks if (fault := _format_fault(text, rule))]
    return Score.of(bool(text) and not faults, "; ".join(faults) or "every instruction followed")


def check_form(_: Sample, params: FormatParams) -> None:
    for rule in params.checks:
        if rule.min is not None and rule.max is not None and rule.min > rule.max:
            raise ValueError(f"{rule.check}: min {rule.min} is above max {rule.max}")
