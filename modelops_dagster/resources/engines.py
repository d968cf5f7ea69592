"""What every resource that needs engines is configured with, and the registry it opens from that."""

from pathlib import Path
from typing import Any

import dagster as dg

from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.settings import Settings


class InstalledEngines(dg.ConfigurableResource[Any]):
    """Where engines are described and installed, and what they run on."""

    engines: str
    cache: str
    accelerator: str
    own_engines: str = ""
    images_for: str = ""

    def registry(self) -> EngineRegistry:
        own = Path(self.own_engines) if self.own_engines else None
        return EngineRegistry(Path(self.engines), Path(self.cache), own, images_for=self.images_for)


def installed_engines(settings: Settings) -> dict[str, Any]:
    """The fields of `InstalledEngines`, for a resource that has more of its own."""
    return {
        "engines": str(settings.engines),
        "cache": str(settings.cache),
        "accelerator": settings.accelerator,
        "own_engines": str(settings.own_engines),
        "images_for": settings.images_for,
    }
