"""From the stored rows of both arms to a comparison, pair by pair."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.aggregates import counted
from modelops_dagster.domain.gauntlet.report import Incumbent
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.policies import MarginRule, Measure, Policy
from modelops_dagster.domain.statistics.multiplicity import benjamini_hochberg, missingness
from modelops_dagster.domain.statistics.noninferiority import design_effect, detectable_effect, samples_needed
from modelops_dagster.domain.statistics.paired import Pair, paired_difference
from modelops_dagster.domain.statistics.proportions import mcnemar_exact, worse_sign_test
from modelops_dagster.domain.statistics.sequential import HarmWatch, watch_for_harm
from modelops_dagster.domain.verdicts.decision import CategoryLoss, PairedResult

FEWEST_OF_CATEGORY = 5
ByItem = dict[str, list[Row]]


@dataclass(frozen=True)
class Arms:
    """The rows of one suite's answers by both arms."""

    candidate: Sequence[Row]
    incumbent: Sequence[Row]
    who: Incumbent


def compare_arms(rule: MarginRule, arms: Arms, max_unscored_share: float) -> PairedResult:
    """Pair the samples by what they ask, never by position, and work out the difference.

    Raises:
        InvalidSpec: the arms were asked with different instruments, or the margin is below what the samples can show.
    """
    instrument = _one_instrument(rule, arms)
    candidate, incumbent = (_by_item(rows, rule) for rows in (arms.candidate, arms.incumbent))
    items = [uid for uid in candidate if uid in incumbent]
    asked = [(str(candidate[uid][0]["expected"]), str(candidate[uid][0]["cluster"])) for uid in items]
    if asked:
        require_detectable(rule, asked)
    pairs = {uid: pair for uid in items if (pair := _pair(rule.measure, candidate[uid], incumbent[uid])) is not None}
    watch = _watch(rule, arms) if rule.tier == "primary" and arms.who.interleaved else HarmWatch()
    missing = missingness(
        sum(_lost(candidate[uid]) for uid in items),
        sum(_lost(incumbent[uid]) for uid in items),
        sum(min(len(candidate[uid]), len(incumbent[uid])) for uid in items),
        max_unscored_share,
    )
    known = list(pairs.values())
    found = paired_difference(known, rule.confidence) if len(known) > 1 else None
    better, worse = sum(p.difference > 0 for p in known), sum(p.difference < 0 for p in known)
    return PairedResult(
        suite=rule.suite,
        metric=rule.metric,
        incumbent=arms.who,
        instrument=instrument,
        n=len(known),
        n_asked=len(items),
        groups=found.groups if found else len(known),
        candidate=_mean([(p.candidate, p.weight) for p in known]),
        incumbent_mean=_mean([(p.incumbent, p.weight) for p in known]),
        difference=found.estimate if found else None,
        low=found.low if found else None,
        high=found.high if found else None,
        method=found.method if found else None,
        deff=found.deff if found else 1.0,
        better=better,
        worse=worse,
        mcnemar_p=mcnemar_exact(better, worse),
        margin=rule.margin,
        detectable=power_of(rule, asked)["detectable"],
        harm_e=watch.highest,
        stopped_at=watch.stopped_at,
        missing_candidate=missing.candidate,
        missing_incumbent=missing.incumbent,
        missing_p=missing.p,
        breach=missing.breach,
        categories=_categories(known),
    )


def power_of(rule: MarginRule, asked: Sequence[tuple[str, str]]) -> dict[str, float | int]:
    """What samples can show, before they are asked.

    Args:
        asked: (expected, cluster) of every sample.

    Returns:
        `samples` the rule covers, `detectable` (the smallest margin that an equal model passes with the rule's power),
        and `needed` (samples for the rule's margin).
    """
    covered = [cluster for kind, cluster in asked if rule.expected in (None, kind)]
    deff = design_effect(list(Counter(covered).values()), rule.icc)
    alpha = 1 - rule.confidence
    effect = detectable_effect(len(covered), rule.discordance, deff=deff, alpha=alpha, power=rule.power)
    needed = samples_needed(rule.margin, rule.discordance, deff=deff, alpha=alpha, power=rule.power)
    return {"samples": len(covered), "detectable": round(min(1.0, effect), 4), "needed": needed}


def require_detectable(rule: MarginRule, asked: Sequence[tuple[str, str]]) -> None:
    """Refuse a margin that so many samples cannot show: an equal model would mostly be held.

    Raises:
        InvalidSpec: says what the samples can show, and how many the margin needs.
    """
    power = power_of(rule, asked)
    if rule.tier == "primary" and power["detectable"] > rule.margin:
        raise InvalidSpec(
            f"the margin of {rule.margin:g} for {rule.suite}.{rule.metric} is below what {power['samples']} samples "
            f"can show ({power['detectable']:.3f} at {100 * rule.power:.0f} % power, {100 * rule.discordance:g} % of "
            f"the pairs differing); ask {power['needed']} samples or widen the margin.",
            field="against_incumbent.margin",
        )


def require_detectable_policy(policy: Policy, asked: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """`require_detectable` for every comparison of a policy, before anything is asked.

    Args:
        asked: per suite, (expected, cluster) of every sample that will be asked; suites without an entry are skipped.
    """
    for rule in policy.against_incumbent:
        if rule.suite in asked:
            require_detectable(rule, asked[rule.suite])


def measured(measure: Measure, row: Row) -> float | None:
    """What a rule reads from a row: the score, or whether the sample was answered at all; None when it is unscored."""
    if row["score"] is None:
        return None
    return float(row["score"]) if measure == "score" else float(row["outcome_class"] != "refused")


def _one_instrument(rule: MarginRule, arms: Arms) -> str:
    ours, theirs = ({str(r["instrument"]) for r in rows} for rows in (arms.candidate, arms.incumbent))
    if len(ours) == 1 and ours == theirs:
        return ours.pop()
    told = [", ".join(sorted(i[:19] for i in found)) or "nothing" for found in (ours, theirs)]
    raise InvalidSpec(
        f"{rule.suite}: the candidate was asked with instrument {told[0]} and the incumbent {arms.who.shown} with "
        f"{told[1]}; scores of different instruments are not compared, so ask both again.",
        field="instrument",
    )


def _by_item(rows: Sequence[Row], rule: MarginRule) -> ByItem:
    found: ByItem = defaultdict(list)
    for row in counted(rows):
        if rule.expected is None or row["expected"] == rule.expected:
            found[row["item_uid"]].append(row)
    return dict(found)


def _lost(rows: Sequence[Row]) -> int:
    return sum(row["score"] is None for row in rows)


def _pair(measure: Measure, candidate: Sequence[Row], incumbent: Sequence[Row]) -> Pair | None:
    """Epochs are averaged first: asking again does not add a sample."""
    means = []
    for rows in (candidate, incumbent):
        values = [v for row in rows if (v := measured(measure, row)) is not None]
        if not values:
            return None
        means.append(math.fsum(values) / len(values))
    first = candidate[0]
    return Pair(means[0], means[1], float(first["weight"]), first["cluster"], str(first["category"]).split("/")[0])


def _watch(rule: MarginRule, arms: Arms) -> HarmWatch:
    """The harm watch over the first epoch's pairs, in the order in which they were asked."""
    theirs = {row["item_uid"]: row for row in arms.incumbent if row["epoch"] == 0}
    ours = [row for row in arms.candidate if row["epoch"] == 0 and rule.expected in (None, row["expected"])]
    seen = []
    for row in sorted(ours, key=lambda row: row["turn"] or 0):
        other = theirs.get(row["item_uid"])
        a, b = measured(rule.measure, row), measured(rule.measure, other) if other else None
        if a is not None and b is not None:
            seen.append((a - b, str(row["cluster"])))
    return watch_for_harm(seen)


def _mean(weighted: Sequence[tuple[float, float]]) -> float | None:
    total = math.fsum(weight for _, weight in weighted)
    return math.fsum(value * weight for value, weight in weighted) / total if total else None


def _categories(pairs: Sequence[Pair]) -> tuple[CategoryLoss, ...]:
    by_category: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_category[pair.stratum].append(pair)
    large = sorted(name for name, held in by_category.items() if len(held) >= FEWEST_OF_CATEGORY)
    if len(large) < 2:
        return ()
    p_values = [
        worse_sign_test(sum(p.difference > 0 for p in held), sum(p.difference < 0 for p in held))
        for held in (by_category[name] for name in large)
    ]
    return tuple(
        CategoryLoss(
            category=name,
            n=len(by_category[name]),
            difference=math.fsum(p.difference for p in by_category[name]) / len(by_category[name]),
            p=p_values[i],
            flagged=flag,
        )
        for i, (name, flag) in enumerate(zip(large, benjamini_hochberg(p_values), strict=True))
    )
