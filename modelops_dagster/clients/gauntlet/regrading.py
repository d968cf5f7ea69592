"""A suite graded again from stored answers and judgements, once people's labels admit a grader or say more of it.

Nothing is asked of anybody. What comes of it is a run of its own, so that the decision before stays what it was.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelops_dagster.clients.calibrations import calibrations
from modelops_dagster.clients.gauntlet.anchoring import ARM
from modelops_dagster.clients.gauntlet.panel import counting_nowhere, graded_row
from modelops_dagster.clients.labels import Graded
from modelops_dagster.clients.scores.answers import answers
from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.gauntlet.admission import Calibration
from modelops_dagster.domain.gauntlet.aggregates import counted, dataset_metrics
from modelops_dagster.domain.gauntlet.grading import GradersFile, Judgement, answer_of, answer_uid
from modelops_dagster.domain.gauntlet.report import Incumbent, SuiteReport
from modelops_dagster.domain.gauntlet.rows import Row, score_rows
from modelops_dagster.domain.gauntlet.rubrics import rubric_of
from modelops_dagster.domain.gauntlet.samples import canonical, digest
from modelops_dagster.domain.gauntlet.suite import Suite

CALLS = """
    select answer_uid, grader, placement, repeat, verdict, reason, status from judgements
    where run_id = $run_id and suite = $suite and endpoint = $endpoint and other_uid is null
      and coalesce(arm, '') <> $anchor
    order by all
"""
SAID = "Graded again from stored answers, because people labelled more of them."
GRADED_OUTCOMES = frozenset({"ungraded", "correct", "wrong", "empty"})
Calls = Mapping[str, Mapping[str, Sequence[Judgement]]]
"""What graders said of a run's answers, by answer uid and grader uid."""


@dataclass(frozen=True)
class Regrading:
    """Grades reports again under one run id, for one lane.

    Args:
        file: the graders of the installation; the first that is admitted for a category scores it.
    """

    store: ScoreStore
    suites: Sequence[Suite]
    file: GradersFile
    lane: str
    run_id: str

    def all(self, reports: Sequence[SuiteReport]) -> list[SuiteReport]:
        """The reports, each graded again where labels change what counts of it; the others as they are."""
        by_name = {suite.name: suite for suite in self.suites if suite.groups_to_grade}
        wanted = [r for r in reports if r.suite in by_name and r.run_id != self.run_id and not r.withdrawn]
        if not wanted:
            return list(reports)
        found = calibrations(self.store, Graded(self.suites), self.file.admission)
        return [self._again(by_name[r.suite], r, found) if r in wanted else r for r in reports]

    def _again(self, suite: Suite, report: SuiteReport, found: Sequence[Calibration]) -> SuiteReport:
        calls = self._calls(report.run_id, report.suite, report.endpoint.name)
        scoring = self._scoring(suite, calls, found)
        used = tuple(c for c in found if scoring.get(c.category) == c.grader)
        parts = json.loads(report.instrument_parts or "{}")
        if not scoring or (scoring == parts.get("graders") and used == report.calibrations):
            return report
        parts["graders"] = dict(sorted(scoring.items()))
        new = {"run_id": self.run_id, "instrument": digest(parts)}
        rows = self._rows(suite, report.run_id, report.endpoint.name, calls, scoring, new)
        known = counted(rows)
        changed = report.model_copy(
            update={
                **new,
                "instrument_parts": canonical(parts),
                "metrics": dataset_metrics(report.specs, rows, used),
                "n_samples": len(known),
                "n_unscored": sum(row["score"] is None for row in known),
                "calibrations": used,
                "graders": tuple(
                    g.model_copy(update={"counts": scoring.get(g.category) == g.grader}) for g in report.graders
                ),
                "incumbent": self._incumbent(suite, report.incumbent, scoring, new),
                "notes": (SAID, *counting_nowhere(rows, scoring, True)),
            }
        )
        whose = {"repo_id": report.endpoint.checkpoint.revision.repo_id, "run_id": self.run_id}
        path = self.store.land("samples", rows, **whose)
        self.store.land("scores", score_rows(changed, self.lane), **whose)
        return changed.model_copy(update={"samples_file": str(path)})

    def _scoring(self, suite: Suite, calls: Calls, found: Sequence[Calibration]) -> dict[str, str]:
        """By category group, the first grader of the file that judged these answers and is admitted now."""
        order = [spec.name for spec in self.file.graders]
        judged = {uid for by in calls.values() for uid in by if uid.rpartition("-")[0] in order}
        first = sorted(judged, key=lambda uid: (order.index(uid.rpartition("-")[0]), uid))
        admitted = {(c.grader, c.category) for c in found if c.admitted}
        scoring = {g: next((uid for uid in first if (uid, g) in admitted), None) for g in suite.groups_to_grade}
        return {group: uid for group, uid in scoring.items() if uid is not None}

    def _calls(self, run_id: str, suite: str, endpoint: str) -> Calls:
        out: dict[str, dict[str, list[Judgement]]] = defaultdict(lambda: defaultdict(list))
        given = {"run_id": run_id, "suite": suite, "endpoint": endpoint, "anchor": ARM}
        for uid, grader, placement, repeat, verdict, reason, status in self.store.query(CALLS, given)[1]:
            said = None if verdict is None else verdict == "pass"
            one = Judgement(
                grader=grader, placement=placement, repeat=repeat, verdict=said, reason=reason or "", status=status
            )
            out[uid][grader].append(one)
        return out

    def _rows(
        self, suite: Suite, run_id: str, endpoint: str, calls: Calls, scoring: Mapping[str, str], new: Mapping[str, str]
    ) -> list[Row]:
        """The stored rows with what counts of them now, as rows of the new run."""
        by_graders = {s.uid for s in suite.samples if rubric_of(s) is not None}
        out = []
        for row in answers(self.store, run_id, suite.name, endpoint):
            changed = {**row, **new}
            if row["item_uid"] in by_graders and row["outcome_class"] in GRADED_OUTCOMES:
                waiting = {**changed, "score": None, "outcome_class": "ungraded"}
                said = calls.get(answer_uid(row["item_uid"], answer_of(row["completion"])), {})
                changed = graded_row(waiting, said, scoring)
            out.append(changed)
        return out

    def _incumbent(
        self, suite: Suite, who: Incumbent | None, scoring: Mapping[str, str], new: Mapping[str, str]
    ) -> Incumbent | None:
        """The incumbent with its answers graded again as well: both arms stand on one instrument."""
        if who is None:
            return None
        calls = self._calls(who.run_id, suite.name, who.endpoint)
        rows = self._rows(suite, who.run_id, who.endpoint, calls, scoring, new)
        if rows:
            self.store.land("samples", rows, repo_id=rows[0]["repo_id"], run_id=self.run_id)
        return who.model_copy(update={"run_id": self.run_id})
