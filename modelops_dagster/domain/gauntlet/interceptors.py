"""What stands between a suite and an endpoint: a chain of interceptors, with the names NeMo Evaluator gave them.

Requests pass the interceptors of the request stage in the chain's order, then the cache and the endpoint; answers pass
those of the response stage, again in order. The functions here are pure; `clients.gauntlet.adapter` runs the chain.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.samples import digest
from modelops_dagster.domain.values import Value


class SystemMessage(Value):
    system_message: str
    strategy: Literal["prepend", "append", "replace"] = Field(
        default="prepend", description="before what the suite says as system, after it, or instead of it"
    )


class PayloadModifier(Value):
    """Headers are set after the key's, so an Authorization given here is the one that is sent."""

    params_to_add: dict[str, Any] = Field(default_factory=dict)
    params_to_remove: tuple[str, ...] = ()
    params_to_rename: dict[str, str] = Field(default_factory=dict, description="old name -> new name")
    headers_to_add: dict[str, str] = Field(default_factory=dict)
    headers_to_remove: tuple[str, ...] = ()
    headers_to_rename: dict[str, str] = Field(default_factory=dict)


class DropParams(Value):
    params: tuple[str, ...] = Field(min_length=1)


class ConsolidateSystem(Value):
    separator: str = "\n\n"


class RequestLogging(Value):
    log_request_body: bool = True
    log_request_headers: bool = True
    max_requests: int | None = Field(default=2, ge=0, description="requests logged at most; None: all")
    output_dir: str | None = Field(
        default=None, description="folder of requests.jsonl; None: beside the run's journals"
    )


class ResponseLogging(Value):
    log_response_body: bool = True
    max_responses: int | None = Field(default=None, ge=0, description="answers logged at most; None: all")
    output_dir: str | None = Field(default=None, description="folder of responses.jsonl; None: beside the journals")


class Caching(Value):
    cache_dir: str | None = Field(default=None, description="folder of the answers; None: the platform's own cache")
    reuse_cached_responses: bool = Field(default=False, description="answer from the folder what was asked before")
    save_requests: bool = Field(default=False, description="keep pairs for the report after the run")
    save_responses: bool = False
    max_saved_requests: int | None = Field(default=None, ge=0)
    max_saved_responses: int | None = Field(default=None, ge=0)


class EndpointStage(Value):
    pass


class ResponseStats(Value):
    collect_token_stats: bool = True
    collect_finish_reasons: bool = True
    collect_tool_calls: bool = True
    save_individuals: bool = Field(default=True, description="accepted; every request is a row of the samples anyway")
    stats_file_saving_interval: int | None = Field(default=None, ge=1, description="answers between two writes")
    logging_aggregated_stats_interval: int = Field(default=100, ge=1, description="as above, where that is not given")
    cache_dir: str | None = Field(default=None, description="folder of response_stats.json; None: no file")


class Reasoning(Value):
    """Our default for unfinished reasoning differs from NeMo's: it is `truncated`, not an answer to be scored."""

    start_reasoning_token: str | None = Field(default="<think>", description="None: only the end is looked for")
    end_reasoning_token: str = Field(default="</think>", min_length=1)
    include_if_not_finished: bool = Field(default=False, description="score reasoning without an end as an answer")
    add_reasoning: bool = Field(default=True, description="accepted; reasoning is always kept, in a column of its own")
    migrate_reasoning_content: bool = Field(default=False, description="put separate reasoning back before the answer")
    enable_reasoning_tracking: bool = True
    save_individuals: bool = Field(default=True, description="accepted; every request is a row of the samples anyway")
    enable_caching: bool = Field(default=True, description="accepted; the counts are made anew in every run")
    stats_file_saving_interval: int | None = Field(default=None, ge=1)
    logging_aggregated_stats_interval: int = Field(default=100, ge=1)
    cache_dir: str | None = Field(default=None, description="folder of reasoning_stats.json; None: no file")


class ProgressTracking(Value):
    progress_tracking_url: str | None = Field(default=None, pattern=r"^https?://")
    progress_tracking_interval: int = Field(default=1, ge=1, description="answers between two calls")
    progress_tracking_interval_seconds: float | None = Field(default=None, gt=0, description="or so many seconds")
    request_method: Literal["PATCH", "POST"] = "PATCH"
    output_dir: str | None = Field(default=None, description="folder of a file `progress` with the count; None: none")


class RaiseClientErrors(Value):
    """Statuses that end the suite at the first answer instead of losing one sample."""

    exclude_status_codes: tuple[int, ...] = (408, 429)
    status_codes: tuple[int, ...] | None = Field(default=None, description="only these; None: the range")
    status_code_range_start: int = 400
    status_code_range_end: int = 499

    def covers(self, status: int | None) -> bool:
        if status is None or status in self.exclude_status_codes:
            return False
        if self.status_codes is not None:
            return status in self.status_codes
        return self.status_code_range_start <= status <= self.status_code_range_end


class PostEvalReport(Value):
    report_types: tuple[Literal["html", "json"], ...] = ("html",)
    html_report_size: int | None = Field(default=None, ge=0, description="pairs shown; None: all that were saved")


REQUEST: dict[str, type[Value]] = {
    "system_message": SystemMessage,
    "payload_modifier": PayloadModifier,
    "drop_params": DropParams,
    "consolidate_system": ConsolidateSystem,
    "request_logging": RequestLogging,
}
MIDDLE: dict[str, type[Value]] = {"caching": Caching, "endpoint": EndpointStage}
RESPONSE: dict[str, type[Value]] = {
    "response_stats": ResponseStats,
    "response_logging": ResponseLogging,
    "reasoning": Reasoning,
    "progress_tracking": ProgressTracking,
    "raise_client_errors": RaiseClientErrors,
}
HOOKS: dict[str, type[Value]] = {"post_eval_report": PostEvalReport}
CONFIGS = REQUEST | MIDDLE | RESPONSE | HOOKS
_ORDER = {name: at for at, stage in enumerate((REQUEST, ("caching",), ("endpoint",), RESPONSE)) for name in (*stage,)}
SHAPES_ANSWERS = frozenset(
    {"system_message", "payload_modifier", "drop_params", "consolidate_system", "reasoning"}
)  # fmt: skip
TRANSPORT = frozenset({"payload_modifier", "drop_params"})


class Interceptor(Value):
    """One link, by name, with the parameters of that name."""

    name: str
    config: SerializeAsAny[Value]

    @model_validator(mode="before")
    @classmethod
    def _typed(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError("write {name: ..., config: {...}}")
        name, given = value.get("name"), value.get("config") or {}
        model = CONFIGS.get(str(name))
        if model is None:
            raise ValueError(f"there is no interceptor {name!r}; there are: {', '.join(CONFIGS)}")
        if isinstance(given, model):
            return {"name": name, "config": given}
        try:
            return {"name": name, "config": model.model_validate(given)}
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise ValueError(f"{name}: {field or 'its config'}: {first['msg']}") from None

    @property
    def given(self) -> dict[str, Any]:
        """The parameters that were set, without the defaults."""
        return {k: v for k, v in self.config.model_dump(mode="json", exclude_unset=True).items() if v is not None}


class Chain(Value):
    """Interceptors in order, and what is done after the run. Empty: requests go straight to the endpoint."""

    interceptors: tuple[Interceptor, ...] = ()
    hooks: tuple[Interceptor, ...] = ()

    @model_validator(mode="after")
    def _in_stages(self) -> "Chain":
        names = [i.name for i in self.interceptors]
        for name in names:
            if name in HOOKS:
                raise ValueError(f"{name} is a hook: name it under post_eval_hooks")
        stray = next((h.name for h in self.hooks if h.name not in HOOKS), None)
        if stray:
            raise ValueError(f"{stray} is no hook; there is: {', '.join(HOOKS)}")
        if names and names.count("endpoint") != 1:
            raise ValueError("a chain needs the interceptor 'endpoint' exactly once")
        for before, after in pairwise(names):
            if _ORDER[before] > _ORDER[after]:
                raise ValueError(f"{after} cannot come after {before}: requests, caching, endpoint, then answers")
        return self

    def named(self, name: str) -> Any:
        """The parameters of the first interceptor or hook of that name, or None."""
        return next((i.config for i in (*self.interceptors, *self.hooks) if i.name == name), None)

    @property
    def transport(self) -> "Chain":
        """What an endpoint needs to be talked to at all: for suites that judge the endpoint itself."""
        kept = tuple(i for i in self.interceptors if i.name in TRANSPORT)
        return Chain(interceptors=(*kept, Interceptor(name="endpoint", config=EndpointStage()))) if kept else Chain()

    @property
    def shape(self) -> str | None:
        """Digest of what may change a score, or None when nothing does: logs, caches and counts do not."""
        kept = [i.model_dump(mode="json") for i in self.interceptors if i.name in SHAPES_ANSWERS]
        return digest(kept) if kept else None


def amended(
    chain: Chain, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Body and headers after the request stage. A system message reaches a plain prompt as its first paragraph."""
    if not chain.interceptors:
        return (body if isinstance(body, dict) else dict(body)), dict(headers or {})
    out, sent = dict(body), dict(headers or {})
    for link in chain.interceptors:
        config = link.config
        if isinstance(config, SystemMessage):
            out = _with_system(out, config)
        elif isinstance(config, ConsolidateSystem) and "messages" in out:
            system = [m["content"] for m in out["messages"] if m["role"] == "system"]
            rest = [m for m in out["messages"] if m["role"] != "system"]
            joined = [{"role": "system", "content": config.separator.join(system)}] if system else []
            out["messages"] = joined + rest
        elif isinstance(config, DropParams):
            out = {k: v for k, v in out.items() if k not in config.params}
        elif isinstance(config, PayloadModifier):
            out = {config.params_to_rename.get(k, k): v for k, v in out.items() if k not in config.params_to_remove}
            out |= config.params_to_add
            gone = {h.lower() for h in config.headers_to_remove}
            renamed = {k.lower(): v for k, v in config.headers_to_rename.items()}
            sent = {renamed.get(k.lower(), k): v for k, v in sent.items() if k.lower() not in gone}
            given = {h.lower() for h in config.headers_to_add}
            sent = {k: v for k, v in sent.items() if k.lower() not in given} | config.headers_to_add
    return out, sent


def _with_system(body: dict[str, Any], config: SystemMessage) -> dict[str, Any]:
    if "messages" not in body:
        return body | {"prompt": f"{config.system_message}\n\n{body.get('prompt', '')}"}
    messages = [dict(m) for m in body["messages"]]
    ours = {"role": "system", "content": config.system_message}
    if config.strategy == "replace":
        return body | {"messages": [ours, *(m for m in messages if m["role"] != "system")]}
    first = messages[0] if messages and messages[0]["role"] == "system" else None
    if first is None:
        return body | {"messages": [ours, *messages]}
    pair = (config.system_message, first["content"])
    joined = "\n".join(pair if config.strategy == "prepend" else pair[::-1])
    return body | {"messages": [{"role": "system", "content": joined}, *messages[1:]]}


def parted(config: Reasoning, got: Completion) -> Completion:
    """The completion with its reasoning taken out of the text; reasoning that never ends is marked, not scored."""
    if not got.is_ok:
        return got
    if config.migrate_reasoning_content and got.reasoning:
        text = f"{config.start_reasoning_token or ''}{got.reasoning}{config.end_reasoning_token}{got.text}"
        return parted(config.model_copy(update={"migrate_reasoning_content": False}), replace(got, text=text))
    start, end = config.start_reasoning_token, config.end_reasoning_token
    if end in got.text:
        thought, _, answer = got.text.rpartition(end)
        thought = thought.partition(start)[2] if start and start in thought else thought
        return replace(got, text=answer.strip(), reasoning=(thought or got.reasoning).strip())
    if not start or start not in got.text or config.include_if_not_finished:
        return got
    thought = got.text.partition(start)[2]
    return replace(got, text="", reasoning=thought.strip(), reasoning_is_cut=True)


def answer_key(body: Mapping[str, Any], *, url: str, revision: str, sample: str, epoch: int) -> str:
    """64 hex digits over everything that may change the answer: the whole body, who is asked, and which time it is."""
    return digest([dict(body), url, revision, sample, epoch]).removeprefix("sha256:")
