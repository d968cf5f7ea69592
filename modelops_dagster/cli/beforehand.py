"""What a command makes sure of before it starts anything, so that a mistyped name leaves nothing half-done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from modelops_dagster.cli.output import progress_line
from modelops_dagster.domain.lanes import LANES, RAW

HUB_TRIES = 2  # somebody waits at the terminal


def lane_option(meaning: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option `--lane`: one lane, `raw` unless another is named."""
    names = [lane.name for lane in LANES]
    return click.option("--lane", default=RAW.name, show_default=True, type=click.Choice(names), help=meaning)


def require_on_hub(hub_url: str, repo_id: str, ref: str = "main") -> None:
    """Ask the Hub whether it has this repository at this ref, with the token of whoever types the command.

    Raises:
        RepoNotFound, InvalidSpec: it has not, or this account may not see it.
        HubUnavailable: it does not answer.
    """
    from modelops_dagster.clients.hub import HubClient
    from modelops_dagster.settings import hub_token

    with progress_line(f"Hub {hub_url}: looking for {repo_id}"):
        HubClient(hub_url, hub_token(), max_tries=HUB_TRIES).resolve(repo_id, ref)


def require_raw_weights(lineage: Path, repo_id: str) -> None:
    """Make sure that the model has what every quantized lane starts from.

    Raises:
        NotFound: its weights were never fetched.
    """
    from modelops_dagster.clients.lineage import latest_values
    from modelops_dagster.domain.errors import NotFound

    if RAW.checkpoint_asset not in latest_values(lineage, repo_id):
        raise NotFound(
            f"The weights of {repo_id} were never fetched, and a quantized lane starts from them: check the spelling, "
            f"or run `modelops onboard {repo_id} --wait` first."
        )
