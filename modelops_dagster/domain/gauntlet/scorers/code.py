"""Scorer for code: the function a completion holds is called elsewhere, and what it returned is compared here."""

import ast
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers.formats import same
from modelops_dagster.domain.gauntlet.scorers.score import Score
from modelops_dagster.domain.values import Value

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.S | re.I)


class Call(Value):
    """One call of the function, and what it has to return (tuples as lists, sets as sorted lists)."""

    args: tuple[Any, ...]
    want: Any


class UnitTestParams(Value):
    entry: str = Field(pattern=r"^[A-Za-z_]\w*$", description="name of the function")
    calls: tuple[Call, ...] = Field(min_length=2, max_length=50)
    seconds: float = Field(default=2, gt=0, le=30, description="processor seconds of all calls together")
    memory_mb: int = Field(default=512, ge=128, le=4096, description="address space of the process, MB")


@dataclass(frozen=True, slots=True)
class CodeOrder:
    """What is run: nothing in here says what the calls should return."""

    code: str
    entry: str
    calls: tuple[tuple[Any, ...], ...]
    seconds: float
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Execution:
    """What each call returned (`value`) or raised (`error`); `refused` when this machine cannot isolate code."""

    results: tuple[dict[str, Any], ...] = ()
    refused: str | None = None


Execute = Callable[[CodeOrder], Execution]


def code_in(answer: str, entry: str) -> str:
    """The fenced blocks that define the function or what it needs; without a fence, the whole answer."""
    blocks = [b.strip("\n") for b in _BLOCK.findall(answer)]
    if not blocks:
        return answer.strip()
    defining = [b for b in blocks if re.search(rf"^\s*(?:def|class)\s+{re.escape(entry)}\b", b, re.M)]
    return defining[-1] if defining else "\n\n".join(blocks)


def order_of(answer: str, params: UnitTestParams) -> CodeOrder:
    """The order that runs an answer."""
    return CodeOrder(
        code=code_in(answer, params.entry),
        entry=params.entry,
        calls=tuple(c.args for c in params.calls),
        seconds=params.seconds,
        memory_mb=params.memory_mb,
    )


def compared(params: UnitTestParams, results: Sequence[dict[str, Any]]) -> Score:
    """All calls return what they should: 1; anything else: 0, with the first call that does not."""
    for call, got in zip(params.calls, results, strict=True):
        shown = f"{params.entry}({', '.join(json.dumps(a) for a in call.args)})"[:120]
        if "value" not in got:
            return Score(0.0, f"{shown} ended with {str(got.get('error'))[:120]}")
        if not same(got["value"], call.want):
            return Score(0.0, f"{shown} gave {json.dumps(got['value'])[:80]} instead of {json.dumps(call.want)[:80]}")
    return Score(1.0, f"{len(params.calls)} calls returned what they should")


def not_alone(_: Sample, __: str, ___: UnitTestParams) -> Score:
    """Code is scored by `compared`, after it ran."""
    raise RuntimeError("the scorer 'unit_tests' needs an execution")


def check_unit_tests(sample: Sample, params: UnitTestParams) -> None:
    if len(sample.targets) != 1 or not sample.targets[0].strip():
        raise ValueError("target must be one solution that passes")
    try:
        ast.parse(sample.targets[0])
    except SyntaxError as error:
        raise ValueError(f"target is not Python: {error.msg} on line {error.lineno}") from None
    if f"def {params.entry}" not in sample.targets[0]:
        raise ValueError(f"target does not define {params.entry!r}")
