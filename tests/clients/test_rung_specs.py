"""What an endpoint is started with on a rung, and on how many accelerators."""

from pathlib import Path

import pytest

from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.rung_specs import rung_specs
from modelops_dagster.domain.capacity import Placement
from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.engines import Rung, StartOverlay
from tests.fakes.values import a_checkpoint

VLLM = Rung(engine="vllm")
CHECKPOINT = a_checkpoint(
    "acme/small", directory="/models/small", max_context=1024, architectures=("LlamaForCausalLM",)
)
FOUR = Placement(gpus=4, arguments=("--tensor-parallel-size", "4"))
TWO_NODES = Placement(gpus=16, nodes=2, arguments=("--tensor-parallel-size", "8", "--pipeline-parallel-size", "2"))


def started(folder: Path, placements: dict[str, Placement], *given: str) -> EndpointSpec:
    overlays = {VLLM: StartOverlay(engine_args=given)}
    registry = EngineRegistry(folder, folder)
    return rung_specs(CHECKPOINT, overlays, registry, "small", "acme/small", 512, placements)[VLLM]


def test_a_plan_becomes_accelerators_and_arguments(tmp_path: Path):
    spec = started(tmp_path, {"vllm": FOUR}, "--seed", "1")
    assert (spec.gpus, spec.nodes, spec.engine_args) == (4, 1, ("--seed", "1", "--tensor-parallel-size", "4"))
    spec = started(tmp_path, {"vllm": TWO_NODES})
    assert (spec.gpus, spec.nodes, spec.engine_args) == (16, 2, TWO_NODES.arguments)


def test_an_engine_that_no_plan_puts_on_accelerators_takes_none(tmp_path: Path):
    assert started(tmp_path, {"transformers": FOUR}, "--tensor-parallel-size", "2").gpus == 0


@pytest.mark.parametrize(
    ("given", "gpus"),
    [
        (("--tensor-parallel-size", "2"), 2),
        (("--tensor-parallel-size=2",), 2),
        (("-tp", "2", "-pp=3"), 6),
        (("--data-parallel-size", "2"), 2),
    ],
)
def test_what_the_operator_says_about_cutting_counts_more_than_the_plan(
    tmp_path: Path, given: tuple[str, ...], gpus: int
):
    spec = started(tmp_path, {"vllm": FOUR}, *given)
    assert (spec.gpus, spec.engine_args) == (gpus, given)
