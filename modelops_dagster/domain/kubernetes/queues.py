"""ASYNC endpoints on a cluster: the consumer beside the engine, and the autoscaler that follows the queue."""

import math
from typing import Any

from modelops_dagster.domain.endpoints import EndpointSpec
from modelops_dagster.domain.engines import EngineManifest
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.kubernetes.names import HTTP_PORT, object_name
from modelops_dagster.domain.kubernetes.pods import GRACE_S, container_security
from modelops_dagster.domain.kubernetes.site import QueueSite, Site
from modelops_dagster.domain.queues import PASSWORD_VARIABLE, URL_VARIABLE, USERNAME_VARIABLE, QueueKind, QueueNames

Manifest = dict[str, Any]
CONSUMER = "consumer"
QUEUE_LABEL = "modelops.dev/takes-from-queue"
QUEUE_TRIGGERS = ("redis-streams", "rabbitmq")
DEFAULT_AT_ONCE = 8  # an engine batches what it is asked at the same time
DEFAULT_TIMEOUT_S = 900
_USERNAME, _PASSWORD = "username", "password"  # keys of the Secret, and parameters of KEDA's triggers


def is_queued(spec: EndpointSpec) -> bool:
    """Whether its requests wait in a queue."""
    return spec.async_deployment_type == "ASYNC"


def queue_site(spec: EndpointSpec, site: Site) -> QueueSite:
    """The site's queue.

    Raises:
        InvalidSpec: it names none, or nothing would wake the endpoint.
    """
    field = "async_deployment_type"
    if site.queue is None:
        raise InvalidSpec(
            f"Endpoint {spec.name} is ASYNC, and this site names no Redis or RabbitMQ; set queue in the site file.",
            field=field,
        )
    if spec.scale_to_zero and site.keda is None:
        raise InvalidSpec(
            f"Endpoint {spec.name} is ASYNC and may sleep, and only KEDA would see the request that wakes it; "
            "set keda in the site file, or scale_to_zero: false.",
            field="scale_to_zero",
        )
    return site.queue


def consumer(spec: EndpointSpec, site: Site, engine: EngineManifest | None) -> Manifest:
    """The container that takes requests from the queue, asks the engine beside it, and stores the answers.

    Raises:
        InvalidSpec: the site has no queue.
    """
    queue = queue_site(spec, site)
    overrides = spec.advanced_configuration.runtime_overrides
    grace_s = overrides.termination_grace_period_seconds
    secrets = {USERNAME_VARIABLE: _USERNAME, PASSWORD_VARIABLE: _PASSWORD}
    return {
        "name": CONSUMER,
        "image": queue.image,
        "command": ["python", "-m", "modelops_dagster.services.queue_consumer"],
        "args": [
            *("--endpoint", spec.name, "--model", spec.served_model_name),
            *("--engine", f"http://127.0.0.1:{HTTP_PORT}", "--health", (engine and engine.health_path) or "/health"),
            *("--at-once", str(overrides.consumer_count or DEFAULT_AT_ONCE)),
            *("--timeout-s", f"{spec.request_timeout_seconds or DEFAULT_TIMEOUT_S:g}"),
            *("--drain-s", str(GRACE_S if grace_s is None else grace_s)),
        ],
        "env": [
            {"name": URL_VARIABLE, "value": queue.url},
            *(
                {"name": name, "valueFrom": {"secretKeyRef": {"name": queue.secret, "key": key}}}
                for name, key in secrets.items()
            ),
        ],
        "securityContext": container_security(),
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp", "subPath": CONSUMER}],  # noqa: S108 - a volume
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
    }


def trigger_authentication(spec: EndpointSpec, site: Site) -> Manifest:
    """By what KEDA may look at the queue: the same Secret, by its name."""
    secret = queue_site(spec, site).secret
    keys = [{"parameter": key, "name": secret, "key": key} for key in (_USERNAME, _PASSWORD)]
    return {"apiVersion": "keda.sh/v1alpha1", "kind": "TriggerAuthentication", "spec": {"secretTargetRef": keys}}


def queue_trigger(spec: EndpointSpec, site: Site, revision: int, per_replica: float) -> Manifest:
    """Scale by the requests in the queue: so many for each replica, and none for none.

    Redis: the stream's length, since a request is deleted when it is answered; the lag of the group would forget those
    that are being answered. RabbitMQ: what waits, since AMQP tells no more; what a lost replica held waits again.
    """
    queue = queue_site(spec, site)
    address, name, value = queue.address, QueueNames(spec.name).requests, str(math.ceil(per_replica))
    kind = QUEUE_TRIGGERS[address.kind is QueueKind.RABBITMQ]
    metadata: Manifest
    if address.kind is QueueKind.REDIS:
        metadata = {"address": f"{address.host}:{address.port}", "stream": name, "streamLength": value}
        if address.database:
            metadata["databaseIndex"] = str(address.database)
        if address.tls:
            metadata["enableTLS"] = "true"
    else:
        metadata = {"host": queue.url, "protocol": "amqp", "queueName": name, "mode": "QueueLength", "value": value}
    reference = {"name": object_name(spec.name, revision)}
    return {
        "type": kind,
        "name": "queue",
        "metricType": "AverageValue",
        "metadata": metadata,
        "authenticationRef": reference,
    }
