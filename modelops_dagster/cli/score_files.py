"""`modelops scores export`: what was scored, in files that other tools read."""

from pathlib import Path

import click

from modelops_dagster.cli.output import emit, json_option, table


@click.command("export")
@click.argument("run_id")
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="Only this suite; repeatable. Default: all.")
@click.option("-o", "--output", required=True, metavar="PATH", help="A folder, or NAME.json where there is one log.")
@click.option("--format", "form", type=click.Choice(("inspect",)), default="inspect", show_default=True)
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
