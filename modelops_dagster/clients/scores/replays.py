"""`modelops verdict replay`: a stored decision against the rows it was made from."""

from modelops_dagster.clients.scores.answers import Table, answers, stored_metrics
from modelops_dagster.clients.scores.store import ScoreStore
from modelops_dagster.domain.errors import IntegrityError, InvalidSpec
from modelops_dagster.domain.gauntlet.rows import Row
from modelops_dagster.domain.verdicts import Arms, Case, PairedResult, SuiteEvidence, Verdict, decide
from modelops_dagster.domain.verdicts.replay import Mismatch, mismatches, recomputed


def replay(store: ScoreStore, verdict_id: str) -> tuple[Verdict, Verdict, list[Mismatch]]:
    """Decide again from the stored rows, under the policy and at the time of the stored decision.

    Returns:
        The stored decision, the new one, and every number in which they differ.

    Raises:
        InvalidSpec: there is no such decision, or it was stored without its evidence.
        IntegrityError: rows that it was made from are gone.
    """
    stored = store.verdict(verdict_id)
    if stored is None:
        raise InvalidSpec(
            f"there is no verdict {verdict_id!r}; `modelops verdict show REPO_ID` prints the ids.", field="verdict_id"
        )
    if stored.policy_document is None:
        raise InvalidSpec(
            f"verdict {verdict_id} was stored before decisions kept their policy and evidence; "
            f"onboard {stored.repo_id} again for one that can be replayed.",
            field="verdict_id",
        )
    evidence: list[SuiteEvidence] = []
    for piece in stored.evidence:
        table: Table = "perf_requests" if piece.kind == "performance" else "samples"
        rows = _present(answers(store, piece.run_id, piece.suite, stored.endpoint, table), piece.run_id, piece.suite)
        evidence.append(recomputed(piece, rows, stored_metrics(store, piece.run_id, piece.suite, stored.endpoint)))
    runs = {piece.suite: piece.run_id for piece in stored.evidence}
    arms = {r.suite: _arms(store, stored.endpoint, runs[r.suite], r) for r in stored.comparisons}
    again = decide(
        Case(
            policy=stored.policy_document,
            evidence=evidence,
            repo_id=stored.repo_id,
            commit_hash=stored.commit_hash,
            lane=stored.lane,
            endpoint=stored.endpoint,
            decided_at=stored.decided_at,
            arms=arms,
            incumbent_note=stored.incumbent_note,
            closes_at=stored.closes_at,
            reopens=stored.reopens,
        )
    )
    return stored, again, mismatches(stored, again)


def _arms(store: ScoreStore, endpoint: str, run_id: str, result: PairedResult) -> Arms:
    who = result.incumbent
    candidate = answers(store, run_id, result.suite, endpoint)
    incumbent = answers(store, who.run_id, result.suite, who.endpoint)
    return Arms(candidate, _present(incumbent, who.run_id, result.suite), who)


def _present(rows: list[Row], run_id: str, suite: str) -> list[Row]:
    if not rows:
        raise IntegrityError(
            f"the rows of suite {suite} in run {run_id} are gone from the score history; restore its landing folder."
        )
    return rows
