"""`modelops label`: people judge what no code can, on a local page or in a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import emit, json_option
from modelops_dagster.domain.counting import counted

if TYPE_CHECKING:
    from modelops_dagster.clients.labels import Graded
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.gauntlet.suite import Suite
    from modelops_dagster.domain.labels import Label, Task
    from modelops_dagster.settings import Settings

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("label")
@click.option("--run", "run_id", metavar="RUN_ID", help="Answers of this run; default: the newest that has any.")
@click.option("--repo-id", help="Only answers of this model and of what it was compared with.")
@click.option("--pairs", is_flag=True, help="Candidate's answer against the incumbent's, on random sides.")
@click.option("--author", help="Who labels; default: the name you are logged in by.")
@click.option("--export", "export", type=FILE, metavar="FILE", help="Write what is left as .jsonl or .csv instead.")
@click.option("--import", "filled", type=FILE, metavar="FILE", help="Take the labels of such a file instead.")
@click.option("--plan", is_flag=True, help="Say what how many labels would bring about, above all for a hold.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of the page; default: a free one.")
@click.option("--browser/--no-browser", default=True, help="Open the page.")
@json_option
def command(
    run_id: str | None,
    repo_id: str | None,
    pairs: bool,
    author: str | None,
    export: Path | None,
    filled: Path | None,
    plan: bool,
    port: int,
    browser: bool,
    as_json: bool,
) -> None:
    """Judge answers that no code can check: a page on this machine, without a hint of whose answer it is.

    Labels are kept with author and time, and none is ever changed: of each person the last word counts.
    """
    import getpass

    from modelops_dagster.cli.calibrations import show_plan
    from modelops_dagster.clients.label_files import read_filled, write_tasks
    from modelops_dagster.clients.labels import land_labels, read_labels
    from modelops_dagster.domain.errors import UserError
    from modelops_dagster.domain.labels import pending

    if sum((export is not None, filled is not None, plan)) > 1:
        raise UserError("--export, --import and --plan exclude each other: give one.")
    if plan:
        show_plan(repo_id, as_json)
        return
    who = author or getpass.getuser()
    kinds = (False, True) if filled is not None else (pairs,)  # a file says by itself what its lines are about
    store, graded, tasks = _tasks(run_id, repo_id, kinds, every_run=filled is not None)
    labels = read_labels(store)
    left = pending(tasks, labels, who)
    if export is not None:
        write_tasks(export, left, graded)
        said = f"{len(left)} of {counted(len(tasks), 'answer')} in {export}: fill its column `said`, then --import it."
        emit({"file": str(export), "tasks": len(left)}, as_json, lambda: click.echo(said))
    elif filled is not None:
        found = read_filled(filled, tasks, who)
        land_labels(store, found, "file")
        emit(
            {"labels": len(found)}, as_json, lambda: click.echo(f"{counted(len(found), 'label')} taken from {filled}.")
        )
    else:
        _serve(store, graded, tasks, labels, who, port, browser, as_json)


def _tasks(
    run_id: str | None, repo_id: str | None, kinds: tuple[bool, ...], *, every_run: bool
) -> "tuple[ScoreStore, Graded, list[Task]]":
    """What there is to label, in the order it is shown.

    Raises:
        UserError: there is nothing.
    """
    from modelops_dagster.clients.gauntlet.loading import load_suites
    from modelops_dagster.clients.labels import Graded, answers_to_label, latest_run, tasks_of, verdicts
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.errors import UserError
    from modelops_dagster.domain.labels import drawn
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    suites = load_suites(settings.eval_datasets)
    store, graded = ScoreStore(settings.home / "scores"), Graded(suites)
    run = run_id or (None if every_run else latest_run(store, graded, repo_id))
    answers = answers_to_label(store, graded, verdicts(store), run_id=run, repo_id=repo_id)
    tasks = drawn([task for pairs in kinds for task in tasks_of(answers, pairs=pairs)])
    if not tasks:
        of = f" of run {run_id!r}" if run_id else f" of {repo_id}" if repo_id else ""
        if answers and kinds == (True,):
            raise UserError(f"There are no pairs{of} to label: no incumbent answered otherwise; leave out --pairs.")
        raise UserError(f"There is nothing{of} to label: {why_nothing(suites, settings)}")
    return store, graded, tasks


def why_nothing(suites: "Sequence[Suite]", settings: "Settings") -> str:
    """Why no answer waits for people, and what would make some do so, as the end of a sentence."""
    names = " and ".join(suite.name for suite in suites if suite.groups_to_grade)
    if not names:
        return (
            f"code scores every sample in {settings.eval_datasets}; docs/grading.md says how to write a suite that "
            "graders and people judge."
        )
    return (
        f"code scores every answer that there is, and none is to {names}; name a grader in "
        f"{settings.home / 'graders.yaml'}, or the suite in a policy, and onboard a model."
    )


def _serve(
    store: "ScoreStore",
    graded: "Graded",
    tasks: "list[Task]",
    labels: "list[Label]",
    author: str,
    port: int,
    browser: bool,
    as_json: bool,
) -> None:
    import signal
    import threading
    import webbrowser

    from modelops_dagster.services.labelling import LabelApp, LabelServer

    stop = threading.Event()
    app = LabelApp(store, graded, tasks, labels, author)
    with LabelServer(app, port) as server:
        previous = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            left = counted(app.progress["total"] - app.progress["done"], "answer")
            said = f"{left} to label at {server.url}; Ctrl-C stops."
            emit({"url": server.url, **app.progress}, as_json, lambda: click.echo(said))
            if browser and not as_json:
                webbrowser.open(server.url)
            stop.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    click.echo(f"{counted(app.labelled, 'label')} by {author} kept.", err=True)
