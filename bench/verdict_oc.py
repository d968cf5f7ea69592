"""Operating characteristics of the promotion decision: how often it says what, in worlds whose truth is known.

Every figure is a share of whole decisions (`domain.verdicts.decide`) on simulated rows: pairing, interval, harm stop,
missing answers and all. The grader figures are coverages of 95 % intervals of means that were corrected for a grader of
known error rates.
"""

import sys
from collections.abc import Iterator

import numpy as np

from bench.figures import Figure
from modelops_dagster.domain.policies import Policy
from modelops_dagster.domain.statistics.graders import inverse_weighted, prediction_powered, rogan_gladen
from tests.fakes.paired_worlds import Rates, World, margin_policy, rates

TIMES = 1_500
GRADED = 1_000
BENCH = "verdict_oc"


def run() -> Iterator[Figure]:
    """Yields rates of outcomes, then coverages; the standard error of a rate of 0.05 is 0.006."""
    policy = margin_policy(0.05)
    equal = _rates("equal models, n=300", policy, World(300), 1)
    yield Figure(BENCH, "go_equal_n300", equal.passed, "share", "0.80 by the power formula")
    yield Figure(BENCH, "nogo_equal_n300", equal.failed, "share", "0.05 + harm stop")
    yield Figure(BENCH, "harm_stop_false_rate", equal.stopped, "share", "<= 0.05")
    margin = _rates("at the margin, n=300", policy, World(300, delta=-0.05), 2)
    yield Figure(BENCH, "false_go_at_margin", margin.passed, "share", "<= 0.06")
    yield Figure(BENCH, "nogo_at_margin", margin.failed, "share", "0.81")
    twice = _rates("twice the margin, n=300", policy, World(300, delta=-0.10), 3)
    yield Figure(BENCH, "nogo_at_twice_margin", twice.failed, "share", ">= 0.99")
    yield Figure(BENCH, "harm_stopped_at_twice_margin", twice.stopped, "share", "")
    better = _rates("better by 3 points, n=300", policy, World(300, delta=0.03), 4)
    yield Figure(BENCH, "go_better_n300", better.passed, "share", "0.99")
    larger = _rates("equal models, n=500", policy, World(500), 5)
    yield Figure(BENCH, "go_equal_n500", larger.passed, "share", "0.94")
    clustered = _rates("at the margin, clusters of 4", policy, World(300, delta=-0.05, cluster_size=4), 6)
    yield Figure(BENCH, "false_go_at_margin_clustered", clustered.passed, "share", "<= 0.06")
    few = _rates("at the margin, few pairs differ, n=100", margin_policy(0.03, discordance=0.01), _FEW, 7)
    yield Figure(BENCH, "false_go_at_margin_few_differ", few.passed, "share", "<= 0.06")
    lost = _rates("one answer in ten unscored", policy, World(300, unscored=0.1), 8)
    yield Figure(BENCH, "held_when_answers_are_missing", lost.held, "share", "1 - harm stops")
    yield from _graders()


_FEW = World(100, delta=-0.03, discordance=0.05)


def _rates(what: str, policy: Policy, world: World, seed: int) -> Rates:
    print(f"bench verdict_oc: {what}", file=sys.stderr)
    return rates(policy, world, TIMES, seed)


def _graders() -> Iterator[Figure]:
    """A grader of sensitivity 0.95 and specificity 0.75, 300 answers of which 60 % are right, 100 of them labelled."""
    print("bench verdict_oc: graders", file=sys.stderr)
    rng = np.random.default_rng(9)
    true, se, sp, n, n_labelled = 0.6, 0.95, 0.75, 300, 100
    hits = dict.fromkeys(("uncorrected", "rogan_gladen", "prediction_powered", "inverse_weighted"), 0)
    for _ in range(GRADED):
        right = rng.random(n) < true
        grade = np.where(right, rng.random(n) < se, rng.random(n) > sp)
        low, high = grade.mean() - 1.96 * grade.std() / n**0.5, grade.mean() + 1.96 * grade.std() / n**0.5
        hits["uncorrected"] += low <= true <= high
        known = right[:n_labelled], grade[:n_labelled]
        caught = (int((known[1] & known[0]).sum()), int(known[0].sum()))
        refused = (int((~known[1] & ~known[0]).sum()), int((~known[0]).sum()))
        found = [rogan_gladen(int(grade.sum()), n, right=caught, wrong=refused)]
        found.append(prediction_powered(grade.astype(float), list(zip(*np.array(known, dtype=float), strict=True))))
        chance = np.where(grade, 0.2, 0.6)  # labels are routed to what the grader calls wrong
        human = [float(r) if d < c else None for r, c, d in zip(right, chance, rng.random(n), strict=True)]
        found.append(inverse_weighted(list(zip(grade.astype(float), human, chance, strict=True))))
        for name, estimate in zip(list(hits)[1:], found, strict=True):
            hits[name] += estimate.low <= true <= estimate.high
    for name, count in hits.items():
        bar = "what the correction is for" if name == "uncorrected" else "0.95"
        yield Figure(BENCH, f"grader_{name}_coverage", count / GRADED, "share", bar)
