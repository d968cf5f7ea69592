"""Labels in the score store: what there is to label, what was said, and landing more."""

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.gauntlet.grading import Judgement, Settled, answer_of, answer_uid, settle
from modelops_dagster.domain.gauntlet.rubrics import Rubric, rubric_of
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.labels import Answer, Label, Task, label_from_row, label_row, reason_for

ANSWERS = """
    select run_id, repo_id, commit_hash, lane, endpoint, arm, suite, item_uid, sample_id, category, completion, score
    from samples
    where list_contains($uids, item_uid) and outcome_class in ('ungraded', 'correct', 'wrong')
      and coalesce(run_id = $run_id, true) and coalesce(repo_id = $repo_id, true)
    order by started_at, run_id, endpoint, sample_id, epoch
"""
CALLS = """
    select answer_uid, grader, placement, repeat, verdict from judgements
    where other_uid is null and coalesce(arm, '') <> 'anchor'
    qualify row_number() over (partition by answer_uid, grader, placement, repeat order by judged_at desc) = 1
    order by all
"""
Verdicts = Mapping[str, Mapping[str, Settled]]
"""What each grader says of an answer, by answer uid and grader uid."""


class Graded:
    """The suites' samples that no code can score, by uid, with their rubrics. Samples of the holdout are left out."""

    def __init__(self, suites: Sequence[Suite]) -> None:
        self.samples: dict[str, tuple[Sample, Rubric]] = {
            s.uid: (s, suite.spec.rubrics[name])
            for suite in suites
            for s in suite.samples
            if (name := rubric_of(s)) is not None and s.metadata.split != "holdout"
        }


def verdicts(store: ScoreStore) -> Verdicts:
    """What every grader ever said."""
    calls: dict[str, dict[str, list[Judgement]]] = defaultdict(lambda: defaultdict(list))
    for uid, grader, placement, repeat, verdict in store.query(CALLS)[1]:
        said = None if verdict is None else verdict == "pass"
        calls[uid][grader].append(Judgement(grader=grader, placement=placement, repeat=repeat, verdict=said))
    return {uid: {grader: settle(found) for grader, found in by.items()} for uid, by in calls.items()}


def answers_to_label(
    store: ScoreStore,
    graded: Graded,
    found: Verdicts,
    *,
    run_id: str | None = None,
    repo_id: str | None = None,
) -> list[Answer]:
    """The answers that people may judge, each text to a question once per endpoint and run, with the reason to ask.

    Answers of a run that somebody asked twice, in several epochs, are one answer where they say the same.
    """
    given = {"uids": list(graded.samples), "run_id": run_id, "repo_id": repo_id}
    columns, rows = store.query(ANSWERS, given)
    out: dict[tuple[str, str, str], Answer] = {}
    for values in rows:
        row = dict(zip(columns, values, strict=True))
        text = answer_of(row.pop("completion"))
        if text:
            uid = answer_uid(row["item_uid"], text)
            out.setdefault((row["run_id"], row["endpoint"], uid), Answer(**row, answer_uid=uid, text=text))
    others: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for answer in out.values():
        others[answer.run_id, answer.item_uid].append(answer)
    return [_with_reason(a, others[a.run_id, a.item_uid], found) for a in out.values()]


def _with_reason(answer: Answer, beside: Sequence[Answer], found: Verdicts) -> Answer:
    mine = found.get(answer.answer_uid, {})
    other = next((a for a in beside if a.endpoint != answer.endpoint), None)
    theirs = found.get(other.answer_uid, {}) if other else {}
    nothing = Settled(None, 0, 0)
    reason = reason_for(list(mine.values()), [theirs.get(g, nothing) for g in mine] if theirs else ())
    return answer.model_copy(update={"reason": reason})


def tasks_of(answers: Sequence[Answer], *, pairs: bool = False) -> list[Task]:
    """What to show: every answer, or every candidate's answer against the incumbent's where they differ."""
    if not pairs:
        return [Task(answer=answer) for answer in answers]
    theirs = {(a.run_id, a.item_uid): a for a in answers if a.arm == "incumbent"}
    ours = [a for a in answers if a.arm == "candidate" and (a.run_id, a.item_uid) in theirs]
    both = [Task(answer=a, other=theirs[a.run_id, a.item_uid]) for a in ours]
    return [t for t in both if t.other is not None and t.other.answer_uid != t.answer.answer_uid]


def latest_run(store: ScoreStore, graded: Graded, repo_id: str | None = None) -> str | None:
    """The newest run with answers that no code can score."""
    sql = """
        select run_id from samples where list_contains($uids, item_uid) and coalesce(repo_id = $repo_id, true)
        order by started_at desc limit 1
    """
    rows = store.query(sql, {"uids": list(graded.samples), "repo_id": repo_id})[1]
    return str(rows[0][0]) if rows else None


def read_labels(store: ScoreStore) -> list[Label]:
    """Every label, oldest first."""
    columns, rows = store.query("select * from labels order by labelled_at, label_id")
    return [label_from_row(dict(zip(columns, row, strict=True))) for row in rows]


def said_by(task: Task, said: str, author: str, **details: Any) -> Label:
    """A new label. `details` are `seconds` and `comment`.

    Raises:
        ValueError: nothing that can be said of such a task, or a detail does not hold.
    """
    return Label.model_validate(
        {
            "label_id": uuid.uuid4().hex,
            "kind": task.kind,
            "answer_uid": task.answer.answer_uid,
            "other_uid": task.other.answer_uid if task.other else None,
            "value": task.value(said),
            "author": author,
            "labelled_at": datetime.now(UTC),
            **details,
        }
    )


def land_labels(store: ScoreStore, labels: Sequence[tuple[Label, Answer]], source: str) -> None:
    """Add labels, one immutable file per run and batch; nothing that was said before is touched."""
    by_run: dict[tuple[str, str], list[tuple[Label, Answer]]] = defaultdict(list)
    for label, answer in labels:
        by_run[answer.run_id, answer.repo_id].append((label, answer))
    for (run_id, repo_id), found in by_run.items():
        rows = [label_row(label, answer, source) for label, answer in found]
        store.land("labels", rows, repo_id=repo_id, run_id=run_id, part=f"labels-{uuid.uuid4().hex}")
