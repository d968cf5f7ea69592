"""`modelops scores export` and `import`: scores in files that other tools read, and scores from files they wrote."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.output import emit, json_option, table

if TYPE_CHECKING:
    from modelops_dagster.domain.gauntlet.imported import Tool


@click.command("export")
@click.argument("run_id")
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="Only this suite; repeatable. Default: all.")
@click.option("-o", "--output", required=True, metavar="PATH", help="A folder, or NAME.json where there is one log.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("inspect",)),
    default="inspect",
    show_default=True,
    help="Which tool reads it.",
)
@json_option
def export_run(run_id: str, suites: tuple[str, ...], output: str, form: str, as_json: bool) -> None:
    """Write a run's samples and scores as eval logs of Inspect, one per suite and endpoint.

    `inspect view --log-dir FOLDER` opens them. Targets come from the suites as they are now; a sample that is no longer
    among them has none.
    """
    from modelops_dagster.clients.gauntlet.loading import load_suites
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.clients.scores.exporting import inspect_logs, write_logs
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    samples = {sample.uid: sample for suite in load_suites(settings.eval_datasets) for sample in suite.samples}
    logs = inspect_logs(ScoreStore(settings.home / "scores"), run_id, suites, samples)
    paths = write_logs(logs, Path(output))
    written = [
        {
            "file": str(path),
            "format": form,
            "suite": log["eval"]["task"],
            "endpoint": log["eval"]["model_args"]["endpoint"],
            "samples": log["results"]["total_samples"],
        }
        for path, log in zip(paths, logs, strict=True)
    ]

    def render() -> None:
        columns = ("suite", "endpoint", "samples", "file")
        table(f"Run {run_id} for Inspect", columns, [[line[c] for c in columns] for line in written])

    emit(written, as_json, render)


@click.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--format", "tool", type=click.Choice(("lm-eval", "nemo", "inspect")), required=True, help="Which tool wrote them."
)
@click.option("--repo-id", required=True, metavar="ORG/NAME", help="The model that was scored.")
@click.option("--commit", "commit_hash", metavar="HASH", help="Its commit. Default: what the tool says, if it does.")
@click.option("--lane", default="raw", show_default=True, help="The lane whose scores they are.")
@json_option
def import_files(
    files: tuple[str, ...], tool: "Tool", repo_id: str, commit_hash: str | None, lane: str, as_json: bool
) -> None:
    """Take another tool's scores into the history, beside ours: no policy can name them, and nothing compares them.

    lm-eval: results_TIME.json, or samples_TASK_TIME.jsonl of one task. NeMo Evaluator: results.yml (0.2), or
    eval-*.json or results.jsonl (0.3). Inspect: a log as JSON. The same file twice lands once.
    """
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.clients.scores.importing import land_imported, read_files
    from modelops_dagster.domain.errors import InvalidSpec
    from modelops_dagster.domain.hub import require_commit, require_repo_id
    from modelops_dagster.domain.lanes import LANES
    from modelops_dagster.settings import Settings

    require_repo_id(repo_id)
    if commit_hash is not None:
        require_commit(commit_hash)
    if lane not in (known := [one.name for one in LANES]):
        raise InvalidSpec(f"there is no lane {lane!r}; the lanes are {', '.join(known)}.", field="lane")
    found = read_files(tool, [Path(file) for file in files])
    landed = land_imported(ScoreStore(Settings.load().home / "scores"), found, repo_id, commit_hash, lane)
    shown = [
        {
            "suite": one.task.suite,
            "version": one.task.version,
            "metrics": len(one.task.metrics),
            "answers": len(one.task.answers),
            "commit_hash": one.revision.commit_hash,
            "run_id": one.run_id,
            "is_new": one.is_new,
        }
        for one in landed
    ]

    def render() -> None:
        columns = ("suite", "version", "metrics", "answers", "run_id")
        rows = [[*(line[c] for c in columns), "landed" if line["is_new"] else "was there"] for line in shown]
        table(f"{repo_id} ({lane}), scored by {tool}", (*columns, "now"), rows)

    emit(shown, as_json, render)
