"""The key store: what is kept of a key, who is let in, and what a broken store does."""

import stat
from pathlib import Path

import pytest

from modelops_dagster.clients.keys import KeyStore, operator_key
from modelops_dagster.domain.errors import IntegrityError, InvalidSpec


def test_a_key_is_found_by_itself_and_kept_nowhere(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, record = store.create("demo", tags=["preview", "preview"], models=["acme/tiny"])
    assert key.startswith("sk-mo-")
    assert len(key) == len("sk-mo-") + 43
    assert store.lookup(key) == record
    assert (record.tags, record.models) == (("preview",), ("acme/tiny",))
    assert store.lookup(key + "x") is None
    assert store.list() == (record,)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert key.removeprefix("sk-mo-") not in path.read_text()
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700


def test_a_revoked_key_is_nobodys_at_once_and_stays_in_the_list(tmp_path: Path) -> None:
    store, other_process = KeyStore(tmp_path), KeyStore(tmp_path)
    key, record = store.create("demo")
    assert other_process.lookup(key) is not None
    revoked = store.revoke(record.key_id)
    assert other_process.lookup(key) is None
    assert store.list() == (revoked,)
    assert store.revoke(record.key_id) == revoked


@pytest.mark.parametrize("key_id", ["nope", "../../etc/passwd", ""])
def test_revoking_what_is_not_there_is_a_mistake(tmp_path: Path, key_id: str) -> None:
    store = KeyStore(tmp_path)
    store.prepare()
    with pytest.raises(InvalidSpec, match="there is no key"):
        store.revoke(key_id)


@pytest.mark.parametrize("kind", [{"tags": ["shadow"]}, {"tags": ["!default"]}, {"models": ["../x"]}, {"alias": ""}])
def test_a_key_that_cannot_be_is_not_made(tmp_path: Path, kind: dict[str, object]) -> None:
    with pytest.raises(InvalidSpec):
        KeyStore(tmp_path).create(**{"alias": "demo", **kind})  # type: ignore[arg-type]
    assert KeyStore(tmp_path).list() == ()


def test_a_store_that_cannot_be_read_raises_and_never_says_unknown(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, record = store.create("demo")
    path = tmp_path / "keys" / f"{record.key_id}.json"
    path.write_text("{")
    with pytest.raises(IntegrityError, match="is not a key record"):
        store.lookup(key)
    with pytest.raises(IntegrityError):
        store.list()
    path.write_text(record.model_copy(update={"key_id": "0" * 16}).model_dump_json())
    with pytest.raises(IntegrityError, match="remove it"):
        store.lookup(key)
    (tmp_path / "keys").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        store.lookup(key)
    (tmp_path / "keys").write_text("a file where the folder was")
    with pytest.raises(NotADirectoryError):
        store.lookup(key)


def test_a_record_under_another_keys_name_does_not_open_the_door(tmp_path: Path) -> None:
    store = KeyStore(tmp_path)
    key, record = store.create("demo")
    forged = record.model_copy(update={"key_sha256": "0" * 64})
    (tmp_path / "keys" / f"{record.key_id}.json").write_text(forged.model_dump_json())
    assert store.lookup(key) is None


def test_the_operators_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "gateway_operator_key"
    key = operator_key(path)
    assert operator_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    path.write_text("\n")
    with pytest.raises(IntegrityError, match="is empty"):
        operator_key(path)
