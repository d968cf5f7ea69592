"""`modelops watch --once`: one tick of the Watcher from the terminal, with the same state as the Hub sensor."""

import time
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import emit, json_option, progress_line, table
from modelops_dagster.domain.counting import counted

if TYPE_CHECKING:
    from modelops_dagster.clients.watcher import TickReport

LOCK_WAIT_S = 75.0  # longer than a tick of the sensor can take
TICK_S = 3600.0


@click.command(name="watch")
@click.option("--once", is_flag=True, help="One tick, then stop. The running platform ticks by itself.")
@click.option("--org", "orgs", multiple=True, help="Read only this organisation; may be given several times.")
@json_option
@click.pass_context
def command(ctx: click.Context, once: bool, orgs: tuple[str, ...], as_json: bool) -> None:
    """Read the followed organisations now, due or not, and say what was or was not taken and why.

    A release found here is onboarded by the platform: at once when it runs, else when it is started. Exit code 1 when
    an organisation could not be read.
    """
    from modelops_dagster.clients.hub import HubClient
    from modelops_dagster.clients.policies import policy_names
    from modelops_dagster.clients.watcher import Watcher, WatchStore, load_watchlist
    from modelops_dagster.domain.errors import InvalidSpec, UserError
    from modelops_dagster.domain.watchlist import is_org
    from modelops_dagster.settings import Settings, hub_token

    if not once:
        raise click.UsageError("Say --once: `modelops up` is what watches all the time.")
    settings = Settings.load()
    watchlist = load_watchlist(settings.home, settings.hub_orgs, policy_names(settings.eval_datasets / "policies"))
    for org in orgs:
        if not is_org(org):
            raise InvalidSpec(f"{org!r} is not the name of an organisation on the Hub: correct it.", field="org")
    chosen = list(dict.fromkeys(orgs)) or list(watchlist.organisations)
    if not chosen:
        raise UserError(
            f"No organisation is followed: write {settings.home}/watch.yaml, set MODELOPS_HUB_ORGS, or give --org."
        )
    client = HubClient(settings.hub_url, hub_token())
    watcher = Watcher(WatchStore(settings.home / "watcher"), client, watchlist, settings.hub_poll_interval_s)
    with progress_line(f"reading {counted(len(chosen), 'organisation')} of {settings.hub_url}") as say:
        report = watcher.tick(
            time.monotonic() + TICK_S,
            orgs=chosen,
            lock_wait_s=LOCK_WAIT_S,
            on_org=lambda org: say(f"reading {org}"),
        )
    emit(_items(report), as_json, lambda: _render(report))
    for org, problem in report.problems.items():
        click.echo(f"modelops: {org}: {problem}", err=True)
    if report.postponed:
        click.echo(
            f"modelops: {counted(len(report.postponed), 'organisation')} not read: the Hub seems to be away.", err=True
        )
    ctx.exit(1 if report.problems or report.postponed else 0)


def _items(report: "TickReport") -> list[dict[str, str]]:
    """Everything that was seen. What went away is nothing to onboard, so it is told as a skip too."""
    seen = [*report.detections, *report.waiting, *report.unchanged]
    return [
        {
            "repo_id": d.repo_id,
            "commit_hash": d.commit_hash,
            "decision": "onboard" if d.decision == "onboard" else "skip",
            "reason": d.reason,
        }
        for d in seen
    ]


def _render(report: "TickReport") -> None:
    rows = [(d.repo_id, d.commit_hash[:12], d.decision, d.reason) for d in (*report.detections, *report.waiting)]
    if rows:
        table("", ("repo_id", "commit_hash", "decision", "reason"), rows)
    known = counted(len(report.unchanged), "repository", "repositories")
    read = sum(org not in report.problems for org in report.read)  # of those that were asked for
    click.echo(f"{counted(read, 'organisation')} read, {known} decided before.")
    taken = sum(d.decision == "onboard" for d in report.detections)
    if taken:
        click.echo(f"{taken} to onboard: the running platform starts them within seconds, else `modelops up` does.")
