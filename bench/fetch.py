"""Fetching a checkpoint into the store, every byte verified, against plain `huggingface_hub.snapshot_download`.

The Hub is our own server in a process of its own, on loopback, where no network hides what the client costs. Both fetch
the same commit by turns, each into an empty folder of the same disk, and the disk is at rest when either begins. Ours
includes what plain fetching leaves out: digests compared, headers checked, and the manifest.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.utils import disable_progress_bars

from bench.figures import Figure
from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.services.hub_server import publish
from tests.fakes.hub import noise, safetensors, write_repo

REPO_ID = "acme/large"
SHARDS, SHARD_BYTES = 4, 160_000_000
ROUNDS = 9


def run() -> Iterator[Figure]:
    """Yields `throughput_ratio` and both throughputs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size_bytes = _publish(folder)
        plain, ours = [], []
        disable_progress_bars()
        with _hub(folder / "hub") as url:
            commit_hash = HubClient(url, None).resolve(REPO_ID, "main").commit_hash

            def fetch_plain(target: Path) -> None:
                snapshot_download(REPO_ID, revision=commit_hash, local_dir=target, endpoint=url, token=False)

            def fetch_ours(target: Path) -> None:
                hub = HubClient(url, None)
                CheckpointStore(target).ensure(hub.release(hub.resolve(REPO_ID, commit_hash)), hub)

            for number in range(ROUNDS + 1):
                pair = [(plain, fetch_plain), (ours, fetch_ours)]
                for seconds, fetch in pair if number % 2 else reversed(pair):
                    seconds.append(_timed(fetch, folder / "target"))
                print(f"bench fetch: plain {plain[-1]:.2f} s, ours {ours[-1]:.2f} s", file=sys.stderr)
    plain_s, ours_s = statistics.median(plain[1:]), statistics.median(ours[1:])  # the first round warms the server
    yield Figure("fetch", "throughput_ratio", plain_s / ours_s, "ratio", ">= 0.95")
    yield Figure("fetch", "throughput", size_bytes / ours_s / 1e6, "MB/s", "verified")
    yield Figure("fetch", "plain_throughput", size_bytes / plain_s / 1e6, "MB/s", "snapshot_download")


def _publish(folder: Path) -> int:
    """Put a model of a few shards on the Hub; returns its size in bytes."""
    source = write_repo(folder / "source")
    (source / "model.safetensors").unlink()
    names = [f"model-{n + 1:05d}-of-{SHARDS:05d}.safetensors" for n in range(SHARDS)]
    for n, name in enumerate(names):
        (source / name).write_bytes(safetensors(noise(SHARD_BYTES, seed=n), f"w{n}"))
    index = {"metadata": {}, "weight_map": {f"w{n}": name for n, name in enumerate(names)}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "hub").mkdir()
    commit = publish(folder / "hub", REPO_ID, source)
    shutil.rmtree(source)
    return sum(f.size_bytes for f in commit.files)


@contextmanager
def _hub(root: Path) -> Iterator[str]:
    """A Hub over `root` in a process of its own; its base URL."""
    command = (sys.executable, "-m", "modelops_dagster.cli", "hub", "serve", str(root), "--port", "0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(line.split("=", 1)[1].strip() for line in server.stdout if "HF_ENDPOINT=" in line)
        finally:
            server.terminate()


def _timed(fetch: Callable[[Path], None], target: Path) -> float:
    target.mkdir()
    os.sync()
    begun = time.perf_counter()
    fetch(target)
    seconds = time.perf_counter() - begun
    shutil.rmtree(target)
    return seconds
