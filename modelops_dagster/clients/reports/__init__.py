"""Reports: one self-contained HTML file per model, and a leaderboard, from the score history."""

from modelops_dagster.clients.reports.gathering import ModelReport, gather_leaderboard, gather_model
from modelops_dagster.clients.reports.pages import (
    leaderboard_page,
    model_page,
    page_name,
    stale_reports,
    write_reports,
)

__all__ = [
    "ModelReport",
    "gather_leaderboard",
    "gather_model",
    "leaderboard_page",
    "model_page",
    "page_name",
    "stale_reports",
    "write_reports",
]
