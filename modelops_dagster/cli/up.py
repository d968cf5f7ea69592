"""`modelops up`: the programs of one machine in one foreground command."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from modelops_dagster.settings import Settings

COLOURS = {
    "hub": "yellow",
    "controller": "cyan",
    "gateway": "magenta",
    "code": "blue",
    "daemon": "green",
    "dagster": "bright_black",
    "up": "white",
}


def echo_line(name: str, line: str) -> None:
    """One line of one program, with its name in front."""
    click.echo(click.style(f"{name:>10} ", fg=COLOURS.get(name)) + line)


def echo_own(name: str, line: str) -> None:
    """A line of ours, and none of the programs'."""
    if name == "up":
        echo_line(name, line)


def where(settings: "Settings") -> str:
    """The addresses a person needs, one a line."""
    return (
        f"  Dagster     {settings.dagster_url}\n"
        f"  gateway     {settings.gateway_url}/v1\n"
        f"  endpoints   {settings.controller_url}/endpoints\n"
        f"  state       {settings.home}"
    )


@click.command(name="up")
@click.option("--hub", "hub_url", help="Base URL of the Hub to watch. Default: MODELOPS_HUB_URL or huggingface.co.")
@click.option(
    "--hub-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Serve this folder as an embedded Hub and watch that.",
)
@click.option("--org", "orgs", multiple=True, help="Organisation to watch; may be given several times.")
@click.option("--policy", help="Promotion policy. Default: MODELOPS_POLICY or 'default', the strict one.")
@click.option("--quiet", is_flag=True, help="Only print when the platform is ready and when it stops.")
def command(hub_url: str | None, hub_dir: Path | None, orgs: tuple[str, ...], policy: str | None, quiet: bool) -> None:
    """Controller, gateway and Dagster in one foreground command; Ctrl-C stops them all."""
    from modelops_dagster.cli.output import progress_line
    from modelops_dagster.services.stack import Stack
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    changes = {"hub_url": hub_url, "hub_orgs": orgs or None, "policy": policy}
    settings = settings.model_copy(update={k: v for k, v in changes.items() if v is not None})
    with Stack(settings, echo=echo_own if quiet else echo_line, hub_root=hub_dir) as stack:
        stop_on_signals(stack.request_stop)
        with progress_line("starting") as say:
            stack.start(say if quiet else (lambda _: None))
        click.secho("ready", bold=True)
        click.echo(where(stack.settings))
        click.echo("Ctrl-C stops everything.")
        stack.wait()
        click.echo("stopping")
    click.echo("stopped")


def stop_on_signals(request_stop: Callable[[], None]) -> None:
    """SIGINT, SIGTERM and the end of the terminal end the wait; a second SIGINT interrupts at once."""

    def handler(_signum: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        request_stop()

    signal.signal(signal.SIGINT, handler)
    signal.signal(signal.SIGTERM, handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        signal.signal(signal.SIGHUP, handler)
