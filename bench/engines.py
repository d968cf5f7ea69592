"""From a checkpoint to an endpoint that is ready, per rung, against the same engine command started by hand.

Both are measured in turn, so that a machine that grows busier slows both. Ready is when the model is listed.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.bare_engine import seconds_to_ready
from bench.figures import Figure
from modelops_dagster.clients.demo_model import ensure_demo_model
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.engines import CPU_LADDER, Rung
from modelops_dagster.settings import Settings
from tests.fakes.zoo import PATIENCE_S, Zoo, zoo

REPEATS = 4


def run() -> Iterator[Figure]:
    """Yields `ready_ratio_<rung>` and the two medians it is made of, for each rung of the CPU ladder."""
    settings = Settings.load()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        registry = EngineRegistry.from_settings(settings)
        for engine in {rung.engine for rung in CPU_LADDER}:
            registry.install(engine, lambda line: print(f"bench engines: {line}", file=sys.stderr))
        model = ensure_demo_model(registry, settings.cache, lambda _: None)
        with zoo(folder, settings) as place:
            for rung in reversed(CPU_LADDER):
                spec = _spec(rung, model)
                pairs = [_pair(place, spec, folder, bare_first=number % 2 == 0) for number in range(REPEATS)]
                bare_s, ours_s = (statistics.median(column) for column in zip(*pairs, strict=True))
                name = rung.label.replace(":", "_").replace("-", "_")
                print(f"bench engines: {rung.label}: bare and ours {pairs}", file=sys.stderr)
                yield Figure("engines", f"ready_ratio_{name}", ours_s / bare_s, "ratio", "<= 1.05")
                yield Figure("engines", f"ready_s_{name}", ours_s, "s", "")
                yield Figure("engines", f"bare_ready_s_{name}", bare_s, "s", "")


def _pair(place: Zoo, spec: EndpointSpec, folder: Path, *, bare_first: bool) -> tuple[float, float]:
    """Bare and ours. Whoever comes first warms the disk's cache for the other, so they take turns at it."""
    if bare_first:
        return seconds_to_ready(place.registry, spec, folder, PATIENCE_S), _ours_s(place, spec)
    ours_s = _ours_s(place, spec)
    return seconds_to_ready(place.registry, spec, folder, PATIENCE_S), ours_s


def _spec(rung: Rung, model: Path) -> EndpointSpec:
    return EndpointSpec(
        name="bench",
        checkpoint=str(model),
        checkpoint_digest="sha256:bench",
        engine=rung.engine,
        variant=rung.variant,
        served_model_name="bench",
        max_context=1024,
    )


def _ours_s(place: Zoo, spec: EndpointSpec) -> float:
    """Seconds from asking the controller until it says that the endpoint is ready."""
    begun = time.monotonic()
    place.client.apply(spec)
    status = place.client.wait_ready(spec.name, PATIENCE_S)
    seconds = time.monotonic() - begun
    if status.url is None:
        raise RuntimeError(f"{spec.engine} did not become ready: {status.message}")
    place.client.delete(spec.name, spec.name)
    place.client.wait_deleted(spec.name)
    return seconds
