"""Releases that are broken, hostile or withheld: each ends in one sentence, and nothing half-made is ever used."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelops_dagster.clients.checkpoints import AllowList, CheckpointStore
from modelops_dagster.clients.checkpoints.manifests import read_manifest
from modelops_dagster.clients.checkpoints.verification import bad_values
from modelops_dagster.domain.allowances import Allowance, parse_revision
from modelops_dagster.domain.architectures import Support
from modelops_dagster.domain.checkpoints import Manifest, ManifestFile
from modelops_dagster.domain.errors import (
    DiskFull,
    HubUnavailable,
    IntegrityError,
    InvalidSpec,
    NoTokenizer,
    NoWeights,
    RepoGated,
    UnsafeCheckpoint,
    UserError,
)
from modelops_dagster.domain.hub import ModelRevision, Release
from modelops_dagster.domain.preflight import Preflight
from modelops_dagster.services.hub_server import HubServer, RepoSettings, publish
from tests.fakes.hub import client, downloads, noise, released, safetensors, write_repo

INDEX = "model.safetensors.index.json"


@pytest.fixture
def allow_list(tmp_path: Path) -> AllowList:
    return AllowList(tmp_path / "allow.yaml")


@pytest.fixture
def store(tmp_path: Path, allow_list: AllowList) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", allow_list)


def sharded(folder: Path, index: Any) -> Path:
    """Two shards, `a` in the first and `b` in the second, and an index that says what it likes."""
    write_repo(folder)
    (folder / "model.safetensors").unlink()
    for n, name in enumerate("ab", start=1):
        (folder / f"model-0000{n}-of-00002.safetensors").write_bytes(safetensors(b"1234", name))
    (folder / INDEX).write_text(index if isinstance(index, str) else json.dumps(index))
    return folder


def shard(n: int) -> str:
    return f"model-0000{n}-of-00002.safetensors"


# ---- the index


def test_a_sound_index_is_taken(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    source = sharded(tmp_path / "a", {"weight_map": {"a": shard(1), "b": shard(2)}})
    assert store.verify(store.ensure(released(hub, source), client(hub))) == []


@pytest.mark.parametrize(
    ("index", "error", "words"),
    [
        ({"weight_map": {"a": shard(2), "b": shard(2)}}, IntegrityError, "which they do not have: a \\(model-00002"),
        ({"weight_map": {"a": shard(1), "c": shard(2)}}, IntegrityError, "do not have: c"),
        ({"weight_map": {"a": "../../a.safetensors"}}, UnsafeCheckpoint, "outside"),
        ({"weight_map": {"a": "other.safetensors"}}, NoWeights, "other.safetensors"),
        ({"weight_map": {"a": 1}}, IntegrityError, "no weight_map"),
        ({"weight_map": [1]}, IntegrityError, "no weight_map"),
        ([], IntegrityError, "no weight_map"),
        ("{", IntegrityError, "not JSON"),
        ("[" * 100_000, IntegrityError, "not JSON"),
    ],
)
def test_a_wrong_index_is_told(
    hub: HubServer, store: CheckpointStore, tmp_path: Path, index: Any, error: type[Exception], words: str
):
    release = released(hub, sharded(tmp_path / "a", index))
    with pytest.raises(error, match=words):
        store.ensure(release, client(hub))
    assert store.load(release.revision) is None


# ---- what is missing, withheld, or goes away


def test_weights_without_a_tokenizer_cost_nothing(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    source = write_repo(tmp_path / "a")
    (source / "tokenizer.json").unlink()
    release = released(hub, source)
    before = len(downloads(hub))
    with pytest.raises(NoTokenizer, match=r"no tokenizer.*newer commit"):
        store.ensure(release, client(hub))
    assert len(downloads(hub)) == before
    (source / "vocab.txt").write_text("a")
    assert store.ensure(released(hub, source), client(hub))


def test_a_repository_that_is_gated_meanwhile(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    source = write_repo(tmp_path / "a")
    release = released(hub, source)
    publish(hub.root, "acme/one", source, settings=RepoSettings(gated="manual"))
    with pytest.raises(RepoGated, match="accept the licence"):
        store.ensure(release, client(hub))
    assert store.load(release.revision) is None


def test_a_file_that_the_hub_lists_and_does_not_have(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a", weights=noise(100_000)))
    weights = next(f for f in release.files if f.path == "model.safetensors")
    assert weights.sha256 is not None
    kept = hub.root / ".objects" / weights.sha256[:2] / weights.sha256
    kept.rename(tmp_path / "taken away")
    with pytest.raises(HubUnavailable, match=r"lists a file of acme/one@[0-9a-f]+ that it does not have"):
        store.ensure(release, client(hub))
    assert store.load(release.revision) is None
    assert list(store.root.rglob("config.json"))  # what came is kept for the next try
    (tmp_path / "taken away").rename(kept)
    assert store.verify(store.ensure(release, client(hub))) == []


# ---- a disk that is really full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of four megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a filesystem cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_real_disk_that_fills_up_in_the_middle(hub: HubServer, small_disk: Path, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a", weights=noise(3_500_000)))
    other = small_disk / "of somebody else"
    other.write_bytes(b"x" * 2_000_000)
    hopeful = CheckpointStore(small_disk / "checkpoints", free_bytes=lambda _: 1 << 40)  # another writer was faster
    with pytest.raises(DiskFull, match="filled up"):
        hopeful.ensure(release, client(hub))
    store = CheckpointStore(small_disk / "checkpoints")
    assert store.load(release.revision) is None
    kept = next(store.root.rglob("*.part")).stat().st_size
    assert kept > 1_000_000
    with pytest.raises(DiskFull, match="more bytes in"):
        store.ensure(release, client(hub))
    other.unlink()
    assert store.verify(store.ensure(release, client(hub))) == []
    assert f"[bytes={kept}-]" in downloads(hub)[-1]


def test_who_may_only_read_may_verify(hub: HubServer, small_disk: Path, tmp_path: Path):
    store = CheckpointStore(small_disk / "checkpoints")
    release = released(hub, write_repo(tmp_path / "a"))
    checkpoint = store.ensure(release, client(hub))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert store.verify(checkpoint) == []
    with pytest.raises(UserError, match="cannot be written"):
        store.ensure(released(hub, write_repo(tmp_path / "b", weights=b"5678")), client(hub))


# ---- code of the repository


def with_code(folder: Path, where: str = "config.json") -> Path:
    write_repo(folder)
    stated = {"auto_map": {"AutoModel": "modeling_own.Own"}}
    if where == "nested":
        where, stated = "config.json", {"vision_config": {"layers": [stated]}}
    path = folder / where
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | stated))
    (folder / "modeling_own.py").write_text("raise SystemExit('read me first')\n")
    return folder


def allowance(revision: ModelRevision) -> Allowance:
    return Allowance(revision=revision, reason="read by two of us", by="ada", at=datetime(2026, 5, 1, tzinfo=UTC))


@pytest.mark.parametrize("where", ["config.json", "nested", "tokenizer_config.json", "preprocessor_config.json"])
def test_code_is_refused_wherever_it_is_asked_for(hub: HubServer, store: CheckpointStore, tmp_path: Path, where: str):
    release = released(hub, with_code(tmp_path / "a", where))
    with pytest.raises(UnsafeCheckpoint) as caught:
        store.ensure(release, client(hub))
    asked = f"modelops models allow acme/one@{release.revision.commit_hash} --remote-code --reason TEXT"
    assert asked in caught.value.sentence
    assert store.load(release.revision) is None
    assert not any("model.safetensors" in r for r in downloads(hub))


def known(release: Release) -> Release:
    """The same, after a preflight that found an engine which knows it by itself."""
    found = Support(rung="vllm", engine_version="1+a", kind="native", sentence="It is known.")
    return release.model_copy(update={"preflight": Preflight(supports=(found,))})


@pytest.mark.parametrize(
    "where", ["config.json", "nested", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"]
)
def test_code_that_no_engine_needs_is_left_where_it_is(
    hub: HubServer, store: CheckpointStore, tmp_path: Path, where: str
):
    release = known(released(hub, with_code(tmp_path / "a", where)))
    checkpoint = store.ensure(release, client(hub))
    assert not checkpoint.remote_code
    assert not list(Path(checkpoint.directory).rglob("*.py"))
    assert not any(".py" in r for r in downloads(hub))


def test_what_no_engine_was_asked_about_is_refused_all_the_same(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = known(released(hub, with_code(tmp_path / "a", "adapter_config.json")))
    with pytest.raises(UnsafeCheckpoint, match=r"in its adapter_config\.json"):
        store.ensure(release, client(hub))
    absent = Support(rung="vllm", kind="native", sentence="It would be known.")  # an engine that is not installed
    config = released(hub, with_code(tmp_path / "b"))
    with pytest.raises(UnsafeCheckpoint):
        store.ensure(config.model_copy(update={"preflight": Preflight(supports=(absent,))}), client(hub))


def test_one_commit_is_allowed_and_the_next_is_not(
    hub: HubServer, store: CheckpointStore, allow_list: AllowList, tmp_path: Path
):
    source = with_code(tmp_path / "a")
    release = released(hub, source)
    allow_list.allow(allowance(release.revision))
    checkpoint = store.ensure(release, client(hub))
    directory = Path(checkpoint.directory)
    assert checkpoint.remote_code and (directory / "modeling_own.py").read_text().startswith("raise SystemExit")
    assert store.load(release.revision) == checkpoint
    (source / "modeling_own.py").write_text("something else\n")
    with pytest.raises(UnsafeCheckpoint):
        store.ensure(released(hub, source), client(hub))
    allow_list.withdraw(release.revision, "bob", datetime(2026, 5, 2, tzinfo=UTC))
    with pytest.raises(UnsafeCheckpoint):
        store.ensure(release, client(hub))
    entry = allow_list.entries()[0]
    assert (entry.by, entry.reason, entry.withdrawn_by) == ("ada", "read by two of us", "bob")


def test_an_allowance_that_comes_later_brings_the_code(
    hub: HubServer, store: CheckpointStore, allow_list: AllowList, tmp_path: Path
):
    source = write_repo(tmp_path / "a")
    (source / "own_tokens.py").write_text("")
    release = released(hub, source)
    first = store.ensure(release, client(hub))
    assert not first.remote_code and not (Path(first.directory) / "own_tokens.py").exists()
    allow_list.allow(allowance(release.revision))
    second = store.deliver(release, client(hub))
    assert second.checkpoint.remote_code and (Path(first.directory) / "own_tokens.py").exists()
    assert second.checkpoint.digest != first.digest
    allow_list.withdraw(release.revision, "bob", datetime(2026, 5, 2, tzinfo=UTC))
    third = store.ensure(release, client(hub))
    assert (third.digest, third.remote_code) == (first.digest, False)
    assert not (Path(first.directory) / "own_tokens.py").exists()


def test_a_list_of_allowances_that_cannot_be_read_allows_nothing(
    hub: HubServer, store: CheckpointStore, allow_list: AllowList, tmp_path: Path
):
    release = released(hub, with_code(tmp_path / "a"))
    for content in ("[", "- repo_id: acme/one\n", "1"):
        allow_list.path.write_text(content)
        with pytest.raises(IntegrityError, match="not a list of allowances"):
            store.ensure(release, client(hub))


@pytest.mark.parametrize("text", ["acme/one", "acme/one@main", "acme/one@" + "a" * 39, "one@" + "a" * 40, "@"])
def test_only_a_commit_can_be_allowed(text: str):
    with pytest.raises(InvalidSpec):
        parse_revision(text)


# ---- links, and numbers that are none


def test_a_file_that_became_a_link_is_damage(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a"))
    checkpoint = store.ensure(release, client(hub))
    weights = Path(checkpoint.directory) / "model.safetensors"
    (tmp_path / "aside").write_bytes(weights.read_bytes())
    weights.unlink()
    weights.symlink_to(tmp_path / "aside")
    assert store.verify(checkpoint) == ["model.safetensors: missing"]
    assert store.deliver(release, client(hub)).repaired == ("model.safetensors",)
    assert not weights.is_symlink()


def test_the_tensors_with_numbers_that_are_none_are_named(tmp_path: Path):
    good, bad = np.zeros(3_000_000, "<f4"), np.zeros(3_000_000, "<f4")
    bad[[7, 2_999_999]] = np.nan
    bad[1_500_000] = np.inf
    integers = np.full(4, 0x7FC0_0000, "<i4")  # the bits of a NaN, and a good number
    arrays = {"good": (good, "F32"), "bad": (bad, "F32"), "integers": (integers, "I32")}
    offset, entries = 0, {}
    for name, (array, dtype) in arrays.items():
        span = [offset, offset + array.nbytes]
        entries[name] = {"dtype": dtype, "shape": [array.size], "data_offsets": span}
        offset += array.nbytes
    header = json.dumps(entries).encode()
    content = len(header).to_bytes(8, "little") + header + b"".join(a.tobytes() for a, _ in arrays.values())
    (tmp_path / "model.safetensors").write_bytes(content)
    revision = ModelRevision(repo_id="acme/one", commit_hash="1" * 40)
    file = ManifestFile(path="model.safetensors", size_bytes=len(content), sha256="")
    seen: list[int] = []
    manifest = Manifest(revision=revision, source="a test", files=(file,))
    found = bad_values(tmp_path, manifest, 2, lambda done, total: seen.append(done))
    assert {name: tuple(count) for name, count in found.items()} == {"model.safetensors: bad": (2, 1)}
    assert seen[-1] == len(content)


def test_a_whole_checkpoint_says_where_it_came_from(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    checkpoint = store.ensure(released(hub, write_repo(tmp_path / "a")), client(hub))
    manifest = read_manifest(Path(checkpoint.directory))
    assert manifest is not None
    assert (manifest.source, manifest.remote_code) == (f"{hub.url}/acme/one", False)
