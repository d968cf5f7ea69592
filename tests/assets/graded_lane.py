"""A lane's Gauntlet and verdict under a real Dagster instance, of an endpoint that is there already."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import dagster as dg
import yaml

from modelops_dagster.assets.eval_datasets import dataset_asset
from modelops_dagster.assets.lanes import lane_assets
from modelops_dagster.assets.partitions import models
from modelops_dagster.client import create_token
from modelops_dagster.domain.endpoints import Endpoint
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.lanes import RAW
from modelops_dagster.resources.lineage import LineageIOManager, LineageResource
from modelops_dagster.resources.platform import (
    ControllerResource,
    EngineResource,
    GatewayResource,
    GauntletResource,
    ScoreResource,
)


def evaluate(
    found: Endpoint,
    home: Path,
    policy: dict[str, object],
    suites: Sequence[Suite],
    selection: str | Sequence[dg.AssetKey] = "*",
    tags: Mapping[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """The lane's suites and its verdict, of the endpoint; or only what is selected of them."""
    repo_id = found.checkpoint.revision.repo_id
    (home / "policies").mkdir(parents=True, exist_ok=True)
    (home / "policies" / "default.yaml").write_text(yaml.safe_dump(policy))
    create_token(home)

    @dg.asset(key=["raw", "endpoint"], partitions_def=models)
    def served() -> dg.MaterializeResult:
        return dg.MaterializeResult(value=found)

    assets = [served, *lane_assets(RAW, suites)[1:3], *(dataset_asset(s, home) for s in suites)]
    resources = {
        "gauntlet": GauntletResource(
            eval_datasets=str(home), policy_name="default", work=str(home / "work"), home=str(home)
        ),
        "scores": ScoreResource(root=str(home / "scores")),
        "gateway": GatewayResource(url="http://127.0.0.1:1", root=str(home / "gateway")),
        "controller": ControllerResource(),
        "engines": EngineResource(engines="", cache="", accelerator="cpu", max_context=1, min_tokens_per_second=1),
        "lineage": LineageResource(root=str(home / "lineage")),
        "io_manager": LineageIOManager(root=str(home / "lineage")),
    }
    job = dg.define_asset_job("lane", selection=selection)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(str(models.name), [repo_id])
        defs = dg.Definitions(assets=assets, jobs=[job], resources=resources)
        return defs.resolve_job_def("lane").execute_in_process(
            instance=instance, partition_key=repo_id, tags=tags, raise_on_error=False
        )


def grading(result: dg.ExecuteInProcessResult) -> str:
    """What the suite `writing` says of its graders, in the Dagster UI."""
    (event,) = [
        m for m in result.get_asset_materialization_events()
        if m.asset_key == dg.AssetKey(["raw", "gauntlet", "writing"])
    ]  # fmt: skip
    return str(event.materialization.metadata["grading"].value)
