"""A Hub over a folder of models: the unmodified huggingface_hub client talks to it through HF_ENDPOINT."""

from modelops_dagster.services.hub_server.faults import Faults
from modelops_dagster.services.hub_server.publishing import publish
from modelops_dagster.services.hub_server.server import HubServer, read_tokens, serve
from modelops_dagster.services.hub_server.storage import RepoSettings

__all__ = ["Faults", "HubServer", "RepoSettings", "publish", "read_tokens", "serve"]
