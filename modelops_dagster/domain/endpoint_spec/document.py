"""The spec as people write it: `model: org/name@commit` instead of a path and a digest, and the names others use."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from modelops_dagster.domain.endpoint_spec.fields import EndpointFields, absolute_path, engine_name, without_nul
from modelops_dagster.domain.endpoint_spec.rules import Problem
from modelops_dagster.domain.endpoint_spec.spec import EndpointSpec

# The same under the names of other deployment APIs; a document may use either, and not both.
SYNONYMS: Mapping[str, str] = MappingProxyType(
    {
        "min_pod_replicas": "min_replicas",
        "max_pod_replicas": "max_replicas",
        "scale_to_zero_enabled": "scale_to_zero",
        "node_groups": "nodegroups",
        "price_per_hour": "usd_per_hour",
        "env": "env_variables",
    }
)

# metric of others -> ours, and what its target is multiplied with
METRICS: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "cpu_usage": ("cpu", 100.0),
        "gpu_usage": ("gpu", 100.0),
        "memory_usage": ("ram", 100.0),
        "request_rate": ("throughput", 1 / 60),
    }
)
_OF_THE_HUB = re.compile(r"https?://(?:www\.)?huggingface\.co/")


def _describe_short_forms(schema: dict[str, Any]) -> None:
    """Publish the names and short forms that `translated` takes besides the fields themselves."""
    properties = schema["properties"]
    for theirs, ours in SYNONYMS.items():
        properties[theirs] = {**properties[ours], "description": f"the same as {ours}"}
    properties["replicas"] = {**properties["max_replicas"], "description": "a fixed number of replicas"}
    properties["version"] = {"type": "string", "description": "commit of the model, instead of org/name@commit"}
    properties["target_utilization"] = {
        "type": "number", "exclusiveMinimum": 0, "maximum": 1,
        "description": "share that an autoscaler keeps accelerators, or else CPUs, busy",
    }  # fmt: skip


class EndpointDocument(EndpointFields):
    """What a person asks for. `checkpoint`, its digest, the engine and the served name are found when left out."""

    model_config = ConfigDict(json_schema_extra=_describe_short_forms)

    checkpoint: str | None = Field(default=None, description="absolute path of the checkpoint, instead of model")
    checkpoint_digest: str | None = Field(default=None, description="when given, the checkpoint must have it")
    engine: str | None = Field(default=None, description="default: the first installed one that serves the model here")
    served_model_name: str | None = Field(
        default=None, min_length=1, max_length=200, description="default: org/name@commit of the checkpoint"
    )

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, value: Any) -> Any:
        return translated(value) if isinstance(value, dict) else value

    @field_validator("checkpoint")
    @classmethod
    def _checkpoint(cls, value: str | None) -> str | None:
        return value if value is None else absolute_path(value)

    @field_validator("engine")
    @classmethod
    def _engine(cls, value: str | None) -> str | None:
        return engine_name(value)

    @field_validator("served_model_name")
    @classmethod
    def _served(cls, value: str | None) -> str | None:
        return value if value is None else without_nul(value)

    @property
    def loads(self) -> bool:
        """An engine of ours is to load a checkpoint for it."""
        return self.deployment.type == "engine"

    def spec(self, **found: Any) -> EndpointSpec:
        """The complete spec, with what was found out for the fields that were left out.

        Raises:
            ValidationError: something does not hold.
        """
        said = self.model_dump(mode="json", exclude_none=True)
        return EndpointSpec.model_validate({**said, **found})

    def _problems(self) -> tuple[Problem, ...]:
        own: list[Problem] = []
        if self.loads and self.model is None and self.checkpoint is None:
            own.append(("model", "is missing: give org/name@commit, or the path of a checkpoint as checkpoint"))
        if self.deployment.type == "container" and self.served_model_name is None:
            own.append(("served_model_name", "is missing: say which model name the container answers to"))
        return (*own, *super()._problems())


def translated(given: Mapping[str, Any]) -> dict[str, Any]:
    """The document with our own names for everything.

    Raises:
        ValueError: it says the same thing twice.
    """
    out = dict(given)
    for theirs, ours in SYNONYMS.items():
        if theirs in out:
            if ours in out:
                raise ValueError(f"{theirs} and {ours} are the same thing; give one of them")
            out[ours] = out.pop(theirs)
    if isinstance(out.get("model"), str):
        out["model"] = _OF_THE_HUB.sub("", out["model"]).rstrip("/")
    if "replicas" in out:
        if "min_replicas" in out or "max_replicas" in out:
            raise ValueError("replicas is a fixed number; give it alone, or min_replicas and max_replicas")
        out["min_replicas"] = out["max_replicas"] = out.pop("replicas")
    if "version" in out:
        model = out.get("model")
        if not isinstance(model, str) or "@" in model:
            raise ValueError("version is the commit of model; give model as org/name beside it, or org/name@commit")
        out["model"] = f"{model}@{out.pop('version')}"
    if isinstance(out.get("autoscale_config"), dict):
        out["autoscale_config"] = _with_our_metrics(out["autoscale_config"])
    if "target_utilization" in out:
        out = _with_utilization(out)
    return out


def _with_our_metrics(config: dict[str, Any]) -> dict[str, Any]:
    """The autoscaler's targets under our names and in our units."""
    targets = config.get("targets")
    if not isinstance(targets, list | tuple):
        return config
    return {**config, "targets": [_with_our_metric(t) if isinstance(t, dict) else t for t in targets]}


def _with_our_metric(target: dict[str, Any]) -> dict[str, Any]:
    ours = METRICS.get(str(target.get("metric")))
    value = target.get("target")
    if ours is None or isinstance(value, bool) or not isinstance(value, int | float):
        return target
    metric, factor = ours
    return {**target, "metric": metric, "target": round(value * factor, 6)}


def _with_utilization(given: dict[str, Any]) -> dict[str, Any]:
    """`target_utilization: 0.7` is an autoscaler that keeps accelerators, or else CPUs, 70 percent busy."""
    out = dict(given)
    share = out.pop("target_utilization")
    if out.get("autoscale_config") is not None:
        raise ValueError("target_utilization is a short form of autoscale_config; give one of them")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"target_utilization is {share!r} and must be a share above 0 and up to 1")
    metric = "gpu" if out.get("gpus") else "cpu"
    out["autoscale_config"] = {"targets": [{"metric": metric, "target": round(share * 100, 6)}]}
    return out
