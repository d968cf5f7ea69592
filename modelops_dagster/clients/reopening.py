"""Whether labels may open a hold again, and which holds they should."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from modelops_dagster.clients.calibrations import calibrations
from modelops_dagster.clients.labels import Graded, read_labels
from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.errors import UserError
from modelops_dagster.domain.gauntlet.grading import Admission
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.verdicts import Verdict
from modelops_dagster.domain.verdicts.label_plan import Need, needs_of_hold

MARK = "select count(*), coalesce(max(labelled_at)::varchar, '') from labels"
JUDGES = """
    select run_id, list(distinct grader) from judgements where list_contains($runs, run_id) and other_uid is null
    group by run_id
"""


def label_mark(store: ScoreStore) -> str:
    """A word that is another one as soon as there are more labels."""
    ((count, newest),) = store.query(MARK)[1]
    return f"{count} {newest}"


def require_reopenable(store: ScoreStore, repo_id: str, lane: str, now: datetime | None = None) -> Verdict:
    """The hold that the last decision on a model is.

    Raises:
        UserError: it is none, its time is over, or nobody has labelled anything since.
    """
    last = next((v for v in store.latest_verdicts(repo_id) if v.lane == lane), None)
    if last is None or last.outcome != "hold":
        what = f"the last decision is {last.outcome}" if last else "there is no decision"
        raise UserError(f"{repo_id} is not held in the lane {lane}: {what}.")
    if not is_open(last, now or datetime.now(UTC)):
        raise UserError(
            f"The hold of {repo_id} is closed since {last.closes_at:%Y-%m-%d %H:%M} UTC: evaluate it again with "
            f"`modelops onboard {repo_id}`."
        )
    if not any(label.labelled_at > last.decided_at for label in read_labels(store)):
        raise UserError(
            f"Nobody has labelled anything since {last.decided_at:%Y-%m-%d %H:%M} UTC: `modelops label --plan` says "
            "what labels would close the hold."
        )
    return last


def hold_to_decide(
    store: ScoreStore, repo_id: str, commit_hash: str, lane: str, now: datetime, *, is_retry: bool = False
) -> Verdict:
    """The hold on a revision that a run is to decide about again.

    Args:
        commit_hash: of the endpoint whose answers are stored as the newest.
        is_retry: a run before this one was killed, perhaps after its decision was written down.

    Raises:
        UserError: there is none, as `require_reopenable` says, or it is on another revision.
    """
    last = next((v for v in store.latest_verdicts(repo_id) if v.lane == lane), None)
    before = store.verdict(last.reopens) if is_retry and last is not None and last.reopens else None
    held = before or require_reopenable(store, repo_id, lane, now)
    if held.commit_hash != commit_hash:
        raise UserError(
            f"{repo_id} is held at {held.commit_hash[:12]}, and {commit_hash[:12]} is being evaluated by now: its own "
            "decision follows."
        )
    return held


def is_open(hold: Verdict, now: datetime) -> bool:
    """Whether more evidence may still close a hold."""
    return hold.closes_at is None or now < hold.closes_at


@dataclass(frozen=True)
class Waiting:
    """An open hold and the labels that it still wants; none when labels cannot close it."""

    hold: Verdict
    needs: Sequence[Need]


def waiting_for_labels(store: ScoreStore, suites: Sequence[Suite], rule: Admission, now: datetime) -> list[Waiting]:
    """Every open hold after which people labelled something, with what it wants beyond that.

    A grader counts for a hold if it judged that run's answers: no other one's verdicts can score them.
    """
    labels = read_labels(store)
    newest = max((label.labelled_at for label in labels), default=None)
    holds = [v for v in store.latest_verdicts() if v.outcome == "hold" and is_open(v, now)]
    holds = [v for v in holds if newest is not None and newest > v.decided_at]
    groups: Mapping[str, Sequence[str]] = {s.name: s.groups_to_grade for s in suites if s.groups_to_grade}
    if not holds or not groups:
        return []
    found = calibrations(store, Graded(suites), rule)
    runs = sorted({piece.run_id for hold in holds for piece in hold.evidence})
    judges = {run_id: set(graders) for run_id, graders in store.query(JUDGES, {"runs": runs})[1]}
    out = []
    for hold in holds:
        able = {grader for piece in hold.evidence for grader in judges.get(piece.run_id, ())}
        out.append(Waiting(hold, needs_of_hold(hold, groups, [c for c in found if c.grader in able], rule)))
    return out
