"""Follows `hosted_models.yaml` while the gateway runs, so that a model listed there can be called at once."""

import asyncio
from collections.abc import Callable

from modelops_dagster.clients.hosted_models import HostedModelsFile
from modelops_dagster.domain.errors import ModelOpsError

LOOK_INTERVAL_S = 0.5


async def follow_hosted_models(file: HostedModelsFile, complain: Callable[[str], None]) -> None:
    """Follow for ever. What does not hold is said, and changes nothing."""
    while True:
        try:
            for line in file.follow_once():
                complain(line)
        except (ModelOpsError, OSError) as error:
            complain(str(error))
        await asyncio.sleep(LOOK_INTERVAL_S)
