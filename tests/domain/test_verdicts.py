"""The promotion decision: which numbers pass, fail or hold, and what the sentence says."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.metrics import event_metric, share_metric
from modelops_dagster.domain.gauntlet.report import Metric, SuiteReport
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.policies import Policy, Rule, Waiver, policy_digest
from modelops_dagster.domain.statistics.proportions import wilson
from modelops_dagster.domain.verdicts import Verdict, judge, samples_to_settle, shown
from tests.fakes.values import a_checkpoint, an_endpoint

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ENDPOINT = an_endpoint(name="org-model-raw", checkpoint=a_checkpoint(), tokens_per_second=10.0)
REVISION = ENDPOINT.checkpoint.revision


def report(suite: str = "quality", *metrics: Metric, n: int = 100, unscored: int = 0, **changes: Any) -> SuiteReport:
    return SuiteReport(
        suite=suite,
        suite_digest="sha256:d",
        instrument="sha256:i",
        run_id=changes.pop("run_id", "run-1"),
        endpoint=changes.pop("endpoint", ENDPOINT),
        metrics=metrics,
        n_samples=n,
        n_unscored=unscored,
        started_at=NOW,
        ended_at=NOW,
        inference_seconds=1.0,
        samples_file="samples.parquet",
        **changes,
    )


def policy(*rules: Rule, **changes: Any) -> Policy:
    return Policy(name="test", version=1, description="for tests", criteria=rules, **changes)


def decide(policy: Policy, *reports: SuiteReport, at: datetime = NOW) -> Verdict:
    return judge(
        policy,
        reports,
        repo_id=REVISION.repo_id,
        commit_hash=REVISION.commit_hash,
        lane="raw",
        endpoint=ENDPOINT.name,
        decided_at=at,
    )


FLOOR = Rule(suite="quality", metric="accuracy", min=0.6, bound="ci_low")
LEAKS = Rule(suite="compliance", metric="violation_rate", max=0.05, bound="ci_high")
CHECKS = Rule(suite="contract", metric="pass_rate", min=1.0)
SPEED = Rule(suite="performance", metric="ttft_p95_ms@1", max=2000)


# -- one criterion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "n", "outcome"),
    [(90, 100, "pass"), (30, 100, "fail"), (62, 100, "hold"), (58, 100, "hold"), (100, 100, "pass"), (0, 5, "fail")],
)
def test_a_floor_on_the_lower_bound(right: int, n: int, outcome: str) -> None:
    assert decide(policy(FLOOR), report("quality", share_metric("accuracy", right, n), n=n)).outcome == outcome


@pytest.mark.parametrize(
    ("events", "n", "outcome"), [(0, 59, "pass"), (0, 40, "hold"), (9, 60, "fail"), (2, 60, "hold")]
)
def test_a_ceiling_on_the_upper_bound(events: int, n: int, outcome: str) -> None:
    found = decide(policy(LEAKS), report("compliance", event_metric("violation_rate", events, n), n=n))
    assert found.outcome == outcome


@pytest.mark.parametrize(("value", "outcome"), [(1999.0, "pass"), (2000.0, "pass"), (2000.5, "fail")])
def test_a_ceiling_on_the_value(value: float, outcome: str) -> None:
    metric = Metric(name="ttft_p95_ms@1", value=value, ci_low=1500, ci_high=None, n=16, unit="ms")
    assert decide(policy(SPEED), report("performance", metric, n=16)).outcome == outcome


def test_the_far_end_of_the_interval_may_be_asked_for() -> None:
    lenient = FLOOR.model_copy(update={"bound": "ci_high"})
    assert decide(policy(lenient), report("quality", share_metric("accuracy", 58, 100))).outcome == "pass"
    assert decide(policy(lenient), report("quality", share_metric("accuracy", 30, 100))).outcome == "fail"


def test_an_end_that_the_sample_is_too_small_for_is_a_hold() -> None:
    rule = SPEED.model_copy(update={"bound": "ci_high"})
    metric = Metric(name="ttft_p95_ms@1", value=900.0, ci_low=700.0, ci_high=None, n=16, unit="ms")
    found = decide(policy(rule), report("performance", metric, n=16))
    assert found.outcome == "hold"
    assert "16 samples are too few" in found.reason


def test_an_advisory_criterion_is_shown_and_changes_nothing() -> None:
    found = decide(
        policy(CHECKS, FLOOR.model_copy(update={"tier": "advisory"})),
        report("contract", share_metric("pass_rate", 20, 20), n=20),
        report("quality", share_metric("accuracy", 0, 100)),
    )
    assert found.outcome == "pass"
    assert [c.outcome for c in found.criteria if c.tier == "advisory"] == ["fail"]


# -- missing and unscored -------------------------------------------------------------------------------------------


def test_a_suite_that_has_not_run_is_a_hold_on_the_infrastructure() -> None:
    found = decide(policy(FLOOR, CHECKS), report("quality", share_metric("accuracy", 90, 100)))
    assert found.outcome == "hold"
    assert found.reason == "hold: infrastructure, not the model: suite contract has not run"


def test_unscored_samples_above_the_limit_hold_even_when_the_number_is_bad() -> None:
    found = decide(policy(FLOOR), report("quality", share_metric("accuracy", 0, 95), n=100, unscored=5))
    assert found.outcome == "hold"
    assert "infrastructure, not the model: 5 of 100 samples of quality are unscored (5.00 %, the limit is 2.00 %)" in (
        found.reason
    )
    assert decide(policy(FLOOR), report("quality", share_metric("accuracy", 90, 98), unscored=2)).outcome == "pass"
    told = decide(policy(FLOOR), report("quality", unscored=100, failing=("100 of 100 unscored: connection refused",)))
    assert told.reason.endswith("the limit is 2 %; it says: 100 of 100 unscored: connection refused)")


def test_a_broken_suite_does_not_save_a_model_that_fails_another() -> None:
    found = decide(
        policy(FLOOR, CHECKS),
        report("quality", share_metric("accuracy", 10, 100)),
        report("contract", unscored=100),
    )
    assert found.outcome == "fail"


def test_a_number_that_a_complete_run_lacks_counts_as_a_violation() -> None:
    for metrics in (
        (),
        (Metric(name="accuracy", value=None, n=0),),
        (Metric(name="accuracy", value=float("nan"), n=9),),
    ):
        found = decide(policy(FLOOR), report("quality", *metrics))
        assert found.outcome == "fail"
        assert "quality.accuracy is missing although quality ran to its end" in found.reason
    assert decide(policy(FLOOR), report("quality", n=100, unscored=1)).outcome == "hold"
    assert decide(policy(FLOOR), report("quality", n=0)).outcome == "hold"


def test_a_required_suite_without_criteria_has_to_run() -> None:
    wants = policy(FLOOR, required_suites=("performance",))
    good = report("quality", share_metric("accuracy", 90, 100))
    assert decide(wants, good).outcome == "hold"
    assert decide(wants, good, report("performance")).outcome == "pass"


# -- sentences ------------------------------------------------------------------------------------------------------


def test_the_sentences_read_well() -> None:
    wants = policy(CHECKS, FLOOR)
    whole = report("contract", share_metric("pass_rate", 20, 20), n=20)
    assert (
        decide(wants, whole, report("quality", share_metric("accuracy", 90, 100))).reason
        == "pass: 4 of 4 required criteria hold under policy test"
    )
    assert (
        decide(wants, whole, report("quality", share_metric("accuracy", 28, 90), n=90)).reason
        == "fail: quality.accuracy 0.31 (0.22-0.41, n=90) is below 0.60"
    )
    assert (
        decide(wants, whole, report("quality", share_metric("accuracy", 90, 144), n=144)).reason
        == "hold: quality.accuracy 0.62 (0.54-0.70, n=144) does not settle whether it reaches 0.60; "
        "about 1,332 more samples at this rate would show that it does"
    )
    broken = report("contract", share_metric("pass_rate", 18, 20), n=20, failing=("stop: ignores stop strings.", "eos"))
    assert decide(wants, broken, report("quality", share_metric("accuracy", 90, 100))).reason == (
        "fail: contract.pass_rate 0.90 (0.70-0.97, n=20) is below 1.00 (stop: ignores stop strings; eos)"
    )


def test_a_hold_tells_what_the_suite_keeps_back() -> None:
    found = decide(policy(FLOOR), report("quality", share_metric("accuracy", 90, 144), n=144, n_reserve=35))
    assert found.reason.endswith("would show that it does; the suite keeps 35 in reserve")


def test_units_are_named() -> None:
    metric = Metric(name="ttft_p95_ms@1", value=2512.4, n=16, unit="ms")
    assert decide(policy(SPEED), report("performance", metric, n=16)).reason == (
        "fail: performance.ttft_p95_ms@1 2512 ms (n=16) is above 2000 ms"
    )


@pytest.mark.parametrize(
    ("number", "beside", "text"),
    [
        (0.5996, 0.6, "0.5996"),
        (0.31, 0.6, "0.31"),
        (2512.4, 2000, "2512"),
        (2000.2, 2000, "2000.2"),
        (0.6, 0.6, "0.60"),
    ],
)
def test_a_number_never_looks_like_the_one_it_differs_from(number: float, beside: float, text: str) -> None:
    assert shown(number, beside) == text


# -- what would settle a hold ---------------------------------------------------------------------------------------


@given(n=st.integers(20, 400), rate=st.floats(0.05, 0.95), bar=st.floats(0.05, 0.95))
def test_the_samples_asked_for_do_settle_it(n: int, rate: float, bar: float) -> None:
    low, high = wilson(rate * n, n)
    if not low < bar < high or abs(rate - bar) < 0.01:
        return
    more = samples_to_settle(Metric(name="a", value=rate, ci_low=low, ci_high=high, n=n, unit="share"), bar)
    assert more is not None
    later_low, later_high = wilson(rate * (n + more), n + more)
    assert not later_low < bar - 1e-9 < bar + 1e-9 < later_high
    if more > 1:
        earlier_low, earlier_high = wilson(rate * (n + more - 2), n + more - 2)
        assert earlier_low < bar < earlier_high


def test_an_exact_bound_is_settled_by_about_59_clean_samples() -> None:
    more = samples_to_settle(event_metric("violation_rate", 0, 36), 0.05)
    assert more is not None
    assert abs(36 + more - 59) <= 2


def test_a_value_on_the_bar_is_never_settled() -> None:
    assert samples_to_settle(share_metric("accuracy", 60, 100), 0.6) is None


# -- waivers --------------------------------------------------------------------------------------------------------

WAIVER = Waiver(suite="quality", metric="accuracy", reason="pilot with two teams only.", expires=date(2026, 12, 31))


def test_a_waiver_makes_a_violation_advisory_until_its_last_day() -> None:
    wants = policy(FLOOR, CHECKS, waivers=(WAIVER,))
    bad = report("quality", share_metric("accuracy", 28, 90), n=90)
    whole = report("contract", share_metric("pass_rate", 20, 20), n=20)
    waived = decide(wants, bad, whole)
    assert waived.outcome == "pass"
    assert "waived: quality.accuracy until 2026-12-31: pilot with two teams only" in waived.reason
    assert decide(wants, bad, whole, at=datetime(2026, 12, 31, 23, tzinfo=UTC)).outcome == "pass"
    late = decide(wants, bad, whole, at=datetime(2027, 1, 1, tzinfo=UTC))
    assert late.outcome == "fail"
    assert "its waiver expired on 2026-12-31" in late.reason
    assert late.verdict_id != waived.verdict_id


def test_a_waiver_excuses_no_missing_number_and_no_other_criterion() -> None:
    wants = policy(FLOOR, CHECKS, waivers=(WAIVER,))
    whole = report("contract", share_metric("pass_rate", 20, 20), n=20)
    assert decide(wants, whole).outcome == "hold"
    assert decide(wants, whole, report("quality")).outcome == "fail"
    assert decide(wants, whole, report("quality", share_metric("accuracy", 9, 90), unscored=10)).outcome == "hold"
    broken = report("contract", share_metric("pass_rate", 19, 20), n=20)
    assert decide(wants, broken, report("quality", share_metric("accuracy", 9, 90))).outcome == "fail"


# -- properties -----------------------------------------------------------------------------------------------------

RANK = {"fail": 0, "hold": 1, "pass": 2}


@given(n=st.integers(1, 400), data=st.data())
def test_more_failures_never_improve_the_outcome(n: int, data: st.DataObject) -> None:
    few = data.draw(st.integers(0, n))
    many = data.draw(st.integers(few, n))
    bound = data.draw(st.sampled_from(["value", "ci_low", "ci_high"]))
    wants = policy(Rule(suite="quality", metric="accuracy", min=data.draw(st.floats(0.01, 0.99)), bound=bound))
    better = decide(wants, report("quality", share_metric("accuracy", n - few, n), n=n))
    worse = decide(wants, report("quality", share_metric("accuracy", n - many, n), n=n))
    assert RANK[worse.outcome] <= RANK[better.outcome]


@given(
    present=st.sets(st.sampled_from(["quality", "compliance", "contract", "performance"])),
    measured=st.booleans(),
    unscored=st.integers(0, 100),
)
def test_missing_never_passes(present: set[str], measured: bool, unscored: int) -> None:
    wants = policy(FLOOR, LEAKS, CHECKS, SPEED)
    numbers = {
        "quality": share_metric("accuracy", 95, 100),
        "compliance": event_metric("violation_rate", 0, 100),
        "contract": share_metric("pass_rate", 100, 100),
        "performance": Metric(name="ttft_p95_ms@1", value=100.0, n=100, unit="ms"),
    }
    found = decide(
        wants,
        *(report(suite, *((numbers[suite],) if measured else ()), unscored=unscored) for suite in sorted(present)),
    )
    is_whole = len(present) == 4 and measured and unscored <= 2
    assert (found.outcome == "pass") == is_whole
    if unscored > 2:
        assert found.outcome == "hold"
    assert found.reason.startswith(f"{found.outcome}: ")


@given(days=st.integers(0, 400), order=st.permutations([0, 1]))
def test_a_replay_names_the_same_verdict(days: int, order: list[int]) -> None:
    reports = [
        report("quality", share_metric("accuracy", 90, 100)),
        report("contract", share_metric("pass_rate", 9, 9)),
    ]
    first = decide(policy(FLOOR, CHECKS), *reports)
    again = decide(policy(FLOOR, CHECKS), *(reports[i] for i in order), at=NOW + timedelta(days=days))
    assert again.verdict_id == first.verdict_id


def test_what_the_decision_rests_on_is_in_its_id() -> None:
    good = report("quality", share_metric("accuracy", 90, 100))
    ids = {
        decide(policy(FLOOR), good).verdict_id,
        decide(policy(FLOOR.model_copy(update={"min": 0.61})), good).verdict_id,
        decide(policy(FLOOR), report("quality", share_metric("accuracy", 91, 100))).verdict_id,
        decide(policy(FLOOR), report("quality", share_metric("accuracy", 90, 100), run_id="run-2")).verdict_id,
        decide(policy(FLOOR), report("quality", share_metric("accuracy", 90, 100), unscored=1)).verdict_id,
    }
    assert len(ids) == 5


# -- refused --------------------------------------------------------------------------------------------------------


def test_reports_that_do_not_belong_together_are_refused() -> None:
    good = report("quality", share_metric("accuracy", 90, 100))
    with pytest.raises(InvalidSpec, match="two reports on suite 'quality'"):
        decide(policy(FLOOR), good, good)
    other = ENDPOINT.checkpoint.model_copy(
        update={"revision": ModelRevision(repo_id="org/model", commit_hash="b" * 40)}
    )
    stale = report("quality", endpoint=ENDPOINT.model_copy(update={"checkpoint": other}))
    with pytest.raises(InvalidSpec, match="is about org/model@bbbbbbbbbbbb, not org/model@aaaaaaaaaaaa"):
        decide(policy(FLOOR), stale)


@pytest.mark.parametrize(
    ("rules", "changes", "words"),
    [
        ([{"suite": "q", "metric": "a"}], {}, "exactly one of min and max"),
        ([{"suite": "q", "metric": "a", "min": 0, "max": 1}], {}, "exactly one of min and max"),
        ([{"suite": "q", "metric": "a", "min": float("nan")}], {}, "finite"),
        ([{"suite": "q", "metric": "a", "min": True}], {}, "valid number"),
        ([{"suite": "q", "metric": "a", "min": 0, "tier": "advisory"}], {}, "no criterion is required"),
        ([{"suite": "q", "metric": "a", "min": 0}] * 2, {}, "two floors"),
        ([{"suite": "q", "metric": "a", "min": 0}], {"max_unscored_share": 1.0}, "less than 1"),
        ([{"suite": "q", "metric": "a", "min": 0}], {"waivers": [WAIVER]}, "names no required criterion"),
    ],
)
def test_a_policy_that_decides_nothing_is_refused(rules: list[Any], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Policy(name="p", version=1, description="x", criteria=rules, **changes)


def test_the_digest_is_of_the_content() -> None:
    assert policy_digest(policy(FLOOR)) == policy_digest(policy(FLOOR))
    assert policy_digest(policy(FLOOR)) != policy_digest(policy(CHECKS))
    assert policy_digest(policy(FLOOR)).startswith("sha256:")
