"""The Hub, through the official client and with every failure in one sentence."""

import os

# read by huggingface_hub when it is imported: this product draws its own progress, and reports to nobody
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from modelops_dagster.clients.hub.client import HubClient

__all__ = ["HubClient"]
