"""The score history: immutable Parquet files that runs land, and one DuckDB file that is published from them."""

from modelops_dagster.clients.scores.revisions import previous_comparison
from modelops_dagster.clients.scores.store import ScoreStore

__all__ = ["ScoreStore", "previous_comparison"]
