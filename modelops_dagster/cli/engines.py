"""`modelops engines`: which engines there are, and installing them."""

import time
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import emit, json_option, progress_line, table

if TYPE_CHECKING:
    from modelops_dagster.clients.engines import EngineRegistry


@click.group(name="engines")
def command() -> None:
    """List and install serving engines.

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
            rows.append((manifest.name, manifest.version, state, ", ".join(manifest.accelerators), variants))
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
        if (path := registry.environment(name)) is not None:
            click.echo(f"engine {name}: installed already at {path}")
            continue
        begun = time.monotonic()
        with progress_line(f"engine {name}: installing") as say:
            path = registry.install(name, lambda line, name=name: say(f"engine {name}: {line}"))  # type: ignore[misc]
        click.echo(f"engine {name}: installed in {time.monotonic() - begun:.0f} s at {path}")


def _registry() -> "EngineRegistry":
    from modelops_dagster.clients.engines import EngineRegistry
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    return EngineRegistry(settings.engines, settings.cache)
