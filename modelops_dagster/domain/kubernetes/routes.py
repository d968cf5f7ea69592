"""Weights between the revisions of an endpoint, inside the cluster (Gateway API)."""

from collections.abc import Mapping
from typing import Any

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.kubernetes.names import HTTP_PORT, MANAGED_BY_LABEL, MANAGER, object_name, slug
from modelops_dagster.domain.kubernetes.site import GatewayApiSite, Site

MAX_WEIGHT = 1_000_000  # of the API: weights are proportions, not percent


def http_route(name: str, weights: Mapping[int, int], site: Site, timeout_s: float | None = None) -> dict[str, Any]:
    """The HTTPRoute that shares an endpoint's traffic out between its revisions.

    Args:
        weights: share by revision, any whole numbers; a revision of weight 0 stays attached and gets nothing.
        timeout_s: longest one request may take.

    Raises:
        InvalidSpec: the site has no Gateway, or the weights send nothing anywhere.
    """
    gateway = _gateway(site)
    if not weights or not any(weights.values()) or any(not 0 <= w <= MAX_WEIGHT for w in weights.values()):
        raise InvalidSpec(f"Weights are 0 to {MAX_WEIGHT} and not all 0; {dict(weights)} are not.", field="weights")
    backends = [
        {"name": object_name(name, revision), "port": HTTP_PORT, "weight": weight}
        for revision, weight in sorted(weights.items())
    ]
    rule: dict[str, Any] = {"backendRefs": backends}
    if timeout_s is not None:
        rule["timeouts"] = {"request": f"{timeout_s:.0f}s"}
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": slug(name), "namespace": site.namespace, "labels": {MANAGED_BY_LABEL: MANAGER}},
        "spec": {
            "parentRefs": [{"name": gateway.name, "namespace": gateway.namespace}],
            "hostnames": [f"{slug(name)}.{gateway.hostname_suffix}"],
            "rules": [rule],
        },
    }


def _gateway(site: Site) -> GatewayApiSite:
    if site.gateway is None:
        raise InvalidSpec("This site has no Gateway; name one as gateway in the site file.", field="gateway")
    return site.gateway
