"""Adapter settings as NeMo Evaluator writes them, both vintages, resolved to one chain.

0.1 to 0.2: `target.api_endpoint.adapter_config`, either flags or an `interceptors` list. 0.3: a service's
`proxy.interceptors`. What NeMo knows and we do not do is an error that says so, never a silent difference.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.document_parts import entries, part
from modelops_dagster.domain.gauntlet.interceptors import Chain, Interceptor
from modelops_dagster.domain.values import Value

NOT_OFFERED = ("nvcf", "megatron", "omni_info", "reasoning_replay", "modify_tools", "turn_counter", "http_pairs_dump")


class AdapterFlags(Value):
    """The flags of 0.1 to 0.2, with their defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), populate_by_name=True)

    use_caching: bool = True
    caching_dir: str | None = None
    reuse_cached_responses: bool | None = Field(default=None, description="None: as use_caching says")
    save_requests: bool = False
    save_responses: bool = False
    max_saved_requests: int | None = None
    max_saved_responses: int | None = None
    use_request_logging: bool = False
    max_logged_requests: int | None = None
    use_response_logging: bool = False
    max_logged_responses: int | None = None
    use_system_prompt: bool = False
    custom_system_prompt: str | None = None
    use_reasoning: bool = False
    process_reasoning_traces: bool = False
    start_reasoning_token: str | None = None
    end_reasoning_token: str = "</think>"  # noqa: S105 - a tag
    include_if_reasoning_not_finished: bool | None = None
    track_reasoning: bool | None = None
    use_progress_tracking: bool = False
    progress_tracking_url: str | None = None
    progress_tracking_interval: int = 1
    use_raise_client_errors: bool = False
    use_nvcf: Literal[False] = False
    use_omni_info: Literal[False] = False
    params_to_add: dict[str, Any] | None = None
    params_to_remove: tuple[str, ...] | None = None
    params_to_rename: dict[str, str] | None = None
    headers_to_add: dict[str, str] | None = None
    headers_to_remove: tuple[str, ...] | None = None
    headers_to_rename: dict[str, str] | None = None
    endpoint_type: str = "chat"
    mode: Literal["server", "client"] = "client"
    log_failed_requests: bool = Field(default=False, description="accepted; a failed request is a row with its reason")
    tracking_requests_stats: bool = True
    logging_aggregated_stats_interval: int | None = None
    generate_html_report: bool = True
    html_report_size: int | None = 5
    include_json: bool = True
    output_dir: str | None = None


ENDPOINT_LIMITS = frozenset({"request_timeout", "max_retries", "max_concurrent"})
LIST_KEYS = frozenset({"interceptors", "post_eval_hooks", "discovery", "endpoint_type", "mode"})


def legacy_chain(adapter_config: Mapping[str, Any] | None) -> Chain:
    """The chain of a 0.1 to 0.2 `adapter_config`; without one, NeMo's own default.

    Raises:
        InvalidSpec: an unknown flag or interceptor, or flags beside a list of interceptors.
    """
    where = "target.api_endpoint.adapter_config"
    given = dict(adapter_config or {})
    if given.get("discovery"):
        raise InvalidSpec(f"{where}.discovery loads code of your own, which is not offered here: remove it.")
    if given.get("interceptors"):
        mixed = sorted(set(given) - LIST_KEYS)
        if mixed:
            raise InvalidSpec(
                f"{where}: {mixed[0]} and a list of interceptors exclude each other: keep one of the two.", field=where
            )
        return chain_of(
            entries(given, "interceptors", f"{where}."), entries(given, "post_eval_hooks", f"{where}."), where
        )
    given.pop("interceptors", None)
    hooks = entries(given, "post_eval_hooks", f"{where}.")
    given.pop("post_eval_hooks", None)
    given.pop("discovery", None)
    try:
        flags = AdapterFlags.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        unknown = first["type"] == "extra_forbidden"
        said = "there is no such flag; check the spelling" if unknown else first["msg"]
        raise InvalidSpec(f"{where}.{name}: {said}.", field=f"{where}.{name}") from None
    out = chain_of([link for build in _LINKS if (link := build(flags)) is not None], hooks, where)
    report = _report(flags)
    return out.model_copy(update={"hooks": (*out.hooks, report)}) if report else out


def chain_of(links: Sequence[Any], hooks: Sequence[Any], where: str) -> Chain:
    """A chain from a list of names or `{name, config, enabled}`.

    Raises:
        InvalidSpec: a link does not hold, or the order does not.
    """
    try:
        return Chain(
            interceptors=tuple(_link(i) for i in links if _is_enabled(i)),
            hooks=tuple(_link(h) for h in hooks if _is_enabled(h)),
        )
    except (ValidationError, ValueError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise InvalidSpec(f"{where}: {said.removeprefix('Value error, ')}.", field=where) from None


def _is_enabled(link: Any) -> bool:
    return not isinstance(link, Mapping) or bool(link.get("enabled", True))


def _link(link: Any) -> Interceptor:
    given: Mapping[str, Any] = link if isinstance(link, Mapping) else {"name": link}
    if isinstance(given.get("name"), str) and given["name"] in NOT_OFFERED:
        raise ValueError(f"NeMo Evaluator's interceptor {given['name']!r} is not offered here: remove it")
    return Interceptor.model_validate({k: v for k, v in given.items() if k != "enabled"})


def _made(name: str, **config: Any) -> dict[str, Any]:
    return {"name": name, "config": {k: v for k, v in config.items() if v is not None}}


def _system(f: AdapterFlags) -> dict[str, Any] | None:
    wanted = f.use_system_prompt and f.custom_system_prompt is not None
    return _made("system_message", system_message=f.custom_system_prompt) if wanted else None


def _payload(f: AdapterFlags) -> dict[str, Any] | None:
    names = [f"{where}_to_{verb}" for where in ("params", "headers") for verb in ("add", "remove", "rename")]
    changes = {name: getattr(f, name) for name in names if getattr(f, name)}
    return _made("payload_modifier", **changes) if changes else None


def _request_logging(f: AdapterFlags) -> dict[str, Any] | None:
    if not f.use_request_logging:
        return None
    return _made("request_logging", max_requests=f.max_logged_requests, output_dir=f.output_dir)


def _most(f: AdapterFlags, saved: int | None) -> int | None:
    if not f.generate_html_report or f.html_report_size is None:
        return saved
    return max(f.html_report_size, saved or 0)


def _caching(f: AdapterFlags) -> dict[str, Any] | None:
    if not (f.use_caching or f.save_requests or f.save_responses or f.generate_html_report):
        return None
    folder = f.caching_dir or (f"{f.output_dir}/cache" if f.output_dir else None)
    return _made(
        "caching",
        cache_dir=folder,
        reuse_cached_responses=f.use_caching if f.reuse_cached_responses is None else f.reuse_cached_responses,
        save_requests=f.save_requests or f.generate_html_report,
        save_responses=f.save_responses or f.generate_html_report,
        max_saved_requests=_most(f, f.max_saved_requests),
        max_saved_responses=_most(f, f.max_saved_responses),
    )


def _beside(f: AdapterFlags, name: str) -> str | None:
    folder = f.caching_dir or f.output_dir
    return f"{folder}/{name}" if folder else None


def _stats(f: AdapterFlags) -> dict[str, Any] | None:
    if not f.tracking_requests_stats:
        return None
    return _made(
        "response_stats",
        cache_dir=_beside(f, "response_stats_cache"),
        logging_aggregated_stats_interval=f.logging_aggregated_stats_interval,
    )


def _response_logging(f: AdapterFlags) -> dict[str, Any] | None:
    if not f.use_response_logging:
        return None
    return _made("response_logging", max_responses=f.max_logged_responses, output_dir=f.output_dir)


def _reasoning(f: AdapterFlags) -> dict[str, Any] | None:
    if not (f.use_reasoning or f.process_reasoning_traces):
        return None
    return _made(
        "reasoning",
        start_reasoning_token=f.start_reasoning_token,
        end_reasoning_token=f.end_reasoning_token,
        include_if_not_finished=f.include_if_reasoning_not_finished,
        enable_reasoning_tracking=f.track_reasoning,
        cache_dir=_beside(f, "reasoning_stats_cache") if f.tracking_requests_stats else None,
        logging_aggregated_stats_interval=f.logging_aggregated_stats_interval,
    )


def _progress(f: AdapterFlags) -> dict[str, Any] | None:
    if not (f.use_progress_tracking or f.output_dir):
        return None
    return _made(
        "progress_tracking",
        progress_tracking_url=f.progress_tracking_url,
        progress_tracking_interval=f.progress_tracking_interval,
        request_method="POST",  # what the flags always meant
        output_dir=f.output_dir,
    )


def _raise(f: AdapterFlags) -> dict[str, Any] | None:
    return _made("raise_client_errors") if f.use_raise_client_errors else None


_LINKS: tuple[Callable[[AdapterFlags], dict[str, Any] | None], ...] = (
    _system, _payload, _request_logging, _caching, lambda _: _made("endpoint"), _stats, _response_logging, _reasoning,
    _progress, _raise,
)  # fmt: skip


def _report(f: AdapterFlags) -> Interceptor | None:
    if not f.generate_html_report:
        return None
    types = ("html", "json") if f.include_json else ("html",)
    config = {"report_types": types, "html_report_size": f.html_report_size}
    return Interceptor.model_validate({"name": "post_eval_report", "config": config})


def service_chain(links: Sequence[Any], where: str) -> tuple[Chain, dict[str, Any]]:
    """The chain of a 0.3 service, and the request limits its `endpoint` interceptor sets.

    0.3 unwinds answers in reverse, has one `logging` for both ways, and adds the endpoint itself.

    Raises:
        InvalidSpec: a link is unknown, not offered, or does not hold.
    """
    requests: list[Any] = []
    middle: list[Any] = []
    responses: list[Any] = []
    limits: dict[str, Any] = {}
    for link in filter(_is_enabled, links):
        given: Mapping[str, Any] = link if isinstance(link, Mapping) else {"name": link}
        name, config = given.get("name"), dict(part(given, "config", f"{where}.{given.get('name')}."))
        if name == "endpoint":
            extra = {
                "params_to_add": config.pop("extra_body", None),
                "headers_to_add": config.pop("extra_headers", None),
            }
            if any(extra.values()):
                requests.append(_made("payload_modifier", **extra))
            unknown = sorted(set(config) - ENDPOINT_LIMITS)
            if unknown:
                raise InvalidSpec(f"{where}: endpoint.{unknown[0]} is not offered here: remove it.", field=where)
            limits |= config
        elif name == "caching":
            bypass = bool(config.pop("bypass", False))
            middle.append(_made("caching", **config, reuse_cached_responses=not bypass))
        elif name == "logging":
            requests.append(_made("request_logging", **config))
            responses.insert(0, _made("response_logging", **config))
        elif name in ("log_tokens", "response_stats"):
            every = config.pop("every", None)
            responses.insert(0, _made("response_stats", **config, logging_aggregated_stats_interval=every))
        elif name == "progress_tracking":
            every = config.pop("every", None)
            url = config.pop("webhook_url", None)
            made = _made("progress_tracking", progress_tracking_interval=every, progress_tracking_url=url, **config)
            responses.insert(0, made)
        elif name in ("reasoning", "raise_client_errors"):
            responses.insert(0, _made(str(name), **config))
        elif name != "streaming":  # every suite streams where it says so itself
            requests.append({"name": name, "config": config})
    return chain_of([*requests, *middle, "endpoint", *responses], (), where), limits
