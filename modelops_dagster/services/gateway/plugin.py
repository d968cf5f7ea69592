"""What LiteLLM calls: `auth` for every request, `logger` for every attempt. Named in its configuration file.

Both read the call that the gate put into the context. Without one, which is so when somebody runs LiteLLM with this
configuration but without the gate, `auth` refuses and `logger` leaves the Router no deployment.
"""

from typing import Any

from fastapi import Request
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import ProxyException, UserAPIKeyAuth

from modelops_dagster.domain.choosing import choose
from modelops_dagster.services.gateway.calls import CURRENT_CALL, Call
from modelops_dagster.services.gateway.whereabouts import on_duty


async def auth(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Hand LiteLLM the identity that the gate established. The key itself never gets this far."""
    call = CURRENT_CALL.get()
    if call is None or call.key is None or api_key != call.key.key_id:
        raise ProxyException(message="Invalid API key.", type="auth_error", param="key", code=401)
    return UserAPIKeyAuth(
        api_key=call.key.key_id,
        key_alias=call.key.alias,
        models=list(call.key.models),
        metadata={"tags": list(call.key.tags)} if call.key.tags else {},
    )


class GatewayLogger(CustomLogger):  # type: ignore[misc]
    """Keeps the Router within what a call was granted, and notes what each attempt cost."""

    async def async_filter_deployments(  # the signature is LiteLLM's
        self,
        model: str,
        healthy_deployments: list[Any],
        messages: list[Any] | None,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: Any = None,
    ) -> list[Any]:
        """Leave the Router one deployment: of the target whose share of the weights this call falls in, the replica
        that is least busy.
        """
        call = CURRENT_CALL.get()
        granted = call.granted() if call else {}
        excluded = {*((request_kwargs or {}).get("_excluded_deployment_ids") or ()), *(call.attempted if call else ())}
        known = on_duty(healthy_deployments)
        fresh = {name: [d for d in found if d["model_info"]["id"] not in excluded] for name, found in known.items()}
        reachable = [name for name in granted if name in known]  # in the route's order, which the Router does not keep
        left = [name for name in reachable if fresh[name]] or reachable
        if call is None or not left:
            return []
        tried = [e for e in call.picked if not any(fresh[name] for name in left if granted[name].endpoint == e)]
        chosen = choose([granted[name] for name in left], call.point, tried)
        replicas = [d for name in left if granted[name] is chosen for d in fresh[name] or known[name]]
        replica = call.least_busy(replicas)
        call.attempted.append(replica["model_info"]["id"])
        call.enter(chosen, replica["litellm_params"].get("api_base"))
        return [replica]

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        call, entry = CURRENT_CALL.get(), kwargs.get("standard_logging_object")
        if call is None or not entry:
            return
        call.router_id = entry.get("model_id") or call.router_id
        call.prompt_tokens = entry.get("prompt_tokens")
        call.completion_tokens = entry.get("completion_tokens")
        call.cached_tokens = _cached_tokens(entry)
        call.cost_usd = float(entry.get("response_cost") or 0.0)
        call.error = None  # what failed before it is in `failures`

    async def async_log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        call, entry = CURRENT_CALL.get(), kwargs.get("standard_logging_object")
        if call is None or not entry:
            return
        error = entry.get("error_information") or {}
        _note_failure(call, entry.get("model_id"), error.get("error_class"), error.get("error_code"))


def _note_failure(call: Call, router_id: str | None, error: str | None, status: str | None) -> None:
    deployment = router_id.split(":", 1)[0] if router_id else None
    call.failures.append({"deployment": deployment, "error": error, "status": str(status) if status else None})
    if call.cost_usd is None:
        call.error = error
        call.router_id = router_id or call.router_id


def _cached_tokens(entry: dict[str, Any]) -> int | None:
    usage = (entry.get("metadata") or {}).get("usage_object") or {}
    details = usage.get("prompt_tokens_details") or {}
    return details.get("cached_tokens")


logger = GatewayLogger()
