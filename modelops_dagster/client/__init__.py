"""The controller as a Python object: the same verbs as the REST API and the `modelops` command."""

from modelops_dagster.client.client import ModelOpsClient
from modelops_dagster.client.home import controller_folder, create_secret, create_token, token_path

__all__ = ["ModelOpsClient", "controller_folder", "create_secret", "create_token", "token_path"]
