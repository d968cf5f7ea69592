"""Every grader against people, category by category, from the score store."""

from collections import defaultdict
from collections.abc import Sequence

from modelops_dagster.clients.gauntlet.graders import Known, present_graders
from modelops_dagster.clients.gauntlet.panel import Panel
from modelops_dagster.clients.labels import Graded, Verdicts, answers_to_label, read_labels, verdicts
from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.gauntlet.admission import Calibration, Judged, calibrate
from modelops_dagster.domain.gauntlet.grading import Admission, GradersFile
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.labels import Answer, people_say


def open_panel(file: GradersFile, known: Known, store: ScoreStore, suites: Sequence[Suite]) -> Panel:
    """The panel of an installation, as its graders answer and are admitted now."""
    graders, notes = present_graders(file, known)
    found = calibrations(store, Graded(suites), file.admission) if graders else ()
    return Panel(graders, found, notes)


def calibrations(store: ScoreStore, graded: Graded, rule: Admission) -> tuple[Calibration, ...]:
    """A calibration for every grader and category group that it ever judged, in the order of their names.

    Only answers of runs with labels enter: a run that nobody labelled says nothing about a grader. The same answer in
    several runs is one answer.
    """
    said = {key[0]: value for key, value in people_say(read_labels(store)).items() if key[1] is None}
    found = verdicts(store)
    answers = answers_to_label(store, graded, found)
    labelled = {a.run_id for a in answers if a.answer_uid in said}
    unique = {a.answer_uid: a for a in answers if a.run_id in labelled}
    by_pair: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for answer in answers:
        for grader in found.get(answer.answer_uid, {}):
            by_pair[grader, answer.group] += [answer] if unique.get(answer.answer_uid) is answer else []
    return tuple(_calibrated(pair, mine, found, said, rule) for pair, mine in sorted(by_pair.items()))


def _calibrated(
    pair: tuple[str, str], answers: list[Answer], found: Verdicts, said: dict[str, float], rule: Admission
) -> Calibration:
    grader, category = pair
    settled = [found[a.answer_uid][grader] for a in answers]
    judged = [
        Judged(one.verdict, said.get(a.answer_uid), a.reason)
        for a, one in zip(answers, settled, strict=True)
        if one.verdict is not None
    ]
    flips, compared = sum(one.flips for one in settled), sum(one.compared for one in settled)
    return calibrate(grader, category, judged, rule, flips=flips, compared=compared)
