"""What an API server refuses of objects whose every field is known and of the right type.

Compared with kube-apiserver 1.36 by dropping, emptying, doubling and spoiling every field of the golden manifests.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any

Check = Callable[[Any], bool]
Path = tuple[str, ...]

_SUBDOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_QUALIFIED = re.compile(r"(?:[a-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_QUANTITY = re.compile(r"\d+(?:\.\d+)?(?:m|Ki|Mi|Gi|Ti|k|M|G|T)?")
_HANDLERS = {"exec", "httpGet", "tcpSocket", "grpc", "sleep"}
_PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def _like(pattern: re.Pattern[str]) -> Check:
    return lambda value: bool(pattern.fullmatch(str(value)))


def _between(least: int, most: int = 2**31 - 1) -> Check:
    return lambda value: not isinstance(value, int) or least <= value <= most


def _one_of(*values: str) -> Check:
    return lambda value: value in values


def _all_of(pattern: re.Pattern[str]) -> Check:
    return lambda values: all(pattern.fullmatch(str(value)) for value in values.values())


def _has_handler(value: Any) -> bool:
    return bool(_HANDLERS & set(value))


def _number_or_percent(value: Any) -> bool:
    return 0 <= value < 2**31 if isinstance(value, int) else bool(re.fullmatch(r"\d+%", str(value)))


# the end of a field's path, lists left out -> what must hold
_RULES: dict[Path, Check] = {
    ("labels",): _all_of(_VALUE),
    ("matchLabels",): _all_of(_VALUE),
    ("spec", "replicas"): _between(0),
    ("progressDeadlineSeconds",): _between(1),
    ("revisionHistoryLimit",): _between(0),
    ("strategy", "type"): _one_of("RollingUpdate", "Recreate", ""),
    ("rollingUpdate", "maxSurge"): _number_or_percent,
    ("maxUnavailable",): _number_or_percent,
    ("backoffLimit",): _between(0),
    ("completions",): _between(0),
    ("parallelism",): _between(0),
    ("activeDeadlineSeconds",): _between(0),
    ("ttlSecondsAfterFinished",): _between(0),
    ("rules", "action"): _one_of("Count", "FailIndex", "FailJob", "Ignore"),
    ("onPodConditions", "type"): _like(_QUALIFIED),
    ("podReplacementPolicy",): _one_of("Failed", "TerminatingOrFailed"),
    ("unhealthyPodEvictionPolicy",): _one_of("AlwaysAllow", "IfHealthyBudget"),
    ("priorityClassName",): _like(_SUBDOMAIN),
    ("terminationGracePeriodSeconds",): _between(0),
    ("securityContext", "runAsUser"): _between(0),
    ("securityContext", "runAsGroup"): _between(0),
    ("securityContext", "fsGroup"): _between(0),
    ("fsGroupChangePolicy",): _one_of("OnRootMismatch", "Always"),
    ("seccompProfile", "type"): _one_of("RuntimeDefault", "Unconfined", "Localhost"),
    ("spec", "containers"): bool,
    ("containers", "name"): _like(_DNS_LABEL),
    ("containers", "image"): bool,
    ("env", "name"): bool,
    ("valueFrom",): bool,
    ("secretKeyRef",): lambda value: "name" in value,
    ("secretKeyRef", "name"): _like(_SUBDOMAIN),
    ("secretKeyRef", "key"): _like(re.compile(r"[A-Za-z0-9._-]{1,253}")),
    ("ports", "containerPort"): _between(1, 65535),
    ("httpGet", "port"): _between(1, 65535),
    ("ports", "port"): _between(1, 65535),
    ("ports", "appProtocol"): _like(_QUALIFIED),
    ("ports", "name"): lambda value: value == "" or bool(_DNS_LABEL.fullmatch(value)),
    ("ports", "targetPort"): lambda value: isinstance(value, int) or bool(re.fullmatch(r"[a-z0-9-]{1,15}", value)),
    ("initialDelaySeconds",): _between(0),
    ("periodSeconds",): _between(0),
    ("timeoutSeconds",): _between(0),
    ("failureThreshold",): _between(0),
    **{(probe,): _has_handler for probe in _PROBES},
    ("preStop",): _has_handler,
    ("volumeMounts", "mountPath"): bool,
    ("persistentVolumeClaim", "claimName"): _like(_SUBDOMAIN),
    ("emptyDir", "sizeLimit"): _like(_QUANTITY),
    ("requests", "storage"): _like(_QUANTITY),
    ("accessModes",): lambda modes: bool(modes) and set(modes) <= _MODES,
    ("tolerations", "key"): _like(_QUALIFIED),
    ("tolerations", "operator"): _one_of("Equal", "Exists", "Lt", "Gt", ""),
    ("tolerations", "effect"): _one_of("NoSchedule", "PreferNoSchedule", "NoExecute", ""),
    ("nodeSelectorTerms",): bool,
    ("matchExpressions", "key"): _like(_QUALIFIED),
    ("matchExpressions", "operator"): _one_of("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"),
    ("matchExpressions", "values"): lambda values: all(_VALUE.fullmatch(value) for value in values),
}
_MODES = {"ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"}
# by what the entries of a list are told apart
_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "port", "protocol"),
}


def broken_rules(item: dict[str, Any]) -> list[str]:
    """Each with the path of its field; empty when all hold."""
    found = []
    for path, value in _fields(item, ()):
        if any(not _RULES[end](value) for end in (path[-1:], path[-2:]) if end in _RULES):
            found.append(f"{'.'.join(path)}: Invalid value: {value!r}")
        if isinstance(value, list) and path[-1] in _KEYS:
            named = [tuple(entry.get(key) for key in _KEYS[path[-1]]) for entry in value if isinstance(entry, dict)]
            if len(set(named)) < len(named):
                found.append(f"{'.'.join(path)}: duplicate entries for {named}")
    return found + list(_together(item))


def _fields(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if path:
        yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _fields(inner, (*path, str(key)))
    elif isinstance(value, list):
        for inner in value:
            if isinstance(inner, dict):
                for key, entry in inner.items():
                    yield from _fields(entry, (*path, str(key)))


def _together(item: dict[str, Any]) -> Iterator[str]:
    """What several fields must hold together."""
    spec = item.get("spec") or {}
    if item["kind"] == "Deployment":
        if not (spec.get("selector") or {}).get("matchLabels"):
            yield "spec.selector: empty selector is invalid for deployment"
        rolling = (spec.get("strategy") or {}).get("rollingUpdate") or {}
        if rolling.get("maxSurge") == 0 and rolling.get("maxUnavailable") == 0:
            yield "spec.strategy.rollingUpdate.maxUnavailable: may not be 0 when `maxSurge` is 0"
    if item["kind"] == "Service":
        if not spec.get("ports"):
            yield "spec.ports: Required value"
        if not all(_VALUE.fullmatch(str(value)) for value in (spec.get("selector") or {}).values()):
            yield f"spec.selector: Invalid value: {spec['selector']}"
    if item["kind"] == "PersistentVolumeClaim":
        if not spec.get("accessModes"):
            yield "spec.accessModes: at least 1 access mode is required"
        if "storage" not in ((spec.get("resources") or {}).get("requests") or {}):
            yield "spec.resources[storage]: Required value"
    for path, pods in _fields(item, ()):
        if path[-1] != "spec" or not isinstance(pods, dict):
            continue
        for container in pods.get("containers") or []:
            if not container.get("image"):
                yield f"{'.'.join(path)}.containers.image: Required value"
            sleep = (((container.get("lifecycle") or {}).get("preStop") or {}).get("sleep") or {}).get("seconds", 0)
            if not 0 <= sleep <= pods.get("terminationGracePeriodSeconds", 30):
                yield f"{'.'.join(path)}.containers.lifecycle.preStop.sleep: longer than the pod's grace period"
