"""A Hub over a folder of models: the unmodified huggingface_hub client talks to it through HF_ENDPOINT."""

from modelops_dagster.services.hub_server.access import create_token, read_tokens
from modelops_dagster.services.hub_server.faults import Faults
from modelops_dagster.services.hub_server.limits import Limits
from modelops_dagster.services.hub_server.mirroring import Mirrored, mirror
from modelops_dagster.services.hub_server.publishing import name_commit, publish
from modelops_dagster.services.hub_server.server import HubServer, serve
from modelops_dagster.services.hub_server.storage import RepoSettings
from modelops_dagster.services.hub_server.webhook import Webhook, read_secret

__all__ = [
    "Faults",
    "HubServer",
    "Limits",
    "Mirrored",
    "RepoSettings",
    "Webhook",
    "create_token",
    "mirror",
    "name_commit",
    "publish",
    "read_secret",
    "read_tokens",
    "serve",
]
