"""`modelops verdict`: the promotion decision and every number it rests on."""

import click

from modelops_dagster.cli.output import emit, json_option, table


@click.group("verdict")
def command() -> None:
    """The promotion decision and its numbers."""


@command.command("show")
@click.argument("repo_id", required=False)
@json_option
def show(repo_id: str | None, as_json: bool) -> None:
    """Print the last verdict of REPO_ID, lane by lane; without REPO_ID the last verdict of every model."""
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.errors import InvalidSpec
    from modelops_dagster.domain.summary import verdict_table
    from modelops_dagster.settings import Settings

    found = ScoreStore(Settings.load().home / "scores").latest_verdicts(repo_id)
    if repo_id and not found:
        raise InvalidSpec(
            f"there is no verdict on {repo_id!r}; onboard it with `modelops onboard {repo_id}`.", field="repo_id"
        )

    def render() -> None:
        if not found:
            click.echo("There is no verdict yet; `modelops onboard REPO_ID` ends in one.")
        elif repo_id is None:
            columns = ("model", "lane", "outcome", "reason", "decided (UTC)")
            rows = [(v.repo_id, v.lane, v.outcome, v.reason, f"{v.decided_at:%Y-%m-%d %H:%M}") for v in found]
            table("", columns, rows)
        else:
            for verdict in found:
                criteria = verdict_table(verdict)
                click.echo(verdict.reason)
                click.echo(
                    f"{verdict.repo_id}@{verdict.commit_hash[:12]}, lane {verdict.lane}, policy {verdict.policy}, "
                    f"decided {verdict.decided_at:%Y-%m-%d %H:%M} UTC, verdict {verdict.verdict_id}"
                )
                table("", list(criteria[0]), [list(row.values()) for row in criteria])

    emit(found, as_json, render)
