"""scores_db: landed Parquet, compacted into one DuckDB file that analysts open read-only; what is made of it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from modelops_dagster.assets.failures import clear_failure
from modelops_dagster.assets.metadata import table
from modelops_dagster.clients.reports import gather_leaderboard, stale_reports, write_reports
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
        automation_condition=AFTER_NEW_VERDICTS,
        description="Every sample, score and verdict in one DuckDB file, published behind an atomically swapped link.",
    )
    def scores_db(scores: ScoreResource) -> dg.MaterializeResult[None]:
        with clear_failure():
            published = scores.store().publish()
            counts = scores.store().counts()
        return dg.MaterializeResult(
            metadata={**counts, "file": dg.MetadataValue.path(str(published)), "bytes": published.stat().st_size}
        )

    return scores_db


LEADERBOARD_COLUMNS = {
    "rank": "place among models that answered the same questions",
    "model": "repository",
    "lane": "checkpoint's road to the gateway",
    "verdict": "latest decision",
    "accuracy": "share of quality samples answered right",
    "tokens/s": "most output tokens a second at any load",
}
SHOWN = 50
# New releases come at any hour; a leaderboard that nothing has touched for a week means that something stands still.
FRESH_FOR = timedelta(days=7)


@dg.asset(
    deps=["scores_db"],
    group_name="scores",
    kinds={"duckdb"},
    owners=["team:platform"],
    code_version="1",
    automation_condition=dg.AutomationCondition.eager(),
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=FRESH_FOR),
    description="Every model and lane by rank, those apart that answered other questions.",
    metadata={
        "dagster/column_schema": dg.TableSchema(
            columns=[dg.TableColumn(name, description=text) for name, text in LEADERBOARD_COLUMNS.items()]
        )
    },
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
    return dg.MaterializeResult(metadata={"models": len(rows), **outcomes, "leaderboard": table(shown[:SHOWN])})


@dg.asset(
    deps=["scores_db"],
    group_name="scores",
    kinds={"html"},
    owners=["team:platform"],
    code_version="1",
    automation_condition=dg.AutomationCondition.eager(),
    description="One self-contained page per model and one for all: verdict and why, what to look at first, flips, "
    "curves, cost and lineage.",
)
def report(scores: ScoreResource) -> dg.MaterializeResult[None]:
    """Write the pages of models that were decided about since their page was written."""
    folder = Path(scores.root).parent / "reports"
    with clear_failure():
        store = scores.store()
        stale = stale_reports(store, folder)
        board = write_reports(store, folder, stale, datetime.now(UTC))
    pages = len(list(folder.glob("*@*.html")))
    return dg.MaterializeResult(
        metadata={
            "pages": pages,
            "pages_written": len(stale),
            "leaderboard": dg.MetadataValue.path(str(board)),
            "written": table([{"model": repo_id} for repo_id in stale[:SHOWN]]),
        }
    )
