"""The real quantizer on the demonstration model: what it makes, what it kept, and what it catches.

FP8 and INT8 are made of the whole model, which takes seconds. AWQ searches for minutes on it, so here it is given the
model's first two layers and four short texts; what that proves is that it runs on a CPU and which group size it takes.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.errors import QuantizationFailed
from modelops_dagster.domain.quantization import Recipe
from modelops_dagster.settings import Settings
from tests.engines.quantized_models import FOUR_BITS, Works, cut, spoil

pytestmark = [pytest.mark.engine, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
SHORT = {"file": "calibration.jsonl", "samples": 4, "max_tokens": 64, "seed": 1}


@pytest.fixture(scope="module", autouse=True)
def quantizer(registry: EngineRegistry) -> None:
    registry.install("llmcompressor", print)


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory, registry: EngineRegistry, model: Path) -> Works:
    return Works(tmp_path_factory.mktemp("whole"), registry, model)


@pytest.fixture
def small(tmp_path: Path, registry: EngineRegistry, model: Path) -> Iterator[Works]:
    yield Works(tmp_path, registry, cut(model, tmp_path / "cut"))


def test_fewer_bits_keep_less_and_every_checkpoint_is_smaller_and_readable(works: Works):
    made = {
        recipe.scheme: works.make(recipe) for recipe in (*map(works.recipes.recipe, ("fp8-dynamic", "int8")), FOUR_BITS)
    }
    found = {scheme: works.compare(checkpoint) for scheme, checkpoint in made.items()}
    kept = {scheme: recovery.findings for scheme, recovery in found.items()}
    for scheme, findings in kept.items():
        assert findings.problems == (), scheme
        assert findings.measured is not None
        assert findings.noise is not None
        assert findings.noise.mean_kl < findings.measured.mean_kl
        assert findings.noise.top1_agreement > findings.measured.top1_agreement
        assert 0.3 < findings.size_ratio < 0.7
    eight = [kept[scheme].measured for scheme in ("FP8_DYNAMIC", "W8A8")]
    four = kept["W4A16"].measured
    assert four is not None
    for figures in eight:
        assert figures is not None
        assert figures.perplexity_ratio < four.perplexity_ratio
        assert figures.mean_kl < four.mean_kl / 3
        assert figures.top1_agreement > four.top1_agreement
        assert figures.perplexity_ratio < 1.1
    assert found["FP8_DYNAMIC"].outcome in ("pass", "warn")
    assert found["W4A16"].outcome == "block"
    assert made["W4A16"].size_bytes < made["W8A8"].size_bytes
    for checkpoint in made.values():
        assert works.store.verify(checkpoint) == []
        assert {p.stat().st_mode & 0o444 for p in Path(checkpoint.directory).glob("*.safetensors")} == {0o444}
        original = Path(works.source.directory) / "tokenizer.json"
        assert (Path(checkpoint.directory) / "tokenizer.json").read_bytes() == original.read_bytes()


def test_blocks_that_do_not_fit_are_caught_before_an_endpoint_is_spent(small: Works):
    made = small.make("fp8-block")  # the quantizer writes it without a word
    found = small.compare(made)
    assert found.outcome == "block"
    assert "cannot be cut into blocks of 128x128" in found.reason
    assert "576" in found.reason


def test_a_nan_in_a_weight_is_found(small: Works):
    made = small.make("fp8-dynamic")
    name = spoil(Path(made.directory), "weight_scale")
    found = small.compare(made)
    assert found.outcome == "block"
    assert f"1 tensors hold NaN or infinite values: {name}" in found.reason
    assert found.findings.measured is None


def test_awq_on_a_cpu_falls_back_to_a_group_size_that_fits(small: Works):
    recipe = small.recipes.recipe("awq").model_copy(update={"calibration": SHORT})
    made = small.make(Recipe.model_validate(recipe.model_dump()))
    assert made.derivation is not None
    assert made.derivation.group_size == 64
    assert "group size 64 instead of 128, which does not divide the 576" in made.derivation.notes[0]
    assert made.derivation.calibration_samples == 4
    assert small.compare(made).findings.problems == ()


def test_an_architecture_that_transformers_does_not_know_is_done_file_by_file(
    tmp_path: Path, registry: EngineRegistry, model: Path
):
    strange = {"model_type": "neverheard", "architectures": ["NeverHeardForCausalLM"]}
    works = Works(tmp_path, registry, cut(model, tmp_path / "cut", **strange))
    made = works.make("fp8-dynamic")
    assert made.derivation is not None
    assert made.derivation.path == "model_free_ptq"
    assert "does not know the model type neverheard" in made.derivation.notes[0]
    found = works.compare(made)
    assert (found.outcome, found.findings.problems) == ("warn", ())
    assert "not measured" in found.reason
    with pytest.raises(QuantizationFailed, match="does not know the model type neverheard") as caught:
        works.make("gptq")
    assert caught.value.reason == "needs_newer_transformers"


def test_a_quantizer_that_wants_more_memory_than_it_may_have(tmp_path: Path, registry: EngineRegistry, model: Path):
    works = Works(tmp_path, registry, model, memory_limit_bytes=200 * 2**20)
    with pytest.raises(QuantizationFailed, match=r"killed for memory at [\d.]+ [GM]iB") as caught:
        works.make("int8")
    assert caught.value.reason == "out_of_memory"
    assert works.left() == []


KILLED = """
import sys
from pathlib import Path
from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.quantization import Quantizer
from modelops_dagster.clients.quantization_recipes import RecipeFolder
engines, cache, root, work, recipes, directory = map(Path, sys.argv[1:])
store, folder = CheckpointStore(root), RecipeFolder(recipes)
say = lambda line: print(line, flush=True)
quantizer = Quantizer(EngineRegistry(engines, cache), folder, work)
quantizer.quantize(store.read(directory), folder.recipe("int8"), store, say)
"""


def test_a_kill_in_the_middle_leaves_neither_a_worker_nor_a_checkpoint(small: Works, settings: Settings):
    paths = (settings.engines, settings.cache, small.store.root, small.work, small.recipes.root, small.source.directory)
    program = subprocess.Popen(
        [sys.executable, "-c", KILLED, *map(str, paths)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    for line in program.stdout:
        if line.startswith("loading"):
            break
    workers = [p for p in psutil.Process(program.pid).children(recursive=True) if "quantize" in p.cmdline()]
    assert workers
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert gone
    assert not alive
    assert all(name.endswith((".partial", ".claim")) for name in small.left())
    begun = time.monotonic()
    assert small.make("int8").scheme == "W8A8"
    print(f"made after the kill in {time.monotonic() - begun:.1f} s")
    assert [name for name in small.left() if name.endswith((".partial", ".claim"))] == []
