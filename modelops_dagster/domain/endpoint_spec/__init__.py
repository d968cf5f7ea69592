"""What is wanted of an endpoint: the spec, its parts, the rules between them, and what may change when."""

from modelops_dagster.domain.endpoint_spec.container import (
    AdvancedConfiguration,
    CustomConfiguration,
    Deployment,
    HealthCheck,
    Port,
    Ports,
    RuntimeOverrides,
    VolumeClaim,
)
from modelops_dagster.domain.endpoint_spec.external import ApiEndpoint, Target
from modelops_dagster.domain.endpoint_spec.fields import ENDPOINT_NAME, ENGINE_NAME, ENGINE_VARIABLE, EndpointFields
from modelops_dagster.domain.endpoint_spec.scaling import AutoscaleConfig, AutoscaleMetric, AutoscaleTarget, Priority
from modelops_dagster.domain.endpoint_spec.spec import EndpointSpec

__all__ = [
    "ENDPOINT_NAME",
    "ENGINE_NAME",
    "ENGINE_VARIABLE",
    "AdvancedConfiguration",
    "ApiEndpoint",
    "AutoscaleConfig",
    "AutoscaleMetric",
    "AutoscaleTarget",
    "CustomConfiguration",
    "Deployment",
    "EndpointFields",
    "EndpointSpec",
    "HealthCheck",
    "Port",
    "Ports",
    "Priority",
    "RuntimeOverrides",
    "Target",
    "VolumeClaim",
]
