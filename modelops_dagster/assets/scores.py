"""scores_db: landed Parquet, compacted into one DuckDB file that analysts open read-only; what is made of it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from modelops_dagster.assets.describing import score_table, table_schema
from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.metadata import table
from modelops_dagster.clients.reports import gather_leaderboard, page_name, stale_reports, write_reports
from modelops_dagster.domain.lanes import Lane
from modelops_dagster.resources.platform import ScoreResource

# Fires once for any number of new verdicts. `eager()` would wait until every model has one; a parked model never does.
AFTER_NEW_VERDICTS = (
    dg.AutomationCondition.any_deps_updated().since(
        dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    )
    & ~dg.AutomationCondition.in_progress()
).with_label("after_new_verdicts")


def scores_db_asset(lanes: Sequence[Lane]) -> dg.AssetsDefinition:
    """The published score history, rebuilt after new verdicts."""

    @dg.asset(
        deps=[dg.AssetKey([lane.name, "verdict"]) for lane in lanes],
        group_name="scores",
        kinds={"duckdb"},
        pool="scores_db",
        code_version="1",
        metadata=score_table("score_history"),
        automation_condition=AFTER_NEW_VERDICTS,
        description="Every sample, score and verdict in one DuckDB file, published behind an atomically swapped link.",
    )
    def scores_db(scores: ScoreResource) -> dg.MaterializeResult[None]:
        with clear_failure():
            published = scores.store().publish()
            counts = scores.store().counts()
        return dg.MaterializeResult(
            metadata={
                "bytes": published.stat().st_size,
                **counts,
                "tables": table([{"table": name, "rows": f"{n:,}"} for name, n in counts.items()]),
                "file": dg.MetadataValue.path(str(published)),
            }
        )

    return scores_db


LEADERBOARD_COLUMNS = {
    "rank": ("int", "place among models that answered the same questions"),
    "model": ("text", "repository"),
    "lane": ("text", "checkpoint's road to the gateway"),
    "verdict": ("text", "latest decision"),
    "accuracy": ("float", "share of quality samples answered right"),
    "tokens/s": ("float", "most output tokens a second at any load"),
}
SHOWN = 50
# New releases come at any hour; a leaderboard that nothing has touched for a week means that something stands still.
FRESH_FOR = timedelta(days=7)


@dg.asset(
    deps=["scores_db"],
    group_name="scores",
    kinds={"duckdb"},
    code_version="1",
    automation_condition=dg.AutomationCondition.eager(),
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=FRESH_FOR),
    description="Every model and lane by rank, those apart that answered other questions.",
    metadata=table_schema(LEADERBOARD_COLUMNS),
)
def leaderboard(scores: ScoreResource) -> dg.MaterializeResult[None]:
    """What the view `leaderboard` says now."""
    with clear_failure():
        rows = gather_leaderboard(scores.store())
    shown = [
        {
            "rank": r["rank"],
            "model": r["repo_id"],
            "lane": r["lane"],
            "verdict": r["verdict"],
            "accuracy": None if r["accuracy"] is None else f"{r['accuracy']:.3f}",
            "tokens/s": None if r["output_tokens_per_s"] is None else f"{r['output_tokens_per_s']:.1f}",
        }
        for r in rows
    ]
    outcomes = {outcome: sum(r["verdict"] == outcome for r in rows) for outcome in ("pass", "hold", "fail")}
    page = scores.reports() / "leaderboard.html"
    return dg.MaterializeResult(
        metadata={
            "models": len(rows),
            **outcomes,
            "leaderboard": table(shown[:SHOWN]),
            "report": dg.MetadataValue.path(str(page)),
        }
    )


@dg.asset(
    deps=["scores_db"],
    group_name="scores",
    kinds={"html"},
    code_version="1",
    automation_condition=dg.AutomationCondition.eager(),
    description="One self-contained page per model and one for all: verdict and why, what to look at first, flips, "
    "curves, cost and lineage.",
)
def report(scores: ScoreResource) -> dg.MaterializeResult[None]:
    """Write the pages of models that were decided about since their page was written."""
    folder = scores.reports()
    with clear_failure():
        store = scores.store()
        stale = stale_reports(store, folder)
        board = write_reports(store, folder, stale, datetime.now(UTC))
        verdicts = [v for v in store.latest_verdicts() if v.repo_id in set(stale[:SHOWN])]
    written = [
        {
            "model": v.repo_id,
            "lane": v.lane,
            "verdict": v.outcome,
            "why": v.reason,
            "page": page_name(v.repo_id),
        }
        for v in sorted(verdicts, key=lambda v: (v.repo_id, v.lane))
    ]
    pages = len(list(folder.glob("*@*.html")))
    return dg.MaterializeResult(
        metadata={
            "pages": pages,
            "pages_written": len(stale),
            "written": table(written),
            "leaderboard": dg.MetadataValue.path(str(board)),
        }
    )
