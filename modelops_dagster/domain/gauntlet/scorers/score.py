"""The shape all scorers share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.values import Value


@dataclass(frozen=True, slots=True)
class Score:
    """One sample's score: `value` in [0, 1], and why, as a sentence."""

    value: float
    explanation: str

    @classmethod
    def of(cls, holds: bool, explanation: str) -> "Score":
        return cls(1.0 if holds else 0.0, explanation)


@dataclass(frozen=True, slots=True)
class Scorer:
    """A pure function of (sample, answer, params). Raise `version` with every change that may move a score."""

    version: int
    params: type[Value]
    score: Callable[[Sample, str, Any], Score]
    check: Callable[[Sample, Any], None]
    """Raises ValueError with a sentence when the sample could never be answered right."""
