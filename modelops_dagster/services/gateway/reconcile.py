"""Follows the route documents: every worker keeps its own Router equal to them, without a restart."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psutil

from modelops_dagster.clients.credentials import CredentialStore
from modelops_dagster.clients.endpoints import LiveStore
from modelops_dagster.clients.endpoints.live import FileSignature
from modelops_dagster.clients.routes import RouteStore, Signature
from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.errors import IntegrityError, InvalidSpec
from modelops_dagster.domain.gateway import Route, litellm_deployments, routed_targets
from modelops_dagster.services.gateway.whereabouts import Live, as_specified, replicas_of

POLL_INTERVAL_S = 0.05
SETTLED_AFTER_S = 1.0


class RouteReconciler:
    """One worker's view of the routes. `table` is what its Router serves right now, `live` at which addresses."""

    def __init__(
        self,
        store: RouteStore,
        whereabouts: LiveStore,
        workers: Path,
        router: Any,
        *,
        credentials: CredentialStore,
        complain: Callable[[str], None],
    ) -> None:
        """
        Args:
            store: the documents to follow.
            whereabouts: where the controller says at which addresses endpoints answer.
            credentials: the providers' keys; they never enter a document.
            workers: folder where each worker says which versions it serves.
            router: a `litellm.Router`.
            complain: called with one sentence when a document cannot be followed.
        """
        self.table: Mapping[str, Route] = {}
        self.live: Live = {}
        self._store = store
        self._whereabouts = whereabouts
        self._applied: dict[str, list[dict[str, Any]]] = {}
        self._report = workers / f"{os.getpid()}.json"
        self._router = router
        self._credentials = credentials
        self._keys: Mapping[str, str] = {}
        self._complain = complain
        self._seen: tuple[Signature, FileSignature] | None = None
        self._complaint = ""

    def follow_once(self) -> bool:
        """Make the Router what the documents say; True when anything changed.

        There is no await in here: a call is routed by the old table or by the new one, never by half of each. A
        document that cannot be read leaves its alias as it was.
        """
        documents, endpoints = signature = (self._store.signature(), self._whereabouts.signature())
        # a file's clock is coarse: a document younger than a second may have changed again without looking different
        newest_ns = max((mtime_ns for _, _, mtime_ns, _ in documents), default=0)
        newest_ns = max(newest_ns, endpoints[1])
        if signature == self._seen and time.time_ns() - newest_ns > SETTLED_AFTER_S * 1e9:
            return False
        live = self._read_live()
        wanted = {alias: as_specified(route, live) for alias, route in self._read().items()}
        keys = self._credentials.read(t.credential for r in wanted.values() for t in r.targets if t.credential)
        routed = wanted != self.table or keys != self._keys
        changed = routed or live != self.live
        if changed:
            self._apply(wanted, keys, live)
            self.table, self._keys, self.live = wanted, keys, live
        if routed:
            self._write_report()
        self._seen = signature
        return changed

    async def follow(self) -> None:
        """Follow for ever. A failure is said once and tried again; the routes stay as they were."""
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            try:
                self.follow_once()
            except Exception as error:
                self._say_once(f"routes cannot be followed ({type(error).__name__}: {error}); the old ones stay")

    def report(self) -> None:
        """Say which versions this worker serves, before it takes its first call."""
        self._report.parent.mkdir(parents=True, exist_ok=True)
        self._write_report()

    def retire(self) -> None:
        """Take back what `report` said."""
        self._report.unlink(missing_ok=True)

    def _read(self) -> dict[str, Route]:
        wanted: dict[str, Route] = {}
        for alias in self._store.aliases():
            try:
                route = self._store.get(alias)
            except (IntegrityError, InvalidSpec) as error:
                self._say_once(f"{error.sentence} The route served so far stays.")
                route = self.table.get(alias)
            if route is not None:
                wanted[alias] = route
        return wanted

    def _read_live(self) -> Live:
        try:
            return self._whereabouts.read()
        except ValueError as error:
            self._say_once(f"{error}; endpoints are taken to be where they were")
            return self.live

    def _apply(self, wanted: Mapping[str, Route], keys: Mapping[str, str], live: Live) -> None:
        ids: set[str] = set()
        for alias, route in wanted.items():
            pairs = zip(litellm_deployments(route, keys), routed_targets(route), strict=True)
            items = [replica for item, target in pairs for replica in replicas_of(item, target, live)]
            if items != self._applied.get(alias):
                self._upsert(alias, items)
            self._applied[alias] = items
            ids.update(item["model_info"]["id"] for item in items)
        self._applied = {alias: items for alias, items in self._applied.items() if alias in wanted}
        known = set(self._router.get_model_ids())
        for missing in ids - known:
            self._say_once(f"LiteLLM did not accept the deployment {missing}; calls to it fail")
        for gone in known - ids:
            self._router.delete_deployment(id=gone)
        self._router.fallbacks = [{a: list(r.fallbacks)} for a, r in wanted.items() if r.fallbacks]

    def _upsert(self, alias: str, items: Iterable[Mapping[str, Any]]) -> None:
        from litellm.types.router import Deployment, LiteLLM_Params, ModelInfo

        for item in items:
            deployment = Deployment(
                model_name=alias,
                litellm_params=LiteLLM_Params(**item["litellm_params"]),
                model_info=ModelInfo(**item["model_info"]),
            )
            self._router.upsert_deployment(deployment)

    def _write_report(self) -> None:
        body = {
            "pid": os.getpid(),
            "created": psutil.Process().create_time(),
            "versions": {alias: route.version for alias, route in self.table.items()},
        }
        write_whole(self._report, json.dumps(body), is_durable=False)

    def _say_once(self, sentence: str) -> None:
        if sentence != self._complaint:
            self._complaint = sentence
            self._complain(sentence)


def served_versions(workers: Path) -> list[dict[str, int]]:
    """alias -> version, for every worker that is alive. A dead worker's report is removed."""
    served: list[dict[str, int]] = []
    for path in workers.glob("*.json"):
        try:
            report = json.loads(path.read_text())
            alive = psutil.Process(report["pid"]).create_time() == report["created"]
        except (psutil.NoSuchProcess, FileNotFoundError):
            alive = False
        if alive:
            served.append(report["versions"])
        else:
            path.unlink(missing_ok=True)
    return served
