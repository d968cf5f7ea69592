"""Files that another revision has already, damage that is repaired, and places where nothing can be linked."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.checkpoints.manifests import Verification, verification_path
from modelops_dagster.clients.checkpoints.reuse import place
from modelops_dagster.clients.processes import boot_id
from modelops_dagster.domain.errors import DiskFull
from modelops_dagster.domain.hub import Release
from modelops_dagster.services.hub_server import HubServer
from tests.fakes.hub import change_byte, client, downloads, noise, released, write_repo

WEIGHTS = noise(3_000_000)
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def two(hub: HubServer, tmp_path: Path) -> tuple[Release, Release]:
    """The same weights, released twice with another configuration."""
    first = released(hub, write_repo(tmp_path / "a", weights=WEIGHTS))
    second = released(hub, write_repo(tmp_path / "b", weights=WEIGHTS, config={"rope_theta": 5e5}))
    assert first.revision != second.revision
    return first, second


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another filesystem than the temporary one, so that no hard link leads there."""
    folder = SHARED_MEMORY / f"modelops-{os.getpid()}-{tmp_path.name}"
    folder.mkdir()
    if folder.stat().st_dev == tmp_path.stat().st_dev:
        folder.rmdir()
        pytest.skip("the temporary folder and /dev/shm are the same filesystem")
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def weights_of(store: CheckpointStore, release: Release) -> Path:
    return store.directory(release.revision) / "model.safetensors"


def asked(hub: HubServer) -> int:
    return sum("model.safetensors" in r for r in downloads(hub))


def test_a_second_revision_takes_the_weights_of_the_first(
    hub: HubServer, store: CheckpointStore, two: tuple[Release, Release]
):
    first, second = (store.deliver(release, client(hub)) for release in two)
    weight_bytes = weights_of(store, two[0]).stat().st_size
    assert (first.fetched_bytes, first.reused_bytes) == (first.checkpoint.size_bytes, 0)
    assert (second.fetched_bytes, second.reused_bytes) == (second.checkpoint.size_bytes - weight_bytes, weight_bytes)
    assert asked(hub) == 1
    assert weights_of(store, two[0]).samefile(weights_of(store, two[1]))
    assert weights_of(store, two[1]).stat().st_mode & 0o222 == 0  # neither can be changed through the other
    assert store.verify(first.checkpoint) == store.verify(second.checkpoint) == []


def test_shared_weights_need_no_room(hub: HubServer, store: CheckpointStore, two: tuple[Release, Release]):
    store.ensure(two[0], client(hub))
    small = CheckpointStore(store.root, free_bytes=lambda _: 5_000)
    assert small.ensure(two[1], client(hub))
    assert asked(hub) == 1


def test_a_damaged_file_is_not_passed_on(hub: HubServer, store: CheckpointStore, two: tuple[Release, Release]):
    first = store.ensure(two[0], client(hub))
    change_byte(weights_of(store, two[0]))
    second = store.deliver(two[1], client(hub))
    assert second.reused_bytes == 0 and asked(hub) == 2
    assert store.verify(second.checkpoint) == []
    assert len(store.verify(first)) == 1


def test_a_changed_byte_is_found_and_only_that_file_is_fetched(
    hub: HubServer, store: CheckpointStore, two: tuple[Release, Release]
):
    first, second = (store.ensure(release, client(hub)) for release in two)
    change_byte(weights_of(store, two[0]), 2_000_000)  # the same file on the disk: both are damaged
    before = len(downloads(hub))
    done = store.deliver(two[0], client(hub))
    assert done.repaired == ("model.safetensors",)
    assert done.fetched_bytes == weights_of(store, two[0]).stat().st_size
    assert [r.split("/")[-1] for r in downloads(hub)[before:]] == ["model.safetensors"]
    assert store.verify(first) == []
    assert [p.split(":")[0] for p in store.verify(second)] == ["model.safetensors"]
    repaired = store.deliver(two[1], client(hub))
    assert (repaired.repaired, repaired.fetched_bytes) == (("model.safetensors",), 0)  # from the other one
    assert store.verify(second) == []


def test_a_byte_that_rotted_without_a_trace_is_found_by_a_full_comparison(
    hub: HubServer, store: CheckpointStore, two: tuple[Release, Release]
):
    checkpoint = store.ensure(two[0], client(hub))
    weights = weights_of(store, two[0])
    stat = weights.stat()
    change_byte(weights)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.verify(checkpoint, verified_for_s=3600) == []  # it was read moments ago, and looks untouched
    assert len(store.verify(checkpoint)) == 1
    assert len(store.verify(checkpoint, verified_for_s=3600)) == 1  # once known, it is not forgotten
    assert store.deliver(two[0], client(hub)).repaired == ("model.safetensors",)


def test_after_a_power_cut_nothing_is_believed_unread(
    hub: HubServer, store: CheckpointStore, two: tuple[Release, Release]
):
    checkpoint = store.ensure(two[0], client(hub))
    weights, note = weights_of(store, two[0]), verification_path(Path(checkpoint.directory))
    before = note.read_text()
    weights.chmod(0o644)
    weights.write_bytes(bytes(weights.stat().st_size))  # what was written last never reached the disk
    stamp = Verification.model_validate_json(before).stamps["model.safetensors"]
    os.utime(weights, ns=(stamp[1], stamp[1]))
    assert store.verify(checkpoint, verified_for_s=3600) == []
    note.write_text(before.replace(boot_id(), "of the boot before"))
    assert len(store.verify(checkpoint, verified_for_s=3600)) == 1


def test_where_no_link_leads_the_file_is_copied(
    hub: HubServer, store: CheckpointStore, two: tuple[Release, Release], elsewhere: Path
):
    first = store.ensure(two[0], client(hub))
    moved = elsewhere / two[0].revision.commit_hash
    directory = Path(first.directory)
    moved.mkdir()
    for path in directory.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
        path.unlink()
    directory.rmdir()
    directory.symlink_to(moved)  # as an operator does who moves an old checkpoint to another disk
    second = store.deliver(two[1], client(hub))
    assert second.reused_bytes == len(weights_of(store, two[1]).read_bytes())
    assert asked(hub) == 1
    assert not weights_of(store, two[1]).samefile(moved / "model.safetensors")
    assert store.verify(second.checkpoint) == []
    assert {p.name for p in directory.parent.rglob("*") if ".copy" in p.name} == set()
    with pytest.raises(DiskFull):  # a copy does need room
        third = two[1].model_copy(update={"revision": two[1].revision.model_copy(update={"commit_hash": "3" * 40})})
        for path in (weights_of(store, two[1]),):
            path.unlink()
        CheckpointStore(store.root, free_bytes=lambda _: 5_000).ensure(third, client(hub))


def test_a_file_is_placed_whole_on_another_filesystem(tmp_path: Path, elsewhere: Path):
    source = elsewhere / "source"
    source.write_bytes(WEIGHTS)
    with pytest.raises(OSError, match="cross-device"):
        os.link(source, tmp_path / "link")
    (tmp_path / "target").write_text("what was there before")
    place(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == WEIGHTS
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
