"""Whether a key may make this very call, decided from the request alone, before LiteLLM sees it."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from modelops_dagster.domain.gateway import KeyRecord, Route, RouteTarget, serving_targets

# What clients may call. Everything else LiteLLM's proxy offers (its admin API, UI, pass-through routes) is not there.
CALL_PATHS = frozenset(
    f"{prefix}{path}"
    for prefix in ("", "/v1")
    for path in ("/chat/completions", "/completions", "/embeddings", "/responses")
) | {"/v1/messages"}

DEFAULT_ANSWER_TOKENS = 256  # counted for a call that sets no limit, until it is known

# Fields of a request body that steer the Router and that LiteLLM's own list of its parameters leaves out.
_STEERING = frozenset(
    {
        "specific_deployment",
        "router_settings_override",
        "user_config",
        "base_url",
        "deployment_id",
        "organization",
        "extra_headers",
        "default_headers",
        "context_window_fallbacks",
        "content_policy_fallbacks",
    }
)
_STEERING_PREFIXES = ("_", "litellm_", "mock_")
_CHECKED_HERE = frozenset({"tags", "metadata"})


class Refusal(NamedTuple):
    """Why a call is not made, as the client is told."""

    status: int
    code: str
    message: str
    retry_after_s: float | None = None


def overloaded(told: str, again_s: float, *, batch: bool) -> Refusal:
    """The gateway has no room. Batches are told what lets them wait without counting it as an attempt."""
    if batch:
        return Refusal(429, "batch_waits", "The gateway is busy, and other calls go before batches.", again_s)
    return Refusal(503, "overloaded", told, again_s)


class Admission(NamedTuple):
    """What a call was granted."""

    alias: str
    stream: bool
    targets: tuple[RouteTarget, ...]
    route: Route
    fallbacks: tuple[str, ...] = ()


def steering_fields(litellm_params: Collection[str]) -> frozenset[str]:
    """Body fields that a client may not send: they would choose a deployment, a price, a destination or a log.

    Args:
        litellm_params: `litellm.types.utils.all_litellm_params`, the parameters LiteLLM keeps for itself.
    """
    return (frozenset(litellm_params) | _STEERING) - _CHECKED_HERE


def admit(
    key: KeyRecord,
    routes: Mapping[str, Route],
    body: object,
    header_tags: Collection[str],
    forbidden: Collection[str],
) -> Admission | Refusal:
    """Check model, tags and fields of one request body against what the key may do."""
    if not isinstance(body, Mapping):
        return Refusal(400, "invalid_request", "The body must be a JSON object.")
    for name in body:
        if name in forbidden or str(name).startswith(_STEERING_PREFIXES):
            return Refusal(400, "field_not_allowed", f"The field {name!r} is not allowed here; leave it out.")
    alias = body.get("model")
    if not isinstance(alias, str) or not alias:
        return Refusal(400, "invalid_request", "The field 'model' must name a model; GET /v1/models lists them.")
    if key.models and alias not in key.models:
        return Refusal(403, "model_not_allowed", f"This key may not call {alias!r}; GET /v1/models lists what it may.")
    if not isinstance(body.get("metadata"), Mapping | None):  # LiteLLM would parse a string, and we would not see in it
        return Refusal(400, "invalid_request", "The field 'metadata' must be an object.")
    tags = _asked_tags(body, header_tags)
    if tags is None:
        return Refusal(400, "invalid_request", "Tags must be a list of strings.")
    lacking = sorted(set(tags) - set(key.tags))
    if lacking:
        return Refusal(403, "tag_not_allowed", f"This key does not carry the tag {lacking[0]!r}.")
    route = routes.get(alias)
    if route is None:
        return Refusal(404, "model_not_found", f"There is no model {alias!r} here; GET /v1/models lists them.")
    targets = serving_targets(route, key.tags)
    if not targets:
        return Refusal(403, "model_not_allowed", f"{alias!r} is not open to this key; ask for a key with its tag.")
    fallbacks = tuple(a for a in route.fallbacks if a in visible_aliases(key, routes))
    return Admission(alias, body.get("stream") is True, targets, route, fallbacks)


def estimated_tokens(document: Mapping[str, object], size_bytes: int) -> tuple[int, int]:
    """Tokens in and out that a call will take: four bytes make one, and the answer is as long as allowed."""
    asked = [document.get(name) for name in ("max_completion_tokens", "max_tokens", "max_output_tokens")]
    limit = next((n for n in asked if isinstance(n, int) and n > 0), DEFAULT_ANSWER_TOKENS)
    return size_bytes // 4, limit


def visible_aliases(key: KeyRecord, routes: Mapping[str, Route]) -> list[str]:
    """The aliases this key may call right now, sorted."""
    return sorted(
        alias
        for alias, route in routes.items()
        if (not key.models or alias in key.models) and serving_targets(route, key.tags)
    )


def _asked_tags(body: Mapping[str, object], header_tags: Collection[str]) -> list[str] | None:
    metadata = body.get("metadata")
    sources = [body.get("tags"), metadata.get("tags") if isinstance(metadata, Mapping) else None, list(header_tags)]
    tags: list[str] = []
    for source in sources:
        if source is None:
            continue
        if not isinstance(source, list) or not all(isinstance(tag, str) for tag in source):
            return None
        tags += source
    return tags
