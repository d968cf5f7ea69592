"""The gateway's documents, as the controller's REST API changes them: routes, batches, keys."""

from pathlib import Path
from typing import NamedTuple

from modelops_dagster.clients.batches import BatchStore
from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.keys import KeyStore
from modelops_dagster.clients.moves import Moves
from modelops_dagster.clients.rollout import Rollout
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.endpoints import EndpointStatus
from modelops_dagster.services.controller.wishes import Ledger


class OwnEndpoints:
    """The controller's own knowledge, asked from any thread: a record is immutable."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def get(self, name: str) -> EndpointStatus | None:
        record = self._ledger.find(name)
        return record.status() if record else None


class GatewayDocuments(NamedTuple):
    routes: RouteStore
    moves: Moves
    batches: BatchStore
    keys: KeyStore


def gateway_documents(home: Path, gateway_url: str, ledger: Ledger) -> GatewayDocuments:
    """Those of one home; a gateway at that address, if one runs, is waited for after a change."""
    root = home / "gateway"
    routes = RouteStore(root)
    rollout = Rollout(routes, GatewayClient(gateway_url, home=home), lineage=home / "lineage")
    return GatewayDocuments(
        routes, Moves(rollout, routes, lambda: OwnEndpoints(ledger)), BatchStore(root), KeyStore(root)
    )
