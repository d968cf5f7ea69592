"""Models that are served already, without the chain that brings one there: for what is done to many of them."""

from pathlib import Path

from modelops_dagster.client import ModelOpsClient
from modelops_dagster.clients.lineage import write_value
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Endpoint, EndpointSpec
from modelops_dagster.domain.hub import ModelRevision
from tests.e2e.platform import Platform


def repo_id_of(number: int) -> str:
    """The model of that number."""
    return f"served/model-{number:03d}"


def endpoint_of(number: int) -> str:
    """The name of its endpoint."""
    return f"served-model-{number:03d}"


def serve_models(platform: Platform, place: Path, count: int) -> None:
    """Endpoints for models 0 to `count`, wanted first and waited for afterwards, and the lineage that names them."""
    checkpoint = place / "checkpoint"
    checkpoint.mkdir()
    client = ModelOpsClient.from_settings(platform.settings)
    for number in range(count):
        client.apply(_spec(number, checkpoint))
    for number in range(count):
        spec = _spec(number, checkpoint)
        status = client.wait_ready(spec.name, 300)
        served = Endpoint(
            name=spec.name,
            url=str(status.url),
            served_model_name=spec.served_model_name,
            checkpoint=Checkpoint(
                revision=ModelRevision(repo_id=repo_id_of(number), commit_hash=f"{number:040x}"),
                scheme="raw",
                directory=str(checkpoint),
                digest=spec.checkpoint_digest,
                size_bytes=0,
            ),
            engine=spec.engine,
            engine_version="1.0",
            rung=spec.engine,
            ladder=(),
            start_seconds=status.start_seconds or 0.0,
            tokens_per_second=1.0,
            max_context=spec.max_context,
        )
        write_value(platform.home / "lineage", "raw/endpoint", repo_id_of(number), "served", served)


def _spec(number: int, checkpoint: Path) -> EndpointSpec:
    return EndpointSpec(
        name=endpoint_of(number),
        checkpoint=str(checkpoint),
        checkpoint_digest=f"sha256:{number:064x}",
        engine="vllm-cpu",
        served_model_name=f"{repo_id_of(number)}@served",
        max_context=2048,
    )
