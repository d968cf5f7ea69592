"""modelops hub: serve a folder of models to any Hub client, and put models into it."""

from pathlib import Path

import click

from modelops_dagster.cli.output import emit, json_option, progress_bar


@click.group("hub")
def command() -> None:
    """Serve a folder of models as a Hub."""


@command.command("serve")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind to.")
@click.option("--port", default=8500, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Tokens that open private and gated repositories, one a line.",
)
@json_option
def serve_command(folder: Path, host: str, port: int, token_file: Path | None, as_json: bool) -> None:
    """Serve DIR/<org>/<name>/ until Ctrl-C. Clients find it through HF_ENDPOINT."""
    from modelops_dagster.services.hub_server import read_tokens, serve

    def ready(url: str, repositories: int) -> None:
        def render() -> None:
            click.echo(f"Serving {repositories} repositories of {folder} at {url}; Ctrl-C stops.")
            click.echo(f"  export HF_ENDPOINT={url}")

        emit({"url": url, "repositories": repositories, "folder": str(folder)}, as_json, render)

    tokens = read_tokens(token_file) if token_file is not None else frozenset[str]()
    serve(folder, host, port, tokens=tokens, on_ready=ready)


@command.command("publish")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.argument("repo_id")
@click.argument("source", type=click.Path(path_type=Path, file_okay=False))
@json_option
def publish_command(folder: Path, repo_id: str, source: Path, as_json: bool) -> None:
    """Make REPO_ID in DIR hold exactly the files of SOURCE, as one new commit."""
    from modelops_dagster.services.hub_server import publish

    with progress_bar(f"publishing {repo_id}", " bytes") as report:
        commit = publish(folder, repo_id, source, progress=report)
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
        lambda: click.echo(f"{repo_id} is at {commit.commit_hash}: {len(commit.files)} files, {size_bytes} bytes."),
    )
