"""The Watcher as a resource: the shared state under the home, read and acted upon by the Hub sensor."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from modelops_dagster.client import ModelOpsClient
from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.clients.policies import policy_names
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.watcher import TickReport, Watcher, WatchStore, load_watchlist
from modelops_dagster.clients.withdrawal import Withdrawal, withdraw
from modelops_dagster.domain.watchlist import Watchlist
from modelops_dagster.settings import Settings, hub_token


class HubWatchResource(dg.ConfigurableResource[WatchStore]):
    """Who is followed, on which Hub, and what was decided so far. No token enters the configuration."""

    home: str
    hub_url: str
    gateway_url: str
    policies: str
    orgs: list[str]
    interval_s: float

    def store(self) -> WatchStore:
        return WatchStore(Path(self.home) / "watcher")

    def watchlist(self) -> Watchlist:
        """Raises: InvalidSpec when `watch.yaml` does not hold."""
        return load_watchlist(Path(self.home), self.orgs, policy_names(Path(self.policies)))

    def tick(
        self, watchlist: Watchlist, deadline: float, *, orgs: Sequence[str] | None = None, lock_wait_s: float = 0.0
    ) -> TickReport:
        """Read what is due until `deadline` on the monotonic clock."""
        watcher = Watcher(self.store(), watching_client(self.hub_url, hub_token()), watchlist, self.interval_s)
        return watcher.tick(deadline, orgs=orgs, lock_wait_s=lock_wait_s)

    def withdraw(self, repo_id: str) -> Withdrawal:
        """Take a model out of service. Raises: NotRunning, Conflict; then nothing is lost by trying again."""
        endpoints = ModelOpsClient.from_settings(Settings.load().model_copy(update={"home": Path(self.home)}))
        home = Path(self.home)
        gateway = GatewayClient(self.gateway_url, home=home)
        return withdraw(RouteStore(home / "gateway"), gateway, endpoints, repo_id)


def watching_client(hub_url: str, token: str | None) -> HubClient:
    """A client that gives up soon: the next tick asks again, and a tick has an end."""
    return HubClient(hub_url, token, timeout_s=6.0, max_tries=2, max_wait_s=2.0)
