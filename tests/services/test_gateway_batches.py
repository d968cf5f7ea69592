"""Batches through the real gateway: the official client, the command, and a gateway that is killed in the middle."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner

from modelops_dagster.cli.batch import command
from modelops_dagster.clients.batches import BatchStore
from tests.fakes.backend import FakeBackend
from tests.services.gateway_process import ALIAS, PROMPT, Gateway, target


def lines(count: int, **body: Any) -> bytes:
    made = [
        {
            "custom_id": f"request-{i}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": ALIAS, "messages": [{"role": "user", "content": f"{PROMPT} {i}"}], **body},
        }
        for i in range(count)
    ]
    return "".join(json.dumps(line) + "\n" for line in made).encode()


def test_the_official_client_submits_follows_and_reads_a_batch(gateway: Gateway, alpha: FakeBackend) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key(), max_retries=0)
    file = client.files.create(file=("in.jsonl", lines(12)), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"for": "test"}
    )
    assert batch.metadata == {"for": "test"}
    deadline = time.monotonic() + 120
    while batch.status not in ("completed", "failed", "expired"):
        assert time.monotonic() < deadline
        time.sleep(0.3)
        batch = client.batches.retrieve(batch.id)
    assert batch.request_counts is not None
    assert (batch.status, batch.request_counts.completed, batch.error_file_id) == ("completed", 12, None)
    assert batch.output_file_id is not None
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert Counter(a["custom_id"] for a in answers) == {f"request-{i}": 1 for i in range(12)}
    assert {a["response"]["body"]["choices"][0]["message"]["content"] for a in answers} == {"alpha t1 t2 t3 t4"}
    (row,) = gateway.rows(answers[0]["response"]["request_id"])
    assert (row["batch"], row["key_alias"], row["completion_tokens"]) == (True, "tester", 5)
    assert [b.id for b in client.batches.list()] == [batch.id]
    stranger = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key(), max_retries=0)
    for look in (lambda: stranger.batches.retrieve(batch.id), lambda: stranger.files.retrieve(file.id)):
        with pytest.raises(openai.NotFoundError):
            look()
    with pytest.raises(openai.BadRequestError, match="line 1"):
        bad = client.files.create(file=("in.jsonl", b"{\n"), purpose="batch")
        client.batches.create(input_file_id=bad.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert client.files.delete(file.id).deleted


def test_the_command_submits_and_waits_and_says_what_failed(
    gateway: Gateway, alpha: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELOPS_HOME", str(gateway.home))
    key, record = gateway.keys.create("batches", models=["acme/new"], tags=["preview"])
    gateway.given.append(key)
    file, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_bytes(lines(3))
    told = CliRunner().invoke(
        command,
        ["submit", str(file), "--alias", "acme/new", "--key", record.key_id, "--output", str(output), "--json"],
    )
    assert told.exit_code == 0, told.output
    document = json.loads(told.stdout)
    assert (document["state"], document["completed"], document["failed"]) == ("completed", 3, 0)
    assert len(output.read_text().splitlines()) == 3
    refused = CliRunner().invoke(command, ["submit", str(file), "--key", record.key_id, "--json"])
    assert refused.exit_code == 1, "the key may not call the model that the file names"
    batch = json.loads(refused.stdout)
    assert (batch["completed"], batch["failed"]) == (0, 3)
    errors = BatchStore(gateway.home / "gateway").file_path(batch["error_file_id"]).read_text().splitlines()
    assert {json.loads(line)["response"]["status_code"] for line in errors} == {403}
    listed = json.loads(CliRunner().invoke(command, ["list", "--json"]).stdout)
    assert {document["batch_id"], batch["batch_id"]} <= {b["batch_id"] for b in listed}


def test_a_batch_survives_its_gateway_and_answers_each_request_once(tmp_path: Path) -> None:
    with FakeBackend("alpha") as alpha:
        alpha.hold_s = 0.2
        first = Gateway(tmp_path)
        first.wait_ready()
        first.put(ALIAS, target(alpha))
        key, record = first.keys.create("batches")
        store = BatchStore(tmp_path / "gateway")
        batch = store.submit(record.key_id, store.add_file(record.key_id, "in.jsonl", lines(40)).file_id)
        deadline = time.monotonic() + 60
        while (found := store.get(batch.batch_id)) is None or found.completed < 5:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.process.kill()
        first.process.wait()
        alpha.hold_s = 0.0
        again = Gateway(tmp_path)
        again.wait_ready()
        try:
            while (found := store.get(batch.batch_id)) is None or found.active:
                assert time.monotonic() < deadline + 120
                time.sleep(0.1)
        finally:
            again.stop()
        assert (found.state, found.completed, found.failed) == ("completed", 40, 0)
        answers = store.file_path(batch.output_file_id).read_text().splitlines()
        assert Counter(json.loads(a)["custom_id"] for a in answers) == {f"request-{i}": 1 for i in range(40)}
        assert key not in "".join(answers)
