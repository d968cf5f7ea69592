"""`modelops alerts`: try the channels, and see what was told to whom."""

import click

from modelops_dagster.cli.output import CommandGroup, emit, json_option, progress_line, table


@click.group(name="alerts", cls=CommandGroup)
def command() -> None:
    """Try the channels of alerts.yaml, and list what was sent."""


@command.command(name="test")
@click.argument("channel", required=False)
@json_option
@click.pass_context
def test(ctx: click.Context, channel: str | None, as_json: bool) -> None:
    """Send a test message through CHANNEL, or through every channel. Exits 1 when one did not take it."""
    from datetime import UTC, datetime

    from modelops_dagster.clients.alerts.channels import sender
    from modelops_dagster.clients.alerts.config import CONFIG_NAME, load_alert_config
    from modelops_dagster.domain.alerts import alert, message
    from modelops_dagster.domain.errors import AlertNotSent, InvalidSpec
    from modelops_dagster.settings import Settings, data_folder, secret

    path = Settings.load().home / CONFIG_NAME
    config = load_alert_config(path)
    chosen = [c for c in config.channels if channel in (None, c.name)]
    if not chosen:
        names = ", ".join(c.name for c in config.channels)
        hint = f"choose one of: {names}" if names else f"begin with {data_folder('deploy') / 'alerts.example.yaml'}"
        raise InvalidSpec(f"{path} has no channel{f' {channel!r}' if channel else ''}: {hint}.", field="channels")
    now = datetime.now(UTC)
    results = []
    with progress_line("sending") as say:
        for one in chosen:
            say(f"{one.name}: sending")
            text = message(
                [
                    alert(
                        "verdict",
                        "modelops",
                        "Test message",
                        [f"channel {one.name}", f"gets: {', '.join(one.kinds)}"],
                        dedupe_key=f"test:{one.name}:{now.isoformat()}",
                        at=now,
                    )
                ]
            )
            try:
                sender(one, secret).send(text)
                problem = None
            except AlertNotSent as error:
                problem = error.sentence
            results.append({"channel": one.name, "type": one.type, "sent": problem is None, "problem": problem})

    def render() -> None:
        rows = [(r["channel"], r["type"], "sent" if r["sent"] else "not sent", r["problem"]) for r in results]
        table("", ["channel", "type", "result", "problem"], rows)

    emit(results, as_json, render)
    ctx.exit(0 if all(r["sent"] for r in results) else 1)


@command.command(name="list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many.")
@json_option
def list_alerts(limit: int, as_json: bool) -> None:
    """The newest alerts and what became of each, newest first."""
    from datetime import UTC, datetime

    from modelops_dagster.clients.alerts import Outbox
    from modelops_dagster.settings import Settings

    found = Outbox(Settings.load().home / "alerts").recent(datetime.now(UTC), limit)

    def render() -> None:
        if not found:
            click.echo("There is no alert yet; `modelops alerts test` tries the channels.")
            return
        rows = [
            (
                f"{d.alert.at:%Y-%m-%d %H:%M}",
                d.alert.kind,
                d.alert.title,
                d.alert.lines[0] if d.alert.lines else None,
                ", ".join(f"{name}: {outcome}" for name, outcome in d.channels.items()) or "logged only",
            )
            for d in found
        ]
        table("", ["at (UTC)", "kind", "what", "more", "channels"], rows)

    emit([{**d.alert.model_dump(mode="json"), "channels": d.channels} for d in found], as_json, render)
