"""Two revisions of one model, from the score history."""

from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.comparison import Comparison, Score, compare_with_previous

# without what another tool scored, in suites called `<tool>:<task>`: it need not know the revision
SCORES = """
    select commit_hash, concat_ws(' ', engine, engine_version) as engine, suite, instrument, metric, value,
           coalesce(unit, '') as unit, evaluated_at
    from scores where repo_id = ? and lane = ? and suite not like '%:%'
"""


def previous_comparison(store: ScoreStore, repo_id: str, lane: str, commit_hash: str) -> Comparison | None:
    """A revision's numbers beside those of the revision before it; None when there is none before it.

    Args:
        store: the score history.
        repo_id, lane: whose.
        commit_hash: the revision to describe.
    """
    columns, rows = store.query(SCORES, [repo_id, lane])
    scores = [Score.model_validate(dict(zip(columns, row, strict=True))) for row in rows]
    return compare_with_previous(scores, commit_hash)
