"""Writing down what a system is told to be, and telling another one the same."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import yaml

from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.endpoint_documents import SpecResolver, read_documents
from modelops_dagster.clients.hosted_models import hosted_models_path, read_hosted_models
from modelops_dagster.clients.rollout import Rollout
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.endpoint_spec import EndpointSpec
from modelops_dagster.domain.endpoints import EndpointStatus
from modelops_dagster.domain.gateway import Route
from modelops_dagster.domain.hosted_models import is_listed
from modelops_dagster.domain.platform_state import (
    EndpointEntry,
    HostedEntry,
    RouteEntry,
    endpoint_entry,
    parse_entry,
    route_entry,
)


class Endpoints(Protocol):
    """The part of the controller's client that is needed."""

    def list(self) -> Sequence[EndpointStatus]: ...

    def get(self, name: str) -> EndpointStatus | None: ...

    def apply(self, spec: EndpointSpec, *, start: bool = True) -> EndpointStatus: ...

    def wait_ready(
        self, name: str, timeout_s: float, on_progress: Callable[[EndpointStatus], None] | None = None
    ) -> EndpointStatus: ...


class Applied(NamedTuple):
    """What was done for one document. `note` is empty when all is well."""

    kind: str
    name: str
    done: str
    note: str = ""


class PlatformState:
    """The endpoints, hosted models and routes of one home."""

    def __init__(self, home: Path, endpoints: Endpoints, rollout: Rollout, resolver: SpecResolver) -> None:
        self._home = home
        self._endpoints = endpoints
        self._rollout = rollout
        self._resolver = resolver
        self._store = CheckpointStore(home / "checkpoints")
        self._routes = RouteStore(home / "gateway")

    def export(self) -> list[dict[str, Any]]:
        """A document for each endpoint, for what `hosted_models.yaml` lists, and for each route.

        Raises:
            IntegrityError: a route or a manifest cannot be read.
        """
        statuses = self._endpoints.list()
        documents = [endpoint_entry(s.spec, s.desired, self._model(s.spec)) for s in statuses]
        hosted = read_hosted_models(hosted_models_path(self._home)).models
        if hosted:
            told = {alias: m.model_dump(mode="json", exclude_defaults=True) for alias, m in hosted.items()}
            documents.append({"kind": "hosted_models", "models": told})
        own = {s.spec.name for s in statuses}
        routes = (route_entry(route, own) for route in self._routes.list())
        return documents + [d for d in routes if d is not None]

    def _model(self, spec: EndpointSpec) -> str | None:
        """How the checkpoint is called in any store; None when this store does not know it."""
        found = self._store.read(Path(spec.checkpoint)) if spec.checkpoint else None
        if found is None or found.digest != spec.checkpoint_digest:
            return None
        return f"{found.revision.repo_id}@{found.revision.commit_hash}"

    def read(self, paths: Sequence[Path]) -> "Wanted":
        """What the files ask for, complete, before anything is done.

        Raises:
            InvalidSpec: a document does not hold, or names a checkpoint or an engine that is not here.
        """
        entries = [(parse_entry(d, str(path)), str(path)) for path in paths for d in read_documents(path)]
        return Wanted(
            endpoints=[
                (self._resolver.resolve(e.spec, where), e.desired)
                for e, where in entries
                if isinstance(e, EndpointEntry)
            ],
            hosted={a: m for e, _ in entries if isinstance(e, HostedEntry) for a, m in e.models.items()},
            routes=[e for e, _ in entries if isinstance(e, RouteEntry)],
        )

    def apply(self, wanted: "Wanted", *, timeout_s: float, say: Callable[[str], None]) -> Iterator[Applied]:
        """Make it so, endpoints first: a route needs their addresses. Doing it again changes nothing.

        Args:
            timeout_s: to wait for each endpoint that is to run; 0 does not wait.
            say: receives a line whenever something goes on.
        """
        asked = [self._ask_for(spec, desired) for spec, desired in wanted.endpoints]
        for (spec, desired), done in zip(wanted.endpoints, asked, strict=True):
            if desired == "Running" and timeout_s:
                status = self._endpoints.wait_ready(spec.name, timeout_s, lambda s: say(f"{s.spec.name}: {s.state}"))
                done = done._replace(note=status.message if status.failed else "")
            yield done
        if wanted.hosted:
            yield self._list_hosted(wanted.hosted)
        addresses = {s.spec.name: s.url for s in self._endpoints.list() if s.url is not None}
        for entry in wanted.routes:
            yield self._route(entry, addresses)

    def _ask_for(self, spec: EndpointSpec, desired: str) -> Applied:
        before = self._endpoints.get(spec.name)
        if before is not None and (before.spec, before.desired) == (spec, desired) and not before.failed:
            return Applied("endpoint", spec.name, "unchanged")
        self._endpoints.apply(spec, start=desired == "Running")
        return Applied("endpoint", spec.name, "created" if before is None else "changed")

    def _list_hosted(self, models: Mapping[str, Any]) -> Applied:
        path = hosted_models_path(self._home)
        before = read_hosted_models(path).models
        kept = {alias: m.model_dump(mode="json", exclude_defaults=True) for alias, m in before.items()}
        after = {**kept, **models}
        names = ", ".join(models)
        if after == kept:
            return Applied("hosted models", names, "unchanged")
        write_whole(path, yaml.safe_dump(after, sort_keys=False, allow_unicode=True))
        return Applied("hosted models", names, "listed")

    def _route(self, entry: RouteEntry, addresses: Mapping[str, str]) -> Applied:
        at = datetime.now(UTC)
        before = self._routes.get(entry.alias)
        done = self._rollout.change(entry.alias, lambda r: _next(entry, r, at, addresses))
        if before is not None and done.route.version == before.version:
            return Applied("route", entry.alias, "unchanged")
        return Applied("route", entry.alias, "created" if before is None else "changed")


class Wanted(NamedTuple):
    """What files ask for."""

    endpoints: list[tuple[EndpointSpec, str]]
    hosted: Mapping[str, Any]
    routes: list[RouteEntry]


def _next(entry: RouteEntry, before: Route | None, at: datetime, addresses: Mapping[str, str]) -> Route:
    """The next route; what `hosted_models.yaml` put behind the alias stays there."""
    after = entry.as_route(before, at, addresses)
    named = {t.endpoint for t in after.targets}
    listed = [t for t in (before.targets if before else ()) if is_listed(t) and t.endpoint not in named]
    return after.model_copy(update={"targets": (*after.targets, *listed)})


def as_yaml(documents: Iterable[Mapping[str, Any]]) -> str:
    """Documents of one YAML file."""
    return str(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True))
