"""Models that a provider serves: what `hosted_models.yaml` says of each, and the route it becomes."""

import re
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from pydantic import Field, field_validator, model_validator

from modelops_dagster.domain.endpoint_spec.external import key_name_problem
from modelops_dagster.domain.gateway import PREVIEW, SHADOW, TAG, Grant, Route, RouteTarget, is_alias, with_targets
from modelops_dagster.domain.openai_urls import base_url
from modelops_dagster.domain.values import Value

FILE = "hosted_models.yaml"
Provider = Literal["anthropic", "openai", "azure", "bedrock", "vertex_ai", "gemini", "nvidia_nim"]
# what a provider must be told besides the key
NEEDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "azure": ("api_base", "api_version"),
        "bedrock": ("aws_region_name",),
        "vertex_ai": ("vertex_project", "vertex_location"),
    }
)
_SETTINGS = ("api_version", "aws_region_name", "vertex_project", "vertex_location")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}")


class HostedModel(Value):
    """One model of a provider."""

    model: str = Field(description="LiteLLM's name: provider/model, e.g. anthropic/claude-sonnet-4-5")
    api_key_name: str = Field(description="variable, or credential, that holds the provider's key; never the key")
    api_base: str | None = Field(default=None, description="base URL, where it is not the provider's own")
    api_version: str | None = Field(default=None, description="of Azure's API")
    aws_region_name: str | None = Field(default=None, description="of Bedrock")
    vertex_project: str | None = None
    vertex_location: str | None = None
    tags: tuple[str, ...] = Field(default=(PREVIEW,), description="who may reach it; none: everybody with a key")
    reason: str = Field(
        default=f"listed in {FILE}", min_length=3, max_length=500, description="why it may answer without a verdict"
    )
    request_timeout_seconds: float | None = Field(default=None, gt=0, le=86_400)

    @field_validator("model")
    @classmethod
    def _model(cls, value: str) -> str:
        provider, _, name = value.partition("/")
        known = Provider.__args__  # type: ignore[attr-defined]
        if provider not in known or not _PLAIN.fullmatch(name):
            raise ValueError(f"{value!r} is not provider/model; the providers are {', '.join(known)}")
        return value

    @field_validator("api_key_name")
    @classmethod
    def _key(cls, value: str) -> str:
        problem = key_name_problem(value)
        if problem:
            raise ValueError(problem)
        return value

    @field_validator("api_base")
    @classmethod
    def _base(cls, value: str | None) -> str | None:
        if value is not None:
            base_url(value)
        return value

    @field_validator(*_SETTINGS)
    @classmethod
    def _setting(cls, value: str | None) -> str | None:
        if value is not None and not _PLAIN.fullmatch(value):
            raise ValueError(f"{value!r} has characters that no such name has")
        return value

    @field_validator("tags")
    @classmethod
    def _tags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for tag in value:
            if not TAG.fullmatch(tag) or tag == SHADOW:
                raise ValueError(f"{tag!r} is not a tag of a key; use lower-case letters, digits, '-' and '_'")
        return value

    @model_validator(mode="after")
    def _told(self) -> "HostedModel":
        missing = [name for name in NEEDS.get(self.provider, ()) if getattr(self, name) is None]
        if missing:
            raise ValueError(f"{self.provider} must be told {' and '.join(missing)} too")
        return self

    @property
    def provider(self) -> str:
        return self.model.partition("/")[0]

    def target(self, at: datetime) -> RouteTarget:
        """What stands behind the alias."""
        name = self.model.partition("/")[2]
        return RouteTarget(
            endpoint=re.sub(r"[^A-Za-z0-9._-]+", "-", self.model),
            url=self.api_base or "",
            served_model_name=name,
            commit_hash=re.sub(r"[^A-Za-z0-9._-]+", "-", name),
            tags=self.tags,
            provider=self.provider,
            credential=self.api_key_name,
            provider_settings={name: value for name in _SETTINGS if (value := getattr(self, name)) is not None},
            timeout_s=self.request_timeout_seconds,
            grant=Grant(reason=self.reason, by=FILE, at=at),
        )


class HostedModels(Value):
    """The whole file: models by alias."""

    models: Mapping[str, HostedModel]

    @field_validator("models")
    @classmethod
    def _aliases(cls, value: Mapping[str, HostedModel]) -> Mapping[str, HostedModel]:
        for alias in value:
            if not is_alias(alias):
                raise ValueError(f"{alias!r} is not an alias: use name, org/name or org/name:lane")
        return value


def hosted_route(route: Route | None, alias: str, model: HostedModel, at: datetime) -> Route:
    """The alias's route with the model behind it; what else stands there, and the model's weight, stay."""
    wanted = model.target(at)
    targets = list(route.targets) if route else []
    listed = [i for i, t in enumerate(targets) if t.endpoint == wanted.endpoint or is_listed(t)]
    if listed:
        old = targets[listed[0]]
        kept: dict[str, object] = {"weight": old.weight}
        if old.grant is not None and wanted.grant is not None and old.grant.reason == wanted.grant.reason:
            kept["grant"] = old.grant
        targets[listed[0]] = wanted.model_copy(update=kept)
    else:
        targets.append(wanted)
    return with_targets(
        route, alias, targets, at=at, verdict_id=route.verdict_id if route else None, reason=f"hosted {model.model}"
    )


def without_hosted(route: Route, at: datetime) -> Route | None:
    """The route without the model that the file listed; None when nothing is left behind it."""
    left = [t for t in route.targets if not is_listed(t)]
    if not any(t.weight for t in left):
        return None
    return with_targets(route, route.alias, left, at=at, verdict_id=route.verdict_id, reason=f"no longer in {FILE}")


def is_listed(target: RouteTarget) -> bool:
    """Whether the file put it there."""
    return target.provider is not None and target.grant is not None and target.grant.by == FILE
