"""The promotion decision: every criterion, and the outcome that follows from them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.aggregates import GRADED
from modelops_dagster.domain.gauntlet.report import Metric, SuiteReport
from modelops_dagster.domain.policies import MarginRule, Policy, Rule, Waiver, content_hash, policy_digest, shown
from modelops_dagster.domain.statistics.noninferiority import non_inferiority
from modelops_dagster.domain.verdicts.decision import Criterion, Outcome, PairedResult, SuiteEvidence, Verdict
from modelops_dagster.domain.verdicts.pairing import Arms, compare_arms
from modelops_dagster.domain.verdicts.wording import (
    SHOWN_FAULTS,
    Finding,
    against,
    bar,
    first,
    harm_sentence,
    margin_plan,
    numbers,
    plan,
    reason,
)

UNSCORED_SHARE = "unscored_share"
NO_INCUMBENT = "there is no incumbent"
OUTCOMES: Mapping[str, Outcome] = {"go": "pass", "no_go": "fail", "hold": "hold"}


@dataclass(frozen=True)
class Case:
    """Everything a decision follows from.

    `arms` are the rows of both arms by suite, empty when there is nothing to compare with, and `incumbent_note` says
    why then. `decided_at` (UTC) decides which waivers still hold, so a replay passes the stored time. A hold may be
    closed until `closes_at` (UTC). `reopens` is the id of the hold that this decision comes after.
    """

    policy: Policy
    evidence: Sequence[SuiteEvidence]
    repo_id: str
    commit_hash: str
    lane: str
    endpoint: str
    decided_at: datetime
    arms: Mapping[str, Arms] = field(default_factory=dict)
    incumbent_note: str = NO_INCUMBENT
    closes_at: datetime | None = None
    reopens: str | None = None


def judge(policy: Policy, reports: Sequence[SuiteReport], *, repo_id: str, commit_hash: str, **details: Any) -> Verdict:
    """`decide` on reports, after seeing that they are about this revision.

    Args:
        reports: at most one per suite.
        details: the other fields of `Case`.

    Raises:
        InvalidSpec: two reports on one suite, a report on another revision, or a comparison that must not be made.
    """
    for report in reports:
        revision = report.endpoint.checkpoint.revision
        if (revision.repo_id, revision.commit_hash) != (repo_id, commit_hash):
            raise InvalidSpec(
                f"the report on suite {report.suite!r} is about {revision}, not {repo_id}@{commit_hash[:12]}; "
                "run the suite again on this revision.",
                field="reports",
            )
    evidence = [SuiteEvidence.of(r) for r in reports]
    return decide(Case(policy, evidence, repo_id=repo_id, commit_hash=commit_hash, **details))


def decide(case: Case) -> Verdict:
    """Decide whether developers may call an endpoint.

    - A required criterion that its number violates: fail. So is a significant loss against the incumbent, or harm that
      stopped the comparison early.
    - A suite that did not run, or whose share of unscored samples is above the limit: hold, because that says something
      about the infrastructure and nothing about the model. Its numbers are shown and not judged.
    - An interval across the bar: hold, with the number of further samples that would settle it.
    - A number that a complete run does not report: fail. Missing is never a pass.
    - A fail outranks a hold; advisory criteria change nothing. Criteria for a model without an incumbent are advisory
      once the primary comparison was made.

    Raises:
        InvalidSpec: two pieces of evidence on one suite, or a comparison that must not be made.
    """
    policy, by_suite = case.policy, _by_suite(case.evidence)
    compared = {
        (r.suite, r.metric): compare_arms(r, case.arms[r.suite], policy.max_unscored_share)
        for r in policy.against_incumbent
        if r.suite in case.arms
    }
    findings = _absolute(case, by_suite)
    findings += [
        _margin(r, compared.get((r.suite, r.metric)), by_suite, case.incumbent_note) for r in policy.against_incumbent
    ]
    outcomes = {f.criterion.outcome for f in findings if f.decides}
    outcome: Outcome = "fail" if "fail" in outcomes else "hold" if "hold" in outcomes else "pass"
    results = tuple(compared.values())
    digest = policy_digest(policy)
    about = (case.repo_id, case.commit_hash, case.lane)
    return Verdict(
        verdict_id=_verdict_id(digest, by_suite, about, [f for f in findings if f.waived], results),
        outcome=outcome,
        reason=reason(policy, outcome, findings, by_suite, _extras(case, outcome, results)),
        policy=policy.name,
        policy_digest=digest,
        criteria=tuple(f.criterion for f in findings),
        repo_id=case.repo_id,
        commit_hash=case.commit_hash,
        lane=case.lane,
        endpoint=case.endpoint,
        decided_at=case.decided_at,
        closes_at=case.closes_at,
        reopens=case.reopens,
        comparisons=results,
        incumbent_note=case.incumbent_note if policy.against_incumbent and not results else "",
        evidence=tuple(case.evidence),
        policy_document=policy,
    )


def _absolute(case: Case, by_suite: Mapping[str, SuiteEvidence]) -> list[Finding]:
    """Coverage of every suite, then the absolute criteria in the order of the policy."""
    policy = case.policy
    coverage = {suite: _coverage(policy, suite, by_suite.get(suite)) for suite in policy.must_run}
    findings = list(coverage.values())
    has_incumbent = policy.primary is not None and policy.primary.suite in case.arms
    for rule in policy.criteria:
        covered = coverage.get(rule.suite) or _coverage(policy, rule.suite, by_suite.get(rule.suite))
        is_shown_only = rule.when == "no_incumbent" and has_incumbent
        asked = rule.model_copy(update={"tier": "advisory"}) if is_shown_only else rule
        found = _examine(asked, by_suite.get(rule.suite), covered)
        findings.append(_waive(found, policy.waiver(rule), case.decided_at.date()))
    return findings


def _extras(case: Case, outcome: Outcome, results: Sequence[PairedResult]) -> list[str]:
    """What the outcome was compared with, and how long a hold stays open."""
    told = []
    primary = next((r for r in results if case.policy.primary and r.metric == case.policy.primary.metric), None)
    if primary and outcome == "pass":
        told.append(f"{primary.suite} {against(primary)}")
    if case.policy.against_incumbent and not results:
        told.append(f"judged by absolute bars, because {case.incumbent_note}")
    if outcome == "hold" and case.closes_at:
        is_open = case.decided_at < case.closes_at
        until = f"{case.closes_at:%Y-%m-%d %H:%M} UTC"
        told.append(f"open until {until}, then it stays under shadow" if is_open else f"closed since {until}: shadow")
    return told


def _margin(
    rule: MarginRule, result: PairedResult | None, by_suite: Mapping[str, SuiteEvidence], incumbent_note: str
) -> Finding:
    """The comparison with the incumbent on one suite. Without one the line is shown and decides nothing."""
    label = f"{rule.suite}.{rule.metric}"
    seen = by_suite[rule.suite].skill if rule.suite in by_suite else 1.0
    rule = rule.model_copy(update={"margin": rule.margin * seen})  # a grader's errors shrink what it sees of a loss

    def found(outcome: Outcome, note: str, sentence: str, is_infrastructure: bool = False) -> Finding:
        criterion = Criterion(
            suite=rule.suite,
            metric=rule.metric,
            tier="required" if rule.tier == "primary" and result else "advisory",
            outcome=outcome,
            value=result.difference if result else None,
            ci_low=result.low if result else None,
            ci_high=result.high if result else None,
            n=result.n if result else 0,
            rule=rule.text,
            note=note,
        )
        return Finding(criterion, sentence, is_infrastructure)

    if result is None:
        return found("hold", incumbent_note, "")
    if result.stopped_at is not None:
        return found("fail", harm_sentence(result), harm_sentence(result))
    if result.breach:
        told = f"the comparison of {label} says nothing, because {result.breach}; run the suite again"
        return found("hold", told, told, True)
    if result.difference is None or result.low is None or result.high is None:
        told = margin_plan(rule, result, 0)
        return found("hold", told, f"{label}: {told}")
    outcome = OUTCOMES[non_inferiority(result.low, result.high, rule.margin, strict=rule.strict)]
    if outcome == "pass":
        return found(outcome, _lost_categories(result), "")
    if outcome == "fail":
        beyond = f"beyond the margin of {shown(rule.margin)}" if rule.strict else "a significant regression"
        return found(outcome, _lost_categories(result), f"{label} {against(result)} is {beyond}")
    kept = by_suite[rule.suite].n_reserve if rule.suite in by_suite else 0
    told = margin_plan(rule, result, kept)
    return found(outcome, told, f"{label} {against(result)} {told}")


def _lost_categories(result: PairedResult) -> str:
    """Categories that stand out at the false discovery rate: for people to look at, not to decide by."""
    lost = [f"{c.category} {shown(c.difference)} (n={c.n}, p={c.p:.4f})" for c in result.categories if c.flagged]
    return f"worse in {', '.join(lost)}" if lost else ""


def _by_suite(evidence: Sequence[SuiteEvidence]) -> dict[str, SuiteEvidence]:
    found: dict[str, SuiteEvidence] = {}
    for piece in evidence:
        if piece.suite in found:
            raise InvalidSpec(f"two reports on suite {piece.suite!r}; judge one run at a time.", field="reports")
        found[piece.suite] = piece
    return found


def _coverage(policy: Policy, suite: str, report: SuiteEvidence | None) -> Finding:
    """Did the suite run, and could enough of it be scored?"""
    limit = policy.max_unscored_share
    share = report.n_unscored / report.n_samples if report and report.n_samples else None
    sentence = f"suite {suite} has not run" if report is None else _silence(report, limit)
    if report is not None and not sentence:
        sentence = _uncovered(report, share, limit)
    criterion = Criterion(
        suite=suite,
        metric=UNSCORED_SHARE,
        tier="required",
        outcome="hold" if sentence else "pass",
        value=share,
        n=report.n_samples if report else 0,
        rule=f"<= {shown(limit)}",
        note=sentence,
    )
    return Finding(criterion, sentence, is_infrastructure=True)


def _silence(report: SuiteEvidence, limit: float) -> str:
    """Answers on which the admitted grader gave no verdict that counts. They count nowhere, so a model that talks its
    grader into replies that are none must not win by that, nor one whose grader is no longer what was admitted."""
    if report.withdrawn:
        return (
            f"what {report.suite} says is not trusted, because {'; '.join(report.withdrawn)}; name another grader, or "
            "this one by another name, and label what it says"
        )
    for metric in report.metrics:
        if metric.name.startswith(GRADED) and metric.value is not None and 1 - metric.value > limit:
            return (
                f"the grader gave no verdict on {shown(100 * (1 - metric.value), 100 * limit)} % of the answers of "
                f"{report.suite}.{metric.name.removeprefix(GRADED)} (the limit is {shown(100 * limit)} %); look at the "
                "replies in `judgements`, and run the suite again"
            )
    return ""


def _uncovered(report: SuiteEvidence, share: float | None, limit: float) -> str:
    """Why too little of a suite that ran could be scored; empty when enough could."""
    if share is None:
        return (
            f"suite {report.suite} has nothing that counts: its answers wait for a grader that is admitted, and "
            "`modelops label --plan` says what would admit one"
        )
    if share <= limit:
        return ""
    said = "; it says: " + "; ".join(first(report.failing, SHOWN_FAULTS)) if report.failing else ""
    return (
        f"{report.n_unscored} of {report.n_samples} samples of {report.suite} are unscored "
        f"({shown(100 * share, 100 * limit)} %, the limit is {shown(100 * limit, 100 * share)} %{said})"
    )


def _examine(rule: Rule, report: SuiteEvidence | None, covered: Finding) -> Finding:
    """One rule against what its suite reported."""
    metric = report.metric(rule.metric) if report else None
    label = f"{rule.suite}.{rule.metric}"
    if report is None or covered.criterion.outcome != "pass":
        return _found(rule, metric, "hold", covered.criterion.note)
    if metric is None or metric.value is None or not math.isfinite(metric.value):
        if report.n_unscored:
            note = f"{label} is missing, and {report.n_unscored} of {report.n_samples} samples are unscored"
            return _found(rule, metric, "hold", note, note, is_infrastructure=True)
        note = f"{label} is missing although {rule.suite} ran to its end, which counts as a violation"
        return _found(rule, metric, "fail", note, note)
    outcome = _compare(rule, metric)
    if outcome == "pass":
        return _found(rule, metric, "pass")
    if outcome == "fail":
        side = "below" if rule.is_floor else "above"
        return _found(rule, metric, "fail", "", f"{numbers(label, metric, rule.bar)} is {side} {bar(rule, metric)}")
    told = plan(rule, metric, report.n_reserve)
    return _found(rule, metric, "hold", told, f"{numbers(label, metric, rule.bar)} {told}")


def _compare(rule: Rule, metric: Metric) -> Outcome:
    """An end that the sample is too small to have is infinitely far out, so it never passes and never fails."""
    ends = {
        "value": metric.value,
        "ci_low": -math.inf if metric.ci_low is None else metric.ci_low,
        "ci_high": math.inf if metric.ci_high is None else metric.ci_high,
    }
    if any(end is None or math.isnan(end) for end in ends.values()):
        return "hold"
    sign = 1 if rule.is_floor else -1
    strict, lenient = ("ci_low", "ci_high") if rule.is_floor else ("ci_high", "ci_low")
    clears = {name: sign * (end or 0.0) >= sign * rule.bar for name, end in ends.items()}
    if rule.bound == strict:
        return "pass" if clears[strict] else "hold" if clears[lenient] else "fail"
    if rule.bound == lenient and math.isinf(ends[lenient] or 0.0):
        return "hold"
    return "pass" if clears[rule.bound] else "fail"


def _found(
    rule: Rule,
    metric: Metric | None,
    outcome: Outcome,
    note: str = "",
    sentence: str = "",
    is_infrastructure: bool = False,
) -> Finding:
    criterion = Criterion(
        suite=rule.suite,
        metric=rule.metric,
        tier=rule.tier,
        outcome=outcome,
        value=metric.value if metric else None,
        ci_low=metric.ci_low if metric else None,
        ci_high=metric.ci_high if metric else None,
        n=metric.n if metric else 0,
        rule=rule.text,
        note=note,
    )
    return Finding(criterion, sentence, is_infrastructure)


def _waive(found: Finding, waiver: Waiver | None, today: date) -> Finding:
    seen = found.criterion
    is_measured = seen.value is not None and found.sentence and not found.is_infrastructure
    if waiver is None or not found.decides or seen.outcome == "pass" or not is_measured:
        return found
    if today > waiver.expires:
        note = f"its waiver expired on {waiver.expires}"
        return Finding(seen.model_copy(update={"note": note}), f"{found.sentence} ({note})")
    text = f"{seen.suite}.{seen.metric} until {waiver.expires}: {waiver.reason.strip().rstrip('.')}"
    waived = seen.model_copy(update={"tier": "advisory", "note": f"waived until {waiver.expires}: {waiver.reason}"})
    return Finding(waived, found.sentence, waived=text)


def _verdict_id(
    digest: str,
    by_suite: Mapping[str, SuiteEvidence],
    about: tuple[str, str, str],
    waived: Sequence[Finding],
    results: Sequence[PairedResult],
) -> str:
    """16 hex digits over everything the decision rests on, so that a replay names the same verdict."""
    evidence = [
        (
            r.suite,
            r.run_id,
            r.suite_digest,
            r.instrument,
            r.n_samples,
            r.n_unscored,
            sorted(m.model_dump_json() for m in r.metrics),
            r.failing,
            *((r.withdrawn,) if r.withdrawn else ()),
        )
        for _, r in sorted(by_suite.items())
    ]
    # a waiver that has expired since makes another decision out of the same numbers
    compared = [r.model_dump(mode="json") for r in results]
    return content_hash([digest, about, evidence, [f.waived for f in waived], *([compared] if compared else [])])[:16]
