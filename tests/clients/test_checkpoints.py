"""The checkpoint store against a real server: what it takes, what it refuses, what it checks."""

import hashlib
import json
import struct
from pathlib import Path

import pytest

from modelops_dagster.clients.checkpoints import MANIFEST_NAME, CheckpointStore
from modelops_dagster.clients.checkpoints.digests import read_safetensors_header
from modelops_dagster.domain.errors import (
    IntegrityError,
    NoWeights,
    UnsafeCheckpoint,
)
from modelops_dagster.domain.hub import RepoFile
from modelops_dagster.services.hub_server import HubServer
from tests.fakes.hub import change_byte, client, downloads, noise, released, safetensors, write_repo

BIG = noise(12_000_000)


def test_a_checkpoint_holds_the_released_bytes_and_what_config_says(
    hub: HubServer, store: CheckpointStore, tmp_path: Path
):
    source = write_repo(tmp_path / "a", weights=BIG)
    release = released(hub, source)
    hub.faults.only, hub.faults.bytes_per_s = "model.safetensors", 12e6
    seen: list[tuple[int, int]] = []
    checkpoint = store.ensure(release, client(hub), lambda done, total: seen.append((done, total)))
    directory = Path(checkpoint.directory)
    assert directory == store.root / "acme" / "one" / release.revision.commit_hash
    manifest = json.loads((directory / MANIFEST_NAME).read_text())
    for path in source.iterdir():
        assert (directory / path.name).read_bytes() == path.read_bytes()
    assert {f["path"]: f["sha256"] for f in manifest["files"]} == {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in source.iterdir()
    }
    assert (checkpoint.max_context, checkpoint.architectures) == (2048, ("LlamaForCausalLM",))
    assert checkpoint.has_chat_template and checkpoint.scheme == "raw"
    assert checkpoint.size_bytes == sum(p.stat().st_size for p in source.iterdir())
    assert seen[-1] == (checkpoint.size_bytes, checkpoint.size_bytes)
    assert len({done for done, _ in seen}) >= 8  # a second's transfer, told ten times a second
    assert store.load(release.revision) == checkpoint
    assert store.verify(checkpoint) == []
    commit_hash = release.revision.commit_hash
    assert sorted(p.name for p in directory.parent.iterdir()) == [commit_hash, f"{commit_hash}.verified"]
    assert {p.stat().st_mode & 0o777 for p in directory.iterdir()} == {0o444}


def test_a_second_call_asks_the_hub_for_nothing(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a"))
    first = store.ensure(release, client(hub))
    before = len(hub.faults.requests)
    assert store.ensure(release, client(hub)) == first
    assert len(hub.faults.requests) == before


def test_only_what_an_engine_reads_is_fetched(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    source = write_repo(tmp_path / "a")
    for name in ("pytorch_model.bin", "modeling_x.py", "model.gguf", "consolidated.safetensors", "picture.png"):
        (source / name).write_bytes(safetensors(name[:4].encode()))
    for name in ("original/consolidated.safetensors", "onnx/model.json"):
        (source / name).parent.mkdir()
        (source / name).write_bytes(safetensors(b"abcd"))
    (source / "chat_template.jinja").write_text("{{ messages }}")
    checkpoint = store.ensure(released(hub, source), client(hub))
    assert {p.name for p in Path(checkpoint.directory).rglob("*")} == {
        *("README.md", "chat_template.jinja", "config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", MANIFEST_NAME),
    }


def test_a_re_upload_is_another_checkpoint_beside_the_first(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    old = released(hub, write_repo(tmp_path / "a", weights=b"old!"))
    new = released(hub, write_repo(tmp_path / "b", weights=b"new!"))
    assert old.revision != new.revision
    for release, content in ((new, b"new!"), (old, b"old!")):
        got = store.ensure(release, client(hub))
        assert (Path(got.directory) / "model.safetensors").read_bytes() == safetensors(content)
    digests = [c.digest for r in (old, new) if (c := store.load(r.revision)) is not None]
    assert len(set(digests)) == 2


# ---- what is refused before anything is fetched


def test_a_repository_without_safetensors_names_what_it_has(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    source = write_repo(tmp_path / "a")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    (source / "model.gguf").write_bytes(b"GGUF")
    release = released(hub, source)
    with pytest.raises(NoWeights, match="found: GGUF, PyTorch pickle") as caught:
        store.ensure(release, client(hub))
    assert "acme/one" in caught.value.sentence
    assert not store.root.exists()


@pytest.mark.parametrize("indexed", [False, True])
def test_missing_shards_cost_no_weights(hub: HubServer, store: CheckpointStore, tmp_path: Path, indexed: bool):
    source = write_repo(tmp_path / "a")
    name = "model.safetensors" if indexed else "model-00001-of-00002.safetensors"
    (source / "model.safetensors").rename(source / name)
    other = "part-two.safetensors" if indexed else "model-00002-of-00002.safetensors"
    index = {"metadata": {"total_size": 8}, "weight_map": {"w": name, "v": other}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(NoWeights, match=other):
        store.ensure(released(hub, source), client(hub))
    assert not any("00001-of" in r or "/model.safetensors " in f"{r} " for r in downloads(hub))


def test_an_adapter_is_not_a_model(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    source = write_repo(tmp_path / "a")
    (source / "config.json").rename(source / "adapter_config.json")
    with pytest.raises(NoWeights, match=r"no config\.json"):
        store.ensure(released(hub, source), client(hub))


def test_code_from_the_repository_is_never_taken(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a", config={"auto_map": {"AutoModel": "modeling.X"}}))
    with pytest.raises(UnsafeCheckpoint, match="auto_map"):
        store.ensure(release, client(hub))


@pytest.mark.parametrize("path", ["../../escape.json", "/etc/escape.json", "a/../../b.json", "..\\escape.json"])
def test_a_path_outside_the_checkpoint_is_refused(hub: HubServer, store: CheckpointStore, tmp_path: Path, path: str):
    release = released(hub, write_repo(tmp_path / "a"))
    release = release.model_copy(update={"files": (*release.files, RepoFile(path=path, size_bytes=1))})
    with pytest.raises(UnsafeCheckpoint, match="outside"):
        store.ensure(release, client(hub))


def test_a_link_inside_the_store_is_not_followed(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    source = write_repo(tmp_path / "a")
    (source / "sub").mkdir()
    (source / "sub" / "extra.json").write_text("{}")
    release = released(hub, source)
    partial = store.directory(release.revision).with_name(f"{release.revision.commit_hash}.partial")
    partial.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (partial / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeCheckpoint, match="symbolic link"):
        store.ensure(release, client(hub))
    assert list((tmp_path / "elsewhere").iterdir()) == []


# ---- bytes that are wrong


def test_a_corrupted_file_is_fetched_once_more(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a", weights=noise(100_000)))
    hub.faults.only, hub.faults.corrupt = "model.safetensors", 1
    checkpoint = store.ensure(release, client(hub))
    assert store.verify(checkpoint) == []
    assert sum("model.safetensors" in r for r in downloads(hub)) == 2


def test_a_file_that_stays_wrong_is_named_and_not_kept(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    source = write_repo(tmp_path / "a", weights=noise(100_000))
    release = released(hub, source)
    hub.faults.only, hub.faults.corrupt = "model.safetensors", 2
    with pytest.raises(IntegrityError) as caught:
        store.ensure(release, client(hub))
    expected = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    assert f"expected sha256 {expected}, got " in caught.value.sentence
    assert "model.safetensors of acme/one" in caught.value.sentence
    assert not list(store.root.rglob("model.safetensors*"))
    assert store.load(release.revision) is None
    before = len(downloads(hub))
    assert store.verify(store.ensure(release, client(hub))) == []  # the Hub got well; the good files are still there
    assert len(downloads(hub)) - before == 1


def test_a_small_file_is_checked_by_its_git_blob(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a"))
    hub.faults.only, hub.faults.corrupt = "tokenizer.json", 9
    with pytest.raises(IntegrityError, match=r"tokenizer\.json.*expected git blob"):
        store.ensure(release, client(hub))


def test_without_a_digest_nothing_is_believed(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a"))
    bare = tuple(f.model_copy(update={"sha256": None, "git_sha1": None}) for f in release.files)
    with pytest.raises(IntegrityError, match="no digest"):
        store.ensure(release.model_copy(update={"files": bare}), client(hub))


def test_verify_names_every_problem(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    checkpoint = store.ensure(released(hub, write_repo(tmp_path / "a", weights=noise(1000))), client(hub))
    directory = Path(checkpoint.directory)
    (directory / "tokenizer.json").unlink()
    (directory / "README.md").unlink()
    (directory / "README.md").write_text("longer")
    (directory / "stranger.py").write_text("import os")
    change_byte(directory / "model.safetensors")
    problems = store.verify(checkpoint)
    assert [p.split(":")[0] for p in problems] == ["README.md", "model.safetensors", "tokenizer.json", "stranger.py"]
    assert "expected sha256" in problems[1]
    (directory / MANIFEST_NAME).unlink()
    assert "not whole" in store.verify(checkpoint)[0]


def test_a_damaged_checkpoint_is_repaired_from_its_good_files(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    release = released(hub, write_repo(tmp_path / "a", weights=noise(1000)))
    directory = Path(store.ensure(release, client(hub)).directory)
    (directory / "tokenizer.json").unlink()
    before = len(downloads(hub))
    assert store.verify(store.ensure(release, client(hub))) == []
    assert [r.split("/")[-1] for r in downloads(hub)[before:]] == ["tokenizer.json"]
    (directory / MANIFEST_NAME).unlink()  # as if killed between the rename and the manifest
    (directory / "stranger.py").write_text("import os")
    assert store.load(release.revision) is None
    before = len(downloads(hub))
    assert store.verify(store.ensure(release, client(hub))) == []
    assert len(downloads(hub)) == before
    assert not (directory / "stranger.py").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "header of 0 bytes"),
        (b"\xff" * 16, "header of"),
        (struct.pack("<Q", 100) + b"{}", "truncated"),
        (struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        (struct.pack("<Q", 2) + b"{x", "not JSON"),
        (safetensors(b"abcd")[:-1], "truncated"),
        (safetensors(b"abcd") + b"x", "end at byte 4 of 5"),
        (safetensors(b"abcd").replace(b"[4]", b"[5]"), "does not fit its shape"),
        (safetensors(b"abcd").replace(b"[0, 4]", b"[4, 0]"), "lies at bytes 4 to 0"),
        (safetensors(b"abcd").replace(b"[0, 4]", b"[-1,4]"), "data_offsets"),
    ],
)
def test_an_unsound_safetensors_file_is_told(tmp_path: Path, content: bytes, words: str):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError, match=words.replace("[", r"\[")) as caught:
        read_safetensors_header(tmp_path / "x.safetensors")
    assert "x.safetensors" in caught.value.sentence


def test_a_release_that_was_published_broken_is_told(hub: HubServer, store: CheckpointStore, tmp_path: Path):
    source = write_repo(tmp_path / "a", weights=noise(1000))
    (source / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(IntegrityError, match="truncated"):
        store.ensure(released(hub, source), client(hub))
