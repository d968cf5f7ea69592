"""A model listed in `hosted_models.yaml` can be called, and evaluated by its alias, while the gateway runs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from modelops_dagster.clients.credentials import CredentialStore, credentials_folder
from tests.fakes.backend import FakeBackend
from tests.services.gateway_process import Gateway


def listed(gateway: Gateway, alpha: FakeBackend, **more: object) -> None:
    """One provider's model, at the address of a fake one."""
    model = {"model": "openai/gpt-4o-mini", "api_key_name": "SMART_API_KEY", "api_base": alpha.url, **more}
    (gateway.home / "hosted_models.yaml").write_text(yaml.safe_dump({"smart-model": model}))


def until(gateway: Gateway, key: str, status: int) -> None:
    deadline = time.monotonic() + 20
    while (answer := gateway.post(key, "smart-model")).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)


def test_a_listed_model_is_called_at_once(gateway: Gateway, alpha: FakeBackend) -> None:
    CredentialStore(credentials_folder(gateway.home)).put("SMART_API_KEY", "sk-of-the-provider")
    key = gateway.key("preview")
    assert gateway.post(key, "smart-model").status_code == 404
    listed(gateway, alpha)
    until(gateway, key, 200)
    assert alpha.headers[-1]["Authorization"] == "Bearer sk-of-the-provider"
    assert gateway.post(gateway.key(), "smart-model").status_code == 403, "it is for keys with the tag preview"
    listed(gateway, alpha, tags=[])
    until(gateway, gateway.key(), 200)
    (gateway.home / "hosted_models.yaml").unlink()
    until(gateway, key, 404)


def test_a_mistake_is_said_and_the_route_stays(gateway: Gateway, alpha: FakeBackend) -> None:
    CredentialStore(credentials_folder(gateway.home)).put("SMART_API_KEY", "sk-of-the-provider")
    listed(gateway, alpha)
    key = gateway.key("preview")
    until(gateway, key, 200)
    listed(gateway, alpha, colour="red")
    deadline = time.monotonic() + 20
    while "models.smart-model.colour is not a field" not in gateway.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert gateway.post(key, "smart-model").status_code == 200
    (gateway.home / "hosted_models.yaml").unlink()


def test_an_alias_is_evaluated_by_its_name(gateway: Gateway, alpha: FakeBackend, tmp_path: Path) -> None:
    CredentialStore(credentials_folder(gateway.home)).put("SMART_API_KEY", "sk-of-the-provider")
    listed(gateway, alpha)
    until(gateway, gateway.key("preview"), 200)
    port = gateway.url.rsplit(":", 1)[1]
    environ = {**os.environ, "MODELOPS_HOME": str(gateway.home), "MODELOPS_GATEWAY_PORT": port}
    environ["XDG_CACHE_HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "modelops_dagster.cli", "eval", "--endpoint", "smart-model", "--suite", "quality",
         "--limit", "2", "--json"],
        env=environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    (gateway.home / "hosted_models.yaml").unlink()
    assert done.returncode in (0, 1), done.stderr
    shown = json.loads(done.stdout)
    assert (shown["url"], shown["model_id"]) == (f"{gateway.url}/v1", "smart-model")
    (report,) = shown["reports"]
    assert report["n_unscored"] == 0
    assert "sk-" not in done.stdout + done.stderr
