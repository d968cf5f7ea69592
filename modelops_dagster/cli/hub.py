"""modelops hub: serve a folder of models to any Hub client, and put models into it."""

from contextlib import ExitStack
from pathlib import Path

import click

from modelops_dagster.cli.output import CommandGroup, emit, json_option, progress_bar
from modelops_dagster.domain.counting import counted


@click.group("hub", cls=CommandGroup)
def command() -> None:
    """Serve a folder of models as a Hub."""


@command.command("serve")
@click.argument("folder", type=click.Path(exists=True, path_type=Path, file_okay=False), metavar="DIR")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind to.")
@click.option("--port", default=8500, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Tokens that open private and gated repositories, one a line; `modelops hub token` makes one.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(1),
    help="How many requests for the API, and how many for files, one caller may make in five minutes.",
)
@json_option
def serve_command(
    folder: Path, host: str, port: int, token_file: Path | None, max_requests: int | None, as_json: bool
) -> None:
    """Serve DIR/<org>/<name>/ until Ctrl-C. Clients find it through HF_ENDPOINT."""
    from modelops_dagster.services.hub_server import Limits, read_tokens, serve

    looking = ExitStack()

    def ready(url: str, repositories: int) -> None:
        looking.close()

        def render() -> None:
            click.echo(
                f"Serving {counted(repositories, 'repository', 'repositories')} of {folder} at {url}; Ctrl-C stops."
            )
            click.echo(f"  export HF_ENDPOINT={url}")

        emit({"url": url, "repositories": repositories, "folder": str(folder)}, as_json, render)

    tokens = read_tokens(token_file, folder) if token_file is not None else frozenset[str]()
    limits = Limits(max_requests) if max_requests is not None else None
    with looking:
        report = looking.enter_context(progress_bar(f"looking at {folder}", " repositories"))
        serve(folder, host, port, tokens=tokens, limits=limits, on_ready=ready, on_look=report)


@command.command("publish")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.argument("repo_id")
@click.argument("source", type=click.Path(path_type=Path, file_okay=False))
@click.option("--webhook", "webhook_url", help="URL to tell about the new commit, as the Hub's webhooks do.")
@click.option(
    "--webhook-secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Holds what is sent as X-Webhook-Secret; a platform's is in its secrets/hub_webhook_secret.",
)
@json_option
def publish_command(
    folder: Path,
    repo_id: str,
    source: Path,
    webhook_url: str | None,
    webhook_secret_file: Path | None,
    as_json: bool,
) -> None:
    """Make REPO_ID in DIR hold exactly the files of SOURCE, as one new commit."""
    from modelops_dagster.services.hub_server import Webhook, publish, read_secret

    if (webhook_url is None) != (webhook_secret_file is None):
        raise click.UsageError("Give --webhook and --webhook-secret-file together.")
    webhook = Webhook(webhook_url, read_secret(webhook_secret_file)) if webhook_url and webhook_secret_file else None
    with progress_bar(f"publishing {repo_id}", " bytes") as report:
        commit = publish(folder, repo_id, source, progress=report, webhook=webhook)
    size_bytes = sum(f.size_bytes for f in commit.files)
    shown = {
        "repo_id": repo_id,
        "commit_hash": commit.commit_hash,
        "files": len(commit.files),
        "size_bytes": size_bytes,
    }
    emit(
        shown,
        as_json,
        lambda: click.echo(
            f"{repo_id} is at {commit.commit_hash}: {counted(len(commit.files), 'file')}, {size_bytes:,} bytes."
        ),
    )


@command.command("mirror")
@click.argument("repo_id")
@click.option("--from", "source", metavar="URL", help="The Hub to fetch from; the platform's own unless given.")
@click.option(
    "--to", "folder", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Folder of models that `modelops hub serve` can serve; made when it is not there.",
)  # fmt: skip
@click.option("--ref", default="main", show_default=True, help="Branch, tag or commit.")
@click.option("--ungated", is_flag=True, help="Let a gated repository that is new in DIR be read without a token.")
@json_option
def mirror_command(repo_id: str, source: str | None, folder: Path, ref: str, ungated: bool, as_json: bool) -> None:
    """Fetch REPO_ID from another Hub into DIR, verified and under the same commit hash; goes on where it was cut.

    HF_TOKEN opens what is gated there.
    """
    from modelops_dagster.clients.hub import HubClient
    from modelops_dagster.services.hub_server import mirror
    from modelops_dagster.settings import Settings, hub_token

    hub = HubClient(source or Settings.load().hub_url, hub_token())
    with progress_bar(f"mirroring {repo_id}", " bytes") as report:
        done = mirror(folder, repo_id, hub, ref=ref, keep_gate=not ungated, progress=report)

    def render() -> None:
        fetched = (
            f"{done.fetched_bytes:,} of {done.size_bytes:,} bytes fetched" if done.fetched_bytes else "all here already"
        )
        click.echo(f"{repo_id} has {done.commit_hash} in {folder}: {counted(done.files, 'file')}, {fetched}.")

    emit(done, as_json, render)


@command.command("ref")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="DIR")
@click.argument("repo_id")
@click.argument("name")
@click.option("--commit", "commit_hash", help="Commit hash; what main stands at unless given.")
@click.option("--kind", type=click.Choice(["tag", "branch"]), default="tag", show_default=True, help="What NAME is.")
@json_option
def ref_command(folder: Path, repo_id: str, name: str, commit_hash: str | None, kind: str, as_json: bool) -> None:
    """Let the tag or branch NAME of REPO_ID in DIR stand at a commit."""
    from modelops_dagster.services.hub_server import name_commit

    found = name_commit(folder, repo_id, "tag" if kind == "tag" else "branch", name, commit_hash)
    shown = {"repo_id": repo_id, "kind": kind, "name": name, "commit_hash": found}
    emit(shown, as_json, lambda: click.echo(f"{kind} {name} of {repo_id} stands at {found}."))


@command.command("token")
@click.argument("account")
@click.option(
    "--token-file", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Where its digest is added."
)
@json_option
def token_command(account: str, token_file: Path, as_json: bool) -> None:
    """Make a token for ACCOUNT, shown once; the file keeps its digest. `modelops hub serve` reads it when it starts."""
    from modelops_dagster.services.hub_server import create_token

    token = create_token(token_file, account)
    emit({"account": account, "token": token}, as_json, lambda: click.echo(token))
