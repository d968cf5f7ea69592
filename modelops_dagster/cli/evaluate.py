"""`modelops eval`: ask the Gauntlet's suites of any OpenAI-compatible endpoint; nothing is deployed or registered."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from modelops_dagster.cli.output import emit, json_option, progress_bar, table

if TYPE_CHECKING:
    from modelops_dagster.domain.endpoints import Endpoint
    from modelops_dagster.domain.gauntlet.report import Metric, SuiteReport
    from modelops_dagster.domain.gauntlet.suite import Suite

REACH_TIMEOUT_S = 60.0


@click.command()
@click.option("--url", required=True, help="Base URL (http://host:8000/v1) or full path of the chat route.")
@click.option("--model-id", required=True, help="The model name the endpoint answers to.")
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="A suite to ask; repeatable. Default: all.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask at most so many samples of each dataset suite.")
@click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the API key.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    url: str,
    model_id: str,
    suites: tuple[str, ...],
    limit: int | None,
    api_key_env: str | None,
    as_json: bool,
) -> None:
    """Evaluate any OpenAI-compatible endpoint; deploys nothing.

    Exits 1 when a contract check fails or a suite could not be scored, 2 when the address, key or model id is wrong.
    """
    from modelops_dagster.clients.gauntlet.loading import load_suites
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    loaded = [_limited(s, limit) for s in load_suites(settings.eval_datasets, suites)]
    api_key = _api_key(api_key_env)
    endpoint = _reach(url, model_id, api_key)
    reports, failures = _evaluate(loaded, endpoint, str(settings.cache / "gauntlet"), api_key)
    shown = {
        "url": endpoint.url,
        "model_id": model_id,
        "reports": [r.model_dump(mode="json", exclude={"endpoint", "samples_file"}) for r in reports],
        "failures": failures,
    }
    emit(shown, as_json, lambda: _render(reports))
    for sentence in failures:
        click.echo(f"modelops: {sentence}", err=True)
    if failures or any(_failed_checks(r) for r in reports):
        ctx.exit(1)


def _limited(suite: "Suite", limit: int | None) -> "Suite":
    if limit is None or suite.kind != "dataset":
        return suite
    return suite.model_copy(update={"spec": suite.spec.model_copy(update={"limit": limit})})


def _api_key(name: str | None) -> str | None:
    """The key from the named variable; the name is the only thing that ever appears on a command line.

    Raises:
        UserError: the variable is not set.
    """
    import os

    from modelops_dagster.domain.errors import UserError

    if name is None:
        return None
    if not os.environ.get(name):
        raise UserError(f"The environment variable {name} is not set: put the endpoint's API key there.")
    return os.environ[name]


def _reach(url: str, model_id: str, api_key: str | None) -> "Endpoint":
    """Ask for one token, so that a wrong address, key or model id is one sentence now and not a report of zeros.

    Raises:
        UserError: the user must correct the address, the key or the model id.
    """
    import asyncio
    import hashlib

    from modelops_dagster.clients.gauntlet.inference import InferenceClient, base_url
    from modelops_dagster.domain.checkpoints import Checkpoint
    from modelops_dagster.domain.endpoints import Endpoint
    from modelops_dagster.domain.errors import UserError
    from modelops_dagster.domain.hub import ModelRevision

    try:
        base = base_url(url)
    except ValueError as error:
        raise UserError(f"--url {error}.") from None

    async def ask() -> tuple[Any, Any]:
        body = {"model": model_id, "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 1}
        async with InferenceClient(
            base, concurrency=1, attempt_timeout_s=REACH_TIMEOUT_S, retries=1, api_key=api_key
        ) as client:
            return await client.ask_plain("GET", base + "/models"), await client.complete(body)

    models, answer = asyncio.run(ask())
    listed = _listed(models.body)
    if not answer.is_ok:
        raise UserError(_unreachable(base, model_id, answer, listed))
    digest = hashlib.sha256(f"{base}\n{model_id}".encode()).hexdigest()
    # no Hub commit is known for an endpoint of somebody else's: the null id says so, as it does in git
    revision = ModelRevision(repo_id=f"external/{digest[:12]}", commit_hash="0" * 40)
    checkpoint = Checkpoint(revision=revision, scheme="raw", directory="/", digest=f"sha256:{digest}", size_bytes=0)
    return Endpoint(
        name="external",
        url=base,
        served_model_name=model_id,
        checkpoint=checkpoint,
        engine="unknown",
        engine_version="unknown",
        rung="unknown",
        ladder=(),
        start_seconds=0,
        tokens_per_second=0,
        max_context=listed.get(model_id) or 0,
    )


def _listed(body: Any) -> dict[str, int | None]:
    """Model names of a /models answer, with their context length in tokens where it is told."""
    entries = body.get("data") if isinstance(body, dict) else None
    models = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    return {str(m.get("id")): m.get("max_model_len") for m in models}


def _unreachable(base: str, model_id: str, answer: Any, listed: dict[str, int | None]) -> str:
    if answer.error == "unauthorized":
        return f"{base} refuses the key ({answer.error_detail}): name the variable that holds it with --api-key-env."
    if answer.error == "not_found" and listed and model_id not in listed:
        return f"{base} has no model {model_id!r}: use one of {', '.join(list(listed)[:8])}."
    if answer.error == "not_found":
        return f"{base} has no chat route or no model {model_id!r} ({answer.error_detail}): check --url and --model-id."
    if answer.error in ("connection", "timeout"):
        return f"{base} cannot be reached ({answer.error_detail}): check --url, and that the endpoint is running."
    if answer.error in ("html", "not_json", "empty_choices"):
        return f"{base} is not an OpenAI-compatible endpoint ({answer.error_detail}): check --url."
    return f"{base} does not answer a request of one token ({answer.error_detail}): see the endpoint's log."


def _evaluate(
    suites: "Sequence[Suite]", endpoint: "Endpoint", work: str, api_key: str | None
) -> "tuple[list[SuiteReport], list[str]]":
    """Every suite in turn; one that cannot be scored does not keep the others from being asked."""
    import uuid
    from pathlib import Path

    from modelops_dagster.clients.gauntlet.runner import run_suite
    from modelops_dagster.domain.errors import EvaluationFailed

    run_id = f"eval-{uuid.uuid4()}"
    reports, failures = [], []
    for suite in suites:
        with progress_bar(suite.name) as bar:
            try:
                report = run_suite(
                    suite,
                    endpoint,
                    lane="external",
                    run_id=run_id,
                    work=Path(work),
                    progress=partial(_without_text, bar),
                    api_key=api_key,
                )
            except EvaluationFailed as error:
                failures.append(error.sentence)
            else:
                reports.append(report)
    return reports, failures


def _without_text(bar: Callable[[float, float], None], done: float, total: float, _: str) -> None:
    bar(done, total)


def _failed_checks(report: "SuiteReport") -> bool:
    failed = report.metric("failed_checks")
    return failed is not None and bool(failed.value)


def _render(reports: "Sequence[SuiteReport]") -> None:
    for report in reports:
        seconds = (report.ended_at - report.started_at).total_seconds()
        title = f"{report.suite}: {report.n_samples} asked, {report.n_unscored} unscored, {seconds:.1f} s"
        rows = [_cells(m) for m in report.metrics if not m.name.startswith("check/")]
        table(title, ("metric", "value", "95 % interval", "n", "unit"), rows)
        for sentence in report.failing:
            click.echo(f"  {sentence}")


def _cells(metric: "Metric") -> tuple[object, ...]:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}" if metric.unit == "share" else f"{value:.4g}"

    known = metric.ci_low is not None or metric.ci_high is not None
    interval = f"{number(metric.ci_low)} to {number(metric.ci_high)}" if known else None
    return metric.name, number(metric.value), interval, metric.n, metric.unit
