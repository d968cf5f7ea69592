"""FP8 quantizing through the product against the same calls made bare, in the same run, in turn.

Ours is everything that a lane pays for: the worker's process, the copy of tokenizer and licence, every digest, the
sealed directory. Bare is a script in the same environment: load, `oneshot`, `save_pretrained`.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
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
    """Yields `fp8_wall_ratio`, the best round of each side against the other, and the seconds it is made of."""
    settings = Settings.load()
    registry = EngineRegistry(settings.engines, settings.cache)
    registry.install(ENGINE, _say)
    model = ensure_demo_model(registry, settings.cache, _say)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        source, recipes = _fetch(home, model), RecipeFolder(settings.quantization)
        _bare(registry, source, home / "warm-up")
        ours, bare, peaks = [], [], []
        for number in range(ROUNDS):
            bare.append(_bare(registry, source, home / f"bare-{number}"))
            made_in, checkpoint = _ours(registry, recipes, source, home / f"work-{number}")
            ours.append(made_in)
            peaks.append(checkpoint.derivation.peak_rss_bytes if checkpoint.derivation else 0)
            _say(f"round {number + 1}: ours {ours[-1]:.1f} s, bare {bare[-1]:.1f} s")
    yield Figure("quantize", "fp8_wall_ratio", min(ours) / min(bare), "ratio", "<= 1.1")
    yield Figure("quantize", "fp8_wall_s", min(ours), "s", "")
    yield Figure("quantize", "fp8_bare_wall_s", min(bare), "s", "")
    yield Figure("quantize", "fp8_peak_rss_bytes", max(peaks), "bytes", "")


def _fetch(home: Path, model: Path) -> Checkpoint:
    """The demonstration model in a store, as a release would come."""
    publish(home / "hub", REPO_ID, model)
    with HubServer(home / "hub") as hub:
        client = HubClient(hub.url, None)
        release = client.release(client.resolve(REPO_ID, "main"))
        return CheckpointStore(home / "checkpoints").ensure(release, client)


def _ours(registry: EngineRegistry, recipes: RecipeFolder, source: Checkpoint, work: Path) -> tuple[float, Checkpoint]:
    """Seconds until the sealed checkpoint is in the store; it is another one each time, so that it is made."""
    again = source.model_copy(update={"digest": f"{source.digest}-{work.name}"})
    store = CheckpointStore(Path(source.directory).parents[2])
    begun = time.monotonic()
    made = Quantizer(registry, recipes, work).quantize(again, recipes.recipe("fp8-dynamic"), store, lambda line: None)
    return time.monotonic() - begun, made


def _bare(registry: EngineRegistry, source: Checkpoint, output: Path) -> float:
    launch = registry.program(ENGINE)
    argv = [launch.argv[0], "-c", BARE, source.directory, str(output)]
    begun = time.monotonic()
    subprocess.run(argv, env=launch.environ, check=True, capture_output=True)
    return time.monotonic() - begun
