"""A backfill of one suite over 100 models, through a running Dagster daemon, against the time its requests take.

A platform is started in a temporary home with the fake engine of the tests, which answers at a known speed; 100
endpoints run before the clock starts. The wall time is that of the run, from its start to its end, its process's start
and the publishing of the scores included; the requests' time is what the models' evaluations were in flight for,
divided by how many were asked at once. `MODELOPS_BENCH_MODELS` may name another number of models.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure
from modelops_dagster.clients.lineage import read_value
from tests.e2e.platform import platform_without_models
from tests.e2e.scenery import fake_engine
from tests.e2e.served_models import repo_id_of, serve_models

AT_ONCE = 8
TOKENS_PER_SECOND = "4"
TIMEOUT_S = 1800


def run() -> Iterator[Figure]:
    """Yields `wall_ratio` and what it is made of."""
    models = int(os.environ.get("MODELOPS_BENCH_MODELS", "100"))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        environ = fake_engine(place, "--tokens-per-second", TOKENS_PER_SECOND)
        with platform_without_models(place, environ) as platform:
            serve_models(platform, place, models)
            print(f"bench backfill: {models} endpoints run", file=sys.stderr)
            arguments = ("backfill", "--suite", "quality", "--at-once", str(AT_ONCE), "--wait", "--json")
            told = json.loads(platform.modelops(*arguments, timeout_s=TIMEOUT_S).stdout)
            if told["outcomes"] != {"evaluated": models}:
                raise RuntimeError(f"the backfill ended otherwise than it should: {told}")
            state = platform.dagster.run(told["run_id"])
            lineage = platform.home / "lineage"
            reports = [read_value(lineage, "raw/gauntlet/quality", repo_id_of(n), None) for n in range(models)]
    if state is None or state.started is None or state.ended is None:
        raise RuntimeError("Dagster does not know when the run started and ended")
    wall_s = state.ended - state.started
    requests_s = sum(r.inference_seconds for r in reports if r is not None) / AT_ONCE
    yield Figure("backfill", "wall_ratio", wall_s / requests_s, "ratio", "<= 1.5")
    yield Figure("backfill", "wall_s", wall_s, "s", "")
    yield Figure("backfill", "requests_s", requests_s, "s", f"in flight, {AT_ONCE} models at once")
    yield Figure("backfill", "models", models, "models", "")
