"""Climbing the ladder: one checkpoint, several engines, the first one that serves it usably."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import httpx

from modelops_dagster.clients.rung_specs import EnginesPort, rung_specs
from modelops_dagster.domain.capacity import Placement
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Endpoint, EndpointSpec, EndpointState, EndpointStatus
from modelops_dagster.domain.engines import EngineManifest, FailureReason, Rung, RungResult, StartOverlay
from modelops_dagster.domain.errors import EndpointFailed, EngineMissing, InvalidSpec, ModelParked
from modelops_dagster.domain.ladder import diagnose, panel_garbage_reason

LOG_LINES = 400  # the cause of a failure may be far above the end
WAIT_SLACK_S = 60.0  # on top of the engine's own time to start, for the controller to notice
WARM_UP_TOKENS = 8
WARM_UP_TIMEOUT_S = 90.0
PANEL_TOKENS = 32
PANEL_TIMEOUT_S = 60.0
MIN_MEASURED_TOKENS = 8
PANEL = (
    "Write two sentences about the sea.",
    "Explain in a few words what a library is for.",
    "List five animals that live on a farm.",
)


class ControllerPort(Protocol):
    """What the ladder needs of a controller; `client.ModelOpsClient` is the real one."""

    def apply(self, spec: EndpointSpec) -> EndpointStatus: ...

    def get(self, name: str) -> EndpointStatus | None: ...

    def wait_ready(
        self, name: str, timeout_s: float, on_progress: Callable[[EndpointStatus], None] | None = None
    ) -> EndpointStatus: ...

    def stop(self, name: str) -> EndpointStatus: ...

    def logs(self, name: str, tail: int = 200) -> str: ...


class _LeftRung(Exception):
    """This rung does not hold the model."""

    def __init__(self, reason: FailureReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: FailureReason = reason
        self.detail = detail


def climb(
    checkpoint: Checkpoint,
    rungs: Sequence[Rung],
    controller: ControllerPort,
    registry: EnginesPort,
    *,
    endpoint_name: str,
    served_model_name: str,
    max_context: int,
    min_tokens_per_second: float,
    progress: Callable[[str], None],
    ruled_out: Mapping[Rung, RungResult] = MappingProxyType({}),
    placements: Mapping[str, Placement] = MappingProxyType({}),
    overlays: Mapping[str, StartOverlay] | None = None,
    any_text: bool = False,
) -> Endpoint:
    """Make the endpoint run on the highest rung that serves the checkpoint usably.

    An endpoint that runs already with the very spec of one of the rungs is kept as it is, whatever stands above it:
    it may have traffic. The rungs above are then reported as not tried.

    Args:
        max_context: tokens; the model's own context is used where that is shorter.
        min_tokens_per_second: slowest generation of one stream that is still usable.
        progress: receives a line whenever something changes.
        ruled_out, placements: rungs known to be left, and why; by engine, on how many accelerators it is planned.
        overlays, any_text: by engine, what its command is given besides; whether any noise is taken for text.

    Raises:
        ModelParked: no rung holds the model; carries each rung and its reason. The endpoint is stopped then.
        EndpointFailed: somebody stopped or deleted the endpoint meanwhile.
        NotRunning: the controller does not answer.
    """
    given = {rung: (overlays or {}).get(rung.engine, StartOverlay()) for rung in rungs}
    specs = rung_specs(checkpoint, given, registry, endpoint_name, served_model_name, max_context, placements)
    progress = _changes(progress)
    climber = _Climber(checkpoint, controller, registry, min_tokens_per_second, progress, any_text)
    results: list[RungResult] = []
    first = climber.standing_rung(endpoint_name, specs)
    for rung, spec in specs.items():
        if (untried := _untried(rung, first, ruled_out)) is not None:
            results.append(untried)
            progress(f"{rung.label}: not started. {untried.detail}")
            continue
        first = None
        begun = time.monotonic()
        try:
            status, tokens_per_second = climber.try_rung(rung, spec)
        except _LeftRung as left:
            results.append(_result(rung, given[rung], begun, left))
            progress(f"{rung.label}: {left.reason}. {left.detail}")
            continue
        results.append(_result(rung, given[rung], begun))
        progress(f"{rung.label}: serves the model at {tokens_per_second:.1f} tokens/s")
        version = status.engine_version or registry.manifest(rung.engine).full_version
        return _endpoint(checkpoint, rung, status, version, tokens_per_second, results)
    if controller.get(endpoint_name) is not None:
        controller.stop(endpoint_name)
    raise _parked(checkpoint, results)


def _result(rung: Rung, given: StartOverlay, begun: float, left: _LeftRung | None = None) -> RungResult:
    return RungResult(
        rung=rung.label,
        reason=left.reason if left else None,
        detail=left.detail if left else "",
        notes=given.notes,
        seconds=round(time.monotonic() - begun, 1),
    )


def why_it_failed(
    logs: Callable[[str, int], str], status: EndpointStatus, *, timed_out: bool = False
) -> tuple[FailureReason, str]:
    """The reason and a sentence about it. The controller knows the exit code; the sentence comes from the log.

    Args:
        logs: name and number of lines -> what the engine wrote last.
        timed_out: it was given up before the controller did.
    """
    log_tail = logs(status.spec.name, LOG_LINES) or status.log_tail
    reason, detail = diagnose(log_tail, timed_out=timed_out or status.reason == "timeout")
    if status.reason in (None, reason):
        return reason, detail
    # the controller saw more than the log: an engine that could not be started, a signal
    return status.reason or reason, status.message or detail


def _endpoint(
    checkpoint: Checkpoint,
    rung: Rung,
    status: EndpointStatus,
    engine_version: str,
    tokens_per_second: float,
    results: Sequence[RungResult],
) -> Endpoint:
    return Endpoint(
        name=status.spec.name,
        url=str(status.url),
        served_model_name=status.spec.served_model_name,
        checkpoint=checkpoint,
        engine=rung.engine,
        engine_version=engine_version,
        variant=rung.variant,
        rung=rung.label,
        ladder=tuple(results),
        start_seconds=status.start_seconds or 0.0,
        tokens_per_second=round(tokens_per_second, 2),
        max_context=status.spec.max_context or 0,
    )


def _untried(rung: Rung, standing: Rung | None, ruled_out: Mapping[Rung, RungResult]) -> RungResult | None:
    """Why the rung is not tried; None when it is to be."""
    if rung == standing:
        return None
    if standing is not None and rung not in ruled_out:
        detail = f"The endpoint already runs on {standing.label}; delete it to climb again."
        return RungResult(rung=rung.label, reason="not_tried", detail=detail)
    return ruled_out.get(rung)


class _Climber:
    """Tries single rungs."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        controller: ControllerPort,
        registry: EnginesPort,
        min_tokens_per_second: float,
        progress: Callable[[str], None],
        any_text: bool,
    ) -> None:
        self._any_text = any_text
        self._checkpoint = checkpoint
        self._controller = controller
        self._registry = registry
        self._min_tokens_per_second = min_tokens_per_second
        self._progress = progress

    def standing_rung(self, endpoint_name: str, specs: dict[Rung, EndpointSpec]) -> Rung | None:
        """The rung whose spec the endpoint runs with already."""
        status = self._controller.get(endpoint_name)
        if status is None or status.url is None or status.state is not EndpointState.RUNNING:
            return None
        return next((rung for rung, spec in specs.items() if spec == status.spec), None)

    def try_rung(self, rung: Rung, spec: EndpointSpec) -> tuple[EndpointStatus, float]:
        """Start the engine, wait for it, and talk to it.

        Raises:
            _LeftRung: it does not hold the model.
        """
        manifest = self._installed(rung)
        try:
            status = self._controller.apply(spec)
        except InvalidSpec as error:
            raise _LeftRung("bad_config", error.sentence) from error
        self._progress(f"{rung.label}: {'starting' if status.url is None else 'runs already'}")
        timeout_s = (spec.start_timeout_s or manifest.start_timeout_s) + WAIT_SLACK_S
        begun = time.monotonic()

        def on_progress(status: EndpointStatus) -> None:
            if status.queued:
                self._progress(f"{rung.label}: {status.message}")
                return
            waited = int(time.monotonic() - begun) // 10 * 10  # so that a line comes every ten seconds
            self._progress(f"{rung.label}: {status.state.value}" + (f", {waited} s" if waited else ""))

        status = self._controller.wait_ready(spec.name, timeout_s, on_progress)
        if status.failed:
            raise _LeftRung(*why_it_failed(self._controller.logs, status))
        if status.url is None:
            raise EndpointFailed(
                f"Endpoint {spec.name} was stopped while it was waited for; run this step again to start it."
            )
        self._progress(f"{rung.label}: ready, trying it out")
        return status, self._dry_run(status)

    def _installed(self, rung: Rung) -> EngineManifest:
        try:
            manifest = self._registry.manifest(rung.engine)
        except EngineMissing as error:
            raise _LeftRung("engine_missing", error.sentence) from error
        if (missing := self._registry.missing(rung.engine)) is not None:
            raise _LeftRung("engine_missing", missing)
        scheme = self._checkpoint.scheme
        if manifest.schemes and scheme not in manifest.schemes:
            raise _LeftRung("unsupported_scheme", f"Engine {rung.engine} does not load {scheme} checkpoints.")
        return manifest

    def _dry_run(self, status: EndpointStatus) -> float:
        """A few short generations; returns tokens per second of one stream.

        The first one is not measured: engines finish setting themselves up during it.
        """
        with httpx.Client(trust_env=False) as http:
            self._generate(http, status, PANEL[0], WARM_UP_TOKENS, WARM_UP_TIMEOUT_S)
            runs = [self._generate(http, status, prompt, PANEL_TOKENS, PANEL_TIMEOUT_S) for prompt in PANEL]
        garbage = panel_garbage_reason([text for text, _, _ in runs])
        if garbage and not self._any_text:
            raise _LeftRung("garbage", f"What it writes is no text: {garbage}.")
        measured = [tokens / seconds for _, tokens, seconds in runs if tokens >= MIN_MEASURED_TOKENS]
        # the best one: on a shared machine the others measure the neighbours
        speed = max(measured or [tokens / seconds for _, tokens, seconds in runs])
        if speed < self._min_tokens_per_second:
            raise _LeftRung("too_slow", self._too_slow(f"It writes {speed:.2f} tokens/s"))
        return speed

    def _refused_prompt(self, status: EndpointStatus, answer: httpx.Response) -> _LeftRung:
        """Why it answered an error: of its own faults an engine says more in its log than to a client."""
        observation = f"It became ready and answered {answer.status_code} to a short prompt"
        log_tail = self._controller.logs(status.spec.name, tail=LOG_LINES) if answer.status_code >= 500 else ""
        if not log_tail.strip():
            said = " ".join(answer.text.split())[:200]
            return _LeftRung("bad_config" if answer.status_code < 500 else "crash", f"{observation}: {said}")
        reason, detail = diagnose(log_tail)
        return _LeftRung(reason, f"{observation}. {detail.replace('It ended: ', 'Its log says: ', 1)}")

    def _too_slow(self, observation: str) -> str:
        return f"{observation}, below the {self._min_tokens_per_second:g} that are still usable."

    def _generate(
        self, http: httpx.Client, status: EndpointStatus, prompt: str, max_tokens: int, timeout_s: float
    ) -> tuple[str, int, float]:
        """Text, tokens and seconds of one greedy generation."""
        body: dict[str, object] = {"model": status.spec.served_model_name, "max_tokens": max_tokens, "temperature": 0}
        chat = self._checkpoint.has_chat_template
        if chat:
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        begun = time.monotonic()
        try:
            answer = http.post(
                f"{status.url}/{'chat/completions' if chat else 'completions'}", json=body, timeout=timeout_s
            )
        except httpx.TimeoutException as error:
            raise _LeftRung(
                "too_slow", self._too_slow(f"It did not write {max_tokens} tokens in {timeout_s:.0f} s")
            ) from error
        except httpx.TransportError as error:
            log_tail = self._controller.logs(status.spec.name, tail=LOG_LINES)
            reason, detail = diagnose(log_tail)
            raise _LeftRung(reason, f"It became ready and broke with its first requests. {detail}") from error
        seconds = time.monotonic() - begun
        if answer.status_code != 200:
            raise self._refused_prompt(status, answer)
        try:
            document = answer.json()
            choice = document["choices"][0]
            text = (choice["message"].get("content") or "") if chat else choice["text"]
            tokens = int((document.get("usage") or {}).get("completion_tokens") or len(text.split()))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise _LeftRung("bad_config", "It became ready and its answers are not in OpenAI's shape.") from error
        return str(text), tokens, max(seconds, 1e-6)


def _changes(progress: Callable[[str], None]) -> Callable[[str], None]:
    """Pass a line on unless it is the one before."""
    last = ""

    def say(line: str) -> None:
        nonlocal last
        if line != last:
            last = line
            progress(line)

    return say


def _parked(checkpoint: Checkpoint, results: Sequence[RungResult]) -> ModelParked:
    name = checkpoint.revision.repo_id
    if not results:
        architectures = ", ".join(checkpoint.architectures) or "unknown architecture"
        return ModelParked(
            f"{name} is parked: no engine here generates text with {architectures}; add an engine that does."
        )
    reasons = "; ".join(f"{r.rung}: {r.reason} ({r.detail.rstrip('.')})" for r in results)
    return ModelParked(f"{name} is parked, no engine could serve it: {reasons}.", ladder=results)
