"""The incumbent: what an alias serves now, while a candidate for the same alias is judged."""

from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import Endpoint, EndpointState, EndpointStatus
from modelops_dagster.domain.gateway import SHADOW, Route, RouteTarget
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.lanes import LANES, endpoint_name


def incumbent_target(route: Route | None, candidate: str) -> RouteTarget | None:
    """The target whose answers users get today: open before tagged, then by weight. Never the candidate itself."""
    served = [t for t in (route.targets if route else ()) if t.weight and SHADOW not in t.tags]
    others = [t for t in served if t.endpoint != candidate]
    return min(others, key=lambda t: (bool(t.tags), -t.weight, t.endpoint), default=None)


def lane_of(target: RouteTarget, repo_id: str) -> str:
    """The lane an endpoint came by, from its name; `unknown` for one that no lane made."""
    revision = ModelRevision(repo_id=repo_id, commit_hash=target.commit_hash)
    return next((lane.name for lane in LANES if endpoint_name(revision, lane.name) == target.endpoint), "unknown")


def is_answering(status: EndpointStatus | None) -> bool:
    """Whether the endpoint can be asked now."""
    return status is not None and status.state == EndpointState.RUNNING and status.url is not None


def incumbent_endpoint(target: RouteTarget, status: EndpointStatus, candidate: Endpoint) -> Endpoint:
    """The incumbent as something to ask, from its route and from what the controller says of it.

    What is not known of an endpoint that is only asked (its ladder, its speed) is empty.
    """
    spec, revision = status.spec, candidate.checkpoint.revision
    return Endpoint(
        name=target.endpoint,
        url=status.url or target.url,
        served_model_name=spec.served_model_name,
        checkpoint=Checkpoint(
            revision=ModelRevision(repo_id=revision.repo_id, commit_hash=target.commit_hash),
            scheme="raw",
            directory=spec.checkpoint,
            digest=spec.checkpoint_digest,
            size_bytes=0,
        ),
        engine=spec.engine,
        engine_version=status.engine_version or "unknown",
        variant=spec.variant,
        rung="unknown",
        ladder=(),
        start_seconds=status.start_seconds or 0,
        tokens_per_second=0,
        max_context=spec.max_context or candidate.max_context,
    )
