"""What the gateway and the controller tell each other about endpoints, as files: where they answer, when they are used.

`live.json` is the controller's: the addresses at which each endpoint answers right now. It follows every restart, so a
route needs no change when an engine comes back on another port. `demand/<endpoint>` is the gateway's: its time is when
the endpoint was last asked for. Neither needs the other program to run; what a kill loses is half a second of demand.
"""

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.endpoints import ENDPOINT_NAME, EndpointState
from modelops_dagster.domain.errors import DiskFull
from modelops_dagster.domain.values import Value

_WIDTH = 8
_BETWEEN = ",\n"
_FRESH_S = 3.0  # the gateway says it twice a second
FileSignature = tuple[int, int, int]


class LiveEndpoint(Value):
    """One endpoint as the gateway needs it."""

    name: str
    served_model_name: str
    state: EndpointState
    since: datetime = Field(description="when the state was entered, UTC")
    urls: tuple[str, ...] = Field(description="base URLs that answer now, one per replica, each ending in /v1")
    wakes: bool = Field(default=False, description="it sleeps, or is on its way back: a call is worth holding")
    start_seconds: float | None = Field(default=None, description="how long its last start took")
    usd_per_hour: float | None = Field(default=None, description="price of one replica by its spec, USD per hour")
    request_timeout_s: float | None = Field(default=None, description="longest that one attempt may take by its spec")


class LiveStore:
    """`<folder>/live.json`: written by the controller, followed by every worker of the gateway.

    Of a table with hundreds of endpoints one changes at a time: only that one is put into words, and only that one is
    validated by who reads it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "live.json"
        self._lines: dict[str, str] = {}
        self._entries: dict[str, tuple[object, LiveEndpoint]] = {}

    def put(self, endpoint: LiveEndpoint) -> bool:
        """Take the endpoint into the table, which `write` shows to others; True when that changes it."""
        line = endpoint.model_dump_json()
        changes = self._lines.get(endpoint.name) != line
        self._lines[endpoint.name] = line
        return changes

    def drop(self, name: str) -> None:
        """Take an endpoint out of the table."""
        self._lines.pop(name, None)

    def write(self) -> int:
        """Write the table, whole or not at all; returns its size in characters.

        Raises:
            DiskFull: there is no room for it; the old table stays.
        """
        text = f"[{_BETWEEN.join(self._lines.values())}]\n"
        try:
            write_whole(self._path, text, is_durable=False)
        except OSError as error:
            raise DiskFull(
                f"{self._path} cannot be written ({error.strerror}); free space or fix its rights."
            ) from error
        return len(text)

    def read(self) -> Mapping[str, LiveEndpoint]:
        """Endpoints by name; empty when no controller has run for this home.

        Raises:
            ValueError: the file is not such a table.
        """
        try:
            entries = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        try:
            found = [(entry, self._endpoint(entry)) for entry in entries]
        except (ValidationError, TypeError) as error:
            raise ValueError(f"{self._path} does not list endpoints ({str(error).splitlines()[0]})") from error
        self._entries = {endpoint.name: (entry, endpoint) for entry, endpoint in found}
        return {name: endpoint for name, (_, endpoint) in self._entries.items()}

    def _endpoint(self, entry: object) -> LiveEndpoint:
        name = entry.get("name") if isinstance(entry, dict) else None
        known, endpoint = self._entries.get(str(name), (None, None))
        return endpoint if endpoint is not None and known == entry else LiveEndpoint.model_validate(entry)

    def signature(self) -> FileSignature:
        """(inode, modification time in ns, size): differs whenever the table changed; zeros when there is none."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return (0, 0, 0)
        return (stat.st_ino, stat.st_mtime_ns, stat.st_size)


class Demand:
    """`<folder>/demand/<endpoint>`: its time is when somebody last asked for the endpoint, in it how many calls ran."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "demand"

    def note(self, name: str, under_way: int = 0) -> None:
        """The endpoint is asked for now, and answers so many calls.

        Raises:
            OSError: the file cannot be written.
        """
        path = self._file(name)
        self._folder.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.write(file, f"{under_way:{_WIDTH}d}".encode())  # the same width each time, so it is read whole
        finally:
            os.close(file)

    def last(self, name: str) -> datetime | None:
        """When it was last asked for, UTC; None: never since it was made."""
        try:
            return datetime.fromtimestamp(self._file(name).stat().st_mtime, UTC)
        except OSError:
            return None

    def under_way(self, name: str) -> int:
        """Calls it answers now; what was said of it seconds ago counts no more."""
        path = self._file(name)
        try:
            fresh = time.time() - path.stat().st_mtime < _FRESH_S
            return int(path.read_bytes()[:_WIDTH] or b"0") if fresh else 0
        except (OSError, ValueError):
            return 0

    def forget(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        if not ENDPOINT_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not an endpoint name")
        return self._folder / name
