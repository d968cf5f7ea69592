"""/v1/engines: the serving programs of this machine."""

import asyncio

from fastapi import APIRouter

from modelops_dagster.clients.endpoints import Launcher
from modelops_dagster.domain.access import Role
from modelops_dagster.domain.engines import EngineStatus
from modelops_dagster.domain.values import Value
from modelops_dagster.services.controller.doorman import needs


class EngineList(Value):
    engines: tuple[EngineStatus, ...]


def engines_router(launcher: Launcher) -> APIRouter:
    """What can be named as the engine of a spec."""
    router = APIRouter(prefix="/v1/engines", tags=["engines"])

    @router.get("", **needs(Role.VIEWER), summary="Engines of this machine")
    async def engines() -> EngineList:
        return EngineList(engines=await asyncio.to_thread(_engines, launcher))

    return router


def _engines(launcher: Launcher) -> tuple[EngineStatus, ...]:
    return tuple(
        EngineStatus(
            manifest=manifest,
            installed=launcher.environment(name) is not None,
            unavailable_reason=launcher.unavailable_reason(name),
        )
        for name, manifest in launcher.manifests().items()
    )
