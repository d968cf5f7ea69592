"""The Hub's push: who may send it, what it must look like, and that it asks for a read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from modelops_dagster.clients.watcher import WatchStore
from modelops_dagster.domain.errors import UserError
from modelops_dagster.services.controller.hub_webhook import WEBHOOK_PATH, hub_push
from modelops_dagster.settings import Settings
from tests.fakes.api import serving

PUSHED = {
    "event": {"action": "update", "scope": "repo.content"},
    "repo": {
        "type": "model",
        "name": "acme/one",
        "id": "6366c000a2abcdf2fd69a080",
        "private": False,
        "headSha": "c" * 40,
    },
    "updatedRefs": [{"ref": "refs/heads/main", "oldSha": "a" * 40, "newSha": "c" * 40}],
    "webhook": {"id": "1", "version": 3},
}


def settings(home: Path, **more: str) -> Settings:
    return Settings.load({"MODELOPS_HOME": str(home), "HOME": str(home), "MODELOPS_HUB_ORGS": "acme,other", **more})


@pytest.fixture
def api(tmp_path: Path) -> Iterator[TestClient]:
    with serving(tmp_path, push=hub_push(settings(tmp_path))) as client:
        yield client


def secret(home: Path) -> dict[str, str]:
    return {"X-Webhook-Secret": (home / "secrets" / "hub_webhook_secret").read_text()}


def test_a_push_nudges_the_organisation(api: TestClient, tmp_path: Path):
    answer = api.post(WEBHOOK_PATH, json=PUSHED, headers=secret(tmp_path))
    assert (answer.status_code, answer.json()) == (202, {"nudged": ["acme"]})
    assert WatchStore(tmp_path / "watcher").nudged() == {"acme"}
    assert (tmp_path / "secrets" / "hub_webhook_secret").stat().st_mode & 0o777 == 0o600


def test_a_move_nudges_both_and_a_stranger_nobody(api: TestClient, tmp_path: Path):
    moved = {**PUSHED, "movedTo": {"name": "other/one", "owner": {"id": "1"}}}
    assert api.post(WEBHOOK_PATH, json=moved, headers=secret(tmp_path)).json() == {"nudged": ["acme", "other"]}
    for name, kind in (("stranger/one", "model"), ("acme/data", "dataset")):
        payload = {**PUSHED, "repo": {**PUSHED["repo"], "name": name, "type": kind}}  # type: ignore[dict-item]
        answer = api.post(WEBHOOK_PATH, json=payload, headers=secret(tmp_path))
        assert (answer.status_code, answer.json()) == (202, {"nudged": []})


@pytest.mark.parametrize("headers", [{}, {"X-Webhook-Secret": "wrong"}, {"Authorization": "Bearer key"}])
def test_without_the_secret_nothing_is_read(api: TestClient, tmp_path: Path, headers: dict[str, str]):
    answer = api.post(WEBHOOK_PATH, json=PUSHED, headers=headers)
    assert answer.status_code == 401
    assert "X-Webhook-Secret" in answer.json()["error"]["message"]
    assert WatchStore(tmp_path / "watcher").nudged() == frozenset()


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"repo": {"type": "model", "name": "acme/one"}}',
        b'{"event": {}, "repo": {"type": "model", "name": "no-slash"}}',
        b'{"event": {}, "repo": {"type": "model", "name": "../../etc/passwd"}}',
        b'{"event": {}, "repo": {"type": "model", "name": 7}}',
        b'"' + b"x" * (1 << 20) + b'"',
    ],
)
def test_a_payload_that_is_none_is_told_in_one_sentence(api: TestClient, tmp_path: Path, body: bytes):
    answer = api.post(WEBHOOK_PATH, content=body, headers=secret(tmp_path))
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["message"].endswith(".")
    assert len(error["message"]) < 200
    assert WatchStore(tmp_path / "watcher").nudged() == frozenset()


def test_the_other_routes_still_want_the_key(api: TestClient, tmp_path: Path):
    assert api.get("/v1/endpoints", headers=secret(tmp_path)).status_code == 401


def test_the_secret_may_come_from_a_file(tmp_path: Path):
    file = tmp_path / "secret"
    file.write_text("from the vault\n")
    assert hub_push(settings(tmp_path, MODELOPS_HUB_WEBHOOK_SECRET_FILE=str(file))).secret == "from the vault"
    file.write_text("\n")
    for path, words in ((file, "is empty"), (tmp_path / "absent", "cannot be read")):
        with pytest.raises(UserError, match=words):
            hub_push(settings(tmp_path, MODELOPS_HUB_WEBHOOK_SECRET_FILE=str(path)))
