"""`modelops preflight REPO_ID`: what the metadata says about serving a model here, without a running platform."""

from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import emit, json_option, table

if TYPE_CHECKING:
    from modelops_dagster.domain.preflight import Preflight


def show_preflight(found: "Preflight") -> None:
    """The plan, how its numbers come about, what the engines support, and every finding."""
    from modelops_dagster.domain.summary import findings_table, support_table

    click.echo(f"plan: {found.summary}")
    if found.plan is not None:
        for line in found.plan.arithmetic:
            click.echo(f"  {line}")
        for line in found.plan.alternatives:
            click.echo(f"  or: {line}")
    for title, rows in (("engines", support_table(found)), ("findings", findings_table(found.findings))):
        table(title if rows else f"no {title}", list(rows[0]) if rows else [], [list(r.values()) for r in rows])


@click.command(name="preflight")
@click.argument("repo_id")
@click.option("--ref", default="main", show_default=True, help="Branch, tag or 40-digit commit hash.")
@click.option("--accept", multiple=True, metavar="CODE", help="A finding that is not to block.")
@json_option
@click.pass_context
def command(ctx: click.Context, repo_id: str, ref: str, accept: tuple[str, ...], as_json: bool) -> None:
    """Which engine can load REPO_ID, what it needs, and what is wrong with it. Fetches no weights.

    Exit code 0 when it may be onboarded, 1 when a finding blocks it, 2 when you have to do something.
    """
    from modelops_dagster.clients.checkpoints import CheckpointStore
    from modelops_dagster.clients.checkpoints.allowances import AllowList
    from modelops_dagster.clients.engines import EngineRegistry
    from modelops_dagster.clients.hardware import inventory
    from modelops_dagster.clients.hub import HubClient
    from modelops_dagster.clients.preflight import Surroundings, preflight
    from modelops_dagster.settings import Settings, hub_token

    settings = Settings.load()
    here = Surroundings(
        registry=EngineRegistry(settings.engines, settings.cache, settings.own_engines, images_for=settings.images_for),
        accelerator=settings.accelerator,
        store=CheckpointStore(settings.home / "checkpoints", AllowList(settings.allow_list)),
        inventory=inventory(settings.accelerator, settings.gpus),
        max_context=settings.max_context,
        sequences=settings.planned_sequences,
        allowed_licenses=settings.licenses,
    )
    hub = HubClient(settings.hub_url, hub_token())
    release = hub.release(hub.resolve(repo_id, ref))
    found = preflight(release, hub, here, accept)

    def render() -> None:
        click.echo(f"{repo_id}@{release.revision.commit_hash} from {release.hub_url}")
        show_preflight(found)

    shown = {"repo_id": repo_id, "commit_hash": release.revision.commit_hash, "blocked": bool(found.blocking)}
    emit({**shown, "summary": found.summary, **found.model_dump(mode="json")}, as_json, render)
    ctx.exit(1 if found.blocking else 0)
