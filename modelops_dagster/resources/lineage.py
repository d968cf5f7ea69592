"""Values of the type chain as JSON files: the I/O manager, and what is read and kept beside the chain."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from modelops_dagster.clients.lineage import forget_latest, latest_of, read_value, write_value
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Endpoint, Parked
from modelops_dagster.domain.engines import RungResult
from modelops_dagster.domain.errors import ModelParked, PreflightBlocked
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.preflight import Preflight
from modelops_dagster.domain.rehearsal import Rehearsal
from modelops_dagster.domain.retries import Waiting, remembered, waiting
from modelops_dagster.domain.values import Value

STOPPED = "release/stopped"  # what a release is kept as that its preflight blocked


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


class LineageResource(dg.ConfigurableResource[Path]):
    """Stored values, for what is not an input of an asset: earlier ladders, parked models, values for alerts."""

    root: str

    def value(self, asset: str, partition_key: str, run_id: str | None = None) -> Any | None:
        """What a run made of an asset, else the latest, else None."""
        return read_value(Path(self.root), asset, partition_key, run_id)

    def keep(self, asset: str, partition_key: str, run_id: str, value: Value) -> None:
        """Keep a value of the chain that no asset returns, such as what a check measured."""
        write_value(Path(self.root), asset, partition_key, run_id, value)

    def known_ladder(self, lane: str, checkpoint: Checkpoint) -> tuple[RungResult, ...]:
        """What the rungs did with this checkpoint when they were tried last; empty when they never were."""
        for asset in (f"{lane}/parked", f"{lane}/endpoint"):
            found: Endpoint | Parked | None = self.value(asset, checkpoint.revision.repo_id)
            if found is not None and found.checkpoint.digest == checkpoint.digest:
                return found.ladder
        return ()

    def preflight(self, checkpoint: Checkpoint) -> Preflight | None:
        """What was found of this revision before its weights were fetched; None when another was looked at since."""
        found: Release | None = self.value("release", checkpoint.revision.repo_id)
        return found.preflight if found is not None and found.revision == checkpoint.revision else None

    def rehearsal(self, checkpoint: Checkpoint) -> Rehearsal | None:
        """What engines did with made-up weights of this revision; None when none were tried."""
        found: Rehearsal | None = self.value("rehearsal", checkpoint.revision.repo_id)
        return found if found is not None and found.revision == checkpoint.revision else None

    @contextmanager
    def stopping(self, release: Release, run_id: str) -> Iterator[None]:
        """Keep a release whose preflight blocks it, so that it is shown and tried again; forget it when one passes."""
        repo_id = release.revision.repo_id
        try:
            yield
        except PreflightBlocked:
            write_value(Path(self.root), STOPPED, repo_id, run_id, release)
            raise
        forget_latest(Path(self.root), STOPPED, repo_id)

    @contextmanager
    def parking(self, lane: str, checkpoint: Checkpoint, run_id: str, versions: Mapping[str, str]) -> Iterator[None]:
        """Keep the reasons when no rung holds the model, and forget them when one does.

        Args:
            versions: of the installed engines, by name.
        """
        repo_id = checkpoint.revision.repo_id
        try:
            yield
        except ModelParked as error:
            ladder = remembered(error.ladder, (), versions)
            parked = Parked(checkpoint=checkpoint, ladder=ladder, parked_at=datetime.now(UTC))
            write_value(Path(self.root), f"{lane}/parked", repo_id, run_id, parked)
            raise
        forget_latest(Path(self.root), f"{lane}/parked", repo_id)

    def waiting(self, lanes: Sequence[str]) -> list[Waiting]:
        """Every model that waits for a newer engine, by repo_id; a parked one counts as parked in that lane, and one
        that was stopped before its weights were fetched as parked in the first."""
        found: dict[tuple[str, str], Endpoint | Parked | Release] = {}
        for lane in lanes:
            for asset in (f"{lane}/endpoint", f"{lane}/parked"):
                found |= {(repo_id, lane): value for repo_id, value in latest_of(Path(self.root), asset).items()}
        stopped = latest_of(Path(self.root), STOPPED)
        found |= {(repo_id, lane): value for repo_id, value in stopped.items() for lane in lanes[:1]}
        judged = (waiting(found[key]) for key in sorted(found))
        return [w for w in judged if w is not None]
