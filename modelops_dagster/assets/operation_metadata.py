"""What the run of a job that somebody clicked shows: numbers, a small table, then where to look next."""

from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg

from modelops_dagster.assets.metadata import Metadata, diff_metadata, table
from modelops_dagster.clients.rollout import Change
from modelops_dagster.domain.endpoints import EndpointStatus
from modelops_dagster.domain.gateway import Route, routed_targets


def status_metadata(status: EndpointStatus, routes: Sequence[Route], page: str) -> Metadata:
    """How an endpoint stands after it was started or stopped.

    Args:
        routes: all there are; those that name the endpoint are shown, because their callers notice.
        page: address of the endpoint's own page.
    """
    name = status.spec.name
    naming = [route for route in routes if name in {target.endpoint for target in route.targets}]
    stands = {
        "endpoint": name,
        "state": status.state.value,
        "engine": status.spec.engine,
        "model": status.spec.served_model_name,
        "aliases that name it": ", ".join(f"{route.alias} ({_share(route, name)})" for route in naming) or None,
    }
    return {
        "aliases": len(naming),
        "status": table([stands]),
        "endpoint": dg.MetadataValue.url(page),
        "state": status.state.value,
    }


def change_metadata(done: Change, gateway_url: str, page: Callable[[str], str], report: Path | None) -> Metadata:
    """What a change of a route made of it.

    Args:
        page: address of an endpoint's own page.
        report: the page about the alias's model; None when there is none.
    """
    route = done.route
    serving = sorted(routed_targets(route), key=lambda t: -t.weight)
    rows = [
        {
            "endpoint": target.endpoint,
            "share": _share(route, target.endpoint),
            "who may call": ", ".join(target.tags) or "everybody with a key",
            "commit": target.commit_hash[:12],
            "entitled by": target.grant and (target.grant.verdict_id or f"{target.grant.by}: {target.grant.reason}"),
        }
        for target in route.targets
    ]
    # a hosted API has no page here
    ours = [target.endpoint for target in serving if target.provider is None]
    return {
        "version": route.version,
        "endpoints_serving": len(serving),
        "route": table(rows),
        **({"endpoint": dg.MetadataValue.url(page(ours[0]))} if ours else {}),
        **({"report": dg.MetadataValue.path(str(report))} if report is not None else {}),
        "gateway": dg.MetadataValue.url(gateway_url),
        "served": done.served,
        "alias": route.alias,
        "diff": diff_metadata(done.diff or ("unchanged",)),
    }


def _share(route: Route, endpoint: str) -> str:
    """An endpoint's part of the calls."""
    weights = {target.endpoint: target.weight for target in routed_targets(route)}
    return f"{100 * weights.get(endpoint, 0) / max(1, sum(weights.values())):.3g} %"
