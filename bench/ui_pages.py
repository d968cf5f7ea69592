"""How long Dagster's pages take in a browser when the platform knows 20,000 models.

The instance is filled through Dagster's storage: every model is a partition with its release, one in ten has
weights, an endpoint, scores, a verdict, a route and a run besides. Then the platform is started with its daemon and
sensors, and each page is opened three times in a browser of its own, with nothing cached; a figure is the slowest of
the three, from the request until what a person waits for can be seen. `MODELOPS_BENCH_MODELS` may
name another number of models.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure
from tests.e2e.many_models import PAGES, Opened, fill, open_page
from tests.e2e.platform import Platform, platform_without_models
from tests.e2e.scenery import fake_engine
from tests.fakes.browser import new_page

ROUNDS = 3
LONGEST_S = 5
SENSORS = ("derived_assets", "endpoint_health", "alerts", "hub_releases")
SETTLE_S = 60


def run() -> Iterator[Figure]:
    """Yields `<page>_s` for each page, and how long the sensors take beside it."""
    models = int(os.environ.get("MODELOPS_BENCH_MODELS", "20000"))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        begun = time.monotonic()
        fill(place / "home", models, models // 10)
        print(f"bench ui_pages: {models} models in {time.monotonic() - begun:.0f} s", file=sys.stderr)
        with platform_without_models(place, fake_engine(place)) as platform:
            time.sleep(SETTLE_S)  # the first ticks of all sensors, and the derived assets that they ask for
            for page in PAGES:
                seconds = max(_load(platform, page) for _ in range(ROUNDS))
                yield Figure("ui_pages", f"{page.name}_s", seconds, "s", f"<= {LONGEST_S}")
            for sensor in SENSORS:
                ticks = [t for t in platform.dagster.last_ticks(sensor) if t["endTimestamp"]]
                slowest = max((t["endTimestamp"] - t["timestamp"] for t in ticks), default=float("nan"))
                yield Figure("ui_pages", f"{sensor}_tick_s", slowest, "s", "slowest of the last five ticks")
    yield Figure("ui_pages", "models", models, "models", "")


def _load(platform: Platform, opened: Opened) -> float:
    with new_page() as page:
        return open_page(page, platform.settings.dagster_url, opened)
