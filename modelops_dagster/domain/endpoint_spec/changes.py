"""What of a spec may change while the endpoint runs, what needs it Stopped, and what makes it another endpoint."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ValidationError

from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
from modelops_dagster.domain.endpoint_spec.spec import EndpointSpec
from modelops_dagster.domain.errors import Conflict, InvalidSpec, ModelOpsError

When = Literal["running", "stopped", "never"]

# Hardware, engine, arguments and visibility need a stop, as in CSGHub. Its replica counts need one too; here they are
# what an autoscaler moves, so they change while the endpoint runs, and so does what only people and the gateway read.
CHANGES: Mapping[str, When] = MappingProxyType(
    {
        "name": "never",
        "model": "never",
        "checkpoint": "never",
        "checkpoint_digest": "never",
        "quantization": "never",
        "served_model_name": "never",
        "deployment": "never",
        "target": "stopped",
        "engine": "stopped",
        "variant": "stopped",
        "engine_args": "stopped",
        "engine_environment": "stopped",
        "max_context": "stopped",
        "start_timeout_s": "stopped",
        "min_replicas": "running",
        "max_replicas": "running",
        "scale_to_zero": "running",
        "autoscale_config": "running",
        "gpus": "stopped",
        "nodes": "stopped",
        "priority": "running",
        "cpu_request": "stopped",
        "cpu_limit": "stopped",
        "memory_request": "stopped",
        "memory_limit": "stopped",
        "cluster": "stopped",
        "nodegroups": "stopped",
        "persistent_volume_claims": "stopped",
        "ports": "stopped",
        "healthcheck": "stopped",
        "env_variables": "stopped",
        "deployment_custom_configuration": "stopped",
        "async_deployment_type": "stopped",
        "advanced_configuration": "stopped",
        "visibility": "stopped",
        "deployment_tag": "running",
        "usd_per_hour": "running",
        "request_timeout_seconds": "running",
        "enable_cache": "stopped",
        "enable_compression": "stopped",
    }
)


def changed_fields(old: EndpointSpec, new: EndpointSpec) -> tuple[str, ...]:
    """Names of the fields that differ, in the order of the spec."""
    return tuple(name for name in EndpointSpec.model_fields if getattr(old, name) != getattr(new, name))


def changes_while_running(old: EndpointSpec, new: EndpointSpec) -> bool:
    """Whether `new` is the same engine with the same arguments, so that nothing has to be started again for it."""
    return all(CHANGES[name] == "running" for name in changed_fields(old, new))


def updated(old: EndpointSpec, changes: Mapping[str, Any]) -> EndpointSpec:
    """The spec with these fields, seen to hold as a whole.

    Raises:
        InvalidSpec: there is no such field, or a value does not hold.
    """
    unknown = next((name for name in changes if name not in EndpointSpec.model_fields), None)
    if unknown is not None:
        raise InvalidSpec(
            f"{unknown} is not a field of a spec; `modelops endpoints schema` lists those there are.", field=unknown
        )
    try:
        return EndpointSpec.model_validate({**old.model_dump(mode="json"), **changes})
    except ValidationError as error:
        raise invalid_spec(error) from error


def assigned(old: EndpointSpec, assignments: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of whole fields from assignments to dotted paths, `autoscale_config.cooldown_period`.

    Raises:
        InvalidSpec: a path goes through something that has no members.
    """
    told, out = old.model_dump(mode="json"), dict[str, Any]()
    for path, value in assignments.items():
        first, *steps = path.split(".")
        if not steps:
            out[first] = value
            continue
        at = out.setdefault(first, told.get(first) or {})
        for step in steps[:-1]:
            at = at.setdefault(step, {}) if isinstance(at, dict) else None
        if not isinstance(at, dict):
            raise InvalidSpec(f"{path}: a part of it has no members; give the whole of {first} instead.", field=path)
        at[steps[-1]] = value
    return out


def refused_change(old: EndpointSpec, new: EndpointSpec, *, stopped: bool) -> ModelOpsError | None:
    """Why the endpoint may not be given `new` now; None when it may.

    Args:
        stopped: no process of the endpoint is left, and none is wanted.
    """
    differing = changed_fields(old, new)
    for name in differing:
        if CHANGES[name] == "never":
            return InvalidSpec(
                f"{name} is what endpoint {old.name} is and does not change: make another endpoint, and move the "
                "traffic with `modelops routes canary` or `modelops routes swap`.",
                field=name,
            )
    waiting = [name for name in differing if CHANGES[name] == "stopped"]
    if waiting and not stopped:
        return Conflict(
            f"Endpoint {old.name} must be Stopped before {', '.join(waiting)} can change: "
            f"`modelops endpoints stop {old.name}` first, or let `update --restart` do it."
        )
    return None
