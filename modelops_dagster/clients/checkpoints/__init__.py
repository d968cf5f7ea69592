"""The checkpoint store: whole, verified directories of weights on the shared filesystem."""

from modelops_dagster.clients.checkpoints.allowances import AllowList
from modelops_dagster.clients.checkpoints.manifests import MANIFEST_NAME
from modelops_dagster.clients.checkpoints.store import CheckpointStore

__all__ = ["MANIFEST_NAME", "AllowList", "CheckpointStore"]
