"""Deleting checkpoints that nobody uses, with real stores, routes and endpoint records."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from modelops_dagster.clients.checkpoints import MANIFEST_NAME, CheckpointStore
from modelops_dagster.clients.checkpoints.inventory import Inventory, Pruned
from modelops_dagster.clients.checkpoints.manifests import verification_path, write_manifest
from modelops_dagster.clients.checkpoints.usage import checkpoint_users, prune_store
from modelops_dagster.clients.endpoints import EndpointRecord, RecordStore
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.checkpoints import Checkpoint, Manifest, ManifestFile
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointState
from modelops_dagster.domain.errors import IntegrityError, InvalidSpec
from modelops_dagster.domain.gateway import Route, RouteTarget
from modelops_dagster.domain.retention import RetentionPolicy
from modelops_dagster.services.hub_server import HubServer
from tests.fakes.hub import client, noise, released, write_repo

NOW = datetime.now(UTC)
NOTHING_KEPT = RetentionPolicy(keep=0, older_than_s=0)
WEIGHTS = noise(200_000)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def fetch(hub: HubServer, home: Path, n: int, *, weights: bytes = b"") -> Checkpoint:
    """The n-th revision of one repository, a day younger than the one before."""
    source = write_repo(hub.root.parent / f"source-{n}", weights=weights or noise(1000, seed=n), config={"n": n})
    checkpoint = CheckpointStore(home / "checkpoints").ensure(released(hub, source), client(hub))
    age(checkpoint, days=100 - n)
    return checkpoint


def age(checkpoint: Checkpoint, days: float) -> None:
    """Make a checkpoint look as if it had been fetched so many days ago, and not been asked for since."""
    manifest = Path(checkpoint.directory) / MANIFEST_NAME
    os.utime(manifest, (time.time() - days * 86400,) * 2)
    verification_path(manifest.parent).unlink()


def run_endpoint(home: Path, checkpoint: Checkpoint, name: str, *, desired: str = "Running") -> None:
    spec = EndpointSpec(
        name=name,
        checkpoint=checkpoint.directory,
        checkpoint_digest=checkpoint.digest,
        engine="fake",
        served_model_name=name,
    )
    state = EndpointState.RUNNING if desired == "Running" else EndpointState.STOPPED
    record = EndpointRecord.model_validate({"spec": spec, "desired": desired, "state": state, "since": NOW})
    RecordStore(home / "controller" / "endpoints").save(record)


def put_route(home: Path, checkpoint: Checkpoint, endpoint: str) -> None:
    target = RouteTarget(
        endpoint=endpoint,
        url="http://127.0.0.1:1/v1",
        served_model_name=endpoint,
        commit_hash=checkpoint.revision.commit_hash,
    )
    RouteStore(home / "gateway").put(Route(alias="acme/one", targets=(target,), updated_at=NOW), 0)


def deleted(done: Pruned) -> set[str]:
    return set(done.deleted)


def test_the_oldest_go_and_the_bytes_are_really_free(hub: HubServer, home: Path):
    old, middle, new = (fetch(hub, home, n) for n in range(3))
    policy = RetentionPolicy(keep=2, older_than_s=86400.0)
    rehearsal = prune_store(home, policy, NOW, dry_run=True)
    assert deleted(rehearsal) == {old.directory} and Path(old.directory).is_dir()
    size_on_disk = sum(p.stat().st_size for p in Path(old.directory).iterdir())
    done = prune_store(home, policy, NOW, dry_run=False)
    assert deleted(done) == {old.directory}
    assert done.freed_bytes == rehearsal.freed_bytes == size_on_disk
    left = {p.name for p in Path(old.directory).parent.iterdir()}
    assert left == {c.revision.commit_hash for c in (middle, new)}
    assert prune_store(home, policy, NOW, dry_run=False).deleted == ()


def test_what_a_route_or_an_endpoint_uses_stays(hub: HubServer, home: Path):
    routed, running, stopped, recordless = (fetch(hub, home, n) for n in range(4))
    run_endpoint(home, running, "runs")
    run_endpoint(home, stopped, "stopped", desired="Stopped")
    run_endpoint(home, routed, "routed", desired="Stopped")
    put_route(home, routed, "routed")
    done = prune_store(home, NOTHING_KEPT, NOW, dry_run=False)
    assert deleted(done) == {stopped.directory, recordless.directory}
    reasons = {d.checkpoint.directory: d.reason for d in done.decisions if d.keep}
    assert reasons == {routed.directory: "used by route acme/one", running.directory: "used by endpoint runs"}


def test_a_route_whose_endpoint_left_no_record_keeps_its_commit(hub: HubServer, home: Path):
    checkpoint = fetch(hub, home, 1)
    put_route(home, checkpoint, "long gone")
    assert prune_store(home, NOTHING_KEPT, NOW, dry_run=False).deleted == ()


def test_what_was_made_from_a_checkpoint_does_not_keep_it(hub: HubServer, home: Path):
    raw = fetch(hub, home, 1)
    made = Path(raw.directory).with_name(f"{raw.revision.commit_hash}-w8a8")
    made.mkdir()
    (made / "config.json").write_text("{}")
    file = ManifestFile(path="config.json", size_bytes=2, sha256="0" * 64)
    write_manifest(made, Manifest(revision=raw.revision, scheme="W8A8", source=raw.digest, files=(file,)))
    run_endpoint(home, raw.model_copy(update={"directory": str(made)}), "quantized")
    put_route(home, raw, "quantized")
    done = prune_store(home, NOTHING_KEPT, NOW, dry_run=False)
    assert deleted(done) == {raw.directory} and made.is_dir()


def test_a_shared_file_frees_nothing_until_its_last_name_goes(hub: HubServer, home: Path):
    first, second = (fetch(hub, home, n, weights=WEIGHTS) for n in range(2))
    policy = RetentionPolicy(keep=1, older_than_s=0)
    done = prune_store(home, policy, NOW, dry_run=False)
    assert deleted(done) == {first.directory} and done.freed_bytes < 10_000
    assert CheckpointStore(home / "checkpoints").verify(second) == []
    last = prune_store(home, NOTHING_KEPT, datetime.now(UTC), dry_run=True)
    assert last.freed_bytes > 200_000


def test_a_pin_holds_until_it_is_taken_away(hub: HubServer, home: Path):
    fetch(hub, home, 1)
    inventory = Inventory(home / "checkpoints")
    stored = inventory.checkpoints()[0]
    inventory.pin(stored, "the demo of June", "ada", NOW)
    done = prune_store(home, NOTHING_KEPT, NOW, dry_run=False)
    assert done.deleted == () and "pinned: the demo of June (ada" in done.decisions[0].reason
    inventory.unpin(stored)
    with pytest.raises(InvalidSpec, match="not pinned"):
        inventory.unpin(stored)
    assert len(prune_store(home, NOTHING_KEPT, NOW, dry_run=False).deleted) == 1


def test_what_was_asked_for_since_it_was_decided_on_stays(hub: HubServer, home: Path):
    checkpoint = fetch(hub, home, 1)
    inventory = Inventory(home / "checkpoints")
    policy = RetentionPolicy(keep=0, older_than_s=86400.0)
    decided = prune_store(home, policy, NOW, dry_run=True).decisions
    assert not decided[0].keep
    assert CheckpointStore(inventory.root).verify(checkpoint) == []
    assert inventory.prune(decided, policy.older_than_s, dry_run=False).deleted == ()
    assert Path(checkpoint.directory).is_dir()


def test_what_killed_fetches_and_deletions_left_goes_too(hub: HubServer, home: Path):
    checkpoint = fetch(hub, home, 1)
    folder = Path(checkpoint.directory).parent
    names = {"a.partial": 99, "b.partial": 99, "c.partial": 1, "d.deleted": 1}
    for name, days in names.items():
        (folder / name).mkdir()
        (folder / name / "weights").write_bytes(b"12345")
        for path in (folder / name / "weights", folder / name):
            os.utime(path, (time.time() - days * 86400,) * 2)
    (folder / "b.claim").write_text("{}")  # somebody is at work
    policy = RetentionPolicy(keep=5, older_than_s=30 * 86400.0)
    done = prune_store(home, policy, NOW, dry_run=False)
    assert {Path(p).name for p in done.leftovers} == {"a.partial", "d.deleted"}
    assert done.freed_bytes == 10
    assert {p.name for p in folder.iterdir()} == {checkpoint.revision.commit_hash, "b.partial", "b.claim", "c.partial"}


def test_when_it_is_not_known_what_is_used_nothing_is_deleted(hub: HubServer, home: Path):
    checkpoint = fetch(hub, home, 1)
    records = home / "controller" / "endpoints"
    records.mkdir(parents=True)
    (records / "torn.json").write_text("{")
    with pytest.raises(IntegrityError, match="nothing was deleted"):
        prune_store(home, NOTHING_KEPT, NOW, dry_run=False)
    assert Path(checkpoint.directory).is_dir()


def test_an_empty_home_has_nothing_to_prune(home: Path):
    done = prune_store(home, NOTHING_KEPT, NOW + timedelta(days=1), dry_run=False)
    assert (done.deleted, done.freed_bytes, checkpoint_users(home)) == ((), 0, [])
