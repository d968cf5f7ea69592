"""What LiteLLM is told: its configuration file, its environment, and where the gateway keeps its state."""

from pathlib import Path
from typing import NamedTuple

import yaml

from modelops_dagster.client import controller_folder
from modelops_dagster.clients.credentials import credentials_folder
from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.settings import Settings

AUTH = "modelops_dagster.services.gateway.plugin.auth"
LOGGER = "modelops_dagster.services.gateway.plugin.logger"

# A variable of the same name in the operator's shell would make LiteLLM open a database or a cache that we do not run.
UNSET = ("DATABASE_URL", "DIRECT_URL", "DATABASE_HOST", "REDIS_HOST", "REDIS_URL", "WORKER_CONFIG", "LITELLM_LICENSE")


class GatewayPaths(NamedTuple):
    """The gateway's files under the installation's home."""

    root: Path
    calls: Path
    workers: Path
    config: Path
    operator_key: Path
    limits: Path
    trials: Path
    credentials: Path
    endpoints: Path

    @classmethod
    def of(cls, settings: Settings) -> "GatewayPaths":
        root = settings.home / "gateway"
        return cls(
            root=root,
            calls=root / "calls",
            workers=root / "workers",
            config=root / "litellm.yaml",
            operator_key=settings.home / "secrets" / "gateway_operator_key",
            limits=root / "limits.sqlite",
            trials=root / "trials.sqlite",
            credentials=credentials_folder(settings.home),
            endpoints=controller_folder(settings.home),
        )


def litellm_config() -> dict[str, object]:
    """LiteLLM's configuration. Routes are not part of it: they are documents, followed while the proxy runs."""
    return {
        "model_list": [],
        "router_settings": {
            "routing_strategy": "simple-shuffle",
            "enable_tag_filtering": True,
            "num_retries": 1,
            "timeout": 600,
            # one client's 404 would put an endpoint out of service for everybody; health is the controller's business
            "disable_cooldowns": True,
            # an attempt that fails is made again on another target of the same alias
            "enable_weighted_failover": True,
        },
        "litellm_settings": {
            "callbacks": [LOGGER],
            # without both this and custom_auth_run_common_checks LiteLLM ignores a key's list of models
            "enable_post_custom_auth_checks": True,
            "global_disable_no_log_param": True,  # a caller may not switch its own log line off
            "disable_hf_tokenizer_download": True,
        },
        "general_settings": {
            "master_key": "os.environ/LITELLM_MASTER_KEY",
            "custom_auth": AUTH,
            "custom_auth_run_common_checks": True,
            "disable_spend_logs": True,
            "disable_error_logs": True,
            "disable_model_info_refresh": True,
        },
    }


def write_config(path: Path) -> None:
    """Write the configuration file, whole or not at all. It holds no secret."""
    text = "# written at every start of the gateway\n" + yaml.safe_dump(litellm_config(), sort_keys=False)
    write_whole(path, text, is_durable=False)


def litellm_environment(config: Path, master_key: str) -> dict[str, str]:
    """Variables that LiteLLM reads when it is imported and when it starts."""
    return {
        "CONFIG_FILE_PATH": str(config),
        "LITELLM_MASTER_KEY": master_key,
        "LITELLM_MODE": "PRODUCTION",  # no .env file from the working directory
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "INITIAL_RETRY_DELAY": "0.1",  # the only endpoint of an alias is tried once more, and not after two seconds
        "JITTER": "0.1",
        "LITELLM_DONT_SHOW_FEEDBACK_BOX": "true",
        "NO_DOCS": "True",
        "NO_REDOC": "True",
        "DISABLE_ADMIN_UI": "True",
    }
