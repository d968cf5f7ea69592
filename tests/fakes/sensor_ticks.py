"""The daemon's part in a sensor's life: it is asked again and again, and its cursor goes from tick to tick."""

from pathlib import Path
from typing import Any

import dagster as dg

from modelops_dagster.assets.partitions import models


class RequestTicks:
    """One instance that knows one model, and a sensor that asks for runs. Call it for a tick.

    Args:
        home: gets a folder `dagster`.
        resources: of the sensor, by name.
    """

    def __init__(self, home: Path, repo_id: str, sensor: dg.SensorDefinition, resources: dict[str, Any]) -> None:
        (home / "dagster").mkdir()
        self.instance = dg.DagsterInstance.local_temp(str(home / "dagster"))
        self.instance.add_dynamic_partitions(str(models.name), [repo_id])
        self.sensor, self.resources = sensor, resources
        self.cursor: str | None = None
        self.said = ""

    def __call__(self) -> list[dg.RunRequest]:
        """The runs that it asked for; `said` is why there were none."""
        result = self.sensor(dg.build_sensor_context(self.instance, cursor=self.cursor, resources=self.resources))
        if isinstance(result, dg.SkipReason):
            self.said = str(result.skip_message)
            return []
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        self.said = str(result.skip_reason.skip_message if isinstance(result.skip_reason, dg.SkipReason) else "")
        return list(result.run_requests or [])
