"""Commands as a person types them, beside a Hub of the tests."""

import os
import subprocess
import sys
from pathlib import Path

from modelops_dagster.services.hub_server import HubServer


def modelops_beside(hub: HubServer, home: Path, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run `modelops` with a home and a cache of its own, that Hub and no token."""
    variables = {"MODELOPS_HOME": str(home), "MODELOPS_CACHE": str(home / "cache"), "MODELOPS_HUB_URL": hub.url}
    command = [sys.executable, "-m", "modelops_dagster.cli", *arguments]
    everything = {**os.environ, **variables, "HF_TOKEN": "", **environ}
    return subprocess.run(command, env=everything, capture_output=True, text=True, timeout=300, check=False)
