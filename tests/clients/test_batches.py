"""Batches on disk: whose they are, what a kill leaves, and who may answer them."""

import json
import stat
from pathlib import Path

import pytest

from modelops_dagster.clients.batches import BatchStore
from modelops_dagster.domain.batch import answer_line
from modelops_dagster.domain.errors import InvalidSpec

ME, YOU = "1" * 16, "2" * 16


def content(n: int) -> bytes:
    lines = [{"custom_id": f"r{i}", "url": "/v1/chat/completions", "body": {"model": "m"}} for i in range(n)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@pytest.fixture
def store(tmp_path: Path) -> BatchStore:
    store = BatchStore(tmp_path)
    store.prepare()
    return store


def test_a_batch_and_its_files_are_its_keys_and_nobody_elses(store: BatchStore) -> None:
    file = store.add_file(ME, "in.jsonl", content(3))
    batch = store.submit(ME, file.file_id)
    assert (batch.total, batch.endpoint, batch.state) == (3, "/v1/chat/completions", "in_progress")
    assert store.get(batch.batch_id, ME) == batch
    assert store.get(batch.batch_id, YOU) is None
    assert store.file(YOU, file.file_id) is None
    assert store.files(YOU) == []
    assert {f.file_id for f in store.files(ME)} == {file.file_id, batch.output_file_id, batch.error_file_id}
    assert store.list(YOU) == []
    with pytest.raises(InvalidSpec, match="no file"):
        store.submit(YOU, file.file_id)
    assert stat.S_IMODE(store.file_path(file.file_id).stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["../keys/x", "file-1", "", "batch-" + "g" * 24])
def test_a_name_that_is_none_finds_nothing(store: BatchStore, name: str) -> None:
    assert store.file(ME, name) is None
    assert store.get(name) is None


def test_a_file_that_does_not_hold_makes_no_batch(store: BatchStore) -> None:
    file = store.add_file(ME, "in.jsonl", content(1) + b"{\n")
    with pytest.raises(InvalidSpec, match="line 2"):
        store.submit(ME, file.file_id)
    good = store.add_file(ME, "in.jsonl", content(1))
    with pytest.raises(InvalidSpec, match="the batch to /v1/embeddings"):
        store.submit(ME, good.file_id, endpoint="/v1/embeddings")
    assert store.list() == []


def test_an_answer_that_a_kill_cut_short_is_none(store: BatchStore) -> None:
    batch = store.submit(ME, store.add_file(ME, "in.jsonl", content(3)).file_id)
    first, second, _ = store.requests(batch.input_file_id)
    whole = answer_line(first, answer_id="1", status=200, body={})
    store.append(batch.output_file_id, [whole, answer_line(second, answer_id="2", status=200, body={})[:30]])
    assert store.answered(batch) == ({"r0"}, set())
    assert store.file_path(batch.output_file_id).read_text() == whole


def test_a_batch_that_ended_stays_as_it_is(store: BatchStore) -> None:
    batch = store.submit(ME, store.add_file(ME, "in.jsonl", content(1)).file_id)
    assert store.change(batch.batch_id, state="completed", completed=1).state == "completed"
    assert store.cancel(batch.batch_id).state == "completed"
    with pytest.raises(InvalidSpec, match="no batch"):
        store.cancel("batch-" + "0" * 24)


def test_one_runner_at_a_time(store: BatchStore, tmp_path: Path) -> None:
    with store.running() as mine, BatchStore(tmp_path).running() as also:
        assert (mine, also) == (True, False)
    with BatchStore(tmp_path).running() as later:
        assert later
