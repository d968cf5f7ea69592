"""A controller that a test made, as Dagster's resource."""

from typing import Any

from modelops_dagster.resources.platform import ControllerResource

_MADE: dict[int, Any] = {}


class _KnownController(ControllerResource):
    number: int

    def client(self) -> Any:
        return _MADE[self.number]


def known_controller(controller: Any) -> ControllerResource:
    """The resource whose client is `controller`. A resource's fields are JSON, so it is known by its number."""
    _MADE[len(_MADE)] = controller
    return _KnownController(number=len(_MADE) - 1)
