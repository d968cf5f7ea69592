"""What the driver's tool lists, from recorded output, and this machine's memory."""

from pathlib import Path

import pytest

from modelops_dagster.clients import hardware

EIGHT = "NVIDIA H100 80GB HBM3, 81559\n" * 8
MIXED = "NVIDIA L4, 23034\nNVIDIA L4, 23034\nNVIDIA H200, 143771\n"
SHARED = "NVIDIA GB10, [N/A]\n"


def test_gpus_of_one_kind_are_one_entry():
    (found,) = hardware.read_gpus(EIGHT)
    assert (found.kind, found.per_node, found.nodes, found.source) == ("cuda", 8, 1, "seen")
    assert found.memory_bytes == 81559 * 2**20


def test_kinds_are_kept_apart_the_largest_first():
    assert [(h.name, h.per_node) for h in hardware.read_gpus(MIXED)] == [("NVIDIA H200", 1), ("NVIDIA L4", 2)]
    assert hardware.read_gpus(SHARED) == hardware.read_gpus("") == ()


def test_what_a_gpu_multiplies_is_told_by_the_driver_or_known_by_its_name():
    told = hardware.read_gpus("NVIDIA L4, 23034, 8.9\nNVIDIA Next, 143771, 11.0\nNVIDIA H200, 143771, [N/A]\n")
    assert {h.name: h.compute_capability for h in told} == {"NVIDIA L4": 8.9, "NVIDIA Next": 11.0, "NVIDIA H200": 9.0}
    assert [h.compute_capability for h in hardware.read_gpus("NVIDIA Next, 143771\n" + EIGHT)] == [9.0, None]


def test_a_driver_that_does_not_know_the_question_is_asked_a_shorter_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncase $1 in *compute_cap*) exit 2;; esac\ncat <<'END'\n{MIXED}END\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert [h.compute_capability for h in hardware.seen_gpus()] == [9.0, 8.9]


@pytest.mark.parametrize(("output", "status", "count"), [(MIXED, 0, 2), ("NVIDIA-SMI has failed", 9, 0)])
def test_the_tool_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, status: int, count: int):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{output}END\nexit {status}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert len(hardware.seen_gpus()) == count
    kinds = [h.kind for h in hardware.inventory("auto", "")]
    assert kinds == (["cuda"] * count or ["cpu"])
    assert [h.kind for h in hardware.inventory("cpu", "8xH100-80GB")] == ["cpu"]
    assert [h.source for h in hardware.inventory("auto", "8xH100-80GB")] == ["declared"]


def test_without_a_driver_it_is_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = hardware.inventory("auto", "")
    assert found.kind == "cpu"
    assert found.available_bytes is not None
    assert 0 < found.available_bytes <= found.memory_bytes


def test_a_container_has_what_it_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "memory.max").write_text("1073741824\n")
    monkeypatch.setattr(hardware, "LIMIT_FILES", (tmp_path / "memory.max", tmp_path / "absent"))
    assert hardware.memory().memory_bytes == 2**30
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.memory().memory_bytes > 2**30


def test_declared_accelerators_are_slots_and_a_cpu_has_none():
    assert hardware.accelerator_slots("auto", "2xH100-80GB") == ("0", "1")
    assert hardware.accelerator_slots("cpu", "2x4xH100-80GB") == ("0", "1", "2", "3"), "of one node"
    assert hardware.accelerator_slots("cpu", "") == ()
