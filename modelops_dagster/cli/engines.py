"""`modelops engines`: which engines there are, and installing them."""

import time
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import CommandGroup, emit, json_option, progress_line, table

if TYPE_CHECKING:
    from modelops_dagster.clients.engines import EngineRegistry


@click.group(name="engines", cls=CommandGroup)
def command() -> None:
    """List, install and question serving engines.

    Each engine has an environment of its own in the cache, shared by every installation of this user.
    """


@command.command("list")
@json_option
def list_engines(as_json: bool) -> None:
    """Every engine, and whether it is installed or why it cannot be."""
    from modelops_dagster.domain.engines import EngineStatus

    registry = _registry()
    statuses = [
        EngineStatus(
            manifest=manifest,
            installed=registry.environment(name) is not None,
            unavailable_reason=registry.unavailable_reason(name),
        )
        for name, manifest in registry.manifests().items()
    ]

    def render() -> None:
        rows = []
        for status in statuses:
            manifest = status.manifest
            state = "installed" if status.installed else status.unavailable_reason or "not installed"
            variants = ", ".join(manifest.variants) or None
            rows.append((manifest.name, manifest.full_version, state, ", ".join(manifest.accelerators), variants))
        table("", ("engine", "version", "state", "accelerator", "variants"), rows)

    emit(statuses, as_json, render)


@command.command("install")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def install(names: tuple[str, ...]) -> None:
    """Install engines; what is there already stays."""
    registry = _registry()
    for name in names:
        registry.manifest(name)  # a typing mistake is told before minutes are spent on the names before it
    for name in names:
        if (path := registry.environment(name)) is not None and path == registry.target(name):
            click.echo(f"engine {name}: installed already at {path}")
            continue
        begun = time.monotonic()
        with progress_line(f"engine {name}: installing") as say:
            path = registry.install(name, lambda line, name=name: say(f"engine {name}: {line}"))  # type: ignore[misc]
        click.echo(f"engine {name}: installed in {time.monotonic() - begun:.0f} s at {path}")


@command.command("args")
@click.argument("name")
@click.option("--like", default="", metavar="TEXT", help="Only arguments whose name or help holds this.")
@json_option
def list_arguments(name: str, like: str, as_json: bool) -> None:
    """Every argument that the installed engine takes, as its own parser says."""
    from modelops_dagster.domain.errors import InvalidSpec

    with progress_line(f"asking {name} what it takes"):
        catalog = _registry().arguments(name)
    if catalog is None:
        raise InvalidSpec(f"Engine {name} has no argument parser to ask; its README says what it takes.", field="name")
    found = [a for a in catalog.arguments if like.lower() in f"{' '.join(a.flags)} {a.help}".lower()]

    def render() -> None:
        rows = []
        for a in found:
            takes = ", ".join(a.choices) or {"switch": None, "other": "value"}.get(a.kind, a.kind)
            rows.append((", ".join(a.flags), takes, a.default, a.help or None))
        table(f"{catalog.engine} {catalog.version}", ("argument", "takes", "default", "help"), rows)

    emit(catalog.model_copy(update={"arguments": tuple(found)}), as_json, render)


@command.command("check", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- ARGS...")
@json_option
def check(name: str, arguments: tuple[str, ...], as_json: bool) -> None:
    """Whether the installed engine takes these arguments; starts nothing. Exit code 2 when it does not."""
    registry = _registry()
    with progress_line(f"asking {name} what it takes"):
        registry.check_arguments(name, arguments)
    document = {"engine": name, "version": registry.version(name), "arguments": list(arguments), "holds": True}
    emit(document, as_json, lambda: click.echo(f"{name} {registry.version(name)} takes these arguments"))


def _registry() -> "EngineRegistry":
    from modelops_dagster.clients.engines import EngineRegistry
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    return EngineRegistry.from_settings(settings)
