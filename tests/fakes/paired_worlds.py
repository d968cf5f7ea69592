"""Worlds in which two models answer the same samples, with a difference that is known, judged by the real decision."""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from modelops_dagster.domain.gauntlet.report import Incumbent
from modelops_dagster.domain.policies import MarginRule, Policy, Rule
from modelops_dagster.domain.verdicts import Arms, Case, SuiteEvidence, Verdict, decide

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
INCUMBENT = Incumbent(
    endpoint="org-model-raw-old", commit_hash="b" * 40, engine="fake", engine_version="1", run_id="run-1",
    interleaved=True, asked_at=NOW,
)  # fmt: skip


class World(NamedTuple):
    """What is true. `delta` is the candidate's loss or gain in share of right answers."""

    n: int
    delta: float = 0.0
    discordance: float = 0.12
    accuracy: float = 0.7
    cluster_size: int = 1
    unscored: float = 0.0


def margin_policy(margin: float, *, discordance: float = 0.10, **changes: Any) -> Policy:
    """A policy whose primary criterion is the margin, and nothing else decides."""
    rule = MarginRule(suite="quality", margin=margin, discordance=discordance, icc=0, **changes)
    floor = Rule(suite="quality", metric="accuracy", min=0.0, when="no_incumbent")
    return Policy(name="test", version=1, description="for tests", criteria=(floor,), against_incumbent=(rule,))


def row(number: int, score: float | None, turn: int, cluster: str = "", **changes: Any) -> dict[str, Any]:
    """A sample's row as it lands, with what a decision reads of it."""
    return {
        "item_uid": f"uid-{number}", "sample_id": f"s{number}", "category": f"g{number % 4}/x",
        "cluster": cluster or f"s{number}", "weight": 1.0, "expected": "answer", "severity": "minor", "epoch": 0,
        "score": score, "outcome_class": "infra_error" if score is None else "correct" if score else "wrong",
        "turn": turn, "instrument": "sha256:i", **changes,
    }  # fmt: skip


def draw(world: World, rng: np.random.Generator) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of candidate and incumbent. Samples of one cluster are answered alike by both arms."""
    groups = -(-world.n // world.cluster_size)
    up, down = (world.discordance + world.delta) / 2, (world.discordance - world.delta) / 2
    both = max(0.0, world.accuracy - down)
    kinds = np.repeat(rng.choice(4, size=groups, p=[up, down, both, 1 - up - down - both]), world.cluster_size)
    lost = rng.random((2, world.n)) < world.unscored
    turns = rng.permutation(world.n)
    arms: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for i in range(world.n):
        right = (kinds[i] in (0, 2), kinds[i] in (1, 2))
        for arm, rows in enumerate(arms):
            score = None if lost[arm, i] else float(right[arm])
            rows.append(row(i, score, int(turns[i]), f"c{i // world.cluster_size}" if world.cluster_size > 1 else ""))
    return arms


def judged(policy: Policy, candidate: list[dict[str, Any]], incumbent: list[dict[str, Any]]) -> Verdict:
    """The real decision on these rows."""
    evidence = SuiteEvidence(
        suite="quality", kind="dataset", run_id="run-1", suite_digest="sha256:d", instrument="sha256:i", metrics=(),
        n_samples=len(candidate), n_unscored=sum(r["score"] is None for r in candidate),
    )  # fmt: skip
    return decide(
        Case(
            policy=policy, evidence=[evidence], repo_id="org/model", commit_hash="a" * 40, lane="raw",
            endpoint="org-model-raw-new", decided_at=NOW,
            arms={"quality": Arms(candidate, incumbent, INCUMBENT)},
        )
    )  # fmt: skip


class Rates(NamedTuple):
    """Shares of the decisions that ended so; `stopped` were stopped early for harm."""

    passed: float
    failed: float
    held: float
    stopped: float


def rates(policy: Policy, world: World, times: int, seed: int) -> Rates:
    """How often each outcome comes out of this world."""
    rng = np.random.default_rng(seed)
    found = [judged(policy, *draw(world, rng)) for _ in range(times)]
    outcomes = [v.outcome for v in found]
    return Rates(
        *(outcomes.count(outcome) / times for outcome in ("pass", "fail", "hold")),
        sum(v.comparisons[0].stopped_at is not None for v in found) / times,
    )
