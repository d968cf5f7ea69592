"""`modelops eval --config`: a NeMo Evaluator YAML of either vintage becomes a plan of what is asked of whom."""

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from modelops_dagster.domain.complaints import first_fault
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.adapter_config import legacy_chain, service_chain
from modelops_dagster.domain.gauntlet.document_parts import entries, part
from modelops_dagster.domain.gauntlet.interceptors import Chain
from modelops_dagster.domain.gauntlet.suite import Suite
from modelops_dagster.domain.values import Value

_VARIABLE = re.compile(r"\$\{(?:oc\.env:)?([A-Za-z_][A-Za-z0-9_]*)(?:(?::-|,)([^}]*))?\}")
_PROTOCOLS = {"chat_completions": "chat", "completions": "completions"}
_SECTIONS = ("target", "services", "evaluation", "benchmarks", "deployment", "execution", "output", "config")
# What a launcher takes besides: where and in what containers to run, which is nothing to this command.
_LAUNCHER = frozenset(
    {"container", "dataset_dir", "dataset_mount_path", "endpoint_type", "env_vars", "mounts", "post_cmd", "pre_cmd"}
)
_EVALUATION = frozenset({"tasks", "nemo_evaluator_config", "overrides"})
_TASK = frozenset({"name", "nemo_evaluator_config", "overrides", "params"})
_PARAMS = "config.params."
_TYPES = {"undefined": None, "chat": "chat", "completions": "completions"}


class AskParams(Value):
    """How hard and how often to ask, where the file says so; None leaves the suite's own setting."""

    limit_samples: float | None = Field(default=None, gt=0, description="a count, or below 1 a share")
    max_new_tokens: int | None = Field(default=None, gt=0, description="tokens every request may use at least")
    max_retries: int | None = Field(default=None, ge=0)
    parallelism: int | None = Field(default=None, ge=1, le=1024)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    request_timeout: float | None = Field(default=None, gt=0, description="seconds of one attempt")
    task: str | None = Field(default=None, description="accepted; the name of the task says it")
    extra: dict[str, Any] = Field(default_factory=dict, description="accepted when empty")

    @field_validator("extra")
    @classmethod
    def _nothing_extra(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value:
            raise ValueError(f"{next(iter(value))!r} belongs to a harness that is not used here; remove it")
        return value

    def applied(self, suite: Suite) -> Suite:
        """The suite asked that way; only datasets have samples and sampling."""
        limits = {
            "concurrency": self.parallelism,
            "retries": self.max_retries,
            "attempt_timeout_s": self.request_timeout,
        }
        changes: dict[str, Any] = {"requests": _changed(suite.spec.requests, limits)}
        if suite.kind == "dataset":
            drawn = {"temperature": self.temperature, "top_p": self.top_p, "token_floor": self.max_new_tokens}
            changes["sampling"] = _changed(suite.spec.sampling, drawn)
            if self.limit_samples is not None:
                share = self.limit_samples < 1
                changes["limit"] = max(1, round(self.limit_samples * (len(suite.asked()) if share else 1)))
        return suite.model_copy(update={"spec": suite.spec.model_copy(update=changes)})


def _changed(value: Any, changes: Mapping[str, Any]) -> Any:
    return value.model_copy(update={k: v for k, v in changes.items() if v is not None})


class EvalTask(Value):
    """One entry under tasks or benchmarks: a suite, or a public benchmark that a suite stands in for."""

    name: str
    params: AskParams = AskParams()


class EvalPlan(Value):
    """What a file asks for. The key itself is never in here."""

    url: str
    model_id: str
    api: Literal["chat", "completions"] | None = Field(default=None, description="None: as the path of the URL says")
    stream: bool | None = None
    api_key_name: str | None = Field(default=None, description="variable that holds the key")
    chain: Chain = Chain()
    tasks: tuple[EvalTask, ...] = Field(default=(), description="empty: every suite")
    params: AskParams = Field(default=AskParams(), description="of every suite, where there are no tasks")
    output_dir: str | None = None
    vintage: Literal["0.2", "0.3"]


def overridden(document: Mapping[str, Any], assignments: Sequence[str], parse: Any) -> dict[str, Any]:
    """The document with `a.b=c` set for each assignment; `parse` reads the right-hand side as YAML.

    Raises:
        InvalidSpec: an assignment without `=`, or through something that is not a mapping.
    """
    out: dict[str, Any] = _copied(document)
    for text in assignments:
        path, equals, value = text.partition("=")
        steps = path.strip().lstrip("+").split(".")
        if not equals or not all(steps):
            raise InvalidSpec(f"-o {text!r} is not of the form a.b=value.", field="-o")
        at = out
        for step in steps[:-1]:
            at = at.setdefault(step, {})
            if not isinstance(at, dict):
                raise InvalidSpec(f"-o {text!r}: {step!r} holds {at!r} and has no members.", field=path)
        at[steps[-1]] = parse(value)
    return out


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def eval_plan(document: Mapping[str, Any], variables: Mapping[str, str]) -> EvalPlan:
    """The plan of a file of either vintage.

    Raises:
        InvalidSpec: something is missing, unknown or not offered; the message names the field.
    """
    for name in document:
        if name not in _SECTIONS and (near := get_close_matches(str(name), _SECTIONS, 1, 0.8)):
            raise InvalidSpec(f"{name}: there is no such section; is it {near[0]}?", field=str(name))
    read = _plan_of_services if "services" in document else _plan_of_target if "target" in document else None
    if read is not None:
        try:
            return read(document, variables)
        except ValidationError as error:
            name, said = first_fault(error)
            raise InvalidSpec(f"{name}: {said}.", field=name or None) from None
    raise InvalidSpec("The file has neither `target` (NeMo Evaluator 0.1 to 0.2) nor `services` (0.3).", field="target")


def _plan_of_target(document: Mapping[str, Any], variables: Mapping[str, str]) -> EvalPlan:
    deployment = part(document, "deployment")
    if str(deployment.get("type", "none")) != "none":
        raise InvalidSpec(
            f"deployment.type is {deployment['type']!r}, and this command deploys nothing: set it to none and give the "
            "address of a running endpoint, or use `modelops onboard`.",
            field="deployment.type",
        )
    where = "target.api_endpoint"
    endpoint = dict(part(part(document, "target"), "api_endpoint", "target."))
    adapter = part(endpoint, "adapter_config", f"{where}.")
    endpoint.pop("adapter_config", None)
    key_name = _key_name(endpoint.pop("api_key", None), endpoint.pop("api_key_name", None), where)
    kind = endpoint.pop("type", "undefined") or "undefined"
    if not isinstance(kind, str) or kind not in _TYPES:
        raise InvalidSpec(f"{where}.type is {kind!r}: use {', '.join(_TYPES)}.", field=f"{where}.type")
    stream = endpoint.pop("stream", None)
    url = _wanted(endpoint.pop("url", None), f"{where}.url", variables)
    model_id = _wanted(endpoint.pop("model_id", None), f"{where}.model_id", variables)
    if endpoint:
        raise InvalidSpec(f"{where}.{next(iter(endpoint))}: there is no such field; check the spelling.", field=where)
    evaluation, core = part(document, "evaluation"), part(document, "config")
    _known(evaluation, _EVALUATION, "evaluation")
    common = _params(evaluation, "evaluation") | dict(part(core, "params", "config."))
    named = list(entries(evaluation, "tasks", "evaluation."))
    if core.get("type"):
        named.append({"name": core["type"]})
    return EvalPlan(
        url=url,
        model_id=model_id,
        api=_TYPES[kind],
        stream=stream,
        api_key_name=key_name,
        chain=legacy_chain(_filled(adapter, variables, f"{where}.adapter_config")),
        tasks=_tasks(named, common, "evaluation.tasks"),
        params=_ask_params(common, "evaluation"),
        output_dir=core.get("output_dir") or part(document, "execution").get("output_dir"),
        vintage="0.2",
    )


def _plan_of_services(document: Mapping[str, Any], variables: Mapping[str, str]) -> EvalPlan:
    services = part(document, "services")
    benchmarks = [b if isinstance(b, Mapping) else {"name": b} for b in entries(document, "benchmarks")]
    wanted = {str(part(b, "solver").get("service")) for b in benchmarks if part(b, "solver").get("service")}
    name = wanted.pop() if len(wanted) == 1 else next(iter(services), None) if len(services) == 1 else None
    if name is None or name not in services:
        raise InvalidSpec(
            f"services holds {', '.join(services) or 'nothing'}: one service is asked at a time, so name it in every "
            "benchmark's solver.service.",
            field="services",
        )
    where, service = f"services.{name}", dict(part(services, name, "services."))
    if service.get("type", "api") != "api":
        raise InvalidSpec(
            f"{where}.type is {service['type']!r}, and this command deploys nothing: use api.", field=where
        )
    protocol = service.get("protocol", "chat_completions")
    if not isinstance(protocol, str) or protocol not in _PROTOCOLS:
        raise InvalidSpec(f"{where}.protocol is {protocol!r}: use {', '.join(_PROTOCOLS)}.", field=where)
    proxy = _filled(part(service, "proxy", f"{where}."), variables, f"{where}.proxy")
    extra = {k: proxy[k] for k in ("extra_body", "extra_headers") if proxy.get(k)}
    links = [
        *([{"name": "endpoint", "config": extra}] if extra else []),
        *entries(proxy, "interceptors", f"{where}.proxy."),
    ]
    chain, limits = service_chain(links, f"{where}.proxy.interceptors")
    generation = part(service, "generation", f"{where}.")
    common = {
        "max_retries": limits.get("max_retries"),
        "request_timeout": limits.get("request_timeout"),
        "parallelism": limits.get("max_concurrent"),
        "temperature": generation.get("temperature"),
        "top_p": generation.get("top_p"),
        "max_new_tokens": generation.get("max_tokens"),
    }
    tasks = [{"name": b.get("name"), "params": {"limit_samples": b.get("max_problems")}} for b in benchmarks]
    return EvalPlan(
        url=_wanted(service.get("url"), f"{where}.url", variables),
        model_id=_wanted(service.get("model"), f"{where}.model", variables),
        api=_PROTOCOLS[protocol],
        api_key_name=_key_name(service.get("api_key"), None, where),
        chain=chain,
        tasks=_tasks(tasks, common, "benchmarks"),
        params=_ask_params(common, f"services.{name}"),
        output_dir=part(document, "output").get("dir"),
        vintage="0.3",
    )


def _known(given: Mapping[str, Any], fields: Collection[str], where: str) -> None:
    """A field that nobody knows would change nothing, and who wrote it thinks it does."""
    for name in given:
        if name not in fields and name not in _LAUNCHER:
            hint = "; parameters stand under nemo_evaluator_config.config.params" if name == "params" else ""
            raise InvalidSpec(f"{where}.{name}: there is no such field{hint}.", field=f"{where}.{name}")


def _params(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The parameters in the nested form, and in the flat one of older launchers, which goes before it."""
    nested = part(part(part(given, "nemo_evaluator_config", f"{where}."), "config"), "params")
    flat = part(given, "overrides", f"{where}.")
    for name in flat:
        if not str(name).startswith(_PARAMS):
            raise InvalidSpec(f"{where}.overrides.{name}: only {_PARAMS}* can be set here.", field=f"{where}.overrides")
    return dict(nested) | {str(name).removeprefix(_PARAMS): value for name, value in flat.items()}


def _tasks(named: Sequence[Any], params: Mapping[str, Any], where: str) -> tuple[EvalTask, ...]:
    out = []
    for entry in named:
        given = entry if isinstance(entry, Mapping) else {"name": entry}
        if "name" not in given:
            raise InvalidSpec(f"{where}: an entry has no name.", field=where)
        own = _params(given, where) | dict(part(given, "params", f"{where}."))
        merged = {**params, **{k: v for k, v in own.items() if v is not None}}
        name = str(given["name"])
        out.append(EvalTask(name=name, params=_ask_params(merged, f"{where}.{name}")))
        _known(given, _TASK, f"{where}.{name}")
    return tuple(out)


def _ask_params(given: Mapping[str, Any], where: str) -> AskParams:
    try:
        return AskParams.model_validate({k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        name, said = first_fault(error)
        field = f"{where}.{name}"
        raise InvalidSpec(f"{field}: {said}.", field=field) from None


def _key_name(literal: Any, name: Any, where: str) -> str | None:
    """The variable that holds the key; a key in clear is refused, since files travel."""
    if name:
        return str(name)
    if literal in (None, ""):
        return None
    found = _VARIABLE.fullmatch(str(literal))
    if found is None:
        raise InvalidSpec(
            f"{where}.api_key holds a key in clear: put it into a variable and write ${{NAME}} here.",
            field=f"{where}.api_key",
        )
    return found[1]


def _wanted(value: Any, field: str, variables: Mapping[str, str]) -> str:
    if not value or value == "???":
        raise InvalidSpec(f"{field} is missing: give it in the file or with -o {field}=….", field=field)
    return str(_filled(value, variables, field))


def _filled(value: Any, variables: Mapping[str, str], field: str) -> Any:
    """Every `${NAME}` (or Hydra's `${oc.env:NAME}`) replaced by the variable's value.

    Raises:
        InvalidSpec: a variable is not set and has no default.
    """
    if isinstance(value, Mapping):
        return {k: _filled(v, variables, f"{field}.{k}") for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, variables, field) for v in value]
    if not isinstance(value, str):
        return value

    def put(found: re.Match[str]) -> str:
        if (known := variables.get(found[1])) or found[2] is not None:
            return known or found[2]
        raise InvalidSpec(f"{field} needs the environment variable {found[1]}, which is not set.", field=field)

    return _VARIABLE.sub(put, value)
