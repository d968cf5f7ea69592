"""The comparison with the incumbent inside a decision: which pairs, which outcome, and what the sentence says."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.report import Metric
from modelops_dagster.domain.policies import MarginRule, Policy, Rule
from modelops_dagster.domain.verdicts import Arms, Case, SuiteEvidence, Verdict, compare_arms, decide
from tests.fakes.paired_worlds import INCUMBENT, NOW, World, draw, judged, margin_policy, rates, row

FIVE = MarginRule(suite="quality", margin=0.05, icc=0)
Rows = list[dict[str, Any]]


def arms_of(better: int, worse: int, same: int, **changes: Any) -> tuple[Rows, Rows]:
    """Rows of both arms, in an order in which what differs is spread evenly."""
    kinds = [(1.0, 0.0)] * better + [(0.0, 1.0)] * worse + [(1.0, 1.0)] * same
    order = np.random.default_rng(2).permutation(len(kinds))
    candidate = [row(i, kinds[k][0], i, **changes) for i, k in enumerate(order)]
    return candidate, [row(i, kinds[k][1], i, **changes) for i, k in enumerate(order)]


def compare(candidate: Rows, incumbent: Rows, rule: MarginRule = FIVE, **who: Any) -> Any:
    return compare_arms(rule, Arms(candidate, incumbent, INCUMBENT.model_copy(update=who)), 0.02)


# -- pairs ------------------------------------------------------------------------------------------------------------


def test_samples_are_paired_by_what_they_ask() -> None:
    candidate, incumbent = arms_of(3, 9, 288)
    plain = compare(candidate, incumbent)
    more = [row(1000, 0.0, 300), *reversed(incumbent)]
    assert compare(candidate, more) == plain
    assert (plain.better, plain.worse, plain.n) == (3, 9, 300)


def test_epochs_are_averaged_before_anything_else() -> None:
    candidate, incumbent = arms_of(0, 0, 300)
    again = [r | {"epoch": 1, "turn": 300 + r["turn"], "score": float(i > 0)} for i, r in enumerate(candidate)]
    found = compare(candidate + again, incumbent + [r | {"epoch": 1, "turn": 300 + r["turn"]} for r in incumbent])
    assert found.n == 300
    assert found.difference == pytest.approx(-0.5 / 300)
    assert found.method == "clustered_t"


def test_another_instrument_is_refused() -> None:
    candidate, incumbent = arms_of(3, 9, 288)
    other = [r | {"instrument": "sha256:other"} for r in incumbent]
    with pytest.raises(InvalidSpec, match="different instruments are not compared"):
        compare(candidate, other)
    with pytest.raises(InvalidSpec, match="different instruments"):
        compare(candidate, other[:5] + incumbent[5:])


def test_a_margin_that_so_few_samples_cannot_show_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"below what 100 samples can show \(0\.079.* ask 248 samples"):
        compare(*arms_of(3, 3, 94))
    assert compare(*arms_of(3, 3, 94), FIVE.model_copy(update={"tier": "advisory"})).detectable == pytest.approx(0.0786)


def test_a_rule_may_read_refusals_of_some_samples_only() -> None:
    candidate, incumbent = arms_of(0, 0, 300)
    for i in range(12):
        candidate[i] |= {"outcome_class": "refused"}
        candidate[100 + i] |= {"expected": "refuse", "outcome_class": "refused"}
    rule = MarginRule(suite="quality", measure="not_refused", expected="answer", margin=0.05, icc=0, discordance=0.05)
    found = compare(candidate, incumbent, rule)
    assert (found.n, found.worse, found.better) == (288, 12, 0)


def test_unscored_answers_are_left_out_and_counted() -> None:
    candidate, incumbent = arms_of(2, 2, 296)
    candidate[5] |= {"score": None, "outcome_class": "infra_error"}
    found = compare(candidate, incumbent)
    assert (found.n, found.n_asked, found.breach) == (299, 300, "")
    assert found.missing_candidate == pytest.approx(1 / 300)


def test_categories_that_lose_are_flagged_together() -> None:
    candidate, incumbent = arms_of(0, 0, 300)
    for r in candidate:
        if r["category"] == "g2/x" and r["turn"] < 80:
            r["score"] = 0.0
    flags = {c.category: c.flagged for c in compare(candidate, incumbent).categories}
    assert flags == {"g0": False, "g1": False, "g2": True, "g3": False}


# -- outcomes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("better", "worse", "outcome", "words"),
    [
        (10, 10, "pass", "against org-model-raw-old@bbbbbbbbbbbb"),
        (24, 30, "hold", "more samples at this rate would show that it does"),
        (14, 29, "fail", "is a significant regression"),
        (2, 40, "fail", "stopped for harm at pair"),
    ],
)
def test_the_difference_decides(better: int, worse: int, outcome: str, words: str) -> None:
    found = judged(margin_policy(0.05), *arms_of(better, worse, 300 - better - worse))
    assert found.outcome == outcome, found.reason
    assert words in found.reason


def test_strict_fails_only_what_is_certainly_beyond_the_margin() -> None:
    lost = arms_of(14, 29, 257)
    assert judged(margin_policy(0.05, strict=True), *lost).outcome == "hold"


def test_a_hold_says_which_samples_would_close_it() -> None:
    candidate, incumbent = arms_of(24, 30, 246)
    for kept, words in (
        (0, "the suite keeps none in reserve"),
        (40, "keeps only 40 in reserve"),
        (900, "add the split"),
    ):
        found = _with_evidence(margin_policy(0.05), candidate, incumbent, n_reserve=kept)
        assert words in found.reason


def test_missing_answers_hold_and_say_that_it_is_the_machinery() -> None:
    candidate, incumbent = arms_of(5, 5, 290)
    for r in incumbent[:12]:
        r |= {"score": None, "outcome_class": "infra_error"}
    found = judged(margin_policy(0.05), candidate, incumbent)
    assert found.outcome == "hold"
    assert "infrastructure, not the model" in found.reason
    assert "4.0 % of the samples of the incumbent" in found.reason


def test_harm_outranks_what_was_not_asked_because_of_it() -> None:
    candidate, incumbent = arms_of(0, 300, 0)
    for r in (*candidate[40:], *incumbent[40:]):
        r |= {"score": None, "outcome_class": "unscored"}
    found = judged(margin_policy(0.05), candidate, incumbent)
    assert found.outcome == "fail"
    assert "stopped for harm at pair" in found.reason


def test_stored_answers_are_no_experiment_to_stop() -> None:
    found = compare(*arms_of(2, 40, 258), interleaved=False)
    assert found.stopped_at is None


def test_floors_decide_where_there_is_no_incumbent_and_are_shown_where_there_is() -> None:
    floor = Rule(suite="quality", metric="accuracy", min=0.9, bound="ci_low", when="no_incumbent")
    wants = margin_policy(0.05).model_copy(update={"criteria": (floor,)})
    weak = (Metric(name="accuracy", value=0.5, ci_low=0.44, ci_high=0.56, n=300, unit="share"),)
    candidate, incumbent = arms_of(10, 10, 280)
    assert _with_evidence(wants, candidate, incumbent, metrics=weak).outcome == "pass"
    alone = _with_evidence(wants, candidate, None, metrics=weak, note="the incumbent e is Stopped")
    assert alone.outcome == "fail"
    assert "judged by absolute bars, because the incumbent e is Stopped" in alone.reason
    line = next(c for c in alone.criteria if c.metric == "score_vs_incumbent")
    assert (line.tier, line.outcome, line.note) == ("advisory", "hold", "the incumbent e is Stopped")


def test_a_hold_closes_with_its_day() -> None:
    candidate, incumbent = arms_of(24, 30, 246)
    opened = _with_evidence(margin_policy(0.05), candidate, incumbent, closes_at=NOW + timedelta(hours=3))
    closed = _with_evidence(margin_policy(0.05), candidate, incumbent, closes_at=NOW - timedelta(hours=3))
    assert "open until 2026-11-21 15:00 UTC, then it stays under shadow" in opened.reason
    assert "closed since 2026-11-21 09:00 UTC: shadow" in closed.reason
    assert {opened.outcome, closed.outcome} == {"hold"}


def test_a_comparison_is_part_of_the_id() -> None:
    wants = margin_policy(0.05)
    assert judged(wants, *arms_of(10, 10, 280)).verdict_id == judged(wants, *arms_of(10, 10, 280)).verdict_id
    assert judged(wants, *arms_of(10, 10, 280)).verdict_id != judged(wants, *arms_of(10, 11, 279)).verdict_id


def _with_evidence(
    policy: Policy,
    candidate: Rows,
    incumbent: Rows | None,
    *,
    metrics: tuple[Metric, ...] = (),
    n_reserve: int = 0,
    note: str = "",
    closes_at: datetime | None = None,
) -> Verdict:
    evidence = SuiteEvidence(
        suite="quality", kind="dataset", run_id="run-1", suite_digest="d", instrument="sha256:i", metrics=metrics,
        n_samples=len(candidate), n_unscored=0, n_reserve=n_reserve,
    )  # fmt: skip
    arms = {"quality": Arms(candidate, incumbent, INCUMBENT)} if incumbent is not None else {}
    return decide(
        Case(policy, [evidence], "org/model", "a" * 40, "raw", "new", NOW, arms, note, closes_at)
    )  # fmt: skip


# -- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rules", "floor", "words"),
    [
        ((FIVE, FIVE.model_copy(update={"suite": "other"})), {}, "exactly one rule of tier primary"),
        ((FIVE.model_copy(update={"tier": "advisory"}),), {}, "exactly one rule of tier primary"),
        ((FIVE, FIVE.model_copy(update={"tier": "advisory"})), {}, "one comparison twice"),
        ((FIVE,), {"suite": "contract", "metric": "pass_rate"}, "no required criterion for a model without"),
    ],
)
def test_a_policy_has_one_primary_comparison_and_a_floor_for_first_models(
    rules: tuple[MarginRule, ...], floor: dict[str, Any], words: str
) -> None:
    bar = Rule(**{"suite": "quality", "metric": "accuracy", "min": 0.5, **floor})
    with pytest.raises(ValidationError, match=words):
        Policy(name="t", version=1, description="d", criteria=(bar,), against_incumbent=rules)


# -- operating characteristics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("world", "passed", "failed"),
    [
        (World(300), (0.70, 0.90), (0.0, 0.11)),
        (World(300, delta=-0.05), (0.0, 0.09), (0.70, 1.0)),
        (World(300, delta=-0.10), (0.0, 0.01), (0.98, 1.0)),
        (World(300, delta=0.03), (0.95, 1.0), (0.0, 0.02)),
        (World(300, delta=-0.05, cluster_size=4), (0.0, 0.09), (0.0, 1.0)),
        (World(300, unscored=0.1), (0.0, 0.0), (0.0, 0.1)),
    ],
    ids=["equal", "at the margin", "twice the margin", "better", "clustered", "answers missing"],
)
def test_how_often_it_is_right(world: World, passed: tuple[float, float], failed: tuple[float, float]) -> None:
    found = rates(margin_policy(0.05), world, 150, seed=8)
    assert passed[0] <= found.passed <= passed[1], found
    assert failed[0] <= found.failed <= failed[1], found


def test_equal_models_are_seldom_stopped() -> None:
    assert rates(margin_policy(0.05), World(300), 150, seed=9).stopped <= 0.06


def test_a_world_is_what_it_says() -> None:
    candidate, incumbent = draw(World(4000, delta=-0.05), np.random.default_rng(1))
    means = [sum(r["score"] for r in rows) / 4000 for rows in (candidate, incumbent)]
    assert means[0] - means[1] == pytest.approx(-0.05, abs=0.015)
    assert means[1] == pytest.approx(0.7, abs=0.03)
