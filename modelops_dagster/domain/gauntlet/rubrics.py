"""Rubrics: what a grader or a person looks for in an answer, and the points that make it pass."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.values import Value

RUBRIC = "rubric"
"""Name of the scorer whose answers are graded."""

CriterionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
Steps = Annotated[tuple[str, ...], Field(min_length=2, max_length=7, description="points, the worst first")]


class Rubric(Value):
    """Criteria on one scale. An answer passes when every criterion has at least `pass_at` points."""

    asks: str = Field(min_length=1, description="what is being judged, as a sentence to the grader")
    criteria: Mapping[CriterionName, str] = Field(
        min_length=1, max_length=8, description="what must hold, by name; each gets points by itself"
    )
    scale: Steps = (
        "It does not hold.",
        "It holds in part, with a fault that matters.",
        "It holds, with a fault that does not matter.",
        "It holds entirely.",
    )
    pass_at: int = Field(default=3, ge=2, description="points from which a criterion is met; the worst step has 1")

    @model_validator(mode="after")
    def _can_fail(self) -> Self:
        if self.pass_at > len(self.scale):
            raise ValueError(f"pass_at is {self.pass_at}, and the scale has {len(self.scale)} steps")
        if "reason" in self.criteria:
            raise ValueError("a criterion may not be named 'reason': the grader answers with that key")
        return self

    def passes(self, points: Mapping[str, int]) -> bool:
        """Whether points, one entry per criterion from 1 up, make an answer good enough."""
        return all(points[name] >= self.pass_at for name in self.criteria)


def rubric_of(sample: Sample) -> str | None:
    """The name of the rubric that a sample is graded by; None when code scores it."""
    return str(sample.metadata.params["rubric"]) if sample.metadata.scorer == RUBRIC else None
