"""Changing routes on purpose: which endpoint is meant, why it may answer, and the change seen to be live."""

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from modelops_dagster.clients.gateway import GatewayClient
from modelops_dagster.clients.lineage import latest_of
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointStatus
from modelops_dagster.domain.errors import Conflict, EndpointFailed, InvalidSpec
from modelops_dagster.domain.gateway import Grant, Route, RouteTarget, with_targets
from modelops_dagster.domain.incumbents import is_answering
from modelops_dagster.domain.rollout import require_grants, serving_tags
from modelops_dagster.domain.route_changes import route_diff
from modelops_dagster.domain.verdicts import Verdict

ATTEMPTS = 5
VISIBLE_TIMEOUT_S = 30.0
COMMIT = re.compile(r"([0-9a-f]{40})(-.+)?")  # of a checkpoint's folder; a quantized one says how it was made, too
NOT_A_COMMIT = re.compile(r"[^A-Za-z0-9._-]+")
WAKE_TIMEOUT_S = 900.0
NOWHERE = "http://127.0.0.1:9/v1"  # of an endpoint that has no address yet


class KnownEndpoints(Protocol):
    """Whoever knows how endpoints stand."""

    def get(self, name: str) -> EndpointStatus | None: ...


class Endpoints(KnownEndpoints, Protocol):
    """The part of the controller's client that is needed."""

    def start(self, name: str) -> Any: ...

    def stop(self, name: str) -> Any: ...

    def wait_ready(self, name: str, timeout_s: float) -> EndpointStatus: ...

    def wait_stopped(self, name: str, timeout_s: float) -> None: ...


class Change(NamedTuple):
    """What a change did. `served` says whether a running gateway follows it already."""

    route: Route
    diff: tuple[str, ...]
    served: bool


class Rollout:
    """Changes of routes, each a compare-and-swap that is decided again when somebody was quicker."""

    def __init__(self, routes: RouteStore, gateway: GatewayClient, *, lineage: Path | None = None) -> None:
        """
        Args:
            lineage: where verdicts are; None when there are none to be looked up.
        """
        self._routes = routes
        self._gateway = gateway
        self._lineage = lineage

    def require(self, alias: str) -> Route:
        """The route.

        Raises:
            InvalidSpec: there is none; names those there are.
        """
        route = self._routes.get(alias)
        if route is None:
            known = ", ".join(self._routes.aliases()) or "none"
            raise InvalidSpec(f"there is no route {alias!r}; the aliases are: {known}.", field="alias")
        return route

    def change(self, alias: str, change: Callable[[Route | None], Route]) -> Change:
        """Write what `change` makes of the route, and wait until a running gateway serves it.

        Raises:
            InvalidSpec: what `change` found wrong, or an endpoint would answer calls that nothing entitles it to.
            Conflict: the route kept changing under us.
            NotRunning: the gateway does not follow the route.
            PortTaken: what answers at the gateway's address is not this home's gateway; nothing was written.
        """
        served = self._gateway.running()
        for attempt in range(ATTEMPTS):
            before = self._routes.get(alias)
            wanted = change(before)
            require_grants(before, wanted)
            diff = tuple(route_diff(before, wanted))
            same = before is not None and not diff and _duties(before) == _duties(wanted)
            try:
                written = before if same and before else self._routes.put(wanted, before.version if before else 0)
                break
            except Conflict:
                if attempt == ATTEMPTS - 1:
                    raise
        if served:
            self._gateway.visible(alias, written.version, VISIBLE_TIMEOUT_S)
        return Change(written, diff, served)

    def target(
        self, alias: str, name: str, endpoints: KnownEndpoints | None, *, override: Grant | None = None
    ) -> RouteTarget:
        """The endpoint `name` as a target of the alias, with what entitles it to answer, if anything does.

        It is looked for behind the alias and then at the controller, who knows its present address.

        Args:
            endpoints: the controller; None when it is not to be asked.
            override: of a person who answers for it.

        Raises:
            InvalidSpec: nobody knows the endpoint.
            EndpointFailed: the controller knows it, and it does not run.
        """
        route = self._routes.get(alias)
        known = next((t for t in route.targets if t.endpoint == name), None) if route else None
        if known is None:
            status = endpoints.get(name) if endpoints is not None else None
            if status is None:
                behind = ", ".join(t.endpoint for t in route.targets) if route else "nothing"
                raise InvalidSpec(
                    f"there is no endpoint {name!r} behind {alias!r} ({behind}) or at the controller; "
                    "`modelops endpoints list` shows those there are.",
                    field="endpoint",
                )
            known = _as_target(status, serving_tags(route) if route else ())
        grant = override or known.grant or self._verdict_grant(name, known.commit_hash)
        return known.model_copy(update={"grant": grant})

    def recreate(
        self, alias: str, new: str, endpoints: Endpoints, *, grant: Grant | None = None, say: Callable[[str], None]
    ) -> Change:
        """Swap where the hardware does not hold both for long: the old endpoints are stopped and nothing is kept.

        When the new one runs already, it is given the alias first. Otherwise the old ones are stopped to make room:
        while nothing runs, calls go to the alias's fallbacks, or are told to come again, and when it does not start,
        the old ones are started again. An endpoint that stands behind another alias goes on.

        Args:
            grant: why the new endpoint may answer, where no verdict on it is known.

        Raises:
            InvalidSpec: the endpoint is unknown, or nothing entitles it to answer.
            EndpointFailed: it did not start; the old ones answer again.
        """
        route = self.require(alias)
        status = endpoints.get(new)
        if status is None:
            raise InvalidSpec(f"there is no endpoint {new!r}; `modelops endpoints list` shows them.", field="endpoint")
        target = _as_target(status.model_copy(update={"url": status.url or NOWHERE}), serving_tags(route))
        target = target.model_copy(update={"grant": grant or self._verdict_grant(new, target.commit_hash)})
        require_grants(route, with_targets(route, alias, [target], at=_now()))
        elsewhere = self._routes.endpoints(besides=alias)
        old = [t.endpoint for t in route.targets if t.provider is None and t.endpoint not in {new, *elsewhere}]
        if is_answering(status):
            done = self._hand_over(alias, target)
            self._stop(old, endpoints, say)
            return done
        self._stop(old, endpoints, say)
        say(f"starting {new}")
        endpoints.start(new)
        status = endpoints.wait_ready(new, WAKE_TIMEOUT_S)
        if status.url is None:
            endpoints.stop(new)
            endpoints.wait_stopped(new, WAKE_TIMEOUT_S)
            for name in old:
                say(f"{new} did not start; starting {name} again")
                endpoints.start(name)
                self._move_back(alias, name, endpoints)
            raise EndpointFailed(
                f"endpoint {new} did not start ({status.message or status.state}), so {alias!r} is answered by "
                f"{', '.join(old) or 'nothing'} as before; read `modelops endpoints logs {new}`."
            )
        return self._hand_over(alias, target.model_copy(update={"url": status.url}))

    def _hand_over(self, alias: str, target: RouteTarget) -> Change:
        verdict_id = target.grant.verdict_id if target.grant else None
        reason = f"swapped to {target.endpoint}"
        return self.change(
            alias, lambda r: with_targets(r, alias, [target], at=_now(), verdict_id=verdict_id, reason=reason)
        )

    def _stop(self, names: Sequence[str], endpoints: Endpoints, say: Callable[[str], None]) -> None:
        for name in names:
            say(f"stopping {name}")
            endpoints.stop(name)
            endpoints.wait_stopped(name, WAKE_TIMEOUT_S)

    def _move_back(self, alias: str, name: str, endpoints: Endpoints) -> None:
        """Follow an endpoint that was started again to its new address."""
        url = endpoints.wait_ready(name, WAKE_TIMEOUT_S).url

        def moved(route: Route | None) -> Route:
            targets = route.targets if route else ()
            back = [t.model_copy(update={"url": url}) if t.endpoint == name and url else t for t in targets]
            verdict_id = route.verdict_id if route else None
            return with_targets(route, alias, back, at=_now(), verdict_id=verdict_id, reason="swap did not succeed")

        self.change(alias, moved)

    def _verdict_grant(self, endpoint: str, commit_hash: str) -> Grant | None:
        if self._lineage is None or not self._lineage.is_dir():
            return None
        for folder in self._lineage.glob("*/verdict"):
            for verdict in latest_of(self._lineage, folder.relative_to(self._lineage).as_posix()).values():
                passed = isinstance(verdict, Verdict) and verdict.outcome == "pass"
                if passed and (verdict.endpoint, verdict.commit_hash) == (endpoint, commit_hash):
                    return Grant(verdict_id=verdict.verdict_id, at=verdict.decided_at)
        return None


def _as_target(status: EndpointStatus, tags: tuple[str, ...]) -> RouteTarget:
    if status.url is None:
        raise EndpointFailed(
            f"endpoint {status.spec.name} is {status.state} and answers nothing; start it with "
            f"`modelops endpoints start {status.spec.name}`."
        )
    spec = status.spec
    api = spec.target.api_endpoint if spec.target else None
    return RouteTarget(
        endpoint=spec.name,
        url=status.url,
        served_model_name=spec.served_model_name,
        commit_hash=_commit_hash(spec),
        tags=tags,
        usd_per_hour=spec.usd_per_hour or 0.0,
        credential=api.api_key_name if api else None,
        timeout_s=spec.request_timeout_seconds,
    )


def _commit_hash(spec: EndpointSpec) -> str:
    """Of the checkpoint's folder, else its digest; the model's name where nobody tells one."""
    if spec.is_external:
        return NOT_A_COMMIT.sub("-", spec.served_model_name)
    last = spec.checkpoint.rstrip("/").rpartition("/")[2]
    found = COMMIT.fullmatch(last)
    return found[1] if found else spec.checkpoint_digest.removeprefix("sha256:")[:40]


def _duties(route: Route) -> tuple[object, ...]:
    return route.canary, route.swap, route.retiring


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)
