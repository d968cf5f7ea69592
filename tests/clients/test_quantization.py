"""The quantizer's process: watched, ended, and never leaving half a checkpoint that anybody takes for whole."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest

from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.quantization import Quantizer
from modelops_dagster.clients.quantization_recipes import RecipeFolder
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.errors import EngineMissing, IntegrityError, InvalidSpec, QuantizationFailed, UserError
from modelops_dagster.resources.quantization import QuantizerResource
from modelops_dagster.settings import data_folder
from tests.clients.quantizing import install_quantizer, put_checkpoint

RECIPES = data_folder("quantization")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> EngineRegistry:
    folder = tmp_path_factory.mktemp("engines")
    return install_quantizer(folder / "engines", folder / "cache")


@pytest.fixture
def source(store: CheckpointStore) -> Checkpoint:
    return put_checkpoint(store)


class Bench:
    """One quantizer, and what it leaves."""

    def __init__(self, registry: EngineRegistry, store: CheckpointStore, work: Path, **limits: float) -> None:
        self.recipes = RecipeFolder(RECIPES)
        self.store, self.work = store, work
        self.quantizer = Quantizer(registry, self.recipes, work, **limits)  # type: ignore[arg-type]
        self.said: list[str] = []

    def make(self, source: Checkpoint, how: str = "ok", recipe: str = "int8") -> Checkpoint:
        environ = {"FAKE_QUANTIZER": how}
        return self.quantizer.quantize(source, self.recipes.recipe(recipe), self.store, self.said.append, environ)

    def left(self, source: Checkpoint) -> list[str]:
        """What lies beside the source in the store."""
        return sorted(p.name for p in Path(source.directory).parent.iterdir() if p.name != "a" * 40)

    def pids(self) -> list[int]:
        return [int(p.read_text()) for p in self.work.glob("*/pid")]


@pytest.fixture
def bench(registry: EngineRegistry, store: CheckpointStore, tmp_path: Path) -> Bench:
    return Bench(registry, store, tmp_path / "work")


def test_a_checkpoint_is_made_once_and_says_how(bench: Bench, source: Checkpoint, store: CheckpointStore):
    made = bench.make(source, recipe="awq")
    assert bench.said == ["layer 1/2", "saving"]
    assert (made.scheme, made.revision) == ("W4A16", source.revision)
    assert made.derivation is not None
    assert made.derivation.source_digest == source.digest
    assert made.derivation.recipe == "awq"
    assert made.derivation.made_by.startswith("llmcompressor 1.0+")
    assert (made.derivation.calibration_samples, made.derivation.group_size) == (48, 64)
    assert made.derivation.calibration_digest == bench.recipes.texts("calibration.jsonl")[1]
    assert store.verify(made) == []
    assert {oct(p.stat().st_mode)[-3:] for p in Path(made.directory).glob("*.safetensors")} == {"444"}
    assert list(bench.work.iterdir()) == []
    again = bench.make(source, how="crash", recipe="awq")  # would fail if it were asked
    assert again == made
    assert bench.make(source, recipe="int8").directory != made.directory
    assert store.load(source.revision) == source


@pytest.mark.parametrize(
    ("how", "reason", "words"),
    [
        ("crash", "crash", "exit code 3 and no result"),
        ("say-failed", "group_size", "None of the group sizes divides it; the whole log is"),
        ("sigkill", "out_of_memory", "killed for memory at"),
    ],
)
def test_a_worker_that_fails_leaves_nothing_but_its_log(
    bench: Bench, source: Checkpoint, how: str, reason: str, words: str
):
    with pytest.raises(QuantizationFailed, match=words) as caught:
        bench.make(source, how)
    assert caught.value.reason == reason
    assert caught.value.log_tail == "a line of the log"
    assert bench.left(source) == []
    assert bench.make(source).scheme == "W8A8"


def test_a_worker_that_wants_too_much_memory_is_ended(
    registry: EngineRegistry, store: CheckpointStore, source: Checkpoint, tmp_path: Path
):
    bench = Bench(registry, store, tmp_path / "work", memory_limit_bytes=300 * 2**20)
    with pytest.raises(QuantizationFailed, match=r"for memory at [\d.]+ [MG]iB, above the limit of 300 MiB") as caught:
        bench.make(source, "eat")
    assert caught.value.reason == "out_of_memory"
    assert bench.left(source) == []
    assert not any(psutil.pid_exists(pid) for pid in bench.pids())


def test_a_worker_that_hangs_is_ended(
    registry: EngineRegistry, store: CheckpointStore, source: Checkpoint, tmp_path: Path
):
    bench = Bench(registry, store, tmp_path / "work", timeout_s=1.0)
    with pytest.raises(QuantizationFailed, match="not done after 1 s") as caught:
        bench.make(source, "hang")
    assert caught.value.reason == "timeout"
    assert bench.left(source) == []
    assert not any(psutil.pid_exists(pid) for pid in bench.pids())


@pytest.mark.parametrize("how", ["half", "empty"])
def test_what_is_no_checkpoint_is_not_kept(bench: Bench, source: Checkpoint, how: str):
    with pytest.raises(IntegrityError):
        bench.make(source, how)
    assert bench.left(source) == []


def test_two_that_want_the_same_make_it_once(bench: Bench, source: Checkpoint):
    made: list[Checkpoint] = []
    threads = [threading.Thread(target=lambda: made.append(bench.make(source))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3
    assert len({m.directory for m in made}) == 1
    assert bench.said.count("saving") == 1


def test_a_copy_that_was_damaged_is_made_again(bench: Bench, store: CheckpointStore, source: Checkpoint):
    made = bench.make(source)
    weights = Path(made.directory) / "model.safetensors"
    content = weights.read_bytes()
    weights.chmod(0o644)
    weights.write_bytes(content[:-1] + b"x")
    assert len(store.verify(made)) == 1
    assert bench.make(source).digest == made.digest
    assert store.verify(made) == []
    assert weights.read_bytes() == content


def test_a_source_that_is_gone_is_a_sentence(bench: Bench, source: Checkpoint):
    shutil.rmtree(source.directory)
    with pytest.raises(UserError, match="is gone: fetch it again with `modelops onboard acme/one`"):
        bench.make(source)


@pytest.mark.parametrize("config", [{"quant_method": "fp8"}, {"quant_method": "compressed-tensors"}, {"bits": 4}])
def test_what_is_quantized_already_is_not_quantized_again(
    bench: Bench, store: CheckpointStore, config: dict[str, object]
):
    released = put_checkpoint(store, quantization_config=config)
    with pytest.raises(InvalidSpec, match="is quantized already"):
        bench.make(released)
    assert bench.pids() == []


def test_a_quantizer_that_is_not_there_is_missed(store: CheckpointStore, source: Checkpoint, tmp_path: Path):
    (tmp_path / "engines").mkdir()
    bench = Bench(EngineRegistry(tmp_path / "engines", tmp_path / "cache"), store, tmp_path / "work")
    assert bench.quantizer.missing() == "there is no engine llmcompressor"
    with pytest.raises(EngineMissing):
        bench.make(source)


def test_an_engine_of_the_operator_that_extends_the_quantizer_takes_its_place(
    registry: EngineRegistry, store: CheckpointStore, source: Checkpoint, tmp_path: Path
):
    shipped = registry.environment("llmcompressor")
    assert shipped is not None
    cache = shipped.parents[1]
    own = tmp_path / "own" / "quantizer-cuda"
    own.mkdir(parents=True)
    (own / "engine.yaml").write_text(
        "name: quantizer-cuda\nextends: llmcompressor\nsummary: on the GPU\naccelerators: [cpu, cuda]\n"
    )
    (own / "requirements.lock").write_text("# another environment\n")
    settings = {"engines": str(cache.parent / "engines"), "cache": str(cache), "own_engines": str(tmp_path / "own")}
    resource = QuantizerResource(
        **settings,
        recipes_root=str(RECIPES),
        lane_recipes=[],
        policy_name="default",
        work=str(tmp_path / "work"),
        checkpoints=str(store.root),
        accelerator="cpu",
        lanes=[],
        memory_limit_gb=None,
        timeout_s=60,
    )
    found = resource.quantizer()
    assert found.accelerator() == "cuda"
    assert found.missing() == (
        "the engine quantizer-cuda is not installed; run `modelops engines install quantizer-cuda`"
    )
    EngineRegistry(cache.parent / "engines", cache, tmp_path / "own").install("quantizer-cuda", lambda line: None)
    made = found.quantize(source, found_recipe := resource.recipes().recipe("int8"), store, lambda line: None)
    assert made.derivation is not None
    assert made.derivation.made_by.startswith("quantizer-cuda 1.0+")
    assert made.derivation.recipe == found_recipe.name


KILLED = """
import sys
from pathlib import Path
from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.quantization import Quantizer
from modelops_dagster.clients.quantization_recipes import RecipeFolder
engines, cache, root, work, recipes, directory = map(Path, sys.argv[1:])
store, folder = CheckpointStore(root), RecipeFolder(recipes)
quantizer = Quantizer(EngineRegistry(engines, cache), folder, work)
quantizer.quantize(store.read(directory), folder.recipe("int8"), store, print, {"FAKE_QUANTIZER": "hang"})
"""


def test_a_kill_in_the_middle_leaves_nothing_whole_and_the_next_try_succeeds(
    bench: Bench, registry: EngineRegistry, store: CheckpointStore, source: Checkpoint, tmp_path: Path
):
    environment = registry.environment("llmcompressor")
    assert environment is not None
    cache = environment.parents[1]
    paths = (cache.parent / "engines", cache, store.root, bench.work, RECIPES, Path(source.directory))
    program = subprocess.Popen([sys.executable, "-c", textwrap.dedent(KILLED), *map(str, paths)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not bench.pids():
        assert time.monotonic() < deadline
        assert program.poll() is None
        time.sleep(0.05)
    program.send_signal(signal.SIGKILL)
    program.wait()
    for pid in bench.pids():
        os.kill(pid, signal.SIGKILL)  # the real worker asks the kernel to do this when its parent ends
    assert [n for n in bench.left(source) if not n.endswith((".partial", ".claim"))] == []
    assert bench.make(source).scheme == "W8A8"
    assert [n for n in bench.left(source) if n.endswith((".partial", ".claim"))] == []


def test_a_comparison_is_judged_and_done_once(bench: Bench, source: Checkpoint):
    made = bench.make(source)
    policy = bench.recipes.policy("default")
    found = bench.quantizer.compare(source, made, policy, "int8", bench.said.append)
    assert (found.outcome, found.lane, found.digest, found.findings.n_tokens) == ("pass", "int8", made.digest, 3000)
    assert found.share_kept == pytest.approx(1 / 1.005)
    broken = {"FAKE_QUANTIZER": "block"}
    again = bench.quantizer.compare(source, made, policy, "int8", bench.said.append, broken, known=found)
    assert again == found
    other = policy.model_copy(update={"min_tokens": 1})
    judged = bench.quantizer.compare(source, made, other, "int8", bench.said.append, broken, known=found)
    assert (judged.outcome, judged.reason) == ("block", "it does not load: RuntimeError: unflatten")
