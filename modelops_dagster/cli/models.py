"""`modelops models`: where each model stands, lane by lane, and why."""

import click

from modelops_dagster.cli.allowances import allow, allowed, disallow
from modelops_dagster.cli.checkpoints import pin, prune, unpin, verify
from modelops_dagster.cli.output import CommandGroup, emit, json_option, table
from modelops_dagster.cli.values import show_route, show_value


@click.group(name="models", cls=CommandGroup)
def command() -> None:
    """Where each model stands, lane by lane, and why."""


for _command in (verify, prune, pin, unpin, allow, disallow, allowed):
    command.add_command(_command)


@command.command(name="list")
@json_option
def list_models(as_json: bool) -> None:
    """Every model that was judged, with its latest verdict."""
    from modelops_dagster.clients.routes import RouteStore
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.lanes import lane_alias
    from modelops_dagster.settings import Settings

    home = Settings.load().home
    routes = {r.alias: r for r in RouteStore(home / "gateway").list()}
    rows = []
    for verdict in ScoreStore(home / "scores").latest_verdicts():
        route = routes.get(lane_alias(verdict.repo_id, verdict.lane))
        tags = sorted({tag for t in route.targets for tag in t.tags}) if route else []
        row = verdict.model_dump(
            mode="json", include={"repo_id", "commit_hash", "lane", "outcome", "endpoint", "reason"}
        )
        rows.append({**row, "tags": ", ".join(tags)})

    def render() -> None:
        if not rows:
            click.echo("No model has been judged yet: `modelops onboard REPO_ID --wait` takes one through.")
            return
        shown = [(r["repo_id"], r["commit_hash"][:12], r["lane"], r["outcome"], r["tags"], r["reason"]) for r in rows]
        table("", ["model", "commit", "lane", "verdict", "tags", "reason"], shown)

    emit(rows, as_json, render)


@command.command(name="show")
@click.argument("repo_id")
@json_option
def show(repo_id: str, as_json: bool) -> None:
    """One model: lanes, quantized copies, endpoints, verdicts beside those of the revision before, routes, and why."""
    from modelops_dagster.clients.lineage import latest_values
    from modelops_dagster.clients.routes import RouteStore
    from modelops_dagster.clients.scores import ScoreStore, previous_comparison
    from modelops_dagster.domain.errors import UserError
    from modelops_dagster.domain.hub import require_repo_id
    from modelops_dagster.domain.lanes import LANES, lane_alias
    from modelops_dagster.settings import Settings

    home = Settings.load().home
    require_repo_id(repo_id)
    values = latest_values(home / "lineage", repo_id)
    if not values:
        raise UserError(f"nothing is known of {repo_id!r} here: `modelops onboard {repo_id} --wait` takes it through.")
    verdicts = {key: value for key, value in values.items() if key.endswith("/verdict")}
    scores = ScoreStore(home / "scores")
    compared = {v.lane: previous_comparison(scores, repo_id, v.lane, v.commit_hash) for v in verdicts.values()}
    store = RouteStore(home / "gateway")
    routes = {alias: store.get(alias) for alias in (lane_alias(repo_id, lane.name) for lane in LANES)}

    def render() -> None:
        for key, value in values.items():
            show_value(key, value, compared)
        for alias, route in routes.items():
            if route is not None or alias == repo_id:
                show_route(alias, route)

    emit(
        {"values": values, "route": routes[repo_id], "routes": routes, "compared_with_previous": compared},
        as_json,
        render,
    )
