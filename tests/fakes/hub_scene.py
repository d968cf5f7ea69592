"""A Hub with one repository of every kind, for `hub_calls` to be run against by any version of the official client."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelops_dagster.services.hub_server import Faults, HubServer, Limits, RepoSettings, name_commit, publish
from tests.fakes.hub import TOKEN, noise, write_repo

CALLS = Path(__file__).with_name("hub_calls.py")
CUT_BYTES = 24 << 20  # the client keeps what came in pieces of 10 MiB, so the cut leaves one of them


@contextmanager
def hub_scene(root: Path) -> Iterator[dict[str, Any]]:
    """Two servers over one folder, one of them with a limit of requests. Yields what `hub_calls` has to know."""
    sources, served = root / "sources", root / "hub"
    made = datetime(2026, 1, 1, tzinfo=UTC)
    for n in range(5):
        source = write_repo(sources / f"n{n}", weights=bytes([n] * (50 * n + 4)))
        settings = RepoSettings(created_at=made.replace(day=n + 1))
        publish(served, f"acme/number-{n}", source, settings=settings)
    main = write_repo(sources / "main", weights=b"old!")
    old = publish(served, "acme/main", main, settings=RepoSettings(created_at=made.replace(day=9)))
    write_repo(main, weights=b"new!", config={"max_position_embeddings": 4096})
    (main / "many").mkdir()
    for n in range(7):
        (main / "many" / f"{n}.txt").write_text(str(n))
    publish(served, "acme/main", main)
    name_commit(served, "acme/main", "tag", "v1", old.commit_hash)
    name_commit(served, "acme/main", "branch", "next/one", old.commit_hash)
    for name, settings in {
        "gated": RepoSettings(gated="manual", created_at=made),
        "private": RepoSettings(private=True, created_at=made),
        "disabled": RepoSettings(disabled=True, created_at=made),
        "special": RepoSettings(tags=("special",), license="mit", pipeline_tag="fill-mask", created_at=made),
    }.items():
        publish(served, f"acme/{name}", write_repo(sources / name), settings=settings)
    publish(served, "acme/cut", write_repo(sources / "cut", weights=noise(CUT_BYTES)))
    (served / "acme" / "empty").mkdir()
    faults = Faults(only="/acme/cut/resolve", cut_after_bytes=16 << 20, cuts=1)
    tokens = frozenset({f"{TOKEN} somebody"})
    with (
        HubServer(served, tokens=tokens, faults=faults, page_size=4) as hub,
        HubServer(served, limits=Limits(2)) as limited,
    ):
        yield {
            "url": hub.url,
            "limited_url": limited.url,
            "token": TOKEN,
            "old": old.commit_hash,
            "faults": hub.faults,
        }


def call_hub(python: str, scene: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the calls print in an interpreter, whose client knows this Hub and no other."""
    folder.mkdir()
    told = {k: v for k, v in scene.items() if k != "faults"}
    (folder / "scene.json").write_text(json.dumps(told))
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "HF_HOME": str(folder / "home"),
        "HF_ENDPOINT": scene["url"],
    }
    done = subprocess.run(
        [python, str(CALLS), str(folder / "scene.json"), str(folder)],
        capture_output=True, text=True, env=environ, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result
