"""A small history with something in every table, for the tests of what is asked of it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from modelops_dagster.clients.calls import CallFile
from modelops_dagster.clients.endpoints import EndpointRecord, RecordStore
from modelops_dagster.clients.endpoints.history import History
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState
from modelops_dagster.domain.gauntlet.report import Incumbent, Metric
from modelops_dagster.domain.monitoring import Stand
from modelops_dagster.domain.verdicts import PairedResult, SuiteEvidence, Verdict
from tests.clients.score_rows import NOW, score, verdict

TINY, SMALL = "acme/tiny", "acme/small"
OLD, NEW = "a" * 40, "b" * 40
QUESTIONS = (("q1", "math"), ("q2", "math"), ("q3", "facts"), ("q4", "facts"))


def fill(home: Path) -> ScoreStore:
    """Two revisions of one model, the second compared with the first; another model; a quantized lane; calls."""
    store = ScoreStore(home / "scores")
    later = NOW + timedelta(days=1)
    _evaluated(store, TINY, OLD, "run-old", NOW, (1, 1, 0, 1), 0.75, (0.72, 0.80))
    _evaluated(store, TINY, NEW, "run-new", later, (1, 0, 0, 1), 0.5, (0.45, 0.55))
    _evaluated(store, SMALL, OLD, "run-small", later, (1, 1, 0, None), 0.9, (0.85, 0.95))
    _evaluated(store, TINY, NEW, "run-fp8", later, (1, 0, 0, 1), 0.48, (0.40, 0.56), lane="fp8")
    newest = score("run-new2", SMALL, suite_digest="d2", value=0.9, instrument="i2", evaluated_at=later + timedelta(1))
    store.land("scores", [newest], repo_id=SMALL, run_id="run-new2")
    for row in (_verdict("pass", "1" * 16, OLD, NOW, None), _verdict("fail", "2" * 16, NEW, later, "run-old")):
        store.land_verdict(row, run_id=row.verdict_id)
    _chain(store, later)
    gap = _row(
        "bf-1", TINY, NEW, suite="quality", suite_digest="d2", outcome="unreachable", reason="its endpoint is gone"
    )
    store.land("backfills", [gap | {"started_at": later, "ended_at": later}], repo_id=TINY, run_id="bf-1")
    _calls(home / "gateway" / "calls")
    return store


def at_work(home: Path, **fields: Any) -> None:
    """The controller's record and history of the endpoint that the newest verdict is about: an engine two hours before
    that verdict, which begins to answer at once, and two from the verdict on."""
    spec = EndpointSpec(
        name="e-b", checkpoint="/c", checkpoint_digest="sha256:0", engine="fake", served_model_name="m", **fields
    )  # fmt: skip
    decided = NOW + timedelta(days=1)
    record = EndpointRecord(spec=spec, desired="Running", state=EndpointState.RUNNING, since=NOW)
    RecordStore(home / "controller" / "endpoints").save(record)
    history = History(home / "controller" / "history")
    history.forget("e-b")
    for at, replicas in ((decided - timedelta(hours=2), 1), (decided, 2)):
        history.note("e-b", Stand(at=at, expected=True, answering=True, replicas=replicas))


def _row(run_id: str, repo_id: str, commit_hash: str, lane: str = "raw", **more: Any) -> dict[str, Any]:
    where = {"run_id": run_id, "repo_id": repo_id, "commit_hash": commit_hash, "lane": lane}
    return where | {"endpoint": f"e-{commit_hash[:1]}"} | more


def _evaluated(
    store: ScoreStore, repo_id: str, commit: str, run: str, at: datetime, marks: tuple[float | None, ...], value: float,
    interval: tuple[float, float], lane: str = "raw",
) -> None:  # fmt: skip
    where = _row(run, repo_id, commit, lane, engine="fake", engine_version="1", suite="quality", suite_digest="d")
    samples = [
        where
        | {
            "instrument": "i", "item_uid": f"sha256:{name}", "sample_id": name, "category": category, "epoch": 0,
            "cluster": category, "weight": 1.0, "input": f"question {name}", "completion": f"{run} on {name}",
            "expected": "answer", "outcome_class": "unscored" if mark is None else "correct" if mark else "wrong",
            "score": mark, "explanation": "timed out" if mark is None else "", "started_at": at - timedelta(hours=2),
        }
        for (name, category), mark in zip(QUESTIONS, marks, strict=True)
    ]  # fmt: skip
    store.land("samples", samples, repo_id=repo_id, run_id=run)
    low, high = interval
    rows = [
        score(run, repo_id, commit_hash=commit, lane=lane, value=value, ci_low=low, ci_high=high, evaluated_at=at),
        score(
            run, repo_id, commit_hash=commit, lane=lane, suite="performance", metric="output_tokens_per_s@4",
            value=100 * value, unit="tokens/s", evaluated_at=at,
        ),
    ]  # fmt: skip
    store.land("scores", rows, repo_id=repo_id, run_id=run)
    load = [
        _row(run, repo_id, commit, lane, suite="performance", concurrency=c, request=i, status="ok")
        | {"ttft_ms": 10.0 * c + i, "e2el_ms": 100.0 * c, "tokens_out": 10, "tpot_ms": 9.0, "started_at": at}
        | {"itl_ms": "[9.0, 9.5]", "chunk_gaps_ms": "[9.0, 9.5]", "tokens_per_chunk": 1.0, "client_queue_ms": 0.1}
        | {"ttfot_ms": 10.0 * c + i, "first_chunk_ms": 10.0 * c + i, "tokens_in": 5}
        for c in (1, 4)
        for i in range(4)
    ]
    store.land("perf_requests", load, repo_id=repo_id, run_id=run)


def _verdict(outcome: str, verdict_id: str, commit: str, at: datetime, incumbent_run: str | None) -> Verdict:
    found = verdict(outcome, verdict_id, at)
    metric = Metric(name="accuracy", value=0.5, ci_low=0.45, ci_high=0.55, n=4, unit="share")
    evidence = SuiteEvidence(
        suite="quality", kind="dataset", run_id="run-new" if incumbent_run else "run-old", suite_digest="d",
        instrument="i", metrics=(metric,), n_samples=4, n_unscored=0,
    )  # fmt: skip
    changes: dict[str, Any] = {"repo_id": TINY, "commit_hash": commit, "endpoint": f"e-{commit[:1]}"}
    if incumbent_run:
        who = Incumbent(
            endpoint="e-a", commit_hash=OLD, engine="fake", engine_version="1", run_id=incumbent_run,
            interleaved=False, asked_at=at,
        )  # fmt: skip
        compared = PairedResult(
            suite="quality", metric="accuracy", incumbent=who, instrument="i", n=4, n_asked=4, groups=2, candidate=0.5,
            incumbent_mean=0.75, difference=-0.25, low=-0.6, high=0.1, method="clustered_t", deff=1.0, better=0,
            worse=1, mcnemar_p=1.0, margin=0.05, detectable=0.2, harm_e=1.0, stopped_at=None, missing_candidate=0.0,
            missing_incumbent=0.0, missing_p=1.0,
        )  # fmt: skip
        changes["comparisons"] = (compared,)
    return found.model_copy(update=changes | {"evidence": (evidence,)})


def _chain(store: ScoreStore, at: datetime) -> None:
    rungs = [
        _row(
            "run-new", TINY, NEW, position=0, rung="vllm-cpu", reason="unsupported_architecture", detail="no such model"
        ),
        _row("run-new", TINY, NEW, position=1, rung="transformers", start_seconds=7.5, tokens_per_second=12.0),
    ]
    tried = {"seconds": 3.0, "tried_at": at, "checkpoint_digest": "sha256:c0ffee"}
    store.land("rungs", [r | tried for r in rungs], repo_id=TINY, run_id="run-new")
    told = _row("run-old", TINY, OLD, alias=TINY, verdict_id="1" * 16, outcome="pass", tags='["preview"]')
    told |= {"first_seen_at": NOW - timedelta(hours=5), "requested_at": NOW - timedelta(hours=2)}
    told |= {"registered_at": NOW + timedelta(hours=1)}
    store.land("registrations", [told], repo_id=TINY, run_id="run-old")


def _calls(root: Path) -> None:
    made: dict[str, Any] = {
        "time": datetime.now(UTC), "key_id": "k", "team": "red", "alias": TINY, "endpoint": "e-a", "commit_hash": OLD,
        "stream": False, "batch": False, "shadow": False, "status": 200, "prompt_tokens": 10, "completion_tokens": 5,
        "cached_tokens": 0, "cost_usd": 0.25, "latency_s": 0.5, "failures": [],
    }  # fmt: skip
    failed = made | {"call_id": "c2", "team": "blue", "status": 502, "error": "down", "cost_usd": 0.0}
    CallFile(root).append([made | {"call_id": "c1", "prompt": "a secret"}, failed])
