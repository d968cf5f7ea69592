"""The `modelops` command. Sub-commands are imported when they are called, so `--help` answers at once."""

import importlib
import os
import sys

import click

from modelops_dagster import __version__
from modelops_dagster.domain.errors import (
    ClusterUnavailable,
    HubUnavailable,
    ModelOpsError,
    QueueUnavailable,
    SourceUnavailable,
    UserError,
)

# what does not answer is for the user to look after, as what is not running is; it says nothing about a model
FOR_THE_USER = (UserError, HubUnavailable, SourceUnavailable, ClusterUnavailable, QueueUnavailable)

# name -> (module with an object named `command`, the line that --help shows)
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "The main job end to end on the embedded default."),
    "up": ("up", "Controller, gateway and Dagster in one foreground command."),
    "onboard": ("onboard", "Take one repository from the Hub to the gateway."),
    "preflight": ("preflight", "What a repository's metadata says about serving it here; fetches no weights."),
    "watch": ("watch", "One look at the followed organisations: what is new, and why it is or is not taken."),
    "backfill": ("backfill", "Ask one suite of every model, in one run that can be resumed."),
    "models": ("models", "Where each model stands, lane by lane, and why."),
    "engines": ("engines", "List and install serving engines."),
    "endpoints": ("endpoints", "List, show, stop, start and delete endpoints."),
    "research": ("research", "Run jobs that yield their accelerators to endpoints."),
    "routes": ("routes", "Which endpoints answer for an alias."),
    "keys": ("keys", "Create, list and revoke gateway keys."),
    "access": ("access", "Create, list and revoke the controller's keys: viewers, operators, admins."),
    "spend": ("spend", "Who used what through the gateway, and what it cost."),
    "batch": ("batch", "Many requests from a file, answered after everybody else's."),
    "eval": ("evaluate", "Evaluate any OpenAI-compatible endpoint; deploys nothing."),
    "datasets": ("datasets", "Check and describe the samples that suites ask."),
    "label": ("label", "Judge answers that no code can check, on a local page or in a file."),
    "scores": ("scores", "The score history, as a table or by SQL."),
    "report": ("report", "A page about one model or all: verdict and why, in the terminal or as one HTML file."),
    "verdict": ("verdict", "The promotion decision and its numbers."),
    "alerts": ("alerts", "Try the alert channels, and list what was sent."),
    "hub": ("hub", "Serve a folder of models as a Hub."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and one-line helps without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"modelops_dagster.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="modelops")
def cli() -> None:
    """From a commit on the Hub to a model developers can call, evaluated, with the lineage kept.

    State lives in the nearest .modelops folder, or where MODELOPS_HOME says.
    """


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 a verdict or check failed, 2 the user must do something, 70 a bug."""
    try:
        code = cli(standalone_mode=False)  # an int when a command calls ctx.exit(n)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except ModelOpsError as error:
        click.echo(f"modelops: {error.sentence}", err=True)
        sys.exit(2 if isinstance(error, FOR_THE_USER) else 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception:
        import traceback

        traceback.print_exc()
        click.echo("modelops: this is a bug in modelops; please report the lines above.", err=True)
        sys.exit(70)
