"""Follows the route documents: every worker keeps its own Router equal to them, without a restart."""

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from modelops_dagster.clients.credentials import CredentialStore
from modelops_dagster.clients.routes import RouteStore, Signature
from modelops_dagster.domain.errors import IntegrityError, InvalidSpec
from modelops_dagster.domain.gateway import Route, litellm_deployments, routed_targets, router_id

POLL_INTERVAL_S = 0.05
SETTLED_AFTER_S = 1.0


class RouteReconciler:
    """One worker's view of the routes. `table` is what its Router serves right now."""

    def __init__(
        self,
        store: RouteStore,
        workers: Path,
        router: Any,
        *,
        credentials: CredentialStore,
        complain: Callable[[str], None],
    ) -> None:
        """
        Args:
            store: the documents to follow.
            credentials: the providers' keys; they never enter a document.
            workers: folder where each worker says which versions it serves.
            router: a `litellm.Router`.
            complain: called with one sentence when a document cannot be followed.
        """
        self.table: Mapping[str, Route] = {}
        self._store = store
        self._report = workers / f"{os.getpid()}.json"
        self._router = router
        self._credentials = credentials
        self._keys: Mapping[str, str] = {}
        self._complain = complain
        self._seen: Signature | None = None
        self._complaint = ""

    def follow_once(self) -> bool:
        """Make the Router what the documents say; True when anything changed.

        There is no await in here: a call is routed by the old table or by the new one, never by half of each. A
        document that cannot be read leaves its alias as it was.
        """
        signature = self._store.signature()
        # a file's clock is coarse: a document younger than a second may have changed again without looking different
        newest_ns = max((mtime_ns for _, _, mtime_ns, _ in signature), default=0)
        if signature == self._seen and time.time_ns() - newest_ns > SETTLED_AFTER_S * 1e9:
            return False
        wanted = self._read()
        keys = self._credentials.read(t.credential for r in wanted.values() for t in r.targets if t.credential)
        changed = wanted != self.table or keys != self._keys
        if changed:
            self._apply(wanted, keys)
            self.table, self._keys = wanted, keys
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

    def _apply(self, wanted: Mapping[str, Route], keys: Mapping[str, str]) -> None:
        from litellm.types.router import Deployment, LiteLLM_Params, ModelInfo

        ids: set[str] = set()
        for alias, route in wanted.items():
            if route == self.table.get(alias) and keys == self._keys:
                ids.update(router_id(alias, t) for t in routed_targets(route))
                continue
            for item in litellm_deployments(route, keys):
                deployment = Deployment(
                    model_name=alias,
                    litellm_params=LiteLLM_Params(**item["litellm_params"]),
                    model_info=ModelInfo(**item["model_info"]),
                )
                self._router.upsert_deployment(deployment)
                ids.add(deployment.model_info.id)
        known = set(self._router.get_model_ids())
        for missing in ids - known:
            self._say_once(f"LiteLLM did not accept the deployment {missing}; calls to it fail")
        for gone in known - ids:
            self._router.delete_deployment(id=gone)
        self._router.fallbacks = [{a: list(r.fallbacks)} for a, r in wanted.items() if r.fallbacks]

    def _write_report(self) -> None:
        body = {
            "pid": os.getpid(),
            "created": psutil.Process().create_time(),
            "versions": {alias: route.version for alias, route in self.table.items()},
        }
        temporary = self._report.with_suffix(".tmp")
        temporary.write_text(json.dumps(body))
        temporary.replace(self._report)

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
