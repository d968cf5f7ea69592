"""Whether labels may open a hold again."""

from datetime import UTC, datetime

from modelops_dagster.clients.labels import read_labels
from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.errors import UserError
from modelops_dagster.domain.verdicts import Verdict


def require_reopenable(store: ScoreStore, repo_id: str, lane: str, now: datetime | None = None) -> Verdict:
    """The hold that the last decision on a model is.

    Raises:
        UserError: it is none, its time is over, or nobody has labelled anything since.
    """
    last = next((v for v in store.latest_verdicts(repo_id) if v.lane == lane), None)
    if last is None or last.outcome != "hold":
        what = f"the last decision is {last.outcome}" if last else "there is no decision"
        raise UserError(f"{repo_id} is not held in the lane {lane}: {what}.")
    if last.closes_at is not None and (now or datetime.now(UTC)) >= last.closes_at:
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
