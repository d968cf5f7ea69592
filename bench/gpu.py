"""On a machine with an NVIDIA GPU: a model as released and its FP8 copy, served by vLLM as the ladder starts it.

The model is made up: the shape of a Llama with three billion parameters and random weights, which cost a GPU what
trained ones do. The same load is then sent by vLLM's own `bench serve`: our figures are held to somebody else's.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.figures import Figure
from modelops_dagster.clients.demo_model import ensure_demo_model
from modelops_dagster.clients.engines import EngineRegistry, has_gpu
from modelops_dagster.clients.gauntlet.performance import measure_load
from modelops_dagster.clients.ladder import climb
from modelops_dagster.domain.capacity import Placement
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.engines import Rung
from modelops_dagster.domain.gauntlet.aggregates import load_metrics
from modelops_dagster.domain.gauntlet.load import Load
from modelops_dagster.domain.gauntlet.suite import RequestLimits, SuiteSpec
from modelops_dagster.settings import Settings
from tests.engines.quantized_models import Works
from tests.fakes.zoo import Zoo, zoo

LOAD = Load(concurrencies=(1, 16, 64), requests=64, warmups=4, input_words=128, output_tokens=128)
SIDE_BY_SIDE, ROUNDS = 16, 3
SHOWN = ("output_tokens_per_s", "ttft_p50_ms", "tpot_p50_ms")
MAKE = """
import shutil, sys
from pathlib import Path
import torch, transformers
tokenizer, out = map(Path, sys.argv[1:])
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=49152, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28, num_attention_heads=24,
    num_key_value_heads=8, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
)
torch.set_default_dtype(torch.bfloat16)
with torch.device("cuda"):
    model = transformers.LlamaForCausalLM(config)
model.save_pretrained(out)
for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
    if (tokenizer / name).exists():
        shutil.copy(tokenizer / name, out)
"""


def _say(line: str) -> None:
    print(f"bench gpu: {line}", file=sys.stderr, flush=True)


def run() -> Iterator[Figure]:
    """Yields speed and latency per copy and concurrency, `fp8_speedup@C`, and ours against vLLM's `bench serve`."""
    if not has_gpu():
        _say("this machine shows no NVIDIA GPU, so nothing is measured")
        return
    settings = Settings.load()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with zoo(folder, settings) as place:
            for engine in ("vllm", "transformers", "llmcompressor"):
                place.registry.install(engine, _say)
            works = Works(folder / "quantized", place.registry, _made_up(place.registry, settings, folder / "model"))
            begun = time.monotonic()
            copies = {"bf16": works.source, "fp8": works.make("fp8-dynamic")}
            yield Figure("gpu", "fp8_quantize_s", time.monotonic() - begun, "s", "")
            speed: dict[str, dict[str, float]] = {}
            for name, checkpoint in copies.items():
                endpoint = _serve(place, checkpoint, name)
                yield Figure("gpu", f"{name}_ready_s", endpoint.start_seconds, "s", "")
                speed[name] = _ours(endpoint)
                for metric, value in speed[name].items():
                    yield Figure("gpu", f"{name}_{metric}", value, "ms" if "_ms" in metric else "tokens/s", "")
                if name == "bf16":
                    yield from _against_theirs(place.registry, endpoint, folder)
                place.client.delete(endpoint.name, endpoint.name)
                place.client.wait_deleted(endpoint.name, 120)
    for level in LOAD.concurrencies:
        metric = f"output_tokens_per_s@{level}"
        yield Figure("gpu", f"fp8_speedup@{level}", speed["fp8"][metric] / speed["bf16"][metric], "ratio", "bf16")


def _made_up(registry: EngineRegistry, settings: Settings, target: Path) -> Path:
    tokenizer = ensure_demo_model(registry, settings.cache, _say)
    python = f"{registry.environment('transformers')}/bin/python"
    subprocess.run([python, "-c", MAKE, str(tokenizer), str(target)], check=True, stdout=subprocess.DEVNULL)
    _say(f"made a model of {sum(p.stat().st_size for p in target.iterdir()) / 1e9:.1f} GB")
    return target


def _serve(place: Zoo, checkpoint: Checkpoint, name: str) -> Endpoint:
    return climb(
        checkpoint,
        [Rung(engine="vllm")],
        place.client,
        place.registry,
        endpoint_name=f"gpu-{name}",
        served_model_name=f"bench/{name}",
        max_context=2048,
        progress=_say,
        min_tokens_per_second=1.0,
        any_text=True,
        placements={"vllm": Placement(gpus=1)},
    )


def _ours(endpoint: Endpoint, load: Load = LOAD) -> dict[str, float]:
    spec = SuiteSpec(
        name="gpu",
        kind="performance",
        title="One GPU",
        requests=RequestLimits(retries=0, attempt_timeout_s=120, deadline_s=600),
        performance=load,
    )
    result = asyncio.run(measure_load(spec, endpoint, lambda done, total, text: None))
    shown = {metric.name: metric.value for metric in load_metrics(load, result)}
    return {
        f"{name}@{level}": value
        for level in load.concurrencies
        for name in SHOWN
        if (value := shown[f"{name}@{level}"]) is not None
    }


def _against_theirs(registry: EngineRegistry, endpoint: Endpoint, folder: Path) -> Iterator[Figure]:
    """In turn, and the best of each counts, so that neither has the cold server to itself."""
    load = LOAD.model_copy(update={"concurrencies": (SIDE_BY_SIDE,)})
    theirs, ours = [], []
    for number in range(ROUNDS):
        theirs.append(_theirs(registry, endpoint, SIDE_BY_SIDE, folder / f"theirs-{number}.json"))
        ours.append(_ours(endpoint, load))
        _say(f"round {number + 1}: vllm bench serve {theirs[-1]['output_throughput']:.0f} tokens/s, ours {ours[-1]}")
    at = f"@{SIDE_BY_SIDE}"
    speed = max(o[f"output_tokens_per_s{at}"] for o in ours) / max(t["output_throughput"] for t in theirs)
    tpot = min(o[f"tpot_p50_ms{at}"] for o in ours) / min(t["median_tpot_ms"] for t in theirs)
    yield Figure("gpu", f"output_tokens_per_s_ratio{at}", speed, "ratio", "vllm bench serve")
    yield Figure("gpu", f"tpot_p50_ms_ratio{at}", tpot, "ratio", "vllm bench serve")


def _theirs(registry: EngineRegistry, endpoint: Endpoint, level: int, result: Path) -> dict[str, Any]:
    """The same load as vLLM measures it: what it saves of the run."""
    environment = registry.environment("vllm")
    words = f"""
        bench serve --backend openai-chat --endpoint /v1/chat/completions --base-url {endpoint.url.removesuffix("/v1")}
        --model {endpoint.served_model_name} --tokenizer {endpoint.checkpoint.directory} --dataset-name random
        --random-input-len {LOAD.input_words} --random-output-len {LOAD.output_tokens} --ignore-eos
        --num-prompts {max(level, LOAD.requests)} --max-concurrency {level} --num-warmups {LOAD.warmups}
        --temperature 0 --disable-tqdm --save-result --result-filename {result}
    """
    done = subprocess.run([f"{environment}/bin/vllm", *words.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"vllm bench serve: {done.stderr[-500:]}")
    out: dict[str, Any] = json.loads(result.read_text())
    return out
