"""scores_db: landed Parquet, compacted into one DuckDB file that analysts open read-only."""

from collections.abc import Sequence

import dagster as dg

from modelops_dagster.assets.failures import clear_failure
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
