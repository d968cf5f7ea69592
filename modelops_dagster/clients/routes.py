"""Routes as files: one JSON document per alias, changed by compare-and-swap, every version kept."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

from pydantic import ValidationError

from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.errors import Conflict, IntegrityError, InvalidSpec
from modelops_dagster.domain.gateway import Route, is_alias

Signature = tuple[tuple[str, int, int, int], ...]


class RouteStore:
    """`<root>/routes/<alias>.json` is what holds now; `<root>/history/<alias>/<version>.json` is every version.

    An alias may hold a slash, which a file name may not: it is percent-encoded. Writers in any number of processes
    take turns on a lock per alias, and a killed writer frees it. Readers take no lock: a document appears whole or not
    at all.
    """

    def __init__(self, root: Path) -> None:
        self.routes = root / "routes"
        self._history = root / "history"

    def prepare(self) -> None:
        """Make the folder, so that a missing one is an error from then on and not a store without routes."""
        self.routes.mkdir(parents=True, exist_ok=True)

    def get(self, alias: str) -> Route | None:
        """The route, or None when the alias has none.

        Raises:
            IntegrityError: the document is not a route.
            InvalidSpec: `alias` cannot name a route.
        """
        return _read(self.routes / f"{_encode(alias)}.json")

    def aliases(self) -> tuple[str, ...]:
        """Every alias that has a document, sorted."""
        return tuple(sorted(unquote(p.stem) for p in self.routes.glob("*.json")))

    def list(self) -> tuple[Route, ...]:
        """Every route, sorted by alias.

        Raises:
            IntegrityError: a document is not a route.
        """
        found = (self.get(alias) for alias in self.aliases())
        return tuple(route for route in found if route is not None)

    def endpoints(self, *, besides: str | None = None) -> frozenset[str]:
        """Every endpoint that stands behind an alias, or behind one `besides` this.

        Raises:
            IntegrityError: a document is not a route.
        """
        return frozenset(t.endpoint for route in self.list() if route.alias != besides for t in route.targets)

    def history(self, alias: str) -> tuple[Route, ...]:
        """Every version up to the present one, oldest first. A version without targets is a withdrawal."""
        current = self.get(alias)
        folder = self._history / _encode(alias)
        numbers = sorted(int(p.stem) for p in folder.glob("*.json")) if folder.is_dir() else []
        # a writer killed between its two writes leaves a version that never held: it is above the present one
        wanted = [n for n in numbers if current is None or n <= current.version]
        found = (_read(folder / f"{n}.json") for n in wanted)
        return tuple(route for route in found if route is not None)

    def put(self, route: Route, expected_version: int) -> Route:
        """Write the route if the stored version is still `expected_version` (0: the alias has none).

        Returns:
            The route as written, with its new version.

        Raises:
            Conflict: somebody else changed the route since it was read.
        """
        with self._locked(route.alias):
            self._require(route.alias, expected_version)
            written = route.model_copy(update={"version": self._next_version(route.alias)})
            self._keep(written)
            self.prepare()
            _write(self.routes / f"{_encode(route.alias)}.json", written)
            return written

    def delete(self, alias: str, expected_version: int) -> None:
        """Withdraw the alias if its version is still `expected_version`. The history keeps what it was.

        Raises:
            Conflict: somebody else changed the route since it was read, or it has none.
        """
        with self._locked(alias):
            current = self._require(alias, expected_version)
            if current is None:
                raise Conflict(f"route {alias!r} does not exist; nothing was withdrawn.")
            self._keep(current.model_copy(update={"version": self._next_version(alias), "targets": ()}))
            (self.routes / f"{_encode(alias)}.json").unlink()

    def signature(self) -> Signature:
        """Differs whenever any document changed; cheap enough to ask several times a second.

        Raises:
            OSError: the folder cannot be read, or is not there.
        """
        with os.scandir(self.routes) as entries:
            stats = [(e.name, e.stat()) for e in entries if e.name.endswith(".json")]
        return tuple(sorted((name, s.st_ino, s.st_mtime_ns, s.st_size) for name, s in stats))

    @contextmanager
    def _locked(self, alias: str) -> Iterator[None]:
        folder = self._history / _encode(alias)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _require(self, alias: str, expected_version: int) -> Route | None:
        current = self.get(alias)
        version = current.version if current else 0
        if version != expected_version:
            raise Conflict(
                f"route {alias!r} is at version {version} and not {expected_version} any more; read it again and "
                "repeat the change."
            )
        return current

    def _next_version(self, alias: str) -> int:
        """One above every version there ever was, so that a withdrawn and re-made route still counts upwards."""
        current = self.get(alias)
        if current is not None:
            return current.version + 1
        return max((int(p.stem) for p in (self._history / _encode(alias)).glob("*.json")), default=0) + 1

    def _keep(self, route: Route) -> None:
        _write(self._history / _encode(route.alias) / f"{route.version}.json", route)


def _encode(alias: str) -> str:
    if not is_alias(alias):
        raise InvalidSpec(f"{alias!r} is not an alias; use name or org/name.", field="alias")
    return quote(alias, safe="")


def _read(path: Path) -> Route | None:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    try:
        route = Route.model_validate_json(text)
    except ValidationError as error:
        raise IntegrityError(
            f"{path} is not a route ({counted(error.error_count(), 'error')}); restore it from the history folder "
            "beside it."
        ) from error
    if path.parent.name == "routes" and path.stem != _encode(route.alias):
        raise IntegrityError(f"{path} holds the route of {route.alias!r}; rename or remove it.")
    return route


def _write(path: Path, route: Route) -> None:
    write_whole(path, json.dumps(route.model_dump(mode="json"), indent=1) + "\n")
