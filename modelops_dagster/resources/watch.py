"""Resources of the sensors that look beyond the chain: framework releases, and alerts about everything."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from modelops_dagster.clients.alerts import AlertConfig, Outbox, load_alert_config
from modelops_dagster.clients.frameworks import FrameworkClient
from modelops_dagster.domain.alerts import Alert
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.errors import ModelOpsError
from modelops_dagster.domain.frameworks import Framework, parse_framework
from modelops_dagster.settings import github_token, secret


class FrameworkResource(dg.ConfigurableResource[FrameworkClient]):
    """Where framework releases are read. The token never enters the configuration."""

    repos: list[str]
    api_url: str
    web_url: str
    index_url: str = ""

    def frameworks(self) -> list[Framework]:
        return [parse_framework(text) for text in self.repos]

    def client(self) -> FrameworkClient:
        return FrameworkClient(self.api_url, self.web_url, github_token(), self.index_url)


class AlertResource(dg.ConfigurableResource[Outbox]):
    """The outbox and its channels. Nothing in here raises: an alert that cannot be sent must not stop anything."""

    folder: str
    config_path: str

    def put(self, alerts: Sequence[Alert], say: Callable[[str], None]) -> bool:
        """Queue alerts and log those that are new; False when they could not be written down."""
        try:
            config: AlertConfig | None = load_alert_config(Path(self.config_path))
        except (ModelOpsError, OSError):  # told by `flush`; what is queued meanwhile is routed once the file holds
            config = None
        try:
            fresh = Outbox(Path(self.folder)).put(alerts, config, datetime.now(UTC))
        except OSError as error:
            say(f"alerts could not be written to {self.folder} ({error.strerror}); they are tried again")
            return False
        for one in fresh:
            say(" | ".join([f"{one.kind}: {one.title}", *one.lines]))
        return True

    def flush(self, say: Callable[[str], None], budget_s: float) -> str:
        """Send what is due and say in a few words what came of it."""
        try:
            config = load_alert_config(Path(self.config_path))
            done = Outbox(Path(self.folder)).flush(config, secret, datetime.now(UTC), budget_s)
        except ModelOpsError as error:
            say(error.sentence)
            return error.sentence
        except OSError as error:
            say(f"{self.folder}: {error.strerror}")
            return f"{self.folder}: {error.strerror}"
        for sentence in done.failures:
            say(sentence)
        if not config.channels:
            return "no channel is configured"
        return f"{counted(done.sent, 'message')} sent, {done.waiting} waiting" + "".join(
            f"; {s}" for s in done.failures
        )
