"""What a running system is told to be, as documents to keep in Git: endpoints, hosted models, routes."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from modelops_dagster.domain.endpoint_spec import EndpointSpec
from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
from modelops_dagster.domain.endpoint_spec.document import EndpointDocument
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gateway import Route
from modelops_dagster.domain.hosted_models import HostedModels, is_listed
from modelops_dagster.domain.values import Value

_OF_ONE_STORE = frozenset({"version", "updated_at"})  # a route's count and date mean nothing elsewhere

NOWHERE = "http://127.0.0.1:9/v1"  # the port that discards


class EndpointEntry(Value):
    """One endpoint, and whether it is to run."""

    kind: Literal["endpoint"]
    desired: Literal["Running", "Stopped"] = "Running"
    spec: EndpointDocument


class HostedEntry(Value):
    """What `hosted_models.yaml` lists."""

    kind: Literal["hosted_models"]
    models: Mapping[str, Any]

    @field_validator("models")
    @classmethod
    def _hold(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        HostedModels.model_validate({"models": value})
        return value


class RouteEntry(Value):
    """One alias and what stands behind it."""

    kind: Literal["route"]
    route: Mapping[str, Any] = Field(description="a route without its version and date")

    @field_validator("route")
    @classmethod
    def _holds(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in _OF_ONE_STORE & set(value):
            raise ValueError(f"{name} is of one installation; leave it out")
        _route(value, datetime.min, {})
        return value

    @property
    def alias(self) -> str:
        return str(self.route["alias"])

    def as_route(self, before: Route | None, at: datetime, addresses: Mapping[str, str]) -> Route:
        """The next version of the alias's route.

        Args:
            addresses: base URLs of endpoints of this installation, by name; they go before those in the document.
        """
        told = _route(self.route, at, addresses)
        return told.model_copy(update={"version": before.version if before else 0})


def _route(told: Mapping[str, Any], at: datetime, addresses: Mapping[str, str]) -> Route:
    """The document as a route. An endpoint whose address nobody knows yet is nowhere until it runs."""
    targets = told.get("targets")
    if isinstance(targets, list | tuple):
        targets = [_addressed(t, addresses) if isinstance(t, Mapping) else t for t in targets]
    return Route.model_validate({**told, "targets": targets, "updated_at": at})


def _addressed(target: Mapping[str, Any], addresses: Mapping[str, str]) -> dict[str, Any]:
    if target.get("provider") is not None:
        return {"url": "", **target}
    known = addresses.get(str(target.get("endpoint")))
    return {"url": NOWHERE, **target, **({"url": known} if known else {})}


Entry = Annotated[EndpointEntry | HostedEntry | RouteEntry, Field(discriminator="kind")]
_ENTRY: TypeAdapter[EndpointEntry | HostedEntry | RouteEntry] = TypeAdapter(Entry)


def parse_entry(document: Any, where: str) -> EndpointEntry | HostedEntry | RouteEntry:
    """One document of an exported file. A spec without a kind, as `create` takes it, is an endpoint that is to run.

    Raises:
        InvalidSpec: it does not hold.
    """
    if not isinstance(document, Mapping):
        raise InvalidSpec(f"{where} is not a mapping of fields; `modelops endpoints export` shows what is.")
    try:
        if "kind" not in document:
            return EndpointEntry(kind="endpoint", spec=EndpointDocument.model_validate(document))
        return _ENTRY.validate_python(document)
    except ValidationError as error:
        raise invalid_spec(error, where) from error


def endpoint_entry(spec: EndpointSpec, desired: Literal["Running", "Stopped"], model: str | None) -> dict[str, Any]:
    """An endpoint as a document.

    Args:
        model: `org/name@commit` by which the checkpoint is found in any store; None: only its path is known.
    """
    told = spec.model_dump(mode="json", exclude_defaults=True)
    if model is not None:
        told = {"name": told.pop("name"), "model": model, **{k: v for k, v in told.items() if k != "checkpoint"}}
    if spec.is_external:
        told.pop("served_model_name")
    return {"kind": "endpoint", "desired": desired, "spec": told}


def route_entry(route: Route, own: Collection[str]) -> dict[str, Any] | None:
    """A route as a document; None when `hosted_models.yaml` makes all of it.

    Args:
        own: names of the controller's endpoints, whose addresses are its business.
    """
    left = tuple(t for t in route.targets if not is_listed(t))
    if not left:
        return None
    told = route.model_copy(update={"targets": left}).model_dump(mode="json", exclude_defaults=True)
    for target in told["targets"]:
        if target["endpoint"] in own:
            del target["url"]
    return {"kind": "route", "route": {k: v for k, v in told.items() if k not in _OF_ONE_STORE}}
