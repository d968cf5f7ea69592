"""What the checkpoint store does when it is killed, raced, or runs out of disk, with real processes and real kills."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modelops_dagster.clients.checkpoints import MANIFEST_NAME, CheckpointStore
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.domain.errors import (
    Conflict,
    DiskFull,
    HubUnavailable,
    IntegrityError,
    UserError,
)
from modelops_dagster.domain.hub import ModelRevision, RepoFile
from modelops_dagster.services.hub_server import HubServer
from tests.fakes.hub import client, downloads, noise, released, write_repo
from tests.fakes.stack import wait_until

BIG = noise(12_000_000)


def test_a_hub_that_goes_away_leaves_what_was_fetched(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a", weights=BIG))
    hub.faults.only, hub.faults.cuts, hub.faults.cut_after_bytes = "model.safetensors", 1, 5_000_000

    with pytest.raises(HubUnavailable):
        store.ensure(release, HubClient(hub.url, None, max_tries=1))
    assert store.load(release.revision) is None
    part = next(store.root.rglob("model.safetensors.part"))
    kept = part.stat().st_size
    assert kept >= 4_000_000
    store.ensure(release, client(hub))
    assert f"[bytes={kept}-]" in downloads(hub)[-1]


FETCH = """
import sys
from pathlib import Path
from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.hub import HubClient
url, root = sys.argv[1:]
hub = HubClient(url, None)
store = CheckpointStore(Path(root))
checkpoint = store.ensure(hub.release(hub.resolve("acme/one", "main")), hub)
print(checkpoint.digest, *store.verify(checkpoint))
"""


def start_fetching(hub: HubServer, store: CheckpointStore) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, hub.url, str(store.root)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def part_bytes(store: CheckpointStore) -> int:
    return sum(p.stat().st_size for p in store.root.rglob("*.part"))


def test_a_killed_fetch_is_resumed_by_the_byte(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a", weights=BIG))
    hub.faults.only, hub.faults.bytes_per_s = "model.safetensors", 5e6
    with start_fetching(hub, store) as process:
        wait_until(lambda: part_bytes(store) > 3_000_000)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    kept = part_bytes(store)
    assert store.load(release.revision) is None
    assert list(store.root.rglob("*.claim"))  # the dead process could not take it away
    hub.faults.bytes_per_s = None
    started = time.monotonic()
    checkpoint = store.ensure(release, client(hub))
    assert time.monotonic() - started < 30  # nobody waits for a process that is gone
    assert f"[bytes={kept}-]" in downloads(hub)[-1]
    assert sum("config.json" in r for r in downloads(hub) if "tokenizer" not in r) == 3  # twice by `release`
    assert store.verify(checkpoint) == []
    left = {p.name for p in Path(checkpoint.directory).parent.iterdir()}
    assert left == {release.revision.commit_hash, f"{release.revision.commit_hash}.verified"}


def test_two_processes_want_the_same_and_one_fetches_it(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a", weights=BIG))
    hub.faults.only, hub.faults.bytes_per_s = "model.safetensors", 12e6
    processes = [start_fetching(hub, store) for _ in range(3)]
    ended = [(p.communicate(timeout=60), p.returncode) for p in processes]
    digest = store.load(release.revision)
    assert digest is not None
    assert [(out.split(), code) for (out, _), code in ended] == [([digest.digest], 0)] * 3, ended
    assert sum("model.safetensors" in r for r in downloads(hub)) == 1


def test_one_of_two_is_killed_and_the_other_finishes(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a", weights=BIG))
    hub.faults.only, hub.faults.bytes_per_s = "model.safetensors", 6e6
    with start_fetching(hub, store) as first:
        wait_until(lambda: part_bytes(store) > 2_000_000)
        with start_fetching(hub, store) as second:
            time.sleep(0.5)
            first.kill()
            out, err = second.communicate(timeout=60)
            assert second.returncode == 0, err
    found = store.load(release.revision)
    assert found is not None and out.split() == [found.digest]


def test_a_waiter_reports_the_progress_of_the_other(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a", weights=BIG))
    hub.faults.only, hub.faults.bytes_per_s = "model.safetensors", 8e6
    seen: list[int] = []
    with start_fetching(hub, store) as other:
        wait_until(lambda: part_bytes(store) > 1_000_000)
        store.ensure(release, client(hub), lambda done, total: seen.append(done))
        other.communicate(timeout=60)
    assert len(set(seen)) >= 3 and seen == sorted(seen)


# ---- the disk


def test_a_disk_without_room_is_told_before_anything_is_fetched(hub: HubServer, tmp_path: Path):
    source = write_repo(tmp_path / "a", weights=BIG)
    store = CheckpointStore(tmp_path / "checkpoints", free_bytes=lambda _: 1000)
    release = released(hub, source)
    before = len(downloads(hub))
    with pytest.raises(DiskFull) as caught:
        store.ensure(release, client(hub))
    needed = sum(p.stat().st_size for p in source.iterdir())
    assert f"{needed} more bytes" in caught.value.sentence and "1000 free" in caught.value.sentence
    assert len(downloads(hub)) == before


def test_what_is_already_there_is_not_needed_again(hub: HubServer, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a", weights=BIG))
    root = tmp_path / "checkpoints"
    hub.faults.only, hub.faults.cuts, hub.faults.cut_after_bytes = "model.safetensors", 1, 8_000_000
    with pytest.raises(HubUnavailable):
        CheckpointStore(root).ensure(release, HubClient(hub.url, None, max_tries=1))
    with pytest.raises(DiskFull, match="10 free"):
        CheckpointStore(root, free_bytes=lambda _: 10).ensure(release, client(hub))
    assert CheckpointStore(root, free_bytes=lambda _: 5_000_000).ensure(release, client(hub))


def test_a_disk_that_fills_up_keeps_what_is_there(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a", weights=BIG))

    class SmallDisk(HubClient):
        """Fails as a full disk does, after some of the bytes."""

        def fetch_file(
            self,
            revision: ModelRevision,
            file: RepoFile,
            target: Path,
            on_bytes: Callable[[int, bytes], None] | None = None,
        ) -> None:
            def limited(position: int, piece: bytes) -> None:
                if position > 5_000_000:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

            super().fetch_file(revision, file, target, limited)

    with pytest.raises(DiskFull, match=r"filled up .* make room") as caught:
        store.ensure(release, SmallDisk(hub.url, None))
    assert str(store.root) in caught.value.sentence
    assert store.load(release.revision) is None and part_bytes(store) > 5_000_000
    assert store.verify(store.ensure(release, client(hub))) == []


def test_a_store_that_cannot_be_written_is_told(hub: HubServer, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        CheckpointStore(tmp_path / "file").ensure(released(hub, write_repo(tmp_path / "a")), client(hub))


def test_a_manifest_that_cannot_be_read_is_an_error_and_not_an_absence(
    hub: HubServer, store: CheckpointStore, tmp_path: Path
):
    checkpoint = store.ensure(released(hub, write_repo(tmp_path / "a")), client(hub))
    (Path(checkpoint.directory) / MANIFEST_NAME).unlink()
    (Path(checkpoint.directory) / MANIFEST_NAME).write_text("{")
    with pytest.raises(IntegrityError, match="not a manifest"):
        store.load(checkpoint.revision)


def test_an_owner_that_was_replaced_publishes_nothing(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a"))

    def usurp(done: int, total: int) -> None:
        for path in store.root.rglob("*.claim"):
            path.write_text(json.dumps({"token": "other", "machine": "elsewhere", "pid": 1, "started": 0}))

    with pytest.raises(Conflict, match="run it again"):
        store.ensure(release, client(hub), usurp)
    assert store.load(release.revision) is None
