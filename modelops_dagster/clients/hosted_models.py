"""`hosted_models.yaml` followed into routes, while everything runs."""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.yaml_files import read_yaml
from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
from modelops_dagster.domain.errors import Conflict
from modelops_dagster.domain.hosted_models import (
    FILE,
    HostedModel,
    HostedModels,
    hosted_route,
    is_listed,
    without_hosted,
)

ATTEMPTS = 5


def hosted_models_path(home: Path) -> Path:
    return home / FILE


def read_hosted_models(path: Path) -> HostedModels:
    """What the file lists; nothing when there is none.

    Raises:
        InvalidSpec: it does not hold; names the alias and the field.
    """
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        return HostedModels(models={})
    try:
        return HostedModels.model_validate({"models": content or {}})
    except ValidationError as error:
        raise invalid_spec(error, str(path)) from error


class HostedModelsFile:
    """Keeps the routes equal to the file. A file that does not hold changes nothing."""

    def __init__(self, path: Path, routes: RouteStore) -> None:
        self._path = path
        self._routes = routes
        self._seen: tuple[int, int, int] | None = None
        self._known = False
        self._last: tuple[int, int, int] | None = None

    def follow_once(self) -> list[str]:
        """Make the routes what the file says, at the second look that finds it changed and the same.

        Returns a line for each route that was changed.

        Raises:
            InvalidSpec: the file does not hold; it is read again when it changes.
            Conflict: a route kept changing under us.
        """
        signature = _signature(self._path)
        if self._known and signature == self._seen:
            return []
        settled, self._last = signature == self._last, signature
        if not settled and signature is not None:
            return []  # somebody writes it at this moment, and this may be half a file
        self._seen, self._known = signature, True
        wanted = read_hosted_models(self._path).models
        changed = [alias for alias, model in wanted.items() if self._change(alias, model)]
        listed = [r.alias for r in self._routes.list() if any(is_listed(t) for t in r.targets)]
        changed += [alias for alias in listed if alias not in wanted and self._change(alias, None)]
        return [f"route {alias!r} follows {self._path.name}" for alias in changed]

    def _change(self, alias: str, model: HostedModel | None) -> bool:
        """Put the model behind its alias, or take away what the file put there; True when that changed anything."""
        for attempt in range(ATTEMPTS):
            route = self._routes.get(alias)
            at = datetime.now(UTC)
            after = hosted_route(route, alias, model, at) if model else without_hosted(route, at) if route else None
            if route is not None and after is not None and after.targets == route.targets:
                return False
            try:
                if after is not None:
                    self._routes.put(after, route.version if route else 0)
                elif route is not None:
                    self._routes.delete(alias, route.version)
                return True
            except Conflict:
                if attempt == ATTEMPTS - 1:
                    raise
        return False


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
