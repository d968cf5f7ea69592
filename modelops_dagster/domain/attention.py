"""What a person should look at first in a model's report: the few facts that would change what they do next."""

from collections.abc import Sequence

from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.policies import shown
from modelops_dagster.domain.verdicts import Criterion, Verdict
from modelops_dagster.domain.verdicts.label_plan import waiting_for_labels

MAX_LINES = 7
MANY_UNSCORED = 0.02


def look_first(verdict: Verdict, samples: Sequence[Row], flips: Sequence[Row], rungs_left: Sequence[Row]) -> list[str]:
    """Sentences, the most pressing first; empty when nothing stands out.

    Args:
        verdict: the decision.
        samples: the answers it rests on.
        flips: those that candidate and incumbent did not answer alike.
        rungs_left: rungs of the ladder that could not serve the model.
    """
    labels = waiting_for_labels(verdict)
    found = [labels] if labels else []
    found += [_criterion(c) for c in verdict.criteria if c.tier == "required" and c.outcome != "pass"]
    critical = [s for s in samples if s["severity"] == "critical" and s["outcome_class"] == "wrong"]
    if critical:
        named = ", ".join(s["sample_id"] for s in critical[:3])
        found.append(f"{counted(len(critical), 'critical sample')} answered wrongly: {named}.")
    for compared in verdict.comparisons:
        if compared.stopped_at is not None:
            found.append(f"{compared.suite} was stopped for harm at pair {compared.stopped_at}.")
        if compared.breach:
            found.append(f"{compared.suite}: {compared.breach}.")
        lost = [c for c in compared.categories if c.flagged]
        found.extend(
            f"{compared.suite}: worse in {c.category} by {shown(-c.difference)} over {c.n} pairs." for c in lost
        )
    worse = [f for f in flips if f["change"] == "worse"]
    if worse:
        found.append(f"{counted(len(worse), 'sample')} that the incumbent got right and this model did not.")
    for evidence in verdict.evidence:
        share = evidence.n_unscored / evidence.n_samples if evidence.n_samples else 0.0
        if share > MANY_UNSCORED:
            found.append(f"{evidence.suite}: {evidence.n_unscored} of {evidence.n_samples} could not be scored.")
        found.extend(f"{evidence.suite}: {line}" for line in evidence.failing[:2])
    if rungs_left:
        found.append(f"It stands on a lower rung: {rungs_left[0]['rung']} was left ({rungs_left[0]['reason']}).")
    return found[:MAX_LINES]


def _criterion(c: Criterion) -> str:
    value = "missing" if c.value is None else shown(c.value)
    note = f"; {c.note}" if c.note else ""
    return f"{c.suite}.{c.metric} is {value}, asked for {c.rule}{note}."
