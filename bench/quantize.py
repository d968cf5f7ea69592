"""FP8 quantizing through the product against the same calls made bare, in the same run, in turn.

Ours is everything that a lane pays for: the worker's process, the copy of tokenizer and licence, every digest, the
sealed directory. Bare is a script in the same environment: load, `oneshot`, `save_pretrained`.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.figures import Figure
from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.demo_model import ensure_demo_model
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.clients.quantization import ENGINE, Quantizer
from modelops_dagster.clients.quantization_recipes import RecipeFolder
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.services.hub_server import HubServer, publish
from modelops_dagster.settings import Settings

ROUNDS = 3
Seconds = dict[str, float]
REPO_ID = "bench/SmolLM2-135M-Instruct"
BARE = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
source, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
oneshot(model=model, recipe=QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=["lm_head"]))
model.save_pretrained(output, save_compressed=True)
AutoTokenizer.from_pretrained(source).save_pretrained(output)
"""


def _say(line: str) -> None:
    print(f"bench quantize: {line}", file=sys.stderr)


def run() -> Iterator[Figure]:
    """Yields `fp8_wall_ratio`, the best round of each side against the other, and the same of CPU seconds.

    On a machine in company the wall times are the neighbours'; CPU seconds, of this program and of the worker, are not.
    """
    settings = Settings.load()
    registry = EngineRegistry.from_settings(settings)
    registry.install(ENGINE, _say)
    model = ensure_demo_model(registry, settings.cache, _say)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        source, recipes = _fetch(home, model), RecipeFolder(settings.quantization)
        _bare(registry, source, home / "warm-up")
        ours, bare = [], []
        for number in range(ROUNDS):
            bare.append(_bare(registry, source, home / f"bare-{number}"))
            ours.append(_ours(registry, recipes, source, home / f"work-{number}"))
            _say(f"round {number + 1}: ours {ours[-1]}, bare {bare[-1]}")
    yield Figure("quantize", "fp8_wall_ratio", _least(ours, "wall_s") / _least(bare, "wall_s"), "ratio", "<= 1.1")
    yield Figure("quantize", "fp8_cpu_ratio", _least(ours, "cpu_s") / _least(bare, "cpu_s"), "ratio", "<= 1.1")
    yield Figure("quantize", "fp8_wall_s", _least(ours, "wall_s"), "s", "")
    yield Figure("quantize", "fp8_bare_wall_s", _least(bare, "wall_s"), "s", "")


def _fetch(home: Path, model: Path) -> Checkpoint:
    """The demonstration model in a store, as a release would come."""
    publish(home / "hub", REPO_ID, model)
    with HubServer(home / "hub") as hub:
        client = HubClient(hub.url, None)
        release = client.release(client.resolve(REPO_ID, "main"))
        return CheckpointStore(home / "checkpoints").ensure(release, client)


def _ours(registry: EngineRegistry, recipes: RecipeFolder, source: Checkpoint, work: Path) -> Seconds:
    """Until the sealed checkpoint is in the store; it is another one each time, so that it is made."""
    again = source.model_copy(update={"digest": f"{source.digest}-{work.name}"})
    store = CheckpointStore(Path(source.directory).parents[2])
    quantizer, recipe = Quantizer(registry, recipes, work), recipes.recipe("fp8-dynamic")
    return _measured(lambda: quantizer.quantize(again, recipe, store, lambda line: None))


def _bare(registry: EngineRegistry, source: Checkpoint, output: Path) -> Seconds:
    launch = registry.program(ENGINE)
    argv = [launch.argv[0], "-c", BARE, source.directory, str(output)]
    return _measured(lambda: subprocess.run(argv, env=launch.environ, check=True, capture_output=True))


def _measured(work: Callable[[], object]) -> Seconds:
    """Wall seconds, and CPU seconds of this program and of the children that it has waited for."""
    wall, cpu = time.monotonic(), _cpu()
    work()
    return {"wall_s": round(time.monotonic() - wall, 2), "cpu_s": round(_cpu() - cpu, 2)}


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _least(rounds: list[Seconds], name: str) -> float:
    return min(seconds[name] for seconds in rounds)
