"""Routes: which endpoints answer for an alias, with which weight, and for whom."""

import re
from datetime import datetime

from pydantic import Field, field_validator, model_validator

from modelops_dagster.domain.values import Value

ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
PREVIEW = "preview"
SHADOW = "shadow"


class RouteTarget(Value):
    """One endpoint behind an alias."""

    endpoint: str = Field(description="endpoint name; with the commit it becomes the deployment id in the gateway's log")
    url: str = Field(description="base URL that ends in /v1")
    served_model_name: str
    commit_hash: str = Field(description="of the model revision it serves")
    weight: int = Field(default=1, ge=0, description="proportional share, not percent")
    tags: tuple[str, ...] = Field(default=(), description="who may reach it; empty means everybody with a key")


class Route(Value):
    """alias -> weighted endpoints. `version` increases by one with every change (compare-and-swap)."""

    alias: str = Field(description="the model name clients send")
    version: int = Field(default=0, ge=0)
    targets: tuple[RouteTarget, ...]
    verdict_id: str | None = Field(default=None, description="the verdict that granted the tags")
    updated_at: datetime

    @field_validator("alias")
    @classmethod
    def _alias(cls, value: str) -> str:
        if not ALIAS.fullmatch(value) or ".." in value or len(value) > 160:
            raise ValueError(f"{value!r} is not an alias: use name or org/name")
        return value

    @model_validator(mode="after")
    def _weights(self) -> "Route":
        if self.targets and not any(t.weight for t in self.targets):
            raise ValueError(f"route {self.alias!r} has no target with a weight above 0")
        return self
