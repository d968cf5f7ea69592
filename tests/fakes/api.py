"""The controller's application in this process, with the fake engine, as the REST tests talk to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from modelops_dagster.clients.endpoint_documents import SpecResolver
from modelops_dagster.clients.endpoints import ProcessBackend
from modelops_dagster.clients.endpoints.history import History, WatchedRecords
from modelops_dagster.clients.keys import AccessStore
from modelops_dagster.domain.access import Role
from modelops_dagster.services.controller.api import create_app
from modelops_dagster.services.controller.gateway import gateway_documents
from modelops_dagster.services.controller.hub_webhook import HubPush
from modelops_dagster.services.controller.monitor import Monitor
from modelops_dagster.services.controller.reconcile import Controller
from tests.fakes.launcher import FakeLauncher

NO_GATEWAY = "http://127.0.0.1:9"
KEY = {"Authorization": "Bearer key"}


@contextmanager
def serving(
    home: Path, launcher: FakeLauncher | None = None, *, usd_per_hour: float = 0.0, push: HubPush | None = None
) -> Iterator[TestClient]:
    """The application with its reconcile loop. `KEY` is the home's own."""
    launcher = launcher or FakeLauncher()
    backend = ProcessBackend(home, launcher, grace_s=0.2)
    history = History(home / "history")
    records = WatchedRecords(home / "endpoints", history)
    controller = Controller(records, backend, lambda *_: ("crash", "It ended."), tick_s=0.05)
    monitor = Monitor(history, backend, home / "gateway" / "calls", usd_per_hour)
    access = AccessStore(home)
    access.prepare()
    gateway = gateway_documents(home, NO_GATEWAY, controller.ledger)
    app = create_app(
        controller,
        launcher,
        SpecResolver(home / "checkpoints", launcher, "cpu"),
        monitor,
        gateway,
        token="key",
        home=str(home),
        keep_engines=lambda: False,
        access=access.lookup,
        push=push,
    )
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def key_of(home: Path, role: Role) -> dict[str, str]:
    """The headers of a new key of that role."""
    return {"Authorization": f"Bearer {AccessStore(home).create(f'the {role}', role)[0]}"}


def spec(**changes: Any) -> dict[str, Any]:
    """A spec that holds; its checkpoint is not there."""
    valid = {
        "name": "small",
        "checkpoint": "/no/such/checkpoint",
        "checkpoint_digest": "sha256:0",
        "engine": "fake",
        "served_model_name": "small@abc",
    }
    return {**valid, **changes}


def error_of(answer: Any, status: int) -> dict[str, Any]:
    """The error of an answer that must be one, in the one shape that errors have."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "field"}
    assert "Traceback" not in answer.text
    return dict(body["error"])
