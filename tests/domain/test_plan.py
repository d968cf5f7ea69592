"""The plan of a release: every lane with its reason, as a table of machines and models."""

import pytest

from modelops_dagster.domain.hub import ModelRevision, Release, RepoFile
from modelops_dagster.domain.plan import Machine, ReleasePlan, plan_lanes
from modelops_dagster.domain.quantization import Recipe

GB = 10**9
CPU = Machine(accelerator="cpu", memory_bytes=64 * GB, free_disk_bytes=1000 * GB)
H100 = Machine(
    accelerator="cuda", compute_capability=9.0, memory_bytes=2000 * GB, free_disk_bytes=9000 * GB, quantizer="cuda"
)
A100 = H100.model_copy(update={"compute_capability": 8.0})


def recipe(name: str, scheme: str, method: str, **more: object) -> Recipe:
    return Recipe.model_validate(
        {"name": name, "version": 1, "description": "d", "scheme": scheme, "method": method, **more}
    )


CALIBRATION = {"file": "c.jsonl", "samples": 1, "max_tokens": 16}
RECIPES = {
    "fp8": recipe("fp8", "FP8_DYNAMIC", "rtn"),
    "awq": recipe("awq", "W4A16", "awq", group_sizes=[128], calibration=CALIBRATION),
    "int8": recipe("int8", "W8A8", "rtn"),
}


def release(billion: float = 8, **changes: object) -> Release:
    size = int(billion * 2 * GB)
    return Release.model_validate(
        {
            "revision": ModelRevision(repo_id="acme/one", commit_hash="a" * 40),
            "hub_url": "http://hub",
            "files": (RepoFile(path="model.safetensors", size_bytes=size),),
            "parameters": int(billion * 1e9),
            **changes,
        }
    )


def taken(machine: Machine, found: Release, wanted: list[str] | None = None) -> list[str]:
    return [p.lane for p in plan_lanes(found, machine, RECIPES, wanted) if p.selected]


@pytest.mark.parametrize(
    ("machine", "billion", "lanes"),
    [
        (CPU, 0.135, ["raw", "int8"]),
        (CPU, 8, ["raw", "int8"]),
        (H100, 8, ["raw", "fp8", "awq"]),
        (H100, 0.135, ["raw", "fp8"]),
        (H100.model_copy(update={"quantizer": "cpu"}), 8, ["raw", "fp8"]),
        (A100, 8, ["raw", "awq", "int8"]),
        (H100.model_copy(update={"compute_capability": None}), 1, ["raw", "fp8"]),
    ],
)
def test_the_hardware_chooses(machine: Machine, billion: float, lanes: list[str]):
    assert taken(machine, release(billion)) == lanes


@pytest.mark.parametrize(
    ("machine", "found", "words"),
    [
        (CPU, release(quantization="mxfp4"), "released quantized (mxfp4) already"),
        (CPU, release(remote_code=True), "code of its own repository"),
        (CPU.model_copy(update={"quantizer_missing": "the engine is not installed"}), release(), "not installed"),
        (CPU.model_copy(update={"free_disk_bytes": GB}), release(), "of disk and 954 MiB are free"),
        (CPU, release(70), "of memory and there are 59.6 GiB"),
    ],
)
def test_what_cannot_be_done_is_not_done_even_when_asked_for(machine: Machine, found: Release, words: str):
    for wanted in (None, ["int8"]):
        plans = {p.lane: p for p in plan_lanes(found, machine, RECIPES, wanted)}
        assert plans["raw"].selected
        assert not plans["int8"].selected
        assert wanted is None or words in plans["int8"].reason
    assert all(words in p.reason for p in plan_lanes(found, machine, RECIPES) if p.lane in ("fp8", "int8"))


def test_lanes_asked_for_by_name_overrule_the_hardware():
    assert taken(CPU, release(), ["fp8", "awq"]) == ["raw", "fp8", "awq"]
    plans = {p.lane: p.reason for p in plan_lanes(release(), CPU, RECIPES, ["raw"])}
    assert plans["int8"] == "not asked for: the lanes wanted are raw"


def test_every_lane_has_a_reason_and_a_plan_knows_its_lanes():
    for machine in (CPU, H100, A100):
        plan = ReleasePlan(revision=release().revision, lanes=plan_lanes(release(), machine, RECIPES))
        assert [p.lane for p in plan.lanes] == ["raw", "fp8", "awq", "int8"]
        assert all(len(p.reason) > 10 for p in plan.lanes)
    assert not plan.selected("fp8")
    assert not plan.selected("unheard-of")
