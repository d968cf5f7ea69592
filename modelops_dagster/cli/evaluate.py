"""`modelops eval`: ask the Gauntlet's suites of any OpenAI-compatible endpoint; nothing is deployed or registered."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from modelops_dagster.cli.graders import panel_for, render_grading
from modelops_dagster.cli.inspect_tasks import inspect_options, require_task_alone, require_task_options, run_task
from modelops_dagster.cli.metric_tables import metric_table
from modelops_dagster.cli.named_endpoints import Named, find_named
from modelops_dagster.cli.output import emit, json_option, progress_bar

if TYPE_CHECKING:
    from modelops_dagster.clients.gauntlet.eval_file import Asked
    from modelops_dagster.clients.gauntlet.panel import Panel
    from modelops_dagster.domain.endpoints import Endpoint
    from modelops_dagster.domain.errors import UserError
    from modelops_dagster.domain.gauntlet.eval_config import EvalPlan
    from modelops_dagster.domain.gauntlet.report import SuiteReport
    from modelops_dagster.domain.gauntlet.suite import Suite
    from modelops_dagster.domain.openai_urls import Api
    from modelops_dagster.settings import Settings

REACH_TIMEOUT_S = 60.0
ASK_AGAIN_S = 10.0
"""For one token after a suite in trouble, which tells whether the key or the model is refused since."""
REASONING_TOKENS = 4096
MAX_UNSCORED_SHARE = 0.02
"""Of a suite's samples, as in the policies: with more of them lost the numbers are shown and the run exits 1."""


@click.command()
@click.option("--url", help="Base URL (http://host:8000/v1) or full path of the chat or completions route.")
@click.option("--model-id", help="The model name the endpoint answers to.")
@click.option("--config", "config", metavar="FILE", help="A NeMo Evaluator YAML, 0.2 or 0.3, instead of --url.")
@click.option("-o", "overrides", multiple=True, metavar="A.B=VALUE", help="With --config: set a value; repeatable.")
@click.option("--endpoint", "name", metavar="NAME", help="An endpoint or an alias of this platform, instead of --url.")
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="A suite to ask; repeatable. Default: all.")
@click.option("--subset", metavar="NAME", help="Ask only this subset of the suites that have it, e.g. brief.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask at most so many samples of each dataset suite.")
@click.option("--budget", type=click.FloatRange(min=0.05), default=30.0, show_default=True, help="Minutes, in all.")
@click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the API key.")
@inspect_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    url: str | None,
    model_id: str | None,
    config: str | None,
    overrides: tuple[str, ...],
    name: str | None,
    suites: tuple[str, ...],
    subset: str | None,
    limit: int | None,
    budget: float,
    api_key_env: str | None,
    as_json: bool,
    **task: Any,
) -> None:
    """Evaluate any OpenAI-compatible endpoint; deploys nothing.

    Exits 1 when a contract check fails or a suite could not be scored, 2 when the address, the key or the model id
    is wrong, or is refused midway.
    """
    from modelops_dagster.clients.gauntlet.loading import require_subset
    from modelops_dagster.clients.gauntlet.reaching import reach
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    require_task_options(ctx, task)
    named = find_named(name) if name else None
    plan = _plan(url, model_id, config, overrides, api_key_env, named)
    api_key = named.key if named else _api_key(plan.api_key_name, is_optional=bool(config) and not api_key_env)
    deadline = time.monotonic() + budget * 60
    if task["inspect"]:
        require_task_alone(plan, _api(plan), suites, subset)
        endpoint = reach(plan, _api(plan), api_key, min(REACH_TIMEOUT_S, budget * 60))
        is_whole = run_task(
            endpoint, api_key, settings, task, limit=limit, minutes=budget, max_lost=MAX_UNSCORED_SHARE, as_json=as_json
        )
        refused = None if is_whole else _refused_since(plan, api_key, deadline)
        if refused:
            raise refused
        ctx.exit(0 if is_whole else 1)
    asked = _asked(plan, settings.eval_datasets, suites)
    require_subset(subset, [a.suite for a in asked])
    chosen = _for_route([_chosen(a.suite, subset, limit) for a in asked], plan, is_named=bool(suites))
    panel, chosen = panel_for(chosen, settings, is_named=bool(suites))
    endpoint = reach(plan, _api(plan), api_key, min(REACH_TIMEOUT_S, budget * 60))
    if panel is not None:
        panel.require_others(endpoint)
    chosen = [_roomy(suite, plan, endpoint.max_context) for suite in chosen]
    work = _work(plan, settings)
    reports, failures, is_refused = _evaluate(chosen, endpoint, work, api_key, plan, deadline, panel)
    _say_where_logs_are(plan, work)
    shown = {"url": endpoint.url, **_shown(plan, asked, reports), "failures": failures}
    emit(shown, as_json, lambda: _render(reports))
    for sentence in failures:
        click.echo(f"modelops: {sentence}", err=True)
    if is_refused:
        ctx.exit(2)
    if failures or any(_failed_checks(r) for r in reports):
        ctx.exit(1)


def _work(plan: "EvalPlan", settings: "Settings") -> Path:
    """The folder of journals and logs; it and those that the file names are there then."""
    from modelops_dagster.clients.gauntlet.eval_file import make_folders

    work = Path(plan.output_dir) if plan.output_dir else settings.cache / "gauntlet"
    make_folders(work, plan.chain)
    return work


def _shown(plan: "EvalPlan", asked: "Sequence[Asked]", reports: "Sequence[SuiteReport]") -> dict[str, Any]:
    """What `--json` prints of the plan and of what came of it."""
    from modelops_dagster.domain.gauntlet.redaction import redacted

    return {
        "model_id": plan.model_id,
        "chain": [{"name": i.name, "config": redacted(i.given)} for i in plan.chain.interceptors],
        "stands_in_for": {a.suite.name: a.stands_in_for for a in asked if a.stands_in_for},
        "reports": [r.model_dump(mode="json", exclude={"endpoint", "samples_file"}) for r in reports],
    }


def _say_where_logs_are(plan: "EvalPlan", work: Path) -> None:
    if plan.chain.hooks or plan.chain.named("request_logging") or plan.chain.named("response_logging"):
        caching = plan.chain.named("caching")
        where = {str(work / "exchanges"), str((caching and caching.cache_dir) or work)}
        click.echo(f"Logs and reports of the chain: {', '.join(sorted(where))}", err=True)


def _plan(
    url: str | None,
    model_id: str | None,
    config: str | None,
    overrides: tuple[str, ...],
    api_key_env: str | None,
    named: "Named | None",
) -> "EvalPlan":
    """What is asked of whom, from the options or from the file; options go before the file.

    Raises:
        UserError: neither or both were given, or the file does not hold.
    """
    import os

    from modelops_dagster.clients.gauntlet.eval_file import load_plan
    from modelops_dagster.domain.errors import UserError
    from modelops_dagster.domain.gauntlet.eval_config import EvalPlan

    if named is not None:
        if url or model_id or api_key_env:
            raise UserError("--endpoint says whom to ask, under which name and with which key: give it alone.")
        url, model_id = named.url, named.model_id
    if config is None:
        if overrides:
            raise UserError("-o changes values of a file: name the file with --config.")
        if not url or not model_id:
            raise UserError("Say whom to ask: --url and --model-id, or --config FILE.")
        return EvalPlan(url=url, model_id=model_id, api_key_name=api_key_env, vintage="0.3")
    plan = load_plan(Path(config), overrides, os.environ)
    given = {"url": url, "model_id": model_id, "api_key_name": api_key_env}
    return plan.model_copy(update={k: v for k, v in given.items() if v is not None})


def _asked(plan: "EvalPlan", folder: Path, suites: Sequence[str]) -> "Sequence[Asked]":
    """The suites that were named, or those of the plan with a word about each that stands in for a benchmark."""
    from modelops_dagster.clients.gauntlet.eval_file import Asked, asked_suites
    from modelops_dagster.clients.gauntlet.loading import load_suites

    every = load_suites(folder, suites)
    if suites:
        return [Asked(suite) for suite in every]
    asked = asked_suites(plan, every)
    for notice in (a for a in asked if a.stands_in_for):
        click.echo(
            f"{notice.stands_in_for}: public benchmarks are not shipped; the suite {notice.suite.name!r} is asked "
            "instead. It measures the same kind of skill with other questions; published scores are no comparison.",
            err=True,
        )
    return asked


def _api(plan: "EvalPlan") -> "Api":
    from modelops_dagster.domain.openai_urls import api_of

    return plan.api or api_of(plan.url) or "chat"


def _for_route(suites: "Sequence[Suite]", plan: "EvalPlan", *, is_named: bool) -> "list[Suite]":
    """The suites as the endpoint's route wants them. Contract and performance ask the chat route, or are left out.

    Raises:
        UserError: a suite was named that cannot be asked over this route.
    """
    from modelops_dagster.domain.errors import UserError

    api = _api(plan)
    out = []
    for suite in suites:
        if suite.kind != "dataset" and api == "completions":
            if is_named:
                raise UserError(f"The suite {suite.name!r} asks the chat route: give --url without /completions.")
            click.echo(f"{suite.name}: asks the chat route and is left out for a completions URL.", err=True)
            continue
        changes: dict[str, Any] = {"api": api} if suite.kind == "dataset" else {}
        if plan.stream is not None and suite.kind == "dataset":
            changes["stream"] = plan.stream
        requests = suite.spec.requests.model_copy(update=changes)
        out.append(suite.model_copy(update={"spec": suite.spec.model_copy(update={"requests": requests})}))
    if not out:
        raise UserError("No suite is left to ask: name one with --suite.")
    return out


def _roomy(suite: "Suite", plan: "EvalPlan", max_context: int | None) -> "Suite":
    """Where reasoning is taken out of answers, requests get tokens to reason with, unless the file says how many."""
    sampling = suite.spec.sampling
    if suite.kind != "dataset" or plan.chain.named("reasoning") is None or sampling.token_floor is not None:
        return suite
    floor = min(REASONING_TOKENS, max_context // 2) if max_context else REASONING_TOKENS
    changed = sampling.model_copy(update={"token_floor": floor})
    return suite.model_copy(update={"spec": suite.spec.model_copy(update={"sampling": changed})})


def _chosen(suite: "Suite", subset: str | None, limit: int | None) -> "Suite":
    if suite.kind != "dataset":
        return suite
    if subset is not None and subset in suite.spec.subsets:
        suite = suite.subset(subset)
    if limit is None:
        return suite
    return suite.model_copy(update={"spec": suite.spec.model_copy(update={"limit": limit})})


def _api_key(name: str | None, *, is_optional: bool) -> str | None:
    """The key from the named variable; the name is the only thing that ever appears on a command line.

    Raises:
        UserError: the variable is not set, and the command line names it; or it holds more than a key.
    """
    import os

    from modelops_dagster.domain.errors import UserError

    if name is None:
        return None
    if not os.environ.get(name):
        if is_optional:
            click.echo(f"The variable {name} is not set: the endpoint is asked without a key.", err=True)
            return None
        raise UserError(f"The environment variable {name} is not set: put the endpoint's API key there.")
    key = os.environ[name]
    if not key.isprintable() or key != key.strip():
        raise UserError(f"The variable {name} holds blanks or a line break beside the key: put the key alone there.")
    return key


class Evaluated(NamedTuple):
    """What came of the suites; the last failure is the user's to correct where the endpoint refuses to go on."""

    reports: "list[SuiteReport]"
    failures: list[str]
    is_refused: bool


def _evaluate(
    suites: "Sequence[Suite]",
    endpoint: "Endpoint",
    work: Path,
    api_key: str | None,
    plan: "EvalPlan",
    deadline: float,
    panel: "Panel | None",
) -> Evaluated:
    """Every suite in turn; one that cannot be scored does not keep the others from being asked, a refusal does."""
    import uuid

    from modelops_dagster.clients.gauntlet.runner import run_suite
    from modelops_dagster.domain.errors import EvaluationFailed

    run_id = f"eval-{uuid.uuid4()}"
    reports: list[SuiteReport] = []
    failures: list[str] = []
    for number, suite in enumerate(suites, 1):
        left = deadline - time.monotonic()
        if left <= 0:
            failures.append(
                f"Suite {suite.name!r} was not asked: the budget is used up; raise it with --budget MINUTES."
            )
            continue
        report = None
        with progress_bar(suite.name) as bar:
            try:
                report = run_suite(
                    _within(suite, left),
                    endpoint,
                    lane="external",
                    run_id=run_id,
                    work=work,
                    progress=bar,
                    api_key=api_key,
                    chain=plan.chain,
                    panel=panel and replace(panel, ends_at=deadline),
                )
            except EvaluationFailed as error:
                failures.append(error.sentence)
        if report is not None:
            reports.append(report)
        if report is not None and _is_undecided(report):
            failures.append(
                f"Suite {suite.name!r} has no verdict: {report.n_unscored} of {report.n_samples} could not be scored "
                f"({'; '.join(report.failing[:2]) or 'no reason given'})."
            )
        if report is not None and _is_unjudged(report):
            failures.append(f"Suite {suite.name!r} has no verdict: {' '.join(report.notes)}")
        is_well = report is not None and not _is_undecided(report) and not _failed_checks(report)
        refused = None if is_well else _refused_since(plan, api_key, deadline)
        if refused is not None:
            failures.append(_refusal(refused, report, [s.name for s in suites[number:]]))
            return Evaluated(reports, failures, is_refused=True)
    return Evaluated(reports, failures, is_refused=False)


def _refused_since(plan: "EvalPlan", api_key: str | None, deadline: float) -> "UserError | None":
    """Why the endpoint, which answered before, refuses the key or the model now."""
    from modelops_dagster.clients.gauntlet.reaching import refusal

    left = max(1.0, deadline - time.monotonic())
    return refusal(plan, _api(plan), api_key, min(ASK_AGAIN_S, left))


def _refusal(error: "UserError", report: "SuiteReport | None", left: Sequence[str]) -> str:
    """The error with what is kept, and what was not asked any more."""
    said = error.sentence
    if report is not None and report.kind == "dataset":
        said += f" What was answered to {report.suite!r} is kept: the same command goes on after it."
    return f"{said} Not asked any more: {', '.join(left)}." if left else said


def _within(suite: "Suite", seconds: float) -> "Suite":
    requests = suite.spec.requests
    changed = requests.model_copy(update={"deadline_s": min(requests.deadline_s, seconds)})
    return suite.model_copy(update={"spec": suite.spec.model_copy(update={"requests": changed})})


def _is_undecided(report: "SuiteReport") -> bool:
    return report.n_unscored > MAX_UNSCORED_SHARE * report.n_samples


def _is_unjudged(report: "SuiteReport") -> bool:
    """Whether graders were asked, none gave a verdict on anything, and nothing else was scored."""
    return bool(report.graders) and not report.n_samples and not any(one.n for one in report.graders)


def _failed_checks(report: "SuiteReport") -> bool:
    failed = report.metric("failed_checks")
    return failed is not None and bool(failed.value)


def _render(reports: "Sequence[SuiteReport]") -> None:
    for report in reports:
        seconds = (report.ended_at - report.started_at).total_seconds()
        title = f"{report.suite}: {report.n_samples} asked, {report.n_unscored} unscored, {seconds:.1f} s"
        title += ", no verdict: the numbers are of what was scored" if _is_undecided(report) else ""
        metric_table(title, report.metrics)
        for sentence in report.failing:
            click.echo(f"  {sentence}")
        render_grading(report)
