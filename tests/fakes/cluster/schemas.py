"""Strict validation of objects: unknown fields, wrong types and missing fields are all told.

Built-in kinds are checked against the models of the `kubernetes` client, which are generated from the API's own
OpenAPI document; custom kinds against the small closed schemas in `crd_schemas.yaml`.
"""

import json
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import yaml
from kubernetes.client import ApiClient, models

from tests.fakes.cluster.rules import broken_rules

CRD_SCHEMAS = Path(__file__).with_name("crd_schemas.yaml")
MODEL_OF = {
    ("v1", "Service"): "V1Service",
    ("v1", "Pod"): "V1Pod",
    ("v1", "ConfigMap"): "V1ConfigMap",
    ("v1", "Namespace"): "V1Namespace",
    ("v1", "Secret"): "V1Secret",
    ("v1", "ServiceAccount"): "V1ServiceAccount",
    ("v1", "PersistentVolumeClaim"): "V1PersistentVolumeClaim",
    ("apps/v1", "Deployment"): "V1Deployment",
    ("apps/v1", "StatefulSet"): "V1StatefulSet",
    ("batch/v1", "Job"): "V1Job",
    ("batch/v1", "CronJob"): "V1CronJob",
    ("policy/v1", "PodDisruptionBudget"): "V1PodDisruptionBudget",
    ("scheduling.k8s.io/v1", "PriorityClass"): "V1PriorityClass",
    ("networking.k8s.io/v1", "NetworkPolicy"): "V1NetworkPolicy",
    ("networking.k8s.io/v1", "Ingress"): "V1Ingress",
    ("rbac.authorization.k8s.io/v1", "Role"): "V1Role",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "V1RoleBinding",
}
_CLIENT = ApiClient()


def problems(item: dict[str, Any]) -> list[str]:
    """Everything that is wrong with an object, each with its path; empty when the API server would take it."""
    return untyped(item) or _invalid(item) or broken_rules(item)


def untyped(item: dict[str, Any]) -> list[str]:
    """Fields that there are not, and values of the wrong type: the server does not even read such an object."""
    model = MODEL_OF.get(_key(item))
    if model is not None:
        return list(_unknown(item, model, _key(item)[1]))
    return [said for rule, said in _schema_errors(item) if rule in ("additionalProperties", "type")]


def _invalid(item: dict[str, Any]) -> list[str]:
    key = _key(item)
    if key in MODEL_OF:
        return _missing(item, MODEL_OF[key]) or _cross_field(item)
    if "/".join(key) not in _crd_schemas():
        return [f"there is no kind {key[1]} in {key[0]}"]
    return [said for _, said in _schema_errors(item)] or list(_pod_templates(item, key[1]))


def _key(item: dict[str, Any]) -> tuple[str, str]:
    return str(item.get("apiVersion")), str(item.get("kind"))


def _schema_errors(item: dict[str, Any]) -> list[tuple[str, str]]:
    """(the rule that a custom object breaks, with its path)."""
    checker = jsonschema.Draft202012Validator(_crd_schemas().get("/".join(_key(item)), {}))
    kind = _key(item)[1]
    return [
        (str(e.validator), f"{kind}.{'.'.join(str(p) for p in e.absolute_path)}: {e.message}")
        for e in checker.iter_errors(item)
    ]


@cache
def _crd_schemas() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CRD_SCHEMAS.read_text())
    return loaded


def _pod_templates(item: Any, path: str) -> list[str]:
    """Pod templates inside custom kinds are the built-in ones."""
    found: list[str] = []
    if isinstance(item, dict):
        for key, value in item.items():
            if (
                key.endswith("Template")
                and isinstance(value, dict)
                and "spec" in value
                and "containers" in value["spec"]
            ):
                found += _unknown(value, "V1PodTemplateSpec", f"{path}.{key}")
                found += _missing(value, "V1PodTemplateSpec")
            else:
                found += _pod_templates(value, f"{path}.{key}")
    return found


def _unknown(value: Any, kind: str, path: str) -> list[str]:
    """Fields that the model does not have, and values of the wrong type."""
    if kind.startswith("list["):
        if not isinstance(value, list):
            return [f"{path}: {value!r} is not a list"]
        return [said for n, item in enumerate(value) for said in _unknown(item, kind[5:-1], f"{path}[{n}]")]
    if kind.startswith(("dict(", "dict[")):
        if not isinstance(value, dict):
            return [f"{path}: {value!r} is not a mapping"]
        inner = kind[5:-1].split(", ", 1)[1]
        return [said for key, item in value.items() for said in _unknown(item, inner, f"{path}.{key}")]
    plain = {"str": str, "int": int, "bool": bool, "float": (int, float)}
    if kind in plain:
        wrong = not isinstance(value, plain[kind]) or (kind == "int" and isinstance(value, bool))  # type: ignore[arg-type]
        return [f"{path}: {value!r} is not of type {kind}"] if wrong else []
    if kind in ("object", "datetime"):
        return []
    model = getattr(models, kind)
    if not isinstance(value, dict):
        return [f"{path}: {value!r} is not a mapping"]
    fields = {wire: model.openapi_types[name] for name, wire in model.attribute_map.items()}
    unknown = [f"{path}.{key}: no such field" for key in value if key not in fields]
    return unknown + [
        said for key, item in value.items() if key in fields for said in _unknown(item, fields[key], f"{path}.{key}")
    ]


def _missing(value: dict[str, Any], kind: str) -> list[str]:
    try:
        _CLIENT.deserialize(SimpleNamespace(data=json.dumps(value)), kind)
    except ValueError as error:
        return [f"{kind}: {error}"]
    return []


_QUANTITY = re.compile(r"\d+(?:\.\d+)?(?:m|Ki|Mi|Gi|Ti|k|M|G|T)?")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_LABEL = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")


def _cross_field(item: dict[str, Any]) -> list[str]:
    """Rules of the API server that no type says."""
    found: list[str] = []
    metadata = item.get("metadata") or {}
    if not _NAME.fullmatch(str(metadata.get("name", ""))):
        found.append(f"metadata.name {metadata.get('name')!r} is not a DNS subdomain")
    if item["kind"] in ("Service",) and len(metadata.get("name", "")) > 63:
        found.append("metadata.name is longer than the 63 characters of a DNS label")
    found += [f"label {k}: {v!r}" for k, v in (metadata.get("labels") or {}).items() if not _LABEL.fullmatch(v)]
    spec = item.get("spec") or {}
    template = item if item["kind"] == "Pod" else spec.get("template") if isinstance(spec, dict) else None
    if isinstance(template, dict):
        found += _of_template(item["kind"], spec, template)
    return found


def _of_template(kind: str, spec: dict[str, Any], template: dict[str, Any]) -> list[str]:
    found: list[str] = []
    carried = (template.get("metadata") or {}).get("labels") or {}
    wanted = (spec.get("selector") or {}).get("matchLabels") or {}
    if not wanted.items() <= carried.items():
        found.append("spec.selector does not match spec.template.metadata.labels")
    pod = template.get("spec") or {}
    if not pod.get("containers"):
        return [*found, "spec.template.spec.containers: Required value"]
    if kind == "Job" and pod.get("restartPolicy") not in ("Never", "OnFailure"):
        found.append("spec.template.spec.restartPolicy must be Never or OnFailure")
    volumes = {volume["name"] for volume in pod.get("volumes") or []}
    volumes |= {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates") or []}
    for container in [*pod["containers"], *(pod.get("initContainers") or [])]:
        found += [
            f"volumeMount {m['name']} has no volume"
            for m in container.get("volumeMounts") or []
            if m["name"] not in volumes
        ]
        mounted = [m["mountPath"] for m in container.get("volumeMounts") or []]
        found += [f"{path} is mounted twice" for path in set(mounted) if mounted.count(path) > 1]
        names = [port["name"] for port in container.get("ports") or [] if "name" in port]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = ((container.get(probe) or {}).get("httpGet") or {}).get("port")
            if isinstance(port, str) and port not in names:
                found.append(f"{probe} asks the port {port}, which the container does not name")
        resources = container.get("resources") or {}
        for amounts in resources.values():
            found += [f"{n}: {a!r} is not a quantity" for n, a in amounts.items() if not _QUANTITY.fullmatch(str(a))]
        for name, amount in (resources.get("requests") or {}).items():
            if "/" in name and (resources.get("limits") or {}).get(name) != amount:
                found.append(f"{name}: an extended resource must have its request as its limit")
    return found
