"""A real engine as tests run it: started from its registry, in a session of its own, with a client."""

import json
import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import openai

from modelops_dagster.domain.ladder import diagnose

NAME = "demo/SmolLM2@test"
MAX_CONTEXT = 1024
CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
STORY = [{"role": "user", "content": "Write a long story about a lighthouse."}]


@dataclass
class Running:
    """A started engine."""

    engine: str
    process: "subprocess.Popen[bytes]"
    port: int
    log: Path
    start_seconds: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", timeout=120, max_retries=0)

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


Start = Callable[..., Running]


def wait_ready(running: Running) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert running.process.poll() is None, diagnose(running.log.read_text(), running.process.returncode)
        try:
            if httpx.get(f"{running.url}/v1/models", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    running.stop()
    raise AssertionError(running.log.read_text()[-2000:])


def scramble(source: Path, target: Path) -> Path:
    """A copy whose feed-forward weights are shuffled: it loads, it answers, and it knows nothing."""
    target.mkdir()
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    raw = bytearray((source / "model.safetensors").read_bytes())
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    rng = np.random.default_rng(1)
    for name, tensor in header.items():
        if ".mlp." in name:
            begin, end = (8 + length + offset for offset in tensor["data_offsets"])
            words = np.frombuffer(bytes(raw[begin:end]), dtype=np.uint16)
            raw[begin:end] = rng.permutation(words).tobytes()
    (target / "model.safetensors").write_bytes(raw)
    return target
