"""`modelops eval --inspect FILE[@TASK]`: a task that is written for Inspect, run by it within limits."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from modelops_dagster.cli.metric_tables import metric_table
from modelops_dagster.cli.output import emit, progress_line

if TYPE_CHECKING:
    from modelops_dagster.clients.gauntlet.inspect_engine import InspectRun
    from modelops_dagster.clients.scores.importing import Found
    from modelops_dagster.domain.endpoints import Endpoint
    from modelops_dagster.domain.gauntlet.eval_config import EvalPlan
    from modelops_dagster.domain.gauntlet.imported import ImportedTask
    from modelops_dagster.domain.openai_urls import Api
    from modelops_dagster.settings import Settings

_OPTIONS = (
    click.option(
        "--inspect", metavar="FILE[@TASK]", help="Run a task of Inspect instead of suites; see evaluating.md."
    ),
    click.option(
        "-T", "task_args", multiple=True, metavar="NAME=VALUE", help="With --inspect: an argument; repeatable."
    ),
    click.option("--tokens", type=click.IntRange(min=1), default=2_000_000, help="With --inspect: at most, in all."),
    click.option("--memory", type=click.FloatRange(min=0.5), default=2.0, help="With --inspect: at most, in GiB."),
    click.option("--repo-id", metavar="ORG/NAME", help="With --inspect: land the scores as this model's."),
    click.option("--commit", "commit_hash", metavar="HASH", help="With --repo-id: its commit."),
)


TASK_FLAGS = {
    "task_args": "-T",
    "tokens": "--tokens",
    "memory": "--memory",
    "repo_id": "--repo-id",
    "commit_hash": "--commit",
}


def inspect_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of a task, handed to the command as keywords."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def require_task_options(ctx: click.Context, options: dict[str, Any]) -> None:
    """See that no option of a task was given without one: it would be left out without a word.

    Raises:
        UserError: it was; names the option.
    """
    from modelops_dagster.domain.errors import UserError

    if not options["inspect"]:
        flag = next(
            (
                flag
                for name, flag in TASK_FLAGS.items()
                if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE
            ),
            None,
        )
        if flag:
            raise UserError(f"{flag} belongs to a task of Inspect: name its file with --inspect, or leave {flag} out.")
    if options["commit_hash"] and not options["repo_id"]:
        raise UserError("--commit is the commit of a model: name the model with --repo-id, or leave --commit out.")


def require_task_alone(plan: "EvalPlan", api: "Api", suites: Sequence[str], subset: str | None) -> None:
    """See that nothing was given that a task of Inspect does not know.

    Raises:
        UserError: a suite, a subset, an interceptor, or the text route.
    """
    from modelops_dagster.domain.errors import UserError

    if suites or subset:
        raise UserError("--inspect says what is asked: leave out --suite and --subset.")
    if plan.chain.interceptors:
        raise UserError("Inspect asks by itself: give --url and --model-id, and no file with interceptors.")
    if api != "chat":
        raise UserError("Inspect asks the chat route: give --url without /completions.")


def run_task(
    endpoint: "Endpoint",
    api_key: str | None,
    settings: "Settings",
    options: dict[str, Any],
    *,
    limit: int | None,
    minutes: float,
    max_lost: float,
    as_json: bool,
) -> bool:
    """Run the task, show and land what it scored; whether every task of the file has a verdict.

    Raises:
        UserError: the file, an argument or the model's name does not hold.
        EvaluationFailed: nothing was left to read.
    """
    from modelops_dagster.clients.engines import EngineRegistry
    from modelops_dagster.clients.gauntlet.inspect_engine import InspectEngine, InspectOrder, named_task
    from modelops_dagster.domain.hub import require_commit, require_repo_id

    repo_id, commit_hash = options["repo_id"], options["commit_hash"]
    if repo_id is not None:
        require_repo_id(repo_id)
    if commit_hash is not None:
        require_commit(commit_hash)
    file, task = named_task(options["inspect"])
    order = InspectOrder(
        file=file,
        task=task,
        arguments=_arguments(options["task_args"]),
        url=endpoint.url,
        model=endpoint.served_model_name,
        seconds=minutes * 60,
        memory_bytes=int(options["memory"] * 2**30),
        tokens=options["tokens"],
        samples=limit,
    )
    registry = EngineRegistry.from_settings(settings)
    with progress_line(f"{file.name}: starting Inspect") as say:
        run = InspectEngine(registry, settings.cache / "inspect").run(order, api_key, say)
    landed = _land(run.found, settings, repo_id, commit_hash) if repo_id else []
    tasks = [one.task for one in run.found]
    failures = [sentence for one in tasks for sentence in _failures(one, run, max_lost)]
    shown = {
        "url": endpoint.url,
        "model_id": endpoint.served_model_name,
        "tasks": [_shown(one, log) for one, log in zip(tasks, run.logs, strict=True)],
        "fences": run.fences,
        "tokens": run.tokens,
        "run_ids": landed,
        "failures": failures,
    }
    emit(shown, as_json, lambda: _render(tasks, run.logs))
    for sentence in failures:
        click.echo(f"modelops: {sentence}", err=True)
    return not failures


def _arguments(given: Sequence[str]) -> dict[str, Any]:
    """Values are YAML, as Inspect's own command reads them.

    Raises:
        UserError: one has no value, or is no YAML.
    """
    import yaml

    from modelops_dagster.domain.errors import UserError

    pairs = [one.partition("=") for one in given]
    if bare := next((name for name, equals, _ in pairs if not equals), None):
        raise UserError(f"-T {bare} has no value: write {bare}=VALUE.")
    try:
        return {name: yaml.safe_load(value) for name, _, value in pairs}
    except yaml.YAMLError as error:
        raise UserError(f"-T {' '.join(str(error).split())}; quote the value.") from None


def _land(found: "Sequence[Found]", settings: "Settings", repo_id: str, commit_hash: str | None) -> list[str]:
    """Land the tasks of which anything was scored; returns the ids of their runs."""
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.clients.scores.importing import land_imported

    scored = [one for one in found if one.task.n_unscored < one.task.n_samples]
    landed = land_imported(ScoreStore(settings.home / "scores"), scored, repo_id, commit_hash, "raw")
    return [one.run_id for one in landed]


def _failures(task: "ImportedTask", run: "InspectRun", max_lost: float) -> list[str]:
    lost = [answer for answer in task.answers if answer.score is None]
    if len(lost) <= max_lost * task.n_samples and task.suite not in run.ended_early:
        return []
    why = run.ended_early.get(task.suite) or (lost[0].explanation if lost else "it ended early")
    return [f"{task.suite} has no verdict: {len(lost)} of {task.n_samples} samples could not be scored ({why})."]


def _shown(task: "ImportedTask", log: Path) -> dict[str, Any]:
    from modelops_dagster.domain.gauntlet.samples import digest

    return {
        "suite": task.suite,
        "version": task.version,
        "instrument": digest(task.parts),
        "instrument_parts": task.parts,
        "metrics": [metric.model_dump(mode="json") for metric in task.metrics],
        "n_samples": task.n_samples,
        "n_unscored": task.n_unscored,
        "log": str(log),
    }


def _render(tasks: "Sequence[ImportedTask]", logs: Sequence[Path]) -> None:
    for task, log in zip(tasks, logs, strict=True):
        title = f"{task.suite}: {task.n_samples} asked, {task.n_unscored} unscored"
        metric_table(title, task.metrics)
        click.echo(f"  log: {log}")
