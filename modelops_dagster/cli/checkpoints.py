"""`modelops models verify | prune | pin | unpin`: the checkpoints that are on this disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelops_dagster.cli.allowances import operator
from modelops_dagster.cli.output import emit, json_option, progress_bar, table
from modelops_dagster.domain.counting import counted

if TYPE_CHECKING:
    from modelops_dagster.clients.checkpoints.inventory import Pruned
    from modelops_dagster.domain.retention import StoredCheckpoint
    from modelops_dagster.settings import Settings


@click.command(name="verify")
@click.argument("repo_id")
@click.option("--ref", help="Only this commit, as a prefix of its hash, or what this branch or tag shows now.")
@click.option("--values", is_flag=True, help="Also look for NaN and infinity in the tensors.")
@click.option("--repair", is_flag=True, help="Fetch the damaged files again.")
@json_option
@click.pass_context
def verify(ctx: click.Context, repo_id: str, ref: str | None, values: bool, repair: bool, as_json: bool) -> None:
    """Compare every byte of the checkpoints of REPO_ID with what was released.

    Exit code 0 when all is well, or well again; 1 when it is not.
    """
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    results = [_verified(settings, c, values=values, repair=repair) for c in _chosen(settings, repo_id, ref)]

    def render() -> None:
        for result in results:
            what = f"{repo_id}@{result['commit_hash'][:12]} {result['scheme']}"
            bad = [*result["problems"], *(f"{name}: {text}" for name, text in result["bad_values"].items())]
            for line in (*(f"repaired: {name}" for name in result["repaired"]), *bad):
                click.echo(f"{what}: {line}")
            if not bad:
                click.echo(f"{what}: {result['size_bytes']:,} bytes are what was released.")
        if any(r["problems"] for r in results) and not repair:
            click.echo(f"`modelops models verify {repo_id} --repair` fetches the damaged files again.")

    emit(results, as_json, render)
    ctx.exit(1 if any(r["problems"] or r["bad_values"] for r in results) else 0)


@click.command(name="prune")
@click.option("--keep", default=2, show_default=True, type=click.IntRange(min=0), help="Newest of each repository.")
@click.option("--older-than", default="30d", show_default=True, help="Keep what was asked for since; s, m, h, d, w.")
@click.option("--dry-run", is_flag=True, help="Delete nothing, and say what would be.")
@json_option
def prune(keep: int, older_than: str, dry_run: bool, as_json: bool) -> None:
    """Delete checkpoints that nobody uses. What a route or an endpoint uses, and what is pinned, is never deleted."""
    from datetime import UTC, datetime

    from modelops_dagster.clients.checkpoints.usage import prune_store
    from modelops_dagster.domain.retention import RetentionPolicy, parse_duration
    from modelops_dagster.settings import Settings

    policy = RetentionPolicy(keep=keep, older_than_s=parse_duration(older_than))
    done = prune_store(Settings.load().home, policy, datetime.now(UTC), dry_run=dry_run)
    emit(done, as_json, lambda: _render_pruned(done))


@click.command(name="pin")
@click.argument("revision", metavar="REPO_ID@COMMIT")
@click.option("--reason", default="wanted", show_default=True, help="Why it is to be kept.")
@json_option
def pin(revision: str, reason: str, as_json: bool) -> None:
    """Keep the checkpoints of one commit, whatever the policy says."""
    from datetime import UTC, datetime

    inventory, found = _of_commit(revision)
    for checkpoint in found:
        inventory.pin(checkpoint, reason, operator(), datetime.now(UTC))
    directories = [c.directory for c in found]
    emit({"revision": revision, "directories": directories}, as_json, lambda: click.echo(f"{revision} is pinned."))


@click.command(name="unpin")
@click.argument("revision", metavar="REPO_ID@COMMIT")
@json_option
def unpin(revision: str, as_json: bool) -> None:
    """Let the policy decide on a pinned commit again."""
    inventory, found = _of_commit(revision)
    for checkpoint in found:
        inventory.unpin(checkpoint)
    directories = [c.directory for c in found]
    emit({"revision": revision, "directories": directories}, as_json, lambda: click.echo(f"{revision} is unpinned."))


def _chosen(settings: "Settings", repo_id: str, ref: str | None) -> list["StoredCheckpoint"]:
    """The checkpoints of a repository that `ref` means; all of them without one.

    Raises:
        UserError: there are none.
    """
    from modelops_dagster.clients.checkpoints.inventory import Inventory
    from modelops_dagster.clients.hub import HubClient
    from modelops_dagster.domain.errors import UserError
    from modelops_dagster.domain.hub import require_repo_id
    from modelops_dagster.settings import hub_token

    stored = Inventory(settings.home / "checkpoints").checkpoints(require_repo_id(repo_id))
    found = stored
    if ref is not None:
        found = [c for c in stored if len(ref) >= 7 and c.revision.commit_hash.startswith(ref)]
        if not found:
            commit_hash = HubClient(settings.hub_url, hub_token()).resolve(repo_id, ref).commit_hash
            found = [c for c in stored if c.revision.commit_hash == commit_hash]
    if not found:
        what = f"{repo_id}@{ref}" if ref else repo_id
        raise UserError(f"the store has no checkpoint of {what}: `modelops onboard {repo_id} --wait` fetches one.")
    return found


def _verified(settings: "Settings", stored: "StoredCheckpoint", *, values: bool, repair: bool) -> dict[str, Any]:
    """What is to be said of one checkpoint, after what could be repaired was."""
    from modelops_dagster.clients.checkpoints import AllowList, CheckpointStore
    from modelops_dagster.clients.checkpoints.manifests import read_manifest
    from modelops_dagster.clients.checkpoints.verification import bad_values

    store = CheckpointStore(settings.home / "checkpoints", AllowList(settings.allow_list))
    directory, label = Path(stored.directory), str(stored.revision)
    with progress_bar(f"verifying {label}", " bytes") as report:
        problems = store.verify_directory(directory, progress=report)
    repaired: Sequence[str] = ()
    if problems and repair:
        repaired, problems = _repaired(settings, store, stored)
    bad: dict[str, str] = {}
    manifest = read_manifest(directory) if values and not problems else None
    if manifest is not None:
        with progress_bar(f"values of {label}", " bytes") as report:
            found = bad_values(directory, manifest, store.max_workers, report)
        bad = {name: f"{count.nan} NaN, {count.infinite} infinite" for name, count in found.items()}
    return {
        "repo_id": stored.revision.repo_id,
        "commit_hash": stored.revision.commit_hash,
        "scheme": stored.scheme,
        "directory": stored.directory,
        "size_bytes": stored.size_bytes,
        "problems": problems,
        "repaired": list(repaired),
        "bad_values": bad,
    }


def _repaired(settings: "Settings", store: Any, stored: "StoredCheckpoint") -> tuple[Sequence[str], list[str]]:
    """Fetch the damaged files of a released checkpoint again; the files, and the problems that are left.

    Raises:
        UserError: the checkpoint was made here, so there is nothing to fetch.
    """
    from modelops_dagster.clients.engines import EngineRegistry
    from modelops_dagster.clients.hub import HubClient
    from modelops_dagster.clients.preflight import with_supports
    from modelops_dagster.domain.errors import UserError
    from modelops_dagster.settings import hub_token

    directory = Path(stored.directory)
    if directory != store.directory(stored.revision):
        raise UserError(
            f"{directory} was made here and not released, so it cannot be fetched: materialize the asset that made it "
            f"({stored.scheme}) again."
        )
    hub = HubClient(settings.hub_url, hub_token())
    registry = EngineRegistry.from_settings(settings)
    release = with_supports(hub.release(stored.revision), hub, registry, settings.accelerator)
    with progress_bar(f"repairing {stored.revision}", " bytes") as report:
        repaired = store.deliver(release, hub, report).repaired
    return repaired, store.verify_directory(directory)


def _of_commit(text: str) -> tuple[Any, list["StoredCheckpoint"]]:
    """The inventory, and what it has of the commit that `text` names."""
    from modelops_dagster.clients.checkpoints.inventory import Inventory
    from modelops_dagster.domain.allowances import parse_revision
    from modelops_dagster.domain.errors import UserError
    from modelops_dagster.settings import Settings

    revision = parse_revision(text)
    inventory = Inventory(Settings.load().home / "checkpoints")
    found = [c for c in inventory.checkpoints(revision.repo_id) if c.revision == revision]
    if not found:
        raise UserError(f"the store has no checkpoint of {text}: `modelops models prune --dry-run` lists what it has.")
    return inventory, found


def _render_pruned(done: "Pruned") -> None:
    rows = [
        (d.checkpoint.revision.repo_id, d.checkpoint.revision.commit_hash[:12], d.checkpoint.scheme,
         f"{d.checkpoint.size_bytes / 1e9:.2f}", "keep" if d.keep else "delete", d.reason)
        for d in done.decisions
    ]  # fmt: skip
    if rows:
        table("", ["model", "commit", "scheme", "GB", "", "reason"], rows)
    for path in done.leftovers:
        click.echo(f"left behind by something that was killed: {path}")
    verb = "would be deleted, which frees" if done.dry_run else "deleted, which freed"
    click.echo(f"{counted(len(done.deleted), 'checkpoint')} {verb} {done.freed_bytes:,} bytes.")
