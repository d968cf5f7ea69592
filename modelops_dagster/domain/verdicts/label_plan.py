"""What people's labels can do about a hold: how many would admit a grader, or settle a corrected share."""

from collections.abc import Mapping, Sequence

from pydantic import Field

from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.gauntlet.admission import Calibration, labels_to_admit, labels_to_settle
from modelops_dagster.domain.gauntlet.grading import Admission
from modelops_dagster.domain.values import Value
from modelops_dagster.domain.verdicts.decision import Criterion, SuiteEvidence, Verdict

CORRECTED = "corrected/"


class Need(Value):
    """Labels of one category that would bring something about."""

    category: str
    grader: str | None = Field(description="uid; None when no grader has judged the category")
    labels: int | None = Field(description="how many more; None when labels alone would not do")
    said: str = Field(description="what they would bring about, or why they would not, as a sentence")


def admission_needs(categories: Sequence[str], found: Sequence[Calibration], rule: Admission) -> list[Need]:
    """For each category, the grader that is nearest to being admitted and what it lacks."""
    out = []
    for category in categories:
        mine = [(labels_to_admit(c, rule), c) for c in found if c.category == category]
        if not mine:
            said = f"No grader has judged answers of {category}: name one in graders.yaml and run the suite."
            out.append(Need(category=category, grader=None, labels=None, said=said))
            continue
        more, nearest = min(mine, key=lambda pair: (pair[0] is None, pair[0] or 0, pair[1].grader))
        if more == 0:
            said = f"{nearest.grader} is admitted for {category}."
        elif more is None:
            said = f"No number of labels admits a grader for {category}: of {nearest.grader}, {nearest.why}."
        else:
            labels = counted(more, "more label")
            said = f"About {labels} at this rate would admit {nearest.grader} for {category}: {nearest.why}."
        out.append(Need(category=category, grader=nearest.grader, labels=more, said=said))
    return out


def needs_of_hold(
    verdict: Verdict, categories: Mapping[str, Sequence[str]], found: Sequence[Calibration], rule: Admission
) -> list[Need]:
    """What labels would do about every required criterion that holds a decision, for suites that graders judge.

    Args:
        categories: by suite, the category groups that only graders or people can judge.
        found: the calibrations as they are now.
    """
    by_suite = {piece.suite: piece for piece in verdict.evidence}
    holding = [c for c in verdict.criteria if c.tier == "required" and c.outcome == "hold" and c.suite in categories]
    out: list[Need] = []
    for criterion in holding:
        piece = by_suite.get(criterion.suite)
        if piece is not None and piece.withdrawn:
            continue  # what a grader that drifted says is not made good by more labels
        if piece is None or not piece.n_samples:
            needs = admission_needs(categories[criterion.suite], found, rule)
        elif criterion.metric.startswith(CORRECTED):
            needs = [_settling(verdict, criterion, piece, found)]
        else:
            needs = []
        out += [need for need in needs if need not in out]
    return out


def waiting_for_labels(verdict: Verdict) -> str:
    """A sentence where people's labels may close a hold, with the commands for it; '' where they cannot."""
    if verdict.outcome != "hold":
        return ""
    by_suite = {piece.suite: piece for piece in verdict.evidence}
    holding = [c for c in verdict.criteria if c.tier == "required" and c.outcome == "hold" and c.suite in by_suite]
    suites = {
        c.suite
        for c in holding
        if not by_suite[c.suite].withdrawn and (not by_suite[c.suite].n_samples or c.metric.startswith(CORRECTED))
    }
    if not suites:
        return ""
    until = f" until {verdict.closes_at:%Y-%m-%d %H:%M} UTC" if verdict.closes_at else ""
    command = f"modelops label --repo-id {verdict.repo_id}"
    return (
        f"People's labels may close this hold{until}: `{command} --plan` says how many it takes, and `{command}` shows "
        f"the answers to {' and '.join(sorted(suites))} for them to judge."
    )


def are_in(needs: Sequence[Need]) -> bool:
    """Whether all the labels that a hold waits for are there, so that it is worth deciding about it again."""
    return bool(needs) and all(need.labels == 0 for need in needs)


def _settling(verdict: Verdict, criterion: Criterion, piece: SuiteEvidence, found: Sequence[Calibration]) -> Need:
    """Labels that would move a corrected share's interval off its bar, beyond those that people gave since."""
    label, category = f"{criterion.suite}.{criterion.metric}", criterion.metric.removeprefix(CORRECTED)
    calibration = next((c for c in piece.calibrations if c.category == category), None)
    raw = piece.metric(f"accuracy/{category}") or piece.metric("accuracy")
    rules = verdict.policy_document.criteria if verdict.policy_document else ()
    bar = next((r.bar for r in rules if (r.suite, r.metric) == (criterion.suite, criterion.metric)), None)
    if calibration is None or raw is None or raw.value is None or bar is None:
        said = f"{label} was not measured; run the suite again."
        return Need(category=category, grader=None, labels=None, said=said)
    since = next((c for c in found if (c.grader, c.category) == (calibration.grader, category) and c.admitted), None)
    more = labels_to_settle(since or calibration, raw.value, raw.n, bar)
    if more == 0:
        said = f"The labels that are there settle {label} against its bar of {bar:g}."
    elif more is None:
        said = f"Labels alone do not settle {label}: most of its interval comes from asking {raw.n} answers only."
    else:
        said = f"About {counted(more, 'more label')} at this rate would settle {label} against its bar of {bar:g}."
    return Need(category=category, grader=calibration.grader, labels=more, said=said)
