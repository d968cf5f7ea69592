"""Scorers for an answer that is known: a text, a number, a pattern, a letter, a set of items."""

import re
from collections import Counter
from functools import lru_cache
from typing import Literal

from pydantic import Field, field_validator

from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers.score import Score
from modelops_dagster.domain.gauntlet.text import normal, occurs, plain
from modelops_dagster.domain.values import Value

_NUMBER = re.compile(
    r"(?<![\w./])(?P<sign>-(?=\s?[$€£]?\d|\.\d))?\s?[$€£]?\s?(?P<neg>-)?"
    r"(?P<whole>\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?P<part>\.\d+)?(?P<exp>[eE][-+]?\d+)?(?:\s?/\s?(?P<under>\d+)(?![\d/]))?"
)
_PUNCTUATION = " \t.,;:!?\"'()[]{}"


def check_targets(sample: Sample, _: Value) -> None:
    if not any(t.strip() for t in sample.targets):
        raise ValueError("target is empty")


class ExactParams(Value):
    case_sensitive: bool = False


def exact(sample: Sample, answer: str, params: ExactParams) -> Score:
    given = normal(answer, case_sensitive=params.case_sensitive).strip(_PUNCTUATION)
    for target in sample.targets:
        if given == normal(target, case_sensitive=params.case_sensitive).strip(_PUNCTUATION):
            return Score(1.0, f"equals {target!r}")
    return Score(0.0, f"{given[:80]!r} is none of the targets")


class IncludesParams(Value):
    match: Literal["any", "all"] = "any"
    whole_words: bool = True
    case_sensitive: bool = False
    excludes: tuple[str, ...] = ()


def includes(sample: Sample, answer: str, params: IncludesParams) -> Score:
    given = normal(answer, case_sensitive=params.case_sensitive)

    def has(text: str) -> bool:
        return occurs(normal(text, case_sensitive=params.case_sensitive), given, whole_words=params.whole_words)

    unwanted = next((t for t in params.excludes if has(t)), None)
    if unwanted is not None:
        return Score(0.0, f"contains {unwanted!r}")
    found = [t for t in sample.targets if has(t)]
    if params.match == "any":
        return Score.of(bool(found), f"contains {found[0]!r}" if found else "contains none of the targets")
    missing = [t for t in sample.targets if t not in found]
    return Score.of(not missing, f"lacks {missing[0]!r}" if missing else "contains every target")


def check_includes(sample: Sample, params: IncludesParams) -> None:
    check_targets(sample, params)
    for text in params.excludes:
        if any(
            occurs(normal(text), normal(t), whole_words=params.whole_words)
            and (params.match == "all" or len(sample.targets) == 1)
            for t in sample.targets
        ):
            raise ValueError(f"no answer can pass: the target contains the excluded {text!r}")


def numbers_in(text: str) -> list[float]:
    """Every number of the text, in order. Thousands separators, currency signs, exponents and fractions are read."""
    out = []
    for found in _NUMBER.finditer(text):
        whole, part = found["whole"], found["part"]
        if whole is None and part is None:
            continue
        value = float((whole or "0").replace(",", "") + (part or "") + (found["exp"] or ""))
        if found["under"] and float(found["under"]):
            value /= float(found["under"])
        out.append(-value if found["sign"] or found["neg"] else value)
    return out


@lru_cache(maxsize=4096)
def _only_number(target: str) -> float:
    return numbers_in(target)[0]


class NumericParams(Value):
    tolerance: float = Field(default=1e-6, ge=0, description="absolute")
    rel_tolerance: float = Field(default=0, ge=0, description="share of the target")
    which: Literal["last", "first", "only", "any"] = "last"
    after: str | None = Field(default=None, description="the number is sought after the last occurrence of this text")


def numeric(sample: Sample, answer: str, params: NumericParams) -> Score:
    text = plain(answer)
    if params.after:
        at = text.casefold().rfind(params.after.casefold())
        text = text[at + len(params.after) :] if at >= 0 else text
    found = numbers_in(text)
    if not found:
        return Score(0.0, "no number")
    if params.which == "only" and len(set(found)) > 1:
        return Score(0.0, f"{len(found)} numbers instead of one")
    candidates = found if params.which == "any" else [found[-1] if params.which == "last" else found[0]]
    for target in sample.targets:
        wanted = _only_number(target)
        limit = max(params.tolerance, params.rel_tolerance * abs(wanted)) + 1e-12 * abs(wanted)
        if any(abs(c - wanted) <= limit for c in candidates):
            return Score(1.0, f"{wanted:g} within {limit:g}")
    return Score(0.0, f"{candidates[0]:g} instead of {' or '.join(sample.targets)}")


def check_numeric(sample: Sample, params: NumericParams) -> None:
    check_targets(sample, params)
    for target in sample.targets:
        if len(numbers_in(target)) != 1:
            raise ValueError(f"target {target!r} is not one number")


class RegexParams(Value):
    match: Literal["search", "fullmatch"] = "search"
    flags: str = Field(default="i", pattern="^[ims]*$")
    excludes: tuple[str, ...] = ()

    @field_validator("excludes")
    @classmethod
    def _compile(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            compiled(pattern)
        return value


def compiled(pattern: str, flags: str = "") -> re.Pattern[str]:
    """Compile, with a ValueError that shows the pattern.

    Raises:
        ValueError: the pattern is not a regular expression.
    """
    bits = re.RegexFlag(0)
    for letter in flags:
        bits |= {"i": re.I, "m": re.M, "s": re.S}[letter]
    try:
        return re.compile(pattern, bits)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None


def regex(sample: Sample, answer: str, params: RegexParams) -> Score:
    text = plain(answer)
    unwanted = next((p for p in params.excludes if compiled(p, params.flags).search(text)), None)
    if unwanted is not None:
        return Score(0.0, f"matches the excluded {unwanted!r}")
    for pattern in sample.targets:
        if getattr(compiled(pattern, params.flags), params.match)(text):
            return Score(1.0, f"matches {pattern!r}")
    return Score(0.0, "matches no pattern")


def check_regex(sample: Sample, params: RegexParams) -> None:
    check_targets(sample, params)
    for pattern in sample.targets:
        compiled(pattern, params.flags)


class ChoiceParams(Value):
    pass


_LETTER_ALONE = re.compile(r"\(?([A-Z])\)?[.):]?")
_LETTER_FIRST = re.compile(r"(?:\(([A-Z])\)|([A-Z])[.):])(?=\s|$)")
_LETTER_NAMED = re.compile(r"\b(?:answer|choice|option|letter)(?: is|:|\s)+(?:option )?\(?([A-Z])\)?(?![\w'])", re.I)


def chosen_letter(text: str, choices: tuple[str, ...]) -> str | None:
    """The letter an answer settles on, or None when it settles on none or on several."""
    text = plain(text)
    if alone := _LETTER_ALONE.fullmatch(text):
        return alone[1]
    named = [m[1] for m in _LETTER_NAMED.finditer(text) if m[1].isupper()]
    if named:
        return named[-1] if len(set(named)) == 1 else None
    if first := _LETTER_FIRST.match(text):
        return first[1] or first[2]
    flat = normal(text).strip(_PUNCTUATION)
    named_texts = [i for i, c in enumerate(choices) if occurs(normal(c).strip(_PUNCTUATION), flat)]
    longest = [
        i for i in named_texts if not any(i != j and normal(choices[i]) in normal(choices[j]) for j in named_texts)
    ]
    return chr(65 + longest[0]) if len(longest) == 1 else None


def choice(sample: Sample, answer: str, _: ChoiceParams) -> Score:
    letter = chosen_letter(answer, sample.choices or ())
    if letter is None:
        return Score(0.0, "settles on no single choice")
    return Score.of(letter in sample.targets, f"chose {letter}")


def check_choice(sample: Sample, _: ChoiceParams) -> None:
    if not sample.choices:
        raise ValueError("the scorer 'choice' needs choices")
    letters = {chr(65 + i) for i in range(len(sample.choices))}
    if not set(sample.targets) <= letters:
        raise ValueError(f"target {sample.target!r} is not a letter of the {len(letters)} choices")


class SetParams(Value):
    ordered: bool = False
    partial: bool = Field(default=False, description="score the F1 of the items instead of all or nothing")


_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_SEPARATOR = re.compile(r"[,;\n]|\s+and\s+|\s+&\s+")


def items_in(text: str) -> list[str]:
    """The items of a list as a person writes one; a lead-in that ends with a colon is dropped."""
    lines = [_BULLET.sub("", line) for line in text.translate({0x2022: "-"}).splitlines()]
    lines = [line.rsplit(":", 1)[1] if ":" in line else line for line in map(plain, lines)]
    parts = _SEPARATOR.split("\n".join(line for line in lines if line.strip()))
    items = [re.sub(r"^and\s+", "", normal(p)).strip(_PUNCTUATION) for p in parts]
    return [item for item in items if item]


def item_set(sample: Sample, answer: str, params: SetParams) -> Score:
    given = items_in(answer)
    wanted = [normal(t).strip(_PUNCTUATION) for t in sample.targets]
    if params.ordered:
        return Score.of(given == wanted, f"{given} in order" if given == wanted else f"{given} instead of {wanted}")
    shared = sum((Counter(set(given)) & Counter(set(wanted))).values())
    f1 = 2 * shared / (len(set(given)) + len(set(wanted))) if given else 0.0
    said = f"{shared} of {len(set(wanted))} items, {len(set(given)) - shared} others"
    return Score(f1 if params.partial else float(f1 == 1.0), said)
