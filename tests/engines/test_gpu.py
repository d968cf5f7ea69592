"""What only a GPU shows: vLLM on CUDA, FP8 as it is multiplied, one model cut over several GPUs.

`pytest --gpu tests/engines/test_gpu.py` on a machine that has one; the first run installs vLLM. What a machine has too
few or too old GPUs for is skipped there with that reason.
"""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.hardware import seen_gpus
from modelops_dagster.domain.capacity import Demand, Placement, make_plan, weakest_capability
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.engines import Rung
from modelops_dagster.domain.gpus import MULTIPLIED_FROM
from modelops_dagster.domain.ladder import garbage_reason
from modelops_dagster.domain.model_shape import ModelShape
from modelops_dagster.domain.preflight import Preflight
from modelops_dagster.settings import Settings
from tests.engines.quantized_models import Works
from tests.fakes.real_engine import CAPITAL, NAME, Running, Start
from tests.fakes.zoo import Zoo, build, zoo

pytestmark = [pytest.mark.gpu, pytest.mark.engine]
VLLM = Rung(engine="vllm")
LARGE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
BAR = 20.0  # tokens/s of one stream; a GPU writes hundreds with a model so small


def memory_used() -> int:
    """MiB, on all GPUs."""
    argv = ("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits")
    return sum(map(int, subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()))


@pytest.fixture(scope="module")
def place(settings: Settings, registry: EngineRegistry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zoo]:
    for name in ("vllm", "transformers"):
        registry.install(name, print)
    with zoo(tmp_path_factory.mktemp("home"), settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory, registry: EngineRegistry, model: Path) -> Works:
    registry.install("llmcompressor", print)
    return Works(tmp_path_factory.mktemp("quantized"), registry, model)


@pytest.fixture(scope="module", params=["vllm", "vllm:transformers-backend", "transformers"])
def engine(request: pytest.FixtureRequest, start: Start, model: Path) -> Iterator[Running]:
    assert memory_used() < 2000, "somebody else uses the GPUs, so that nothing could be said of this engine"
    running = start(request.param, model)
    try:
        yield running
    finally:
        running.stop()


def test_every_engine_for_cuda_answers_and_is_healthy(engine: Running):
    answer = engine.client.chat.completions.create(model=NAME, messages=CAPITAL, temperature=0, max_tokens=48)
    assert garbage_reason(answer.choices[0].message.content or "") is None
    assert httpx.get(f"{engine.url}/health", timeout=10).status_code == 200
    assert memory_used() > 256, "the model is on no GPU"


def test_the_ladder_of_a_gpu_machine_begins_with_vllm(place: Zoo, works: Works):
    rungs = place.registry.rungs("cuda", works.source.architectures)
    assert rungs[0] == VLLM
    landed, ladder = place.land(works.source, rungs, min_tokens_per_second=BAR)
    assert (landed, ladder[0].reason) == ("vllm", None), ladder


def test_where_vllm_cannot_transformers_serves_on_the_gpu_as_well(place: Zoo, works: Works):
    alone = [Rung(engine="transformers")]
    landed, ladder = place.land(
        works.source, alone, min_tokens_per_second=BAR, placements={"transformers": Placement(gpus=1)}
    )
    assert (landed, ladder[0].reason) == ("transformers", None), ladder


def test_fp8_is_served_and_keeps_what_the_policy_asks_for(place: Zoo, works: Works):
    capability = weakest_capability(seen_gpus())
    if capability is None or capability < MULTIPLIED_FROM["fp8"]:
        pytest.skip(f"FP8 is multiplied from compute capability {MULTIPLIED_FROM['fp8']} on, and there is {capability}")
    made = works.make("fp8-dynamic")
    landed, ladder = place.land(made, [VLLM], min_tokens_per_second=BAR)
    assert (landed, ladder[0].reason) == ("vllm", None), ladder
    assert works.compare(made).outcome in ("pass", "warn")


def test_a_model_is_cut_over_two_gpus_as_planned(
    place: Zoo, registry: EngineRegistry, settings: Settings, tmp_path: Path
):
    gpus = seen_gpus()
    if not gpus or gpus[0].per_node < 2:
        pytest.skip(f"a cut needs two GPUs of one kind, and there is {gpus[0].per_node if gpus else 0}")
    # weights that one of them does not hold and two do, planned for; what is then served is small
    shape = ModelShape.from_json(LARGE)
    demand = Demand(weight_bytes=int(gpus[0].memory_bytes * 1.2), shape=shape, context=512, sequences=1)
    plan = make_plan(demand, gpus)
    placements = Preflight(plan=plan).placements(registry.manifests(), "cuda")
    assert plan.layout is not None
    assert plan.layout.tensor_parallel == 2
    assert placements["vllm"] == Placement(gpus=2, arguments=("--tensor-parallel-size", "2"))
    model: Checkpoint = build(registry, settings.cache, tmp_path)["llama"]
    landed, ladder = place.land(model, [VLLM], min_tokens_per_second=1.0, any_text=True, placements=placements)
    assert (landed, ladder[0].reason) == ("vllm", None), ladder


def test_an_endpoint_waits_for_gpus_that_another_has_and_gets_them_when_it_goes(place: Zoo, model: Path):
    count = sum(kind.per_node for kind in seen_gpus())
    holder, waiter = (
        EndpointSpec(
            name=name,
            checkpoint=str(model),
            checkpoint_digest="sha256:slots",
            engine="transformers",
            served_model_name=name,
            max_context=512,
            gpus=count,
        )
        for name in ("holder", "waiter")
    )
    place.client.apply(holder)
    place.client.wait_ready("holder", 300)
    waiting = place.client.apply(waiter)
    deadline = time.monotonic() + 30
    while not waiting.queued and time.monotonic() < deadline:
        time.sleep(0.2)
        waiting = place.client.get("waiter") or waiting
    assert (waiting.queued, waiting.url) == (True, None)
    assert "holder" in waiting.message
    place.client.delete("holder", "holder")
    assert place.client.wait_ready("waiter", 300).url is not None
    place.client.delete("waiter", "waiter")
    place.client.wait_deleted("waiter", 60)
