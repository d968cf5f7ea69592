"""The quantized lane under Dagster, up to a stand-in for its endpoint."""

from pathlib import Path
from typing import Any

import dagster as dg

from modelops_dagster.assets.partitions import models
from modelops_dagster.assets.quantized import quantized_weights
from modelops_dagster.checks.recovery import recovery_check
from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.lineage import write_value
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.lanes import QUANTIZED_LANES
from modelops_dagster.resources.lineage import LineageIOManager, LineageResource
from modelops_dagster.resources.platform import CheckpointResource
from modelops_dagster.resources.quantization import QuantizerResource
from modelops_dagster.settings import data_folder
from tests.clients.quantizing import REVISION, install_quantizer, put_checkpoint

INT8 = next(lane for lane in QUANTIZED_LANES if lane.name == "int8")
REPO = REVISION.repo_id


@dg.asset(key=["int8", "endpoint"], partitions_def=models)
def endpoint(int8_weights: Checkpoint) -> Checkpoint:
    """Stands for the endpoint: it was spent when this has run."""
    return int8_weights


class Chain:
    """A home with a released checkpoint, the fake quantizer, and the int8 lane up to its endpoint."""

    def __init__(self, home: Path, **quantizer: Any) -> None:
        """
        Args:
            quantizer: more fields of the resource, as for a cluster.
        """
        self.home, self.lineage, self._quantizer = home, home / "lineage", quantizer
        if not (home / "engines").exists():
            install_quantizer(home / "engines", home / "cache")
        self.source = put_checkpoint(CheckpointStore(home / "checkpoints"))
        write_value(self.lineage, "raw_weights", REPO, "r0", self.source)
        (home / "dagster").mkdir()
        self.instance = dg.DagsterInstance.local_temp(str(home / "dagster"))
        self.instance.add_dynamic_partitions("models", [REPO])

    def resources(self, lanes: tuple[str, ...] = ()) -> dict[str, Any]:
        quantizer = QuantizerResource(
            engines=str(self.home / "engines"),
            cache=str(self.home / "cache"),
            recipes_root=str(data_folder("quantization")),
            lane_recipes=[],
            policy_name="default",
            work=str(self.home / "quantizer"),
            checkpoints=str(self.home / "checkpoints"),
            accelerator="cpu",
            lanes=list(lanes),
            memory_limit_gb=None,
            timeout_s=60,
            **self._quantizer,
        )
        return {
            "quantizer": quantizer,
            "checkpoints": CheckpointResource(
                root=str(self.home / "checkpoints"), allow_list=str(self.home / "allow.yaml")
            ),
            "lineage": LineageResource(root=str(self.lineage)),
            "io_manager": LineageIOManager(root=str(self.lineage)),
        }

    def run(self, **tags: str) -> dg.ExecuteInProcessResult:
        chain = [dg.AssetSpec("raw_weights", partitions_def=models), quantized_weights(INT8), endpoint]
        return dg.materialize(
            [*chain, recovery_check(INT8)],
            selection=dg.AssetSelection.assets("int8_weights", endpoint),
            partition_key=REPO,
            instance=self.instance,
            resources=self.resources(),
            tags={name.replace("__", "/"): value for name, value in tags.items()},
            raise_on_error=False,
        )


def materialized(result: dg.ExecuteInProcessResult) -> list[str]:
    return [e.asset_key.to_user_string() for e in result.get_asset_materialization_events() if e.asset_key]
