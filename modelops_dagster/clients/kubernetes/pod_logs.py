"""What a pod wrote, read on from where one was.

The API server has no offsets, only times: a chunk's `offset` is the time of its last line, in microseconds since 1970.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from modelops_dagster.clients.kubernetes.api import KubernetesApi
from modelops_dagster.domain.endpoints import LogChunk
from modelops_dagster.domain.kubernetes.facts import telling_status
from modelops_dagster.domain.kubernetes.pods import CONTAINER

Manifest = Mapping[str, Any]
_TAIL_LINES = 400
_MAX_BYTES = 1 << 20


class PodLogs:
    """Logs of the engines' containers, or of what beside an engine keeps its pod from being ready."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    def tail(self, pod: Manifest) -> str:
        """The last lines; of the container before, where this one has just been started again."""
        query = {"tailLines": str(_TAIL_LINES), "limitBytes": str(_MAX_BYTES)}
        name = pod["metadata"]["name"]
        status = _status(pod)
        if not status.get("ready") and (status.get("lastState") or {}).get("terminated"):
            before = self._api.log(name, _container(status), query, previous=True)
            if before:
                return before
        return self._api.log(name, _container(status), query)

    def read(self, pod: Manifest, *, tail: int, launch_id: str | None, offset: int) -> LogChunk:
        """The last `tail` lines, or what followed `offset` while this container is still `launch_id`'s."""
        name = pod["metadata"]["name"]
        status = _status(pod)
        this = f"{name}.{status.get('restartCount', 0)}"
        query = {"timestamps": "true", "limitBytes": str(_MAX_BYTES)}
        if this == launch_id and offset:
            since = datetime.fromtimestamp(offset / 1e6, UTC)
            query["sinceTime"] = since.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        else:
            offset = 0
            query["tailLines"] = str(tail)
        lines = [line.split(" ", 1) for line in self._api.log(name, _container(status), query).splitlines()]
        new = [(at, text[0] if text else "") for stamp, *text in lines if (at := _microseconds(stamp)) > offset]
        end = new[-1][0] if new else offset
        return LogChunk(launch_id=this, text="".join(f"{text}\n" for _, text in new), offset=end)


def _status(pod: Manifest) -> Manifest:
    return telling_status(pod) or {}


def _container(status: Manifest) -> str:
    return str(status.get("name", CONTAINER))


def _microseconds(stamp: str) -> int:
    """A time of the log, such as 2026-01-01T00:00:01.123456789Z; 0 when it is none."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    try:
        seconds = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0
    return int(seconds) * 1_000_000 + int((fraction or "0")[:6].ljust(6, "0"))
