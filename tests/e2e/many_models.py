"""A Dagster instance that has seen many models, and the pages that somebody opens then."""

import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dagster as dg
from playwright.sync_api import Page

from modelops_dagster.settings import data_folder

LOAD_TIMEOUT_MS = 120_000
FETCHED = ("release",)
SERVED = ("raw_weights", "raw/endpoint", "raw/gauntlet/quality", "raw/verdict", "raw/gateway_registration")
LAST = "acme/model-00000"  # its events are written last, so it leads every list


class Opened(NamedTuple):
    """A page, what a person waits for on it, and the buttons that are pressed before the last of it shows."""

    name: str
    path: str
    shows: tuple[str, ...]
    press: tuple[str, ...] = ()


PAGES = (
    Opened("lineage", "/asset-groups", ("eval_datasets", "scores")),
    Opened("asset_graph", "/locations/modelops_dagster/asset-groups/raw/lineage", ("verdict", "endpoint", "% filled")),
    Opened("asset_page", "/assets/raw/verdict?view=overview", ("required_held", "Latest materialization")),
    Opened("partitions_page", "/assets/raw/verdict?view=partitions", (LAST, "Missing")),
    Opened("model_page", "/assets/raw/verdict?view=partitions&partition=acme%2Fmodel-00000", ("required_held",)),
    Opened("plots", "/assets/raw/gauntlet/quality?view=overview", ("Metadata", "accuracy"), ("Plots", "Events")),
    Opened("checks_page", "/assets/raw/verdict?view=checks", ("promotion",)),
    Opened("catalog", "/assets", ("leaderboard",)),
    Opened("job_page", "/locations/modelops_dagster/jobs/onboard", ("modelops/chain",)),
    Opened("job_partitions_page", "/locations/modelops_dagster/jobs/onboard/partitions", ("Total partitions",)),
    Opened("runs_page", "/runs", (LAST,)),
)


def repo_id(number: int) -> str:
    """The models' names; all have the same length, so that the order of keys is that of numbers."""
    return f"acme/model-{number:05d}"


def fill(home: Path, models: int, served: int) -> None:
    """Prepare the instance of a home: every model is a partition with its release, the first `served` went on.

    Events and runs go through Dagster's own storage, one by one, as they would have come.
    """
    folder = home / "dagster"
    folder.mkdir(parents=True)
    shutil.copyfile(data_folder("deploy") / "dagster.yaml", folder / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        instance.add_dynamic_partitions("models", [repo_id(n) for n in range(models)])
        for number in reversed(range(models)):
            chain = (*FETCHED, *SERVED) if number < served else FETCHED
            for event in _events(number, chain):
                instance.report_runless_asset_event(event)
            if number < served:
                instance.add_run(
                    dg.DagsterRun(
                        "onboard",
                        run_id=str(uuid.uuid4()),
                        tags={"dagster/partition": repo_id(number)},
                        status=dg.DagsterRunStatus.SUCCESS,
                    )
                )


def _events(number: int, chain: tuple[str, ...]) -> Iterator[dg.AssetMaterialization]:
    for asset in chain:
        yield dg.AssetMaterialization(
            asset.split("/"),
            partition=repo_id(number),
            metadata={
                "required_held": number % 7,
                "accuracy": (number % 100) / 100,
                "table": dg.MetadataValue.table(
                    records=[dg.TableRecord({"criterion": "quality.accuracy", "value": str(number)})]
                ),
                "url": dg.MetadataValue.url("http://127.0.0.1:4000"),
            },
        )


def open_page(page: Page, base_url: str, opened: Opened) -> float:
    """Open a page; returns the seconds until everything that is waited for is to be seen.

    Raises:
        playwright.sync_api.TimeoutError: something did not appear within two minutes.
    """
    begun = time.monotonic()
    page.goto(f"{base_url}{opened.path}", wait_until="commit")
    *first, last = opened.shows
    for text in first:
        page.get_by_text(text).first.wait_for(timeout=LOAD_TIMEOUT_MS)
    for name in opened.press:
        page.get_by_role("button", name=name).first.click()
    page.get_by_text(last).first.wait_for(timeout=LOAD_TIMEOUT_MS)
    return time.monotonic() - begun
