"""What processes on this machine can do for a spec: what is refused because it needs a cluster, and what is only said.

Nothing of a spec is ignored in silence: a field is either done, refused here, or named in a notice.
"""

from collections.abc import Iterator

from modelops_dagster.domain.endpoint_spec.rules import given
from modelops_dagster.domain.endpoint_spec.scaling import AutoscaleMetric
from modelops_dagster.domain.endpoint_spec.spec import EndpointSpec
from modelops_dagster.domain.errors import InvalidSpec

_KUBERNETES = "needs the Kubernetes backend"
# field -> what about it this machine has not
_NEEDS_CLUSTER = {
    "cluster": "names a cluster",
    "nodegroups": "names node groups",
    "nodes": "spreads one replica over several machines",
    "persistent_volume_claims": "asks for volumes",
    "deployment_custom_configuration": "sets the command of a container",
    "env_variables": "sets the variables of a container",
    "async_deployment_type": "asks for a queue of its own (here `modelops batch` answers later)",
    "enable_cache": "asks for a cache before the endpoint",
    "enable_compression": "asks for compressed answers",
}
# What the gateway counts and the kernel tells; a cluster's autoscaler has more.
FOLLOWED: frozenset[AutoscaleMetric] = frozenset({"concurrency", "throughput", "latency", "cpu", "ram"})
_LIMITS = ("cpu_request", "cpu_limit", "memory_request", "memory_limit")


def refusal_here(spec: EndpointSpec) -> InvalidSpec | None:
    """Why this machine cannot do what the spec asks for; None when it can."""
    if spec.deployment.type == "container":
        return _refused(spec, "deployment.type", "runs an imported container")
    for name in given(spec, tuple(_NEEDS_CLUSTER)):
        return _refused(spec, name, _NEEDS_CLUSTER[name])
    if spec.ports is not None:
        told = "chooses ports, and on this machine the controller does"
        return _refused(spec, "ports.grpc" if spec.ports.grpc else "ports", told)
    if spec.healthcheck is not None and not spec.is_external:
        told = "sets a probe, and on this machine an engine is ready when its served name answers"
        return _refused(spec, "healthcheck", told)
    return None


def notices_here(spec: EndpointSpec) -> Iterator[str]:
    """What this machine does not do of a spec that it runs all the same, one sentence each."""
    limits = tuple(given(spec, _LIMITS))
    if limits:
        yield f"{', '.join(limits)}: noted and not enforced; only the Kubernetes backend holds a replica to them."
    targets = spec.autoscale_config.targets if spec.autoscale_config else ()
    unfollowed = ", ".join(target.metric for target in targets if target.metric not in FOLLOWED)
    if unfollowed:
        yield (
            f"autoscale_config.targets ({unfollowed}): noted; on this machine replicas follow concurrency, throughput, "
            "latency, cpu and ram."
        )
    overrides = spec.advanced_configuration.runtime_overrides
    if overrides.termination_grace_period_seconds is not None:
        field = "advanced_configuration.runtime_overrides.termination_grace_period_seconds"
        yield f"{field}: noted; on this machine an engine gets the controller's own grace period."


def _refused(spec: EndpointSpec, field: str, what: str) -> InvalidSpec:
    return InvalidSpec(
        f"{field} of endpoint {spec.name} {what}, which {_KUBERNETES}; leave it out to serve on this machine.",
        field=field,
    )
