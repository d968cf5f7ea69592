"""`modelops models allow | disallow | allowed`: which commits may bring code that engines run."""

from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import emit, json_option, table

if TYPE_CHECKING:
    from modelops_dagster.clients.checkpoints import AllowList


def operator() -> str:
    """The name of the account that runs the command."""
    import os
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # containers run under numbers without a name
        return f"uid {os.getuid()}"


def _allow_list() -> "AllowList":
    from modelops_dagster.clients.checkpoints import AllowList
    from modelops_dagster.settings import Settings

    return AllowList(Settings.load().allow_list)


@click.command(name="allow")
@click.argument("revision", metavar="REPO_ID@COMMIT")
@click.option("--remote-code", is_flag=True, required=True, help="Fetch its Python files and let engines run them.")
@click.option("--reason", required=True, help="Why: who read the code, where that is written down.")
@json_option
def allow(revision: str, remote_code: bool, reason: str, as_json: bool) -> None:
    """Let one commit of one repository bring code. Whatever is uploaded next has to be allowed anew."""
    from datetime import UTC, datetime

    from modelops_dagster.domain.allowances import Allowance, parse_revision
    from modelops_dagster.domain.errors import InvalidSpec

    if not reason.strip() or len(reason) > 500:
        raise InvalidSpec(
            "--reason is empty or longer than 500 characters: say in a sentence who read the code.", field="reason"
        )
    allowance = Allowance(
        revision=parse_revision(revision),
        remote_code=remote_code,
        reason=reason.strip(),
        by=operator(),
        at=datetime.now(UTC),
    )
    allow_list = _allow_list()
    allow_list.allow(allowance)
    emit(
        allowance,
        as_json,
        lambda: click.echo(f"{revision} may bring code; noted in {allow_list.path} with your name and the reason."),
    )


@click.command(name="disallow")
@click.argument("revision", metavar="REPO_ID@COMMIT")
@json_option
def disallow(revision: str, as_json: bool) -> None:
    """Take an allowance back. An endpoint that runs already goes on: stop it with `modelops endpoints stop`."""
    from datetime import UTC, datetime

    from modelops_dagster.domain.allowances import parse_revision

    _allow_list().withdraw(parse_revision(revision), operator(), datetime.now(UTC))
    emit({"revision": revision}, as_json, lambda: click.echo(f"{revision} may not bring code any more."))


@click.command(name="allowed")
@json_option
def allowed(as_json: bool) -> None:
    """Every allowance that was ever given: by whom, when, why, and whether it still holds."""
    entries = _allow_list().entries()

    def render() -> None:
        if not entries:
            click.echo("No repository may bring code.")
            return
        rows = [
            (a.revision.repo_id, a.revision.commit_hash[:12], "yes" if a.holds else f"withdrawn by {a.withdrawn_by}",
             a.by, f"{a.at:%Y-%m-%d %H:%M}", a.reason)
            for a in entries
        ]  # fmt: skip
        table("", ["model", "commit", "holds", "by", "at (UTC)", "reason"], rows)

    emit(list(entries), as_json, render)
