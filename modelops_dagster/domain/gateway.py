"""Routes: which endpoints answer for an alias, with which weight, and for whom. Keys: who may ask."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field, field_validator, model_validator

from modelops_dagster.domain.canary import Bounds
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.values import Value

ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?(:[a-z0-9]{1,16})?")
TAG = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
PREVIEW = "preview"
SHADOW = "shadow"
OPEN = "default"  # LiteLLM's name for "requests that carry no tag come here"
SETTINGS = ("sticky", "fallbacks", "timeout_s", "max_in_flight")


class Grant(Value):
    """Why an endpoint may answer calls: the verdict that passed it, or a person who said so, and why."""

    verdict_id: str | None = None
    reason: str | None = Field(default=None, min_length=3, max_length=500, description="of an override")
    by: str | None = Field(default=None, description="who overrode")
    at: datetime

    @model_validator(mode="after")
    def _one(self) -> "Grant":
        if (self.verdict_id is None) == (self.reason is None) or (self.reason is None) != (self.by is None):
            raise ValueError("a grant is a verdict, or an override with who made it and why")
        return self


class RouteTarget(Value):
    """One endpoint behind an alias: one of ours, or with `provider` a hosted API."""

    endpoint: str = Field(
        description="endpoint name; with the commit it becomes the deployment id in the gateway's log"
    )
    url: str = Field(description="base URL that ends in /v1; empty for a provider's own")
    served_model_name: str
    commit_hash: str = Field(description="of the model revision it serves; the model's name where nobody tells one")
    weight: int = Field(default=1, ge=0, description="proportional share, not percent")
    tags: tuple[str, ...] = Field(default=(), description="who may reach it; empty means everybody with a key")
    mirror_percent: int = Field(
        default=0, ge=0, le=100, description="share of the alias's calls that a shadow gets a copy of"
    )
    usd_per_hour: float = Field(default=0.0, ge=0, description="what its hardware costs, USD per hour it runs")
    provider: str | None = Field(default=None, description="LiteLLM's name of a hosted API, which prices it by token")
    credential: str | None = Field(
        default=None, description="name of its key: under secrets/credentials/, or a variable"
    )
    provider_settings: dict[str, str] = Field(
        default_factory=dict, description="what the provider is told besides the key: api_version, a region, a project"
    )
    timeout_s: float | None = Field(
        default=None, gt=0, description="longest one attempt may take; the route's goes first"
    )
    grant: Grant | None = Field(default=None, description="why it may answer calls")


class CanaryWatch(Value):
    """An endpoint on trial. The gateway rolls it back when it is worse than the others beyond the bounds."""

    endpoint: str
    since: datetime
    bounds: Bounds = Field(default_factory=Bounds)

    @property
    def trial_id(self) -> str:
        """Names the trial, in whose name calls are counted."""
        return f"{self.endpoint}@{self.since.isoformat()}"


def _rising(steps: tuple[int, ...]) -> tuple[int, ...]:
    if list(steps) != sorted(set(steps)) or steps[0] < 1 or steps[-1] != 100:
        raise ValueError("the steps of a swap rise and end with 100, e.g. 5, 50, 100")
    return steps


Steps = Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_rising)]
"""Shares in percent that an endpoint gets one after the other."""


class Swap(Value):
    """One endpoint on its way to take the whole alias over, step by step."""

    to: str
    steps: Steps = Field(default=(5, 50, 100), description="shares it gets, in percent")
    step: int = Field(default=0, ge=0, description="index of the present step")
    step_since: datetime
    hold_s: float = Field(default=900.0, ge=0, description="how long a step lasts, in seconds")
    retain_s: float = Field(default=86_400.0, ge=0, description="how long the old endpoints run on, in seconds")


class Retiring(Value):
    """An endpoint that serves no more and is kept for a roll-back until its time has come."""

    endpoint: str
    stop_at: datetime


class Route(Value):
    """alias -> weighted endpoints. `version` increases by one with every change (compare-and-swap)."""

    alias: str = Field(description="the model name clients send")
    version: int = Field(default=0, ge=0)
    targets: tuple[RouteTarget, ...]
    verdict_id: str | None = Field(default=None, description="the verdict that granted the tags")
    sticky: bool = Field(default=False, description="a user stays with the endpoint that answered first")
    fallbacks: tuple[str, ...] = Field(default=(), description="aliases that answer when no endpoint of this one can")
    timeout_s: float | None = Field(default=None, gt=0, description="how long one attempt may take, in seconds")
    max_in_flight: int | None = Field(default=None, ge=1, description="calls at once, over all workers; more are 429")
    canary: CanaryWatch | None = None
    swap: Swap | None = None
    retiring: tuple[Retiring, ...] = ()
    reason: str = Field(default="", description="why the last change was made")
    updated_at: datetime

    @field_validator("alias")
    @classmethod
    def _alias(cls, value: str) -> str:
        if not is_alias(value):
            raise ValueError(f"{value!r} is not an alias: use name, org/name or org/name:lane")
        return value

    @model_validator(mode="after")
    def _weights(self) -> "Route":
        if self.targets and not any(t.weight for t in self.targets):
            raise ValueError(f"route {self.alias!r} has no target with a weight above 0")
        names = [t.endpoint for t in self.targets]
        if len(set(names)) != len(names):
            raise ValueError(f"route {self.alias!r} names an endpoint twice: {', '.join(names)}")
        if self.alias in self.fallbacks:
            raise ValueError(f"route {self.alias!r} cannot fall back to itself")
        return self


class KeyRecord(Value):
    """What is kept of a key. The key itself is shown once and never stored."""

    key_id: str = Field(description="first 16 hex digits of the key's sha256; names the key in lists and logs")
    key_sha256: str = Field(description="sha256 of the key, hex")
    alias: str = Field(min_length=1, max_length=64, description="who or what uses the key")
    tags: tuple[str, ...] = Field(default=(), description="tags of route targets it may reach, e.g. preview")
    models: tuple[str, ...] = Field(default=(), description="aliases it may call; empty means all")
    team: str | None = Field(default=None, min_length=1, max_length=64, description="who is charged")
    budget_usd_per_day: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="of a UTC day")
    rpm: int | None = Field(default=None, ge=1, description="requests in any 60 seconds")
    tpm: int | None = Field(default=None, ge=1, description="tokens, in and out, in any 60 seconds")
    log_prompts: bool = Field(default=False, description="whether the call log keeps what was asked")
    created_at: datetime
    revoked_at: datetime | None = None

    @field_validator("tags")
    @classmethod
    def _tags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for tag in value:
            if not TAG.fullmatch(tag):
                raise ValueError(f"{tag!r} is not a tag: use lower-case letters, digits, '-' and '_'")
            if tag in (SHADOW, OPEN):
                raise ValueError(f"no key may carry the tag {tag!r}; it is reserved")
        return value

    @field_validator("models")
    @classmethod
    def _models(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for alias in value:
            if not is_alias(alias):
                raise ValueError(f"{alias!r} is not an alias: use name, org/name or org/name:lane")
        return value


def is_alias(text: str) -> bool:
    """Whether `text` can name a route: `name`, `org/name` or `org/name:lane`, at most 160 characters."""
    return bool(ALIAS.fullmatch(text)) and ".." not in text and len(text) <= 160


def deployment_id(target: RouteTarget) -> str:
    """`<endpoint>@<first 12 digits of the commit>`: which weights answered, in the gateway's log and headers."""
    return f"{target.endpoint}@{target.commit_hash[:12]}"


def router_id(alias: str, target: RouteTarget) -> str:
    """Identity inside the Router, where ids are global: one endpoint may stand behind several aliases."""
    return f"{deployment_id(target)}:{alias}"


def serving_targets(route: Route, tags: Collection[str]) -> tuple[RouteTarget, ...]:
    """The targets that answer a key with these tags; empty when the alias has none for it.

    A target whose tag the key carries goes before the open ones, so a key with `preview` sees the preview. A shadow
    target answers nobody, and neither does a target of weight 0.
    """
    candidates = routed_targets(route)
    granted = tuple(t for t in candidates if not set(tags).isdisjoint(t.tags))
    return granted or tuple(t for t in candidates if not t.tags)


def litellm_deployments(route: Route, credentials: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """The route as LiteLLM deployments, one per target that can be reached at all.

    Targets under `shadow` and those of weight 0 are left out: what the Router does not know it cannot choose. A token
    of our own endpoints costs 0 and not nothing, so that LiteLLM's cost is a number; the gateway adds the hardware's.
    A provider's tokens cost what LiteLLM's table says.

    Args:
        credentials: the providers' keys by name.
    """
    return [
        {
            "model_name": route.alias,
            "litellm_params": _litellm_params(route, t, credentials or {}),
            "model_info": {"id": router_id(route.alias, t)},
        }
        for t in routed_targets(route)
    ]


def routed_targets(route: Route) -> tuple[RouteTarget, ...]:
    """The targets that some call may reach: those with a weight that are no shadows."""
    return tuple(t for t in route.targets if t.weight and SHADOW not in t.tags)


def _litellm_params(route: Route, target: RouteTarget, credentials: Mapping[str, str]) -> dict[str, Any]:
    params: dict[str, Any] = {"weight": target.weight, "tags": list(target.tags) or [OPEN]}
    if target.provider is None:
        # an endpoint of ours asks for no key, and the provider insists on a string
        key = credentials.get(target.credential or "", "none")
        params |= {"model": f"hosted_vllm/{target.served_model_name}", "api_base": target.url, "api_key": key}
        params |= {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0}
    else:
        params |= {"model": f"{target.provider}/{target.served_model_name}"}
        params |= {"api_base": target.url} if target.url else {}
        # "none" and not a missing key: LiteLLM would look for one in the gateway's environment
        # Vertex asks for the content of a service account's file and not for a key
        key_field = "vertex_credentials" if target.provider == "vertex_ai" else "api_key"
        params |= {key_field: credentials.get(target.credential or "", "none"), **target.provider_settings}
    timeout_s = route.timeout_s or target.timeout_s
    if timeout_s is not None:
        params |= {"timeout": timeout_s, "stream_timeout": timeout_s}
    return params


def with_targets(
    route: Route | None,
    alias: str,
    targets: Sequence[RouteTarget],
    *,
    at: datetime,
    verdict_id: str | None = None,
    reason: str = "",
) -> Route:
    """The route with these targets instead of its own, and its settings (stickiness, fallbacks, limits) kept.

    The version stays the one the change is based on. A trial or a swap under way ends with it: whoever changes the
    targets decided otherwise.
    """
    kept = {name: getattr(route, name) for name in SETTINGS} if route else {}
    return Route(
        **kept,
        alias=alias,
        version=route.version if route else 0,
        targets=tuple(targets),
        verdict_id=verdict_id,
        reason=reason,
        updated_at=at,
    )


def with_weights(route: Route, weights: Mapping[str, int], *, at: datetime, reason: str = "") -> Route:
    """The route with new weights for the named endpoints; the others keep theirs.

    Raises:
        InvalidSpec: an endpoint is not behind this alias, or no weight above 0 is left.
    """
    known = [t.endpoint for t in route.targets]
    for name in weights:
        if name not in known:
            raise InvalidSpec(
                f"{name!r} is not behind {route.alias!r}, which has {', '.join(known) or 'no endpoint'}; "
                "name one of those.",
                field="targets",
            )
    targets = [t.model_copy(update={"weight": weights.get(t.endpoint, t.weight)}) for t in route.targets]
    if min(weights.values(), default=0) < 0 or not any(t.weight for t in targets):
        raise InvalidSpec(
            f"route {route.alias!r} would have no weight above 0, or one below; give at least one endpoint 1 or more.",
            field="weight",
        )
    return with_targets(route, route.alias, targets, at=at, verdict_id=route.verdict_id, reason=reason)


def promote(route: Route, endpoint: str, *, at: datetime) -> Route:
    """The canary as the stable endpoint: it takes the weight of the whole route, the others keep none.

    Raises:
        InvalidSpec: the endpoint is not behind this alias.
    """
    total = sum(t.weight for t in route.targets)
    return with_weights(route, {t.endpoint: 0 for t in route.targets} | {endpoint: total}, at=at)


def rolled_back(current: Route, earlier: Route, *, at: datetime) -> Route:
    """The targets and settings of an earlier version as a new change of the current one."""
    reason = f"back to version {earlier.version}"
    back = with_targets(earlier, current.alias, earlier.targets, at=at, verdict_id=earlier.verdict_id, reason=reason)
    return back.model_copy(update={"version": current.version})
