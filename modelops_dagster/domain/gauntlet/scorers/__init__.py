"""The scorers, and the one place where a completion becomes an outcome class and a score."""

from dataclasses import dataclass
from functools import lru_cache

from pydantic import ValidationError

from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.report import OutcomeClass
from modelops_dagster.domain.gauntlet.rubrics import RUBRIC
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers import answers, code, formats, refusals, rubric
from modelops_dagster.domain.gauntlet.scorers.code import Execute
from modelops_dagster.domain.gauntlet.scorers.score import Score, Scorer
from modelops_dagster.domain.gauntlet.text import split_reasoning
from modelops_dagster.domain.values import Value

SCORERS: dict[str, Scorer] = {
    "exact": Scorer(1, answers.ExactParams, answers.exact, answers.check_targets),
    "includes": Scorer(1, answers.IncludesParams, answers.includes, answers.check_includes),
    "numeric": Scorer(1, answers.NumericParams, answers.numeric, answers.check_numeric),
    "regex": Scorer(1, answers.RegexParams, answers.regex, answers.check_regex),
    "choice": Scorer(1, answers.ChoiceParams, answers.choice, answers.check_choice),
    "set": Scorer(1, answers.SetParams, answers.item_set, answers.check_targets),
    "json_fields": Scorer(1, formats.JsonFieldsParams, formats.json_fields, formats.check_json_fields),
    "format": Scorer(1, formats.FormatParams, formats.form, formats.check_form),
    "refusal": Scorer(1, refusals.RefusalParams, refusals.refusal, refusals.check_refusal),
    "abstain": Scorer(1, refusals.AbstainParams, refusals.abstain, refusals.check_abstain),
    "unit_tests": Scorer(1, code.UnitTestParams, code.not_alone, code.check_unit_tests),
    RUBRIC: Scorer(1, rubric.RubricParams, rubric.not_by_code, rubric.check_rubric),
}
SCORER_VERSIONS = {name: scorer.version for name, scorer in SCORERS.items()}


@dataclass(frozen=True, slots=True)
class Scored:
    """`score` is None when the completion cannot be scored; it is then missing, never wrong."""

    outcome_class: OutcomeClass
    score: float | None
    explanation: str


def scorer_params(sample: Sample) -> Value:
    """The typed parameters of the sample's scorer.

    Raises:
        ValueError: no such scorer, a parameter it does not know, or a sample nothing could answer right.
    """
    name = sample.metadata.scorer
    scorer = SCORERS.get(name)
    if scorer is None:
        raise ValueError(f"scorer {name!r} does not exist; use one of {', '.join(SCORERS)}")
    try:
        params = _typed(name, sample.metadata.canonical_params)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["params", *map(str, first["loc"])])
        raise ValueError(f"{where} of scorer {name!r} does not hold: {first['msg']}") from None
    scorer.check(sample, params)
    return params


@lru_cache(maxsize=4096)
def _typed(scorer: str, params: str) -> Value:
    return SCORERS[scorer].params.model_validate_json(params)


def runs_code(sample: Sample) -> bool:
    """Whether scoring the sample runs what the model wrote."""
    return sample.metadata.scorer == "unit_tests"


def score_completion(sample: Sample, completion: Completion, execute: Execute | None = None) -> Scored:
    """Classify and score one completion of a sample that `scorer_params` accepts. `execute` runs code, in isolation.

    No answer because the machinery failed is `infra_error`, and reasoning the token limit cut off is `truncated`:
    both without a score. An empty answer scores 0 as `empty`; an answer the limit cut short scores 0 as `truncated`
    unless what is there is already right. Code that may not be run here is `unscored`. Every answer to a rubric, an
    empty one too, is `ungraded` until a grader has judged it.
    """
    if not completion.is_ok:
        return Scored("infra_error", None, f"{completion.error}: {completion.error_detail}".rstrip(": "))
    if completion.reasoning_is_cut:
        return Scored("truncated", None, "the reasoning was opened and never closed")
    parts = split_reasoning(completion.text)
    cut = completion.finish_reason == "length"
    if sample.metadata.scorer == RUBRIC and parts.is_finished and (parts.answer or not cut):
        return Scored("ungraded", None, "nobody has judged it yet")
    if not parts.answer:
        if cut and (parts.thought or completion.reasoning or not parts.is_finished):
            return Scored("truncated", None, "the token limit came before the reasoning ended")
        return Scored("empty", 0.0, "the completion is empty")
    if not parts.is_finished:
        return Scored("truncated", None, "the reasoning was opened and never closed")
    meta = sample.metadata
    params = _typed(meta.scorer, meta.canonical_params)
    scored: Score
    if isinstance(params, code.UnitTestParams):
        if execute is None:
            return Scored("unscored", None, "nothing to run code with was given")
        ran = execute(code.order_of(parts.answer, params))
        if ran.refused is not None:
            return Scored("unscored", None, f"code is not run on this machine: {ran.refused}")
        scored = code.compared(params, ran.results)
    else:
        scored = SCORERS[meta.scorer].score(sample, parts.answer, params)
    if scored.value >= 1:
        return Scored("correct", scored.value, scored.explanation)
    if sample.metadata.expected != "refuse" and refusals.refuses(parts.answer):
        return Scored("refused", scored.value, scored.explanation)
    if cut and sample.metadata.expected != "refuse":
        return Scored("truncated", scored.value, f"{scored.explanation}; cut by the token limit")
    return Scored("wrong", scored.value, scored.explanation)


__all__ = [
    "SCORERS",
    "SCORER_VERSIONS",
    "Execute",
    "Score",
    "Scored",
    "Scorer",
    "runs_code",
    "score_completion",
    "scorer_params",
]
