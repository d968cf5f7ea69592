"""The checkpoint store: whole, verified directories of weights on the shared filesystem."""

from modelops_dagster.clients.checkpoints.store import MANIFEST_NAME, CheckpointStore

__all__ = ["MANIFEST_NAME", "CheckpointStore"]
