"""Dagster resources: configuration in, client out. Each opens its client when a step asks for it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg

from modelops_dagster.client import ModelOpsClient
from modelops_dagster.client.home import controller_address
from modelops_dagster.clients.alerts.config import CONFIG_NAME
from modelops_dagster.clients.batches import BatchStore
from modelops_dagster.clients.calibrations import open_panel
from modelops_dagster.clients.checkpoints import AllowList, CheckpointStore
from modelops_dagster.clients.checkpoints.inventory import Pruned
from modelops_dagster.clients.checkpoints.usage import prune_store
from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.gauntlet.graders import Known, load_graders
from modelops_dagster.clients.gauntlet.panel import Panel
from modelops_dagster.clients.hardware import inventory
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.clients.keys import KeyStore
from modelops_dagster.clients.platform_keys import platform_key
from modelops_dagster.clients.policies import load_policy
from modelops_dagster.clients.preflight import Surroundings
from modelops_dagster.clients.recipes import Recipes, overlays_for
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.capacity import Placement
from modelops_dagster.domain.engines import Rung, StartOverlay
from modelops_dagster.domain.gateway import Route
from modelops_dagster.domain.gauntlet.grading import GradersFile
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.preflight import Preflight
from modelops_dagster.domain.rehearsal import Wish
from modelops_dagster.domain.retention import RetentionPolicy
from modelops_dagster.domain.verdicts import Policy
from modelops_dagster.resources.engines import InstalledEngines, installed_engines
from modelops_dagster.resources.hub_watch import HubWatchResource
from modelops_dagster.resources.lineage import LineageIOManager, LineageResource
from modelops_dagster.resources.quantization import QuantizerResource
from modelops_dagster.resources.watch import AlertResource, FrameworkResource
from modelops_dagster.settings import Settings, hub_token


class HubResource(dg.ConfigurableResource[HubClient]):
    """The Hub that releases are read from. The token never enters the configuration."""

    url: str

    def client(self) -> HubClient:
        return HubClient(self.url, hub_token())


class CheckpointResource(dg.ConfigurableResource[CheckpointStore]):
    """The checkpoint store on the shared filesystem."""

    root: str
    allow_list: str

    def store(self) -> CheckpointStore:
        return CheckpointStore(Path(self.root), AllowList(Path(self.allow_list)))

    def prune(self, policy: RetentionPolicy, now: datetime, *, dry_run: bool) -> Pruned:
        """One round of retention, as `prune_store`; the store lies in the installation's home."""
        return prune_store(Path(self.root).parent, policy, now, dry_run=dry_run)


class EngineResource(InstalledEngines):
    """Engines installed on this machine, and what an endpoint is started with."""

    max_context: int
    min_tokens_per_second: float
    recipes: str = ""
    rehearsal: Wish = "off"
    rehearsal_timeout_s: float = 600.0
    rehearsals: str = ""

    def placements(self, seen: Preflight | None) -> Mapping[str, Placement]:
        """By engine, on how many accelerators it is planned; none, of a release that was not planned for."""
        registry = self.registry()
        accelerator = registry.accelerator(self.accelerator)
        return seen.placements(registry.manifests(), accelerator) if seen is not None else {}

    def overlays(self, repo_id: str, rungs: Sequence[Rung]) -> Mapping[str, StartOverlay]:
        """By engine, what the operator and vLLM's recipes add to its start command."""
        return overlays_for(repo_id, rungs, self.registry(), Recipes(self.recipes))


class PreflightResource(InstalledEngines):
    """What a release is judged against before any weight is fetched."""

    checkpoints: str
    allow_list: str
    max_context: int
    gpus: str
    sequences: int
    licenses: list[str]

    def surroundings(self) -> Surroundings:
        """As they are now: engines come and go, and so does memory."""
        return Surroundings(
            registry=self.registry(),
            accelerator=self.accelerator,
            store=CheckpointStore(Path(self.checkpoints), AllowList(Path(self.allow_list))),
            inventory=inventory(self.accelerator, self.gpus),
            max_context=self.max_context,
            sequences=self.sequences,
            allowed_licenses=tuple(self.licenses),
        )


class ControllerResource(dg.ConfigurableResource[ModelOpsClient]):
    """The program that owns endpoints. The token is read from its file when it is needed."""

    def client(self) -> ModelOpsClient:
        return ModelOpsClient.from_settings(Settings.load())

    def page(self, endpoint: str) -> str:
        """Where a browser shows an endpoint, whether the controller runs or not."""
        return f"{controller_address(Settings.load())}/endpoints/{quote(endpoint, safe='')}"


class GatewayResource(dg.ConfigurableResource[GatewayClient]):
    """Routes as documents, and the proxy that follows them."""

    url: str
    root: str
    endpoint_usd_per_hour: float = 0.0

    def routes(self) -> RouteStore:
        return RouteStore(Path(self.root))

    def client(self) -> GatewayClient:
        return GatewayClient(self.url, home=Path(self.root).parent)

    def key_store(self) -> KeyStore:
        return KeyStore(Path(self.root))

    def grader_key(self, route: Route) -> str:
        """The platform's own key for a grader behind that route."""
        return platform_key(Path(self.root).parent, route, "grader")

    def batches(self) -> BatchStore:
        store = BatchStore(Path(self.root))
        store.prepare()
        return store


class GauntletResource(dg.ConfigurableResource[Policy]):
    """Suites and the promotion policy."""

    eval_datasets: str
    policy_name: str
    work: str
    home: str = ""

    def policy(self, name: str | None = None) -> Policy:
        """The policy of that name; without one, the platform's own."""
        return load_policy(Path(self.eval_datasets) / "policies", name or self.policy_name)

    def panel(self, known: Known, store: ScoreStore, suites: Sequence[Suite]) -> Panel:
        """The graders of `graders.yaml` in the home, else beside the suites, as they answer and are admitted now."""
        return open_panel(self.graders(), known, store, suites)

    def graders(self) -> GradersFile:
        """What `graders.yaml` says."""
        return load_graders(*(Path(folder) for folder in (self.home, self.eval_datasets) if folder))


class ScoreResource(dg.ConfigurableResource[ScoreStore]):
    """Where scores land and are published."""

    root: str

    def store(self) -> ScoreStore:
        return ScoreStore(Path(self.root))

    def reports(self) -> Path:
        """Where the pages made of it are written."""
        return Path(self.root).parent / "reports"


def build_resources(settings: Settings) -> Mapping[str, Any]:
    """The one resource dictionary, a function of the settings."""
    home = settings.home
    return {
        "hub": HubResource(url=settings.hub_url),
        "hub_watch": HubWatchResource(
            home=str(home),
            hub_url=settings.hub_url,
            gateway_url=settings.gateway_url,
            policies=str(settings.eval_datasets / "policies"),
            orgs=list(settings.hub_orgs),
            interval_s=settings.hub_poll_interval_s,
        ),
        "checkpoints": CheckpointResource(root=str(home / "checkpoints"), allow_list=str(settings.allow_list)),
        **_engine_resources(settings),
        "controller": ControllerResource(),
        "gateway": GatewayResource(
            url=settings.gateway_url,
            root=str(home / "gateway"),
            endpoint_usd_per_hour=settings.endpoint_usd_per_hour,
        ),
        "gauntlet": GauntletResource(
            eval_datasets=str(settings.eval_datasets),
            policy_name=settings.policy,
            work=str(home / "gauntlet"),
            home=str(home),
        ),
        "scores": ScoreResource(root=str(home / "scores")),
        "io_manager": LineageIOManager(root=str(home / "lineage")),
        "lineage": LineageResource(root=str(home / "lineage")),
        "alerts": AlertResource(folder=str(home / "alerts"), config_path=str(home / CONFIG_NAME)),
        "frameworks": FrameworkResource(
            repos=list(settings.frameworks),
            api_url=settings.github_api_url,
            web_url=settings.github_url,
            index_url=settings.package_index_url,
        ),
    }


def sealed(resources: Mapping[str, Any]) -> Mapping[str, dg.ResourceDefinition]:
    """The same resources with nothing left to configure in a run: the Launchpad shows what a job asks, and no paths."""
    return {
        name: resource.get_resource_definition().configured(resource.model_dump(exclude_none=True))
        for name, resource in resources.items()
    }


def _engine_resources(settings: Settings) -> Mapping[str, Any]:
    """What loads models, and what looks at them before and after: ladder, preflight, quantizer."""
    home, installed = settings.home, installed_engines(settings)
    return {
        "engines": EngineResource(
            **installed,
            recipes=settings.recipes,
            max_context=settings.max_context,
            min_tokens_per_second=settings.min_tokens_per_second,
            rehearsal=settings.rehearsal,
            rehearsal_timeout_s=settings.rehearsal_timeout_s,
            rehearsals=str(home / "rehearsals"),
        ),
        "preflight": PreflightResource(
            **installed,
            checkpoints=str(home / "checkpoints"),
            allow_list=str(settings.allow_list),
            max_context=settings.max_context,
            gpus=settings.gpus,
            sequences=settings.planned_sequences,
            licenses=list(settings.licenses),
        ),
        "quantizer": QuantizerResource(
            **installed,
            recipes_root=str(settings.quantization),
            lane_recipes=list(settings.lane_recipes),
            policy_name=settings.recovery_policy,
            work=str(home / "quantizer"),
            checkpoints=str(home / "checkpoints"),
            gpus=settings.gpus,
            lanes=list(settings.lanes),
            memory_limit_gb=settings.quantize_memory_gb,
            timeout_s=settings.quantize_timeout_s,
            site_file=str(settings.site_file) if settings.backend == "kubernetes" else "",
            kubeconfig=str(settings.kubeconfig or ""),
            pod_name=settings.pod_name,
            pod_uid=settings.pod_uid,
        ),
    }
