"""A real Hub server on loopback, and small repositories to put into it."""

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelops_dagster.clients.hub import HubClient
from modelops_dagster.domain.hub import Release
from modelops_dagster.services.hub_server import Faults, HubServer, publish

TOKEN = "hf_only_for_tests"


@contextmanager
def running_hub(root: Path, *, page_size: int = 1000, **knobs: Any) -> Iterator[HubServer]:
    """A Hub over `root` that knows one token; `knobs` are the fields of `Faults`."""
    with HubServer(root, tokens=frozenset({TOKEN}), faults=Faults(**knobs), page_size=page_size) as server:
        yield server


def safetensors(data: bytes, name: str = "w") -> bytes:
    """A file with one tensor of bytes."""
    header = json.dumps({name: {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def noise(size_bytes: int, seed: int = 1) -> bytes:
    """Bytes that differ from place to place, so that a piece at the wrong offset is noticed."""
    block = b"".join(struct.pack("<II", seed, i) for i in range(min(size_bytes, 1 << 16) // 8 + 1))
    return b"".join(struct.pack("<I", i) + block for i in range(size_bytes // len(block) + 1))[:size_bytes]


def write_repo(folder: Path, *, weights: bytes = b"1234", config: dict[str, Any] | None = None) -> Path:
    """A model as an organisation would release it, of a few hundred bytes unless `weights` is long."""
    folder.mkdir(parents=True, exist_ok=True)
    stated = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 2048}
    (folder / "config.json").write_text(json.dumps(stated | {"dtype": "bfloat16"} | (config or {})))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(safetensors(weights))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    return folder


def change_byte(path: Path, offset: int = -1) -> None:
    """Flip the bits of one byte, from the end by default, as a bad disk would: the mode does not matter to it."""
    mode = path.stat().st_mode
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0xFF]))
    path.chmod(mode)


def client(server: HubServer) -> HubClient:
    """A client that gives up soon."""
    return HubClient(server.url, None, timeout_s=5.0, max_tries=2)


def released(server: HubServer, source: Path, repo_id: str = "acme/one") -> Release:
    """Publish a folder, and read it back as a release."""
    publish(server.root, repo_id, source)
    return client(server).release(client(server).resolve(repo_id, "main"))


def downloads(server: HubServer) -> list[str]:
    """The requests for files so far."""
    return [r for r in server.faults.requests if "/resolve/" in r]
