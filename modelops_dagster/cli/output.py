"""How every command speaks: a table for people, JSON for programs, one sentence for a mistake."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

PIPED_WIDTH = 140  # columns, where there is no terminal to ask
COLUMN_GAP = 3  # between two columns of a table


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {k: _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    return value


class CommandGroup(click.Group):
    """A group whose help has a whole sentence for each command, over as many lines as it takes."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, c.get_short_help_str(limit=1000)) for name, c in found if c is not None])


def emit(value: Any, as_json: bool, render: Callable[[], None]) -> None:
    """Print `value` as JSON when asked, else call `render`."""
    if as_json:
        click.echo(json.dumps(_jsonable(value), indent=2, default=str))
    else:
        render()


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The `--json` flag, the same on every command."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows as a table; None is shown as a dash, and a column that holds nothing is left out."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    kept = [i for i in range(len(columns)) if not rows or any(row[i] is not None for row in rows)]
    out = Table(header_style="bold", box=box.SIMPLE_HEAD)
    for i in kept:
        out.add_column(columns[i], overflow="fold")
    for row in rows:
        out.add_row(*("-" if row[i] is None else str(row[i]) for i in kept))
    console = Console()
    console = console if console.is_terminal else Console(width=PIPED_WIDTH)
    if title:  # not the table's own, which would be broken at the table's width
        console.print(title, style="italic", markup=False, highlight=False)
    console.print(out)


def program() -> str:
    """What to type here for `modelops`: that, where the shell finds it, else the path of it from the current folder."""
    if shutil.which("modelops"):
        return "modelops"
    path, here = Path(sys.executable).with_name("modelops"), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def table_or_records(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table where the columns' names fit side by side; else every row as a block of its own, a line a column."""
    from rich.console import Console

    console = Console()
    width = console.width if console.is_terminal else PIPED_WIDTH
    if sum(len(name) + COLUMN_GAP for name in columns) <= width:
        table("", columns, rows)
        return
    longest = max(len(name) for name in columns)
    for number, row in enumerate(rows, 1):
        click.echo(f"row {number}")
        for name, cell in zip(columns, row, strict=True):
            if cell is not None:
                click.echo(f"  {name:<{longest}}  {cell}")


@contextmanager
def progress_line(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner with a changing text on a terminal; one line per change elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(text) as status:
            yield status.update
        return
    last = [""]

    def say(line: str) -> None:
        if line != last[0]:
            last[0] = line
            click.echo(line, err=True)

    say(text)
    yield say


@contextmanager
def progress_bar(label: str, unit: str = "") -> Iterator[Callable[..., None]]:
    """A bar fed with (done, total, counters); on something that is not a terminal, a line at every tenth."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[counters]}"),
            console=console,
        ) as bar:
            task = bar.add_task(label, total=None, counters="")
            yield lambda done, total, counters="": bar.update(
                task, completed=done, total=total or None, counters=counters
            )
        return
    shown = [-1]

    def say(done: float, total: float, counters: str = "") -> None:
        tenth = int(10 * done / total) if total else 0
        if tenth != shown[0]:
            shown[0] = tenth
            click.echo(f"{label}: {done:.0f}/{total:.0f}{unit}{counters and f', {counters}'}", err=True)

    yield say
