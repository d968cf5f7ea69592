"""The Watcher: publish histories against its decisions, and one tick over a Hub of 1,000 organisations.

The simulation runs the real decision and the real state on disk against publishers in memory, in bad weather: reads
that fail or come back short, kills at every write, restarts. The tick is timed against a Hub server on loopback that
only lists, so that what is measured is the Watcher's own work and a round trip.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.clients.watcher import Watcher, WatchStore
from modelops_dagster.domain.watchlist import OrgWatch, Watchlist
from tests.fakes.listing_hub import ListingHub
from tests.fakes.watcher_simulation import Outcome, simulate

WORLDS, HISTORIES_EACH = 1_000, 10
ORGS, REPOS_EACH = 1_000, 20
QUIET_TICKS = 12
RELEASES = 200


def run() -> Iterator[Figure]:
    """Yields the simulation's counts, then the tick's times, requests and state."""
    yield from _simulation()
    yield from _ticks()


def _simulation() -> Iterator[Figure]:
    total = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(WORLDS):
            total += simulate(Path(folder) / str(seed), seed, HISTORIES_EACH)
            if seed % 100 == 99:
                print(f"bench watcher: {total['histories']} histories", file=sys.stderr)
    for metric in ("missed", "duplicated", "unwanted", "withdrawals_missed", "withdrawn_wrongly"):
        yield Figure("watcher", metric, total[metric], "count", "0")
    for metric in ("histories", "wanted", "fired", "kills", "ticks"):
        yield Figure("watcher", metric, total[metric], "count", ">= 10000" if metric == "histories" else "")


def _ticks() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder, ListingHub(ORGS, REPOS_EACH) as hub:
        store = WatchStore(Path(folder))
        orgs = Watchlist(organisations={org: OrgWatch() for org in hub.orgs})
        watcher = Watcher(store, HubClient(hub.url, None), orgs, interval_s=600)
        baseline_s, baseline_requests, _ = _tick(watcher, hub)
        print(f"bench watcher: baseline in {baseline_s:.1f} s", file=sys.stderr)
        quiet = [_tick(watcher, hub) for _ in range(QUIET_TICKS)]
        for org in hub.orgs[:RELEASES]:
            hub.release(org)
        release_s, release_requests, found = _tick(watcher, hub)
        begun = time.perf_counter()
        watcher.tick(time.monotonic() + 60)
        idle_s = time.perf_counter() - begun
        state_bytes = store.size_bytes()
    times = sorted(s for s, _, _ in quiet)
    yield Figure("watcher", "tick_p50_s", statistics.median(times), "s", "")
    yield Figure("watcher", "tick_p95_s", times[int(0.95 * (len(times) - 1) + 0.5)], "s", "< 10")
    yield Figure("watcher", "tick_requests", max(n for _, n, _ in quiet), "count", f"{ORGS} organisations")
    yield Figure("watcher", "baseline_tick_s", baseline_s, "s", "< 10")
    yield Figure("watcher", "baseline_requests", baseline_requests, "count", f"{ORGS} organisations")
    yield Figure("watcher", "release_tick_s", release_s, "s", "< 10")
    yield Figure("watcher", "release_tick_requests", release_requests, "count", f"{ORGS} listings + {RELEASES} trees")
    yield Figure("watcher", "release_tick_found", found, "count", str(RELEASES))
    yield Figure("watcher", "tick_with_nothing_due_s", idle_s, "s", "")
    yield Figure("watcher", "state_bytes", state_bytes, "bytes", f"{ORGS * REPOS_EACH} repositories")


def _tick(watcher: Watcher, hub: ListingHub) -> tuple[float, int, int]:
    """Seconds, requests and releases of one read of every organisation."""
    before, begun = hub.requests, time.perf_counter()
    report = watcher.tick(time.monotonic() + 3600, orgs=hub.orgs)
    if report.problems or report.postponed:
        raise RuntimeError(f"the tick was not whole: {report.problems}")
    found = sum(d.decision == "onboard" for d in report.detections)
    return time.perf_counter() - begun, hub.requests - before, found
