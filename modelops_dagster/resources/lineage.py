"""The I/O manager: values of the type chain as JSON files, and nothing else."""

from pathlib import Path
from typing import Any

import dagster as dg

from modelops_dagster.clients.lineage import read_value, write_value


class LineageIOManager(dg.ConfigurableIOManager):
    """Stores each stage's value under `<root>/<asset key>/<partition>/`.

    A run reads what it wrote itself; a run that did not materialize the upstream asset reads the latest. So two
    revisions of one model that are onboarded one after the other never see each other's values half-way.
    """

    root: str

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        if obj is not None:
            partition = context.partition_key if context.has_partition_key else None
            write_value(Path(self.root), "/".join(context.asset_key.path), partition, context.run_id, obj)

    def load_input(self, context: dg.InputContext) -> Any:
        partition = context.partition_key if context.has_partition_key else None
        key = context.asset_key.to_user_string()
        value = read_value(Path(self.root), key, partition, context.step_context.run_id)
        if value is None:
            raise dg.Failure(
                description=f"{key} has no stored value for {partition or 'this graph'}: materialize it first.",
                allow_retries=False,
            )
        return value
