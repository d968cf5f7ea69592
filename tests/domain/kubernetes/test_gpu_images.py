"""Engines that run with GPUs and without: which image, how many GPUs, and what is seen of them."""

from typing import Any

import pytest

from modelops_dagster.domain.kubernetes import render
from tests.domain.kubernetes.test_render import ENGINES, SITE, container, example, rendered

CPU = f"ghcr.io/modelops-dagster/transformers:{ENGINES['transformers'].version}"


def seen_gpus(one: dict[str, Any]) -> str | None:
    return {entry["name"]: entry.get("value") for entry in one["env"]}.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("gpus", "image", "hidden", "asked"),
    [(0, CPU, "", None), (1, f"{CPU}-cuda", None, "1"), (4, f"{CPU}-cuda", None, "4")],
)
def test_transformers_asks_for_the_gpus_of_its_spec_and_sees_no_others(
    gpus: int, image: str, hidden: str | None, asked: str | None
):
    objects = rendered("cpu", gpus=gpus)
    one = container(objects)
    assert (one["image"], seen_gpus(one)) == (image, hidden)
    for bound in ("requests", "limits"):
        assert (one.get("resources") or {}).get(bound, {}).get("nvidia.com/gpu") == asked
    pod = next(item for item in objects if item["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert ("tolerations" in pod) is (gpus > 0), "nodes with GPUs are left to those who need them"
    assert not [argument for argument in one["args"] if "parallel" in argument], "it spreads a model by itself"


def test_on_a_cluster_with_gpus_everything_runs_in_the_image_that_the_lineage_names():
    built_for_gpus = {name: engine.model_copy(update={"one_image": True}) for name, engine in ENGINES.items()}
    one = container(render(example("cpu", gpus=0), SITE, built_for_gpus))
    assert (one["image"], seen_gpus(one)) == (f"{CPU}-cuda", "")


def test_image_of_the_site_is_for_both_and_a_wish_of_the_spec_goes_before_ours():
    named = SITE.model_copy(update={"images": {"transformers": "registry.example/transformers@sha256:0"}})
    for gpus in (0, 1):
        assert container(rendered("cpu", named, gpus=gpus))["image"] == "registry.example/transformers@sha256:0"
    wished = container(rendered("cpu", engine_environment={"CUDA_VISIBLE_DEVICES": "0"}))
    assert seen_gpus(wished) == "0"


@pytest.mark.parametrize(("engine", "gpus"), [("vllm", 1), ("vllm-cpu", 0)])
def test_engine_that_is_built_once_has_one_image_and_is_told_nothing(engine: str, gpus: int):
    one = container(rendered("cpu", engine=engine, gpus=gpus))
    assert one["image"] == f"ghcr.io/modelops-dagster/{engine}:{ENGINES[engine].version}"
    assert seen_gpus(one) is None
