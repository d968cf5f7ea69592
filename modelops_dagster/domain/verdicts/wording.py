"""The sentences of a decision: what was seen, what decided, and what would close a hold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.gauntlet.report import Metric
from modelops_dagster.domain.policies import MarginRule, Policy, Rule, shown
from modelops_dagster.domain.statistics.noninferiority import pairs_to_settle
from modelops_dagster.domain.verdicts.decision import Criterion, Outcome, PairedResult, SuiteEvidence

SHOWN_REASONS, SHOWN_FAULTS = 3, 2


@dataclass(frozen=True)
class Finding:
    """A criterion and its share of the reason: `sentence` is empty when another finding already says it."""

    criterion: Criterion
    sentence: str = ""
    is_infrastructure: bool = False
    waived: str = ""

    @property
    def decides(self) -> bool:
        return self.criterion.tier == "required"


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


def numbers(label: str, metric: Metric, bar: float) -> str:
    """The number with its interval: 'quality.accuracy 0.31 (0.22-0.42, n=90)'."""
    value = 0.0 if metric.value is None else metric.value
    low, high = ("?" if end is None else shown(end, bar) for end in (metric.ci_low, metric.ci_high))
    interval = "" if low == high == "?" else f"{low}-{high}, "
    return f"{label} {shown(value, bar)}{unit(metric)} ({interval}n={metric.n})"


def bar(rule: Rule, metric: Metric) -> str:
    compared = getattr(metric, rule.bound)
    return f"{shown(rule.bar, compared if compared is not None else metric.value)}{unit(metric)}"


def unit(metric: Metric) -> str:
    return "" if metric.unit in ("", "share") else f" {metric.unit}"


def plan(rule: Rule, metric: Metric, n_reserve: int = 0) -> str:
    """What would close a hold of an absolute criterion, in a suite that keeps so many samples back."""
    question = f"does not settle whether it {'reaches' if rule.is_floor else 'stays within'} {bar(rule, metric)}"
    more = samples_to_settle(metric, rule.bar)
    if metric.value is None or metric.value == rule.bar:
        return f"{question}, and lies on it, so more samples at this rate would not"
    if more is None:
        return f"{question}; {metric.n} samples are too few for an interval, so it needs more"
    answer = "does" if (metric.value > rule.bar) == rule.is_floor else "does not"
    kept = f"; the suite keeps {n_reserve} in reserve" if n_reserve else ""
    return f"{question}; about {counted(more, 'more sample')} at this rate would show that it {answer}{kept}"


def reason(
    policy: Policy,
    outcome: Outcome,
    findings: Sequence[Finding],
    by_suite: Mapping[str, SuiteEvidence],
    extras: Sequence[str] = (),
) -> str:
    """One sentence: the outcome, then what decided it, then `extras`."""
    if outcome == "pass":
        held = sum(f.decides for f in findings)
        parts = [f"{held} of {held} required criteria hold under policy {policy.name}"]
    else:
        deciding = [f for f in findings if f.decides and f.criterion.outcome == outcome and f.sentence]
        measured = [f for f in deciding if not f.is_infrastructure]
        broken = [f.sentence for f in deciding if f.is_infrastructure]
        parts = first(with_faults(measured, by_suite) if outcome == "fail" else [f.sentence for f in measured])
        if broken:
            parts.append("infrastructure, not the model: " + ", ".join(first(broken)))
    waived = [f.waived for f in findings if f.waived]
    if waived:
        parts.append("waived: " + ", ".join(waived))
    return f"{outcome}: " + "; ".join([*parts, *extras])


def against(result: PairedResult) -> str:
    """The difference with its bounds and the incumbent it is measured from."""
    value, low, high = (
        "?" if number is None else f"{shown(number)}" for number in (result.difference, result.low, result.high)
    )
    how = "" if result.incumbent.interleaved else f", stored answers of {result.incumbent.asked_at:%Y-%m-%d}"
    return f"{value} ({low} to {high}, n={result.n} pairs) against {result.incumbent.shown}{how}"


def harm_sentence(result: PairedResult) -> str:
    """Why a comparison ended before its last sample."""
    return (
        f"{result.suite}.{result.metric}: stopped for harm at pair {result.stopped_at} "
        f"(e-value {shown(result.harm_e)}, 20 stops), the candidate lost {result.worse} and won {result.better} "
        f"of the pairs that differ against {result.incumbent.shown}"
    )


def margin_plan(rule: MarginRule, result: PairedResult, n_reserve: int) -> str:
    """What would close a hold of a comparison, and with which samples."""
    if result.difference is None or result.low is None or result.high is None:
        return f"{result.n} pairs are too few to compare; ask more samples"
    question = f"does not settle whether it stays within {shown(rule.margin)}"
    more = pairs_to_settle(result.difference, result.low, result.high, result.n, rule.margin, strict=rule.strict)
    if more is None:
        return f"{question}, and lies on it, so more samples at this rate would not"
    answer = "does" if result.difference > -rule.margin else "does not"
    if n_reserve >= more:
        source = f"; the suite keeps {n_reserve} in reserve, so add the split reserve and run it again"
    elif n_reserve:
        source = f"; the suite keeps only {n_reserve} in reserve, so write {more - n_reserve} more"
    else:
        source = "; the suite keeps none in reserve, so write them"
    return f"{question}; about {counted(more, 'more sample')} at this rate would show that it {answer}{source}"


def with_faults(findings: Sequence[Finding], by_suite: Mapping[str, SuiteEvidence]) -> list[str]:
    """Sentences, each suite's first one followed by the failing checks it stands for."""
    told: set[str] = set()
    sentences = []
    for found in findings:
        suite = found.criterion.suite
        report = None if suite in told else by_suite.get(suite)
        faults = "; ".join(first(report.failing, SHOWN_FAULTS)) if report else ""
        told.add(suite)
        sentences.append(f"{found.sentence} ({faults})" if faults else found.sentence)
    return sentences


def first(sentences: Sequence[str], limit: int = SHOWN_REASONS) -> list[str]:
    trimmed = [s.strip().rstrip(".") for s in sentences]
    more = len(trimmed) - limit
    return trimmed if more <= 0 else [*trimmed[:limit], f"and {more} more"]
