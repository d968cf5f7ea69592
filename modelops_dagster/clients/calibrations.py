"""Every grader against people, category by category, from the score store."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from modelops_dagster.clients.gauntlet.graders import Known, present_graders
from modelops_dagster.clients.gauntlet.panel import Panel
from modelops_dagster.clients.labels import Graded, Verdicts, answers_to_label, read_labels, verdicts
from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.gauntlet.admission import Calibration, Judged, calibrate
from modelops_dagster.domain.gauntlet.drift import Anchor, chosen
from modelops_dagster.domain.gauntlet.grading import Admission, GradersFile
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.labels import Answer, people_say


def open_panel(file: GradersFile, known: Known, store: ScoreStore, suites: Sequence[Suite]) -> Panel:
    """The panel of an installation, as its graders answer and are admitted now."""
    graders, notes = present_graders(file, known)
    if not graders:
        return Panel(notes=notes)
    graded, rule = Graded(suites), file.admission
    people = _People(store, graded)
    found = people.calibrations(rule)
    return Panel(graders, found, notes, anchors=people.anchors(found, graded, rule), drift=rule.drift)


def calibrations(store: ScoreStore, graded: Graded, rule: Admission) -> tuple[Calibration, ...]:
    """A calibration for every grader and category group that it ever judged, in the order of their names.

    Only answers of runs with labels enter: a run that nobody labelled says nothing about a grader. The same answer in
    several runs is one answer.
    """
    return _People(store, graded).calibrations(rule)


class _People:
    """What people and graders said of the same answers, by grader and category group."""

    def __init__(self, store: ScoreStore, graded: Graded) -> None:
        self._said = {key[0]: value for key, value in people_say(read_labels(store)).items() if key[1] is None}
        self._found = verdicts(store)
        answers = answers_to_label(store, graded, self._found)
        labelled = {a.run_id for a in answers if a.answer_uid in self._said}
        unique = {a.answer_uid: a for a in answers if a.run_id in labelled}
        self._by_pair: dict[tuple[str, str], list[Answer]] = defaultdict(list)
        self._silent: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._spoke: set[tuple[str, str]] = set()
        for answer in answers:
            for grader, settled in self._found.get(answer.answer_uid, {}).items():
                if settled.verdict is None:
                    self._silent[grader, answer.group].add(answer.answer_uid)
                else:
                    self._spoke.add((grader, answer.group))
                self._by_pair[grader, answer.group] += [answer] if unique.get(answer.answer_uid) is answer else []

    def calibrations(self, rule: Admission) -> tuple[Calibration, ...]:
        """Of every grader and category group that it ever judged."""
        pairs = sorted(self._by_pair.items())
        found = [(pair, _calibrated(pair, mine, self._found, self._said, rule)) for pair, mine in pairs]
        return tuple(one if pair in self._spoke else _of_silent(one, len(self._silent[pair])) for pair, one in found)

    def anchors(self, found: Sequence[Calibration], graded: Graded, rule: Admission) -> tuple[Anchor, ...]:
        """Of every admission, the labelled answers that its grader is held to in each run."""
        split = [uid for uid, (sample, _) in graded.samples.items() if sample.metadata.split == "anchor"]
        admitted = [(c.grader, c.category) for c in found if c.admitted]
        return tuple(a for pair in admitted for a in chosen(list(self._labelled(*pair)), split, rule.anchors))

    def _labelled(self, grader: str, category: str) -> Iterator[Anchor]:
        for answer in self._by_pair[grader, category]:
            then, human = self._found[answer.answer_uid][grader].verdict, self._said.get(answer.answer_uid, 0.5)
            if then is not None and human != 0.5:
                yield Anchor(
                    grader=grader,
                    category=category,
                    item_uid=answer.item_uid,
                    sample_id=answer.sample_id,
                    answer_uid=answer.answer_uid,
                    answer=answer.text,
                    good=human > 0.5,
                    then=then,
                )


def _of_silent(found: Calibration, asked: int) -> Calibration:
    """Of a grader without a single verdict: no label can say anything about it."""
    why = f"none of its replies about {asked} answers is a verdict; look at them in `judgements`"
    return found.model_copy(update={"silent": asked, "why": why})


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
