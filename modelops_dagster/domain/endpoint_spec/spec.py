"""EndpointSpec: what is wanted of one endpoint, complete and closed."""

from typing import Any

from pydantic import Field, field_validator, model_validator

from modelops_dagster.domain.endpoint_spec.fields import EndpointFields, absolute_path, engine_name, without_nul
from modelops_dagster.domain.endpoint_spec.rules import IS_MISSING, Problem

_LOADED = ("checkpoint", "checkpoint_digest", "engine")


class EndpointSpec(EndpointFields):
    """Desired state. The controller makes it true; nobody else starts an engine."""

    checkpoint: str = Field(
        default="", description="absolute path of the checkpoint directory; empty: no engine of ours"
    )
    checkpoint_digest: str = Field(default="", description="digest of its manifest; part of the spec's identity")
    engine: str = Field(default="", description="name of an installed engine; empty where none of ours runs")
    served_model_name: str = Field(
        default="", min_length=1, max_length=200, description="the name the engine answers to"
    )

    @model_validator(mode="before")
    @classmethod
    def _served_name(cls, value: Any) -> Any:
        """An endpoint of somebody else's answers to the name its owner gave it."""
        if isinstance(value, dict) and not value.get("served_model_name"):
            target = value.get("target")
            there = target.get("api_endpoint") if isinstance(target, dict) else getattr(target, "api_endpoint", None)
            name = there.get("model_id") if isinstance(there, dict) else getattr(there, "model_id", None)
            return {**value, "served_model_name": name} if name else value
        return value

    @field_validator("checkpoint")
    @classmethod
    def _checkpoint(cls, value: str) -> str:
        return absolute_path(value) if value else value

    @field_validator("engine")
    @classmethod
    def _engine(cls, value: str) -> str:
        return engine_name(value) or "" if value else value

    @field_validator("served_model_name")
    @classmethod
    def _served(cls, value: str) -> str:
        return without_nul(value)

    @property
    def is_external(self) -> bool:
        """Somebody else serves it; nothing is started for it."""
        return self.deployment.type == "none"

    def _problems(self) -> tuple[Problem, ...]:
        own: list[Problem] = []
        ours = self.deployment.type == "engine"
        for name in _LOADED:
            if ours and not getattr(self, name):
                own.append((name, IS_MISSING))
            if not ours and getattr(self, name):
                own.append((name, f"is of our engines, and deployment.type is {self.deployment.type}; leave it out"))
        if not self.served_model_name and not self.is_external:
            own.append(("served_model_name", IS_MISSING))
        if self.target is not None and self.served_model_name != self.target.api_endpoint.model_id:
            own.append(("served_model_name", "is not target.api_endpoint.model_id; leave it out"))
        return (*own, *super()._problems())
