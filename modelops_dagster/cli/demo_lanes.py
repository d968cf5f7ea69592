"""The second half of `modelops demo --lane`: quantized copies, what they kept, and which of them are served."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.onboard import follow_run
from modelops_dagster.cli.output import progress_line, table

if TYPE_CHECKING:
    from modelops_dagster.clients.dagster_api import DagsterClient, RunState
    from modelops_dagster.settings import Settings

REQUEST_TIMEOUT_S = 180


def show_lanes(
    settings: "Settings", dagster: "DagsterClient", repo_id: str, commit_hash: str, lanes: Sequence[str]
) -> None:
    """Follow the runs that the sensor `quantized_lanes` requests, and print what became of each lane.

    Raises:
        NotRunning: the sensor did not request them.
    """
    from modelops_dagster.clients.lineage import latest_values
    from modelops_dagster.domain.errors import ModelOpsError
    from modelops_dagster.domain.summary import checkpoint_line, plan_table, recovery_table

    values = latest_values(settings.home / "lineage", repo_id)
    rows = plan_table(values["lane_plan"])
    table("lanes", list(rows[0]), [list(r.values()) for r in rows])
    taken = [lane for lane in lanes if values["lane_plan"].selected(lane)]
    for run in _requested(dagster, repo_id, commit_hash, len(taken)):
        try:
            follow_run(dagster, run.run_id)
        except ModelOpsError as error:  # one lane that ends early is something to show, and holds no other
            click.secho(error.sentence, fg="red")
    values = latest_values(settings.home / "lineage", repo_id)
    for lane in taken:
        made, kept, verdict = (values.get(key) for key in (f"{lane}_weights", f"{lane}/recovery", f"{lane}/verdict"))
        if made is not None:
            click.echo(f"\n{lane}: {checkpoint_line(made)}")
        if kept is not None:
            rows = recovery_table(kept)
            table(f"{lane}: recovery {kept.outcome}", list(rows[0]), [list(r.values()) for r in rows])
        outcome = verdict.reason if verdict is not None else "no endpoint was spent on it"
        click.secho(f"{lane}: {outcome}", bold=True)


def _requested(dagster: "DagsterClient", repo_id: str, commit_hash: str, count: int) -> "list[RunState]":
    """The newest runs of the sensor for this revision, once there are as many as lanes."""
    from modelops_dagster.domain.errors import NotRunning

    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    with progress_line("lanes: waiting for the sensor quantized_lanes"):
        while time.monotonic() < deadline:
            wanted = {"modelops/source": "day-2", "modelops/commit_hash": commit_hash}
            found = [r for r in dagster.runs(repo_id) if wanted.items() <= r.tags.items()]
            if len(found) >= count:
                return found[:count]
            time.sleep(1)
    raise NotRunning(
        "the sensor quantized_lanes did not request the lanes: look at its ticks in the Dagster UI under Automation."
    )
