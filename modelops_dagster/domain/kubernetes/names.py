"""Names and labels of an endpoint's objects. Kubernetes wants lower case and at most 63 characters."""

import hashlib
import re

from modelops_dagster.domain.kubernetes.site import Site

MANAGER = "modelops"
ENDPOINT_LABEL = "modelops.dev/endpoint"
REVISION_LABEL = "modelops.dev/revision"
PART_LABEL = "modelops.dev/part"
MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
NAME_ANNOTATION = "modelops.dev/name"
LAUNCH_ANNOTATION = "modelops.dev/launch-id"
SPEC_ANNOTATION = "modelops.dev/spec"
HTTP_PORT = 8000

# a LeaderWorkerSet's pods get -<group>-<worker>, a Deployment's -<hash>-<pod>: room for them in 63 characters
_MAX_SLUG = 36


def slug(name: str) -> str:
    """The endpoint's name as Kubernetes takes it; a name that had to be changed gets a digest, so none meet."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain == name and len(plain) <= _MAX_SLUG:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain[: _MAX_SLUG - 9].rstrip('-')}-{digest}"


def object_name(name: str, revision: int) -> str:
    """Of the Deployment, its Service and what belongs to it."""
    return f"{slug(name)}-r{revision}"


def labels(name: str, revision: int) -> dict[str, str]:
    """On every object of one revision of an endpoint."""
    return {MANAGED_BY_LABEL: MANAGER, **selector(name, revision)}


def selector(name: str, revision: int) -> dict[str, str]:
    """What finds the pods of one revision."""
    return {ENDPOINT_LABEL: slug(name), REVISION_LABEL: str(revision)}


def service_url(name: str, revision: int, site: Site) -> str:
    """Base URL of one revision inside the cluster, ending in /v1. Its Service listens on one port for all engines."""
    return f"http://{object_name(name, revision)}.{site.namespace}.svc:{HTTP_PORT}/v1"
