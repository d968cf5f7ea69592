"""The API server of a cluster, spoken to in plain dictionaries. Every failure becomes an error of ours.

The `kubernetes` package finds the server and authenticates (kubeconfig with its plug-ins, or the pod's own token); its
generated models are not used: rendering is ours, and custom kinds have none.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from kubernetes import client, config
from urllib3.exceptions import HTTPError

from modelops_dagster.domain.errors import ClusterUnavailable, Conflict, InvalidSpec, OverQuota, UserError
from modelops_dagster.domain.kubernetes.quotas import over_quota

Manifest = dict[str, Any]
APPLY = "application/apply-patch+yaml"
_TIMEOUT_S = 15.0
_CONNECT_S = 5.0
# how an API server says, with a 500, that an applied object has fields it does not know or of another type
_UNREAD = ("failed to create typed patch object", "failed to convert new object")


class Kind(NamedTuple):
    """Where objects of a kind are found."""

    api: str  # `v1`, or group/version
    plural: str

    @property
    def root(self) -> str:
        return f"/api/{self.api}" if "/" not in self.api else f"/apis/{self.api}"


KINDS: dict[str, Kind] = {
    "Pod": Kind("v1", "pods"),
    "Service": Kind("v1", "services"),
    "PersistentVolumeClaim": Kind("v1", "persistentvolumeclaims"),
    "Job": Kind("batch/v1", "jobs"),
    "Event": Kind("v1", "events"),
    "Deployment": Kind("apps/v1", "deployments"),
    "PodDisruptionBudget": Kind("policy/v1", "poddisruptionbudgets"),
    "ScaledObject": Kind("keda.sh/v1alpha1", "scaledobjects"),
    "TriggerAuthentication": Kind("keda.sh/v1alpha1", "triggerauthentications"),
    "LeaderWorkerSet": Kind("leaderworkerset.x-k8s.io/v1", "leaderworkersets"),
}


class NoSuchObject(Exception):
    """The server has no such object, or no such kind."""


class VersionGone(Exception):
    """The server has forgotten what happened since that version: list again."""


class KubernetesApi:
    """One namespace of one cluster. Methods block, and may be called from several threads.

    Args:
        kubeconfig: None: the token and address that a pod of the cluster is given.
        connections: at once; every watch holds one.

    Raises:
        UserError: there is no usable configuration.
    """

    def __init__(self, namespace: str, kubeconfig: Path | None = None, *, connections: int = 48) -> None:
        self.namespace = namespace
        settings = client.Configuration()
        settings.connection_pool_maxsize = connections
        settings.retries = 0
        try:
            if kubeconfig is not None:
                config.load_kube_config(str(kubeconfig), client_configuration=settings)
            else:
                config.load_incluster_config(client_configuration=settings)
        except (config.ConfigException, OSError, TypeError, ValueError) as error:
            where = f"{kubeconfig} is not a usable kubeconfig" if kubeconfig else "This program runs in no pod"
            raise UserError(
                f"{where} ({' '.join(str(error).split())}): set MODELOPS_KUBECONFIG to the file of a cluster."
            ) from error
        self._client = client.ApiClient(settings)

    def apply(self, item: Manifest, manager: str, *, force: bool = False) -> Manifest:
        """Server-side apply. Fields that `manager` set before and leaves out now go; those of others stay.

        Args:
            force: take fields from their owners, even those with another value.

        Raises:
            Conflict: another manager owns a field and has another value for it.
            InvalidSpec: the server does not take the object.
        """
        query = {"fieldManager": manager, "fieldValidation": "Strict"} | ({"force": "true"} if force else {})
        return self._json("PATCH", self._path(item["kind"], item["metadata"]["name"]), query, item, APPLY)

    def read(self, kind: str, name: str) -> Manifest | None:
        """The object; None: there is none."""
        try:
            return self._json("GET", self._path(kind, name))
        except NoSuchObject:
            return None

    def list(self, kind: str, selector: str) -> tuple[list[Manifest], str]:
        """The objects with these labels, and the version to watch from.

        Raises:
            NoSuchObject: the cluster does not know the kind.
        """
        found = self._json("GET", self._path(kind), {"labelSelector": selector})
        return list(found["items"]), str(found["metadata"]["resourceVersion"])

    def events(self, kind: str, reason: str) -> Iterator[tuple[str, str, datetime]]:
        """(name, message, when it was said last, UTC) of what was said of objects of a kind, for one reason."""
        query = {"fieldSelector": f"involvedObject.kind={kind},reason={reason}"}
        for event in self._json("GET", self._path("Event"), query)["items"]:
            at = event.get("lastTimestamp") or event.get("eventTime") or event["metadata"]["creationTimestamp"]
            yield event["involvedObject"]["name"], str(event.get("message") or ""), datetime.fromisoformat(at)

    def delete(self, kind: str, name: str) -> bool:
        """Delete the object once what it owns is gone; False: there was none."""
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"}
        try:
            self._json("DELETE", self._path(kind, name), body=body)
        except NoSuchObject:
            return False
        return True

    def watch(self, kind: str, selector: str, version: str, timeout_s: int) -> Iterator[tuple[str, Manifest]]:
        """(ADDED | MODIFIED | DELETED | BOOKMARK, object) as it happens, until the server ends it.

        Raises:
            VersionGone: list again.
            ClusterUnavailable: the connection broke.
        """
        query = {
            "labelSelector": selector,
            "resourceVersion": version,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(timeout_s),
        }
        # the server ends the watch in time; a connection that says nothing for longer is dead
        answer = self._send("GET", self._path(kind), query, timeout=(_CONNECT_S, timeout_s + _TIMEOUT_S))
        try:
            for line in _lines(answer):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    if status.get("code") == 410:
                        raise VersionGone(status.get("message", ""))
                    raise ClusterUnavailable(f"The watch of {kind} ended: {status.get('message', '')}.")
                yield str(event["type"]), event["object"]
        except (HTTPError, OSError, ValueError) as error:
            raise ClusterUnavailable(f"The watch of {kind} broke ({error}).") from error
        finally:
            answer.close()

    def log(self, pod: str, container: str, query: Mapping[str, str], *, previous: bool = False) -> str:
        """What the container wrote; empty when there is no such pod, or it has not run."""
        asked = {"container": container, "previous": "true" if previous else "false", **query}
        try:
            answer = self._send("GET", f"{self._path('Pod', pod)}/log", asked)
        except (NoSuchObject, InvalidSpec):
            return ""
        try:
            return bytes(answer.data).decode(errors="replace")
        finally:
            answer.release_conn()

    def _path(self, kind: str, name: str | None = None) -> str:
        found = KINDS[kind]
        path = f"{found.root}/namespaces/{quote(self.namespace)}/{found.plural}"
        return path if name is None else f"{path}/{quote(name)}"

    def _json(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Manifest | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        answer = self._send(method, path, query or {}, body, content_type)
        try:
            found: Manifest = json.loads(answer.data)
        finally:
            answer.release_conn()
        return found

    def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: Manifest | None = None,
        content_type: str = "application/json",
        timeout: tuple[float, float] = (_CONNECT_S, _TIMEOUT_S),
    ) -> Any:
        headers = {"Content-Type": content_type, "Accept": "application/json, */*"}
        try:
            return self._client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=timeout,
            )
        except client.ApiException as error:
            raise refused(error, method, path) from error
        except (HTTPError, OSError) as error:
            host = self._client.configuration.host
            raise ClusterUnavailable(
                f"The API server {host} does not answer ({type(error).__name__}); the cluster goes on without us."
            ) from error


def _lines(answer: Any) -> Iterator[bytes]:
    rest = b""
    for chunk in answer.stream(amt=None, decode_content=False):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line for line in whole if line)


def refused(error: client.ApiException, method: str, path: str) -> Exception:
    """What the server's refusal means here."""
    said = _message(error)
    if error.status == 404:
        return NoSuchObject(said)
    if error.status == 410:
        return VersionGone(said)
    if error.status == 409:
        return Conflict(f"Somebody else owns what would be applied to {path}: {said}.")
    if error.status == 403 and (full := over_quota(said, "pod" if said.startswith("pods ") else "object")) is not None:
        return OverQuota(full) if "exceeded quota" in said else UserError(full)
    if error.status in (401, 403):
        return UserError(
            f"The API server does not let this program {method} {path} ({said}); grant it what "
            "deploy/kubernetes/base grants."
        )
    if error.status in (400, 422) or (error.status == 500 and said.startswith(_UNREAD)):
        return InvalidSpec(f"The API server does not take {path}: {said}.")
    return ClusterUnavailable(f"The API server answered {error.status} to {method} {path}: {said}.")


def _message(error: client.ApiException) -> str:
    try:
        said = str(json.loads(error.body)["message"])
    except (ValueError, KeyError, TypeError):
        said = str(error.reason or error.body or "")
    return " ".join(said.split()).rstrip(".")
