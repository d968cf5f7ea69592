"""`modelops demo`: the main job end to end on the embedded default, through Dagster and not around it."""

import sys
import time
from typing import TYPE_CHECKING

import click

from modelops_dagster.cli.beforehand import require_on_hub
from modelops_dagster.cli.onboard import follow_run
from modelops_dagster.cli.output import program, progress_line, table
from modelops_dagster.cli.up import echo_line, echo_own, stop_on_signals, where
from modelops_dagster.cli.values import show_criteria
from modelops_dagster.domain.lanes import QUANTIZED_LANES

if TYPE_CHECKING:
    from pathlib import Path

    from modelops_dagster.clients.dagster_api import DagsterClient, RunState
    from modelops_dagster.clients.engines import EngineRegistry
    from modelops_dagster.domain.verdicts import Verdict
    from modelops_dagster.services.stack import Stack
    from modelops_dagster.settings import Settings

REPO_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
QUESTION = "What is the capital of France?"
SCORES_SQL = "select repo_id, suite, metric, value, ci_low, ci_high, n from score_history order by evaluated_at"
ENGINES = ("vllm-cpu", "transformers")
QUICK_AWQ = "awq=awq-quick"  # minutes instead of a quarter of an hour, and it says so
POLL_INTERVAL_S = 5
TICK_TIMEOUT_S = 120


@click.command(name="demo")
@click.option("--hub", "hub_url", help="Use this Hub instead of the embedded one, e.g. https://huggingface.co.")
@click.option("--repo-id", default=REPO_ID, show_default=True, help="With --hub: the repository to onboard.")
@click.option("--policy", default="demo", show_default=True, help="Promotion policy; 'default' is the strict one.")
@click.option(
    "--keep-running/--exit",
    default=None,
    help="Leave everything running until Ctrl-C, or stop it after the answer. Default: keep on a terminal.",
)
@click.option(
    "--lane",
    "lanes",
    multiple=True,
    type=click.Choice([lane.name for lane in QUANTIZED_LANES]),
    help="Quantize a copy for this lane too, compare it with the original and send it down; may be repeated.",
)
@click.option("--logs", is_flag=True, help="Show what every program prints.")
@click.pass_context
def command(
    ctx: click.Context,
    hub_url: str | None,
    repo_id: str,
    policy: str,
    keep_running: bool | None,
    lanes: tuple[str, ...],
    logs: bool,
) -> None:
    """A model is published, noticed, fetched, served, evaluated, judged and registered; then it answers a question."""
    from modelops_dagster.clients.dagster_api import DagsterClient
    from modelops_dagster.clients.engines import EngineRegistry
    from modelops_dagster.domain.hub import require_repo_id
    from modelops_dagster.services.stack import Stack

    require_repo_id(repo_id)
    started = time.monotonic()
    settings = _settings(hub_url, repo_id, policy, lanes)
    _welcome(settings, policy)
    hub_root = None if hub_url else settings.home / "hub"
    # all that can be wrong is told before minutes are spent on engines: policy, home, ports, Hub
    with Stack(settings, echo=echo_line if logs else echo_own, hub_root=hub_root) as stack:
        stop_on_signals(_interrupt)
        if hub_url:
            require_on_hub(hub_url, repo_id)
        registry = EngineRegistry.from_settings(settings)
        _install_engines(registry, (*ENGINES, "llmcompressor") if lanes else ENGINES)
        model = None if hub_root is None else _demo_model(registry, settings)
        if hub_root is not None:
            hub_root.mkdir(parents=True, exist_ok=True)
        prepared = time.monotonic()
        with progress_line("starting") as say:
            stack.start(say)
        up = time.monotonic()
        click.echo(where(stack.settings))
        dagster = DagsterClient(stack.settings.dagster_url)
        run_id = _run_of(dagster, repo_id, hub_root, model)
        click.echo(f"  run         {stack.settings.dagster_url}/runs/{run_id}")
        state = follow_run(dagster, run_id)
        verdict = _summary(
            stack.settings, repo_id, state, {"setup": prepared - started, "platform start": up - prepared}
        )
        if lanes:
            from modelops_dagster.cli.demo_lanes import show_lanes

            show_lanes(stack.settings, dagster, repo_id, verdict.commit_hash, lanes)
        _keep_or_stop(stack, keep_running, hub_root)
    ctx.exit(0 if verdict.outcome == "pass" else 1)


def _settings(hub_url: str | None, repo_id: str, policy: str, lanes: tuple[str, ...]) -> "Settings":
    """The installation's, with what the demo wants of it: to notice soon, one model, the lanes that were asked for."""
    from modelops_dagster.settings import Settings

    found = Settings.load()
    changes = {
        "policy": policy,
        "hub_poll_interval_s": POLL_INTERVAL_S,
        "hub_orgs": (repo_id.split("/")[0],),
        "lanes": lanes or ("raw",),
        "lane_recipes": found.lane_recipes or (QUICK_AWQ,),
    }
    return found.model_copy(update=changes | ({"hub_url": hub_url} if hub_url else {}))


def _interrupt() -> None:
    raise KeyboardInterrupt


def _keep_or_stop(stack: "Stack", keep_running: bool | None, hub_root: "Path | None") -> None:
    """Wait for Ctrl-C, or say how to come back; the caller stops everything."""
    if keep_running if keep_running is not None else sys.stdout.isatty() and sys.stdin.isatty():
        click.echo("\nEverything keeps running; Ctrl-C stops it.")
        stop_on_signals(stack.request_stop)
        stack.wait()
        click.echo("stopping")
        return
    up_again = f"{program()} up" if hub_root is None else f"{program()} up --hub-dir {hub_root}"
    click.echo(f"\nStopping everything; `{up_again}` brings it back at these addresses, with the same state.")


def _welcome(settings: "Settings", policy: str) -> None:
    click.secho("modelops demo: from a commit on the Hub to an answer through the gateway", bold=True)
    if policy == "demo":
        click.echo("Policy 'demo' is sized for a 135M model; production uses 'default', which it would not pass.")
    click.echo(f"State: {settings.home}")


def _install_engines(registry: "EngineRegistry", names: tuple[str, ...]) -> None:
    """Install what can be installed here; the ladder starts one rung lower for what cannot, and says why."""
    from modelops_dagster.domain.errors import EngineMissing

    for name in names:
        if registry.environment(name) is not None:
            click.echo(f"engine {name}: installed")
            continue
        begun = time.monotonic()
        try:
            with progress_line(f"engine {name}: installing (a few minutes the first time)") as say:
                registry.install(name, lambda line, name=name: say(f"engine {name}: {line}"))  # type: ignore[misc]
        except EngineMissing as error:
            click.echo(f"engine {name}: not available, the ladder goes on without it. {error.sentence}")
            continue
        click.echo(f"engine {name}: installed in {time.monotonic() - begun:.0f} s")


def _demo_model(registry: "EngineRegistry", settings: "Settings") -> "Path":
    from modelops_dagster.clients.demo_model import ensure_demo_model

    with progress_line("model: SmolLM2-135M-Instruct") as say:
        path = ensure_demo_model(registry, settings.cache, lambda line: say(f"model: {line}"))
    click.echo(f"model: {path}")
    return path


def _run_of(dagster: "DagsterClient", repo_id: str, hub_root: "Path | None", model: "Path | None") -> str:
    """The run to follow: one that is under way, the one the sensor starts for the publication, or one asked for."""
    active = [r for r in dagster.runs(repo_id) if r.status in {"QUEUED", "STARTING", "STARTED", "NOT_STARTED"}]
    if active:
        click.echo(f"  {repo_id} is being onboarded already")
        return active[0].run_id
    if hub_root is None or model is None or (hub_root / repo_id).is_dir():
        click.echo(f"  {repo_id} is on the Hub since before; onboarding it again")
        dagster.add_model(repo_id)
        return dagster.launch_onboard(repo_id, "main")
    return _publish_and_wait(dagster, repo_id, hub_root, model)


def _publish_and_wait(dagster: "DagsterClient", repo_id: str, hub_root: "Path", model: "Path") -> str:
    from modelops_dagster.domain.errors import NotRunning
    from modelops_dagster.services.hub_server import publish

    deadline = time.monotonic() + TICK_TIMEOUT_S
    with progress_line("Hub sensor: first look, the baseline") as say:
        # what is there at an organisation's first tick is its baseline, so publish only after it
        while not any(t["cursor"] for t in dagster.last_ticks("hub_releases")):
            if time.monotonic() > deadline:
                raise NotRunning(
                    "the sensor hub_releases has not ticked: look at it in the Dagster UI under Automation."
                )
            time.sleep(0.5)
        before = {r.run_id for r in dagster.runs(repo_id)}
        publish(hub_root, repo_id, model)
        say(f"published {repo_id}; waiting for the Hub sensor to see it")
        while time.monotonic() < deadline + TICK_TIMEOUT_S:
            fresh = [r for r in dagster.runs(repo_id) if r.run_id not in before]
            if fresh:
                return fresh[0].run_id
            time.sleep(0.5)
    raise NotRunning("the sensor hub_releases did not see the publication: look at its ticks in the Dagster UI.")


def _summary(settings: "Settings", repo_id: str, state: "RunState", setup: dict[str, float]) -> "Verdict":
    """Print verdict, engine, stages, an answer and where to look next; return the verdict."""
    from modelops_dagster.clients.routes import RouteStore
    from modelops_dagster.clients.scores import ScoreStore
    from modelops_dagster.domain.errors import NotRunning
    from modelops_dagster.domain.verdicts.label_plan import waiting_for_labels

    verdicts = ScoreStore(settings.home / "scores").latest_verdicts(repo_id)
    verdicts = [v for v in verdicts if v.lane == "raw"]
    if not verdicts:
        raise NotRunning(f"run {state.run_id} left no verdict: look at {settings.dagster_url}/runs/{state.run_id}.")
    verdict = verdicts[0]
    click.echo()
    show_criteria(verdict, f"Verdict on {repo_id}@{verdict.commit_hash[:12]}", only_telling=True)
    click.secho(verdict.reason, bold=True, fg="green" if verdict.outcome == "pass" else "red")
    if labels := waiting_for_labels(verdict):
        click.echo(labels)
    _engine(settings, verdict.endpoint)
    stages = [(name, f"{seconds:.1f}") for name, seconds in setup.items()]
    for step in state.steps:
        if step.started and step.ended:
            stages.append((step.step.replace("__", "/"), f"{step.ended - step.started:.1f}"))
    table("Time", ["stage", "seconds"], stages)
    route = RouteStore(settings.home / "gateway").get(repo_id)
    if route is not None and any("preview" in t.tags for t in route.targets):
        _ask(settings, repo_id)
    click.echo(
        f"\nDagster   {settings.dagster_url}/assets/raw/verdict?view=partitions&partition={repo_id.replace('/', '%2F')}"
    )
    make_key = f"{program()} access create --alias me --role operator"
    click.echo(f"endpoints {settings.controller_url}/endpoints   (asks for a key: `{make_key}`)")
    click.echo(f"gateway   {settings.gateway_url}/v1   alias {repo_id}")
    click.echo(f'scores    {program()} scores --sql "{SCORES_SQL}"')
    return verdict


def _engine(settings: "Settings", endpoint: str) -> None:
    from modelops_dagster.client import ModelOpsClient

    status = ModelOpsClient.from_settings(settings).get(endpoint)
    if status is not None:
        spec = status.spec
        rung = spec.engine if spec.variant is None else f"{spec.engine}:{spec.variant}"
        seconds = f", ready after {status.start_seconds:.0f} s" if status.start_seconds else ""
        click.echo(f"served by {rung} ({status.state.value}{seconds})")


def _ask(settings: "Settings", alias: str) -> None:
    """One question through the gateway with the OpenAI client and a key, as a developer would."""
    from openai import OpenAI

    from modelops_dagster.clients.keys import KeyStore

    keys = KeyStore(settings.home / "gateway")
    for record in keys.list():
        if record.alias == "demo" and record.revoked_at is None:
            keys.revoke(record.key_id)
    key, _ = keys.create(alias="demo", tags=("preview",))
    client = OpenAI(base_url=f"{settings.gateway_url}/v1", api_key=key, timeout=120)
    answer = client.chat.completions.create(
        model=alias, messages=[{"role": "user", "content": QUESTION}], max_tokens=48, temperature=0
    )
    click.echo(f"\nQ: {QUESTION}\nA: {answer.choices[0].message.content}")
    click.echo(f"\nkey       {key}   (shown once; `{program()} keys create --alias me --tags preview` makes another)")
