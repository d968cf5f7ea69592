"""The scorer for answers that no code can check: a suite's rubric, put to a grader or to a person."""

from pydantic import Field

from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers.score import Score
from modelops_dagster.domain.values import Value


class RubricParams(Value):
    rubric: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="name of one of the suite's rubrics")


def not_by_code(sample: Sample, answer: str, params: RubricParams) -> Score:
    """A rubric has no verdict of its own: `score_completion` leaves its answers ungraded."""
    raise AssertionError("answers to a rubric are graded, not scored")


def check_rubric(sample: Sample, params: RubricParams) -> None:
    """The suite's loader sees to it that the rubric exists; a sample alone cannot."""
