"""The promotion decision: a policy and the Gauntlet's reports in, pass | fail | hold out, with the numbers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.report import Metric, SuiteReport
from modelops_dagster.domain.policies import Policy as Policy
from modelops_dagster.domain.policies import Rule, Tier, Waiver, content_hash, policy_digest, shown
from modelops_dagster.domain.values import Value

Outcome = Literal["pass", "fail", "hold"]
UNSCORED_SHARE = "unscored_share"
SHOWN_REASONS, SHOWN_FAULTS = 3, 2


class Criterion(Value):
    """One line of the decision: what was asked, what was seen."""

    suite: str
    metric: str
    tier: Tier
    outcome: Outcome
    value: float | None = Field(description="None when the metric is missing")
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0
    rule: str = Field(description="the bar as a person reads it, e.g. 'lower bound >= 0.60'")
    note: str = Field(default="", description="why it is missing or waived, or what would settle it; empty when plain")


class Verdict(Value):
    """A stored, replayable decision about one endpoint's report."""

    verdict_id: str
    outcome: Outcome
    reason: str = Field(description="one sentence")
    policy: str = Field(description="name of the policy")
    policy_digest: str
    criteria: tuple[Criterion, ...]
    repo_id: str
    commit_hash: str
    lane: str
    endpoint: str
    decided_at: datetime


@dataclass(frozen=True)
class _Finding:
    """A criterion and its share of the reason: `sentence` is empty when another finding already says it."""

    criterion: Criterion
    sentence: str = ""
    is_infrastructure: bool = False
    waived: str = ""

    @property
    def decides(self) -> bool:
        return self.criterion.tier == "required"


def judge(
    policy: Policy,
    reports: Sequence[SuiteReport],
    *,
    repo_id: str,
    commit_hash: str,
    lane: str,
    endpoint: str,
    decided_at: datetime,
) -> Verdict:
    """Decide whether developers may call an endpoint.

    - A required criterion that its number violates: fail.
    - A suite that did not run, or whose share of unscored samples is above the limit: hold, because that says something
      about the infrastructure and nothing about the model. Its numbers are shown and not judged.
    - An interval across the bar: hold, with the number of further samples that would settle it.
    - A number that a complete run does not report: fail. Missing is never a pass.
    - A fail outranks a hold; advisory criteria change nothing.

    Args:
        reports: at most one per suite, all about `commit_hash`.
        decided_at: UTC; decides which waivers still hold, so a replay passes the stored time.

    Raises:
        InvalidSpec: two reports on one suite, or a report on another revision.
    """
    by_suite = _by_suite(reports, repo_id, commit_hash)
    coverage = {suite: _coverage(policy, suite, by_suite.get(suite)) for suite in policy.must_run}
    findings = list(coverage.values())
    for rule in policy.criteria:
        covered = coverage.get(rule.suite) or _coverage(policy, rule.suite, by_suite.get(rule.suite))
        found = _examine(rule, by_suite.get(rule.suite), covered)
        findings.append(_waive(found, policy.waiver(rule), decided_at.date()))
    outcomes = {f.criterion.outcome for f in findings if f.decides}
    outcome: Outcome = "fail" if "fail" in outcomes else "hold" if "hold" in outcomes else "pass"
    digest = policy_digest(policy)
    return Verdict(
        verdict_id=_verdict_id(digest, by_suite, (repo_id, commit_hash, lane), [f for f in findings if f.waived]),
        outcome=outcome,
        reason=_reason(policy, outcome, findings, by_suite),
        policy=policy.name,
        policy_digest=digest,
        criteria=tuple(f.criterion for f in findings),
        repo_id=repo_id,
        commit_hash=commit_hash,
        lane=lane,
        endpoint=endpoint,
        decided_at=decided_at,
    )


def samples_to_settle(metric: Metric, bar: float) -> int | None:
    """How many more samples would move the interval off the bar, if they came out as the ones seen so far.

    A Wilson interval is the inverted score test (Wilson 1927; Brown, Cai and DasGupta 2001): its end e solves
    (p - e)^2 = z^2 e (1 - e) / n. So the present end gives z^2, which also holds the loss by clusters or an exact
    method's surplus, and the end reaches the bar b at n = z^2 b (1 - b) / (p - b)^2. The intervals of other metrics are
    taken to shrink with the square root of n: n (h / |value - b|)^2, where h is the arm towards the bar.

    Returns:
        At least 1, or None when no number of samples settles it (the observed value is the bar itself) or the interval
        has no end towards the bar to reckon with.
    """
    if metric.value is None or metric.n < 1 or metric.value == bar:
        return None
    end = metric.ci_low if metric.value > bar else metric.ci_high
    if end is None:
        return None
    needed = metric.n * ((metric.value - end) / (metric.value - bar)) ** 2
    if metric.unit == "share" and 0 < bar < 1 and 0 < end < 1:
        needed *= bar * (1 - bar) / (end * (1 - end))
    return max(1, math.ceil(needed - 1e-9) - metric.n) if math.isfinite(needed) else None


def _by_suite(reports: Sequence[SuiteReport], repo_id: str, commit_hash: str) -> dict[str, SuiteReport]:
    found: dict[str, SuiteReport] = {}
    for report in reports:
        revision = report.endpoint.checkpoint.revision
        if (revision.repo_id, revision.commit_hash) != (repo_id, commit_hash):
            raise InvalidSpec(
                f"the report on suite {report.suite!r} is about {revision}, not {repo_id}@{commit_hash[:12]}; "
                "run the suite again on this revision.",
                field="reports",
            )
        if report.suite in found:
            raise InvalidSpec(f"two reports on suite {report.suite!r}; judge one run at a time.", field="reports")
        found[report.suite] = report
    return found


def _coverage(policy: Policy, suite: str, report: SuiteReport | None) -> _Finding:
    """Did the suite run, and could enough of it be scored?"""
    limit = policy.max_unscored_share
    share = report.n_unscored / report.n_samples if report and report.n_samples else None
    sentence = ""
    if report is None:
        sentence = f"suite {suite} has not run"
    elif share is None:
        sentence = f"suite {suite} asked nothing"
    elif share > limit:
        said = "; it says: " + "; ".join(_first(report.failing, SHOWN_FAULTS)) if report.failing else ""
        sentence = (
            f"{report.n_unscored} of {report.n_samples} samples of {suite} are unscored "
            f"({shown(100 * share, 100 * limit)} %, the limit is {shown(100 * limit, 100 * share)} %{said})"
        )
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
    return _Finding(criterion, sentence, is_infrastructure=True)


def _examine(rule: Rule, report: SuiteReport | None, covered: _Finding) -> _Finding:
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
        return _found(rule, metric, "fail", "", f"{_numbers(label, metric, rule.bar)} is {side} {_bar(rule, metric)}")
    return _found(
        rule, metric, "hold", _plan(rule, metric), f"{_numbers(label, metric, rule.bar)} {_plan(rule, metric)}"
    )


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
) -> _Finding:
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
    return _Finding(criterion, sentence, is_infrastructure)


def _waive(found: _Finding, waiver: Waiver | None, today: date) -> _Finding:
    seen = found.criterion
    is_measured = seen.value is not None and found.sentence and not found.is_infrastructure
    if waiver is None or not found.decides or seen.outcome == "pass" or not is_measured:
        return found
    if today > waiver.expires:
        note = f"its waiver expired on {waiver.expires}"
        return _Finding(seen.model_copy(update={"note": note}), f"{found.sentence} ({note})")
    text = f"{seen.suite}.{seen.metric} until {waiver.expires}: {waiver.reason.strip().rstrip('.')}"
    waived = seen.model_copy(update={"tier": "advisory", "note": f"waived until {waiver.expires}: {waiver.reason}"})
    return _Finding(waived, found.sentence, waived=text)


def _numbers(label: str, metric: Metric, bar: float) -> str:
    """The number with its interval: 'quality.accuracy 0.31 (0.22-0.42, n=90)'."""
    value = 0.0 if metric.value is None else metric.value
    low, high = ("?" if end is None else shown(end, bar) for end in (metric.ci_low, metric.ci_high))
    interval = "" if low == high == "?" else f"{low}-{high}, "
    return f"{label} {shown(value, bar)}{_unit(metric)} ({interval}n={metric.n})"


def _bar(rule: Rule, metric: Metric) -> str:
    compared = getattr(metric, rule.bound)
    return f"{shown(rule.bar, compared if compared is not None else metric.value)}{_unit(metric)}"


def _unit(metric: Metric) -> str:
    return "" if metric.unit in ("", "share") else f" {metric.unit}"


def _plan(rule: Rule, metric: Metric) -> str:
    """What would close a hold."""
    bar = _bar(rule, metric)
    question = f"does not settle whether it {'reaches' if rule.is_floor else 'stays within'} {bar}"
    more = samples_to_settle(metric, rule.bar)
    if metric.value is None or metric.value == rule.bar:
        return f"{question}, and lies on it, so more samples at this rate would not"
    if more is None:
        return f"{question}; {metric.n} samples are too few for an interval, so it needs more"
    answer = "does" if (metric.value > rule.bar) == rule.is_floor else "does not"
    return f"{question}; about {more} more samples at this rate would show that it {answer}"


def _reason(policy: Policy, outcome: Outcome, findings: Sequence[_Finding], by_suite: Mapping[str, SuiteReport]) -> str:
    """One sentence: the outcome, then what decided it."""
    if outcome == "pass":
        held = sum(f.decides for f in findings)
        parts = [f"{held} of {held} required criteria hold under policy {policy.name}"]
    else:
        deciding = [f for f in findings if f.decides and f.criterion.outcome == outcome and f.sentence]
        measured = [f for f in deciding if not f.is_infrastructure]
        broken = [f.sentence for f in deciding if f.is_infrastructure]
        parts = _first(_with_faults(measured, by_suite) if outcome == "fail" else [f.sentence for f in measured])
        if broken:
            parts.append("infrastructure, not the model: " + ", ".join(_first(broken)))
    waived = [f.waived for f in findings if f.waived]
    if waived:
        parts.append("waived: " + ", ".join(waived))
    return f"{outcome}: " + "; ".join(parts)


def _with_faults(findings: Sequence[_Finding], by_suite: Mapping[str, SuiteReport]) -> list[str]:
    """Sentences, each suite's first one followed by the failing checks it stands for."""
    told: set[str] = set()
    sentences = []
    for found in findings:
        suite = found.criterion.suite
        report = None if suite in told else by_suite.get(suite)
        faults = "; ".join(_first(report.failing, SHOWN_FAULTS)) if report else ""
        told.add(suite)
        sentences.append(f"{found.sentence} ({faults})" if faults else found.sentence)
    return sentences


def _first(sentences: Sequence[str], limit: int = SHOWN_REASONS) -> list[str]:
    trimmed = [s.strip().rstrip(".") for s in sentences]
    more = len(trimmed) - limit
    return trimmed if more <= 0 else [*trimmed[:limit], f"and {more} more"]


def _verdict_id(
    digest: str, by_suite: Mapping[str, SuiteReport], about: tuple[str, str, str], waived: Sequence[_Finding]
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
        )
        for _, r in sorted(by_suite.items())
    ]
    # a waiver that has expired since makes another decision out of the same numbers
    return content_hash([digest, about, evidence, [f.waived for f in waived]])[:16]
