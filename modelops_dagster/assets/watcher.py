"""watcher: that the organisations on the watch list are being read, as an asset whose freshness is watched."""

from datetime import timedelta

import dagster as dg

from modelops_dagster.assets.metadata import table
from modelops_dagster.clients.watcher import TickReport
from modelops_dagster.domain.watchlist import Watchlist

WATCHER = dg.AssetKey("watcher")
LEAST_WINDOW = timedelta(hours=1)
ROUNDS = 6
SHOWN = 50


def watcher_asset(interval_s: int) -> dg.AssetSpec:
    """Nothing makes it: the sensor `hub_releases` reports each round that read everything it was to read.

    It is stale when several rounds in a row did not, whoever or whatever the reason is; while nobody is followed it is
    neither.

    Args:
        interval_s: seconds between two reads of an organisation.
    """
    return dg.AssetSpec(
        WATCHER,
        group_name="watcher",
        kinds={"huggingface"},
        code_version="1",
        freshness_policy=dg.FreshnessPolicy.time_window(
            fail_window=max(LEAST_WINDOW, timedelta(seconds=ROUNDS * interval_s))
        ),
        description="The reading of the followed organisations: how many were read, and what was found. Reported by "
        "the sensor hub_releases; stale when the Hub could not be read for a while.",
    )


def watcher_round(watchlist: Watchlist, report: TickReport, found: int, hub_url: str) -> dg.AssetMaterialization:
    """The event of one round without a problem.

    Args:
        found: revisions that are to be onboarded.
    """
    followed = [{"organisation": org, "read": "yes" if org in report.read else "-"} for org in watchlist.organisations]
    return dg.AssetMaterialization(
        WATCHER,
        metadata={
            "organisations_followed": len(followed),
            "organisations_read": len(report.read),
            "revisions_found": found,
            "organisations": table(followed[:SHOWN]),
            "hub": dg.MetadataValue.url(hub_url),
        },
    )
