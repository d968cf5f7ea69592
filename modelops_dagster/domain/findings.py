"""What the metadata of a release shows that somebody should know, each as one sentence with what to do next."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from modelops_dagster.domain.architectures import Support
from modelops_dagster.domain.capacity import Hardware, Plan, size_text
from modelops_dagster.domain.chat_templates import (
    ANSWER,
    QUESTION,
    SYSTEM,
    StopTokens,
    TemplateReport,
    end_of_turn,
    stop_tokens,
)
from modelops_dagster.domain.errors import ModelOpsError
from modelops_dagster.domain.gpus import multiplied_from
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.model_config import ModelConfig
from modelops_dagster.domain.model_shape import ModelShape
from modelops_dagster.domain.preflight import Finding
from modelops_dagster.domain.repo_files import checkpoint_files, is_weight, remote_code_refused, wanted_files
from modelops_dagster.domain.values import Value

# Bits of one number, as safetensors headers name its type.
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}
_BITS |= {"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
SIZE_TOLERANCE = 0.05  # headers, and tensors that are counted by the packed number


class Documents(Value):
    """The small files of a release, parsed; None where it has none, or none that parses."""

    config: Any = None
    tokenizer_config: Any = None
    generation_config: Any = None
    tokenizer: Any = Field(default=None, description="tokenizer.json, only where its special tokens are needed")
    templates: dict[str, str] = Field(default_factory=dict, description="template files by path")
    unreadable: tuple[str, ...] = Field(default=(), description="files that are there and are not what they are called")


class Space(Value):
    """What the checkpoint store lacks of a release, and has room for."""

    needed_bytes: int
    free_bytes: int
    root: str


def file_findings(release: Release, documents: Documents, space: Space, *, code_allowed: bool) -> Iterator[Finding]:
    """What can be fetched, and whether there is room for it.

    Args:
        release: with what the engines were found to support.
        code_allowed: an operator let this commit bring code.
    """
    tokenizer = documents.tokenizer_config
    asks = "tokenizer_config.json" if isinstance(tokenizer, Mapping) and tokenizer.get("auto_map") else None
    try:
        files = checkpoint_files(release, code_allowed=code_allowed)
        if asks and not (release.remote_code or code_allowed or release.runs_without_code):
            raise remote_code_refused(release.revision, asks)
    except ModelOpsError as error:
        yield Finding(severity="blocks", code=error.code, sentence=error.sentence)
        files = wanted_files(release.files, with_code=code_allowed)
    if (release.remote_code or asks) and release.runs_without_code and not code_allowed:
        yield Finding(
            severity="informs",
            code="code_not_needed",
            sentence="Its repository brings code of its own (auto_map), which is neither fetched nor run, since an "
            "installed engine knows it by itself: compare its first answers with the example of its card.",
        )
    if (release.remote_code or asks) and code_allowed:
        yield Finding(
            severity="informs",
            code="remote_code",
            sentence="Code of its repository is fetched and run, since somebody allowed this commit to bring it.",
        )
    if space.needed_bytes > space.free_bytes:
        yield Finding(
            severity="blocks",
            code="disk_full",
            sentence=f"It needs {size_text(space.needed_bytes)} more in {space.root}, which has "
            f"{size_text(space.free_bytes)} free: make room, or set MODELOPS_HOME to a folder on a larger disk.",
        )
    stated = sum(n * _BITS[t] for t, n in release.parameters_by_dtype.items() if t in _BITS) / 8
    there = sum(f.size_bytes for f in files if is_weight(f.path))
    if stated and there and set(release.parameters_by_dtype) <= set(_BITS):
        share = there / stated
        if abs(share - 1) > SIZE_TOLERANCE and abs(there - stated) > 10**6:
            yield Finding(
                severity="warns",
                code="weights_size",
                sentence=f"The weight files hold {size_text(there)} and their headers promise {size_text(stated)}: "
                "look whether the upload is whole, or holds something twice.",
            )


def terms_findings(release: Release, allowed_licenses: Sequence[str]) -> Iterator[Finding]:
    """Licence and gating. `allowed_licenses` are identifiers as the Hub writes them; none: all are allowed."""
    stated = {name.strip().lower() for name in (release.license or "").split(",") if name.strip()}
    if allowed_licenses and not stated & {name.lower() for name in allowed_licenses}:
        yield Finding(
            severity="blocks",
            code="license_not_allowed",
            sentence=f"Its licence {release.license or '(none stated)'} is not of {', '.join(allowed_licenses)}: have "
            "it approved and add it to the list, or accept it for this run.",
        )
    elif not stated:
        yield Finding(
            severity="warns",
            code="license_not_stated",
            sentence="Its card states no licence: read the repository before anybody depends on it.",
        )
    elif stated & {"other", "unknown"}:
        yield Finding(
            severity="warns",
            code="license_of_its_own",
            sentence=f"Its licence is {release.license}, terms of its own: read them before anybody depends on it.",
        )
    if release.gated:
        yield Finding(
            severity="informs",
            code="gated",
            sentence=f"It is gated ({release.gated}) and this account was let in; another one has to ask for itself.",
        )


def engine_findings(supports: Sequence[Support]) -> Iterator[Finding]:
    """Whether there is an engine for it."""
    usable = [s for s in supports if s.reason is None and s.is_installed]
    needs_code = any(s.kind == "remote_code" for s in supports)  # that is told of the files, with what to do
    if not usable and not needs_code:
        reasons = " ".join(dict.fromkeys(s.sentence for s in supports))
        yield Finding(
            severity="blocks",
            code="no_engine",
            sentence=f"No engine here can load it ({reasons.removesuffix('.') or 'none generates text with it'}): "
            "install one that does; a model that waits for a newer engine is tried again when there is one.",
        )
    above = [s for s in supports[: supports.index(usable[0])] if s.is_installed] if usable else []
    if above:
        yield Finding(
            severity="warns",
            code="lower_rung",
            sentence=f"It begins at {usable[0].rung}, below the top: {above[0].sentence}",
        )
    if usable and usable[0].caution:
        yield Finding(
            severity="warns",
            code="quantization_not_known",
            sentence=f"{usable[0].caution} Expect it to be refused; a release with another scheme may do.",
        )


def capacity_findings(plan: Plan, shape: ModelShape | None) -> Iterator[Finding]:
    """Whether what there is holds it."""
    others = "; ".join(plan.alternatives)
    advice = f"; {others}" if others else ""
    if plan.fits == "no":
        need = plan.layout.label if plan.layout is not None and plan.hardware.kind == "cuda" else "more memory"
        least = plan.arithmetic[-1] if plan.arithmetic else ""
        yield Finding(
            severity="blocks",
            code="too_large",
            sentence=f"It does not fit on {plan.hardware.label} and needs {need} ({least}){advice}: declare or add "
            "hardware (MODELOPS_GPUS), or accept it for this run.",
        )
    elif plan.fits == "tight":
        yield Finding(
            severity="warns",
            code="tight_memory",
            sentence=f"It fits on {plan.hardware.label} without the usual margins, with {plan.sequences} sequences of "
            f"{plan.context} tokens ({plan.arithmetic[-1]}){advice}: expect it to be refused memory, or free some.",
        )
    if shape is None:
        yield Finding(
            severity="informs",
            code="shape_not_stated",
            sentence="Its config.json does not state layers, heads and widths, so only the weights were planned for.",
        )
    elif (problem := shape.split_problem(1)) is not None:
        is_sure = shape.grid is not None and shape.grid.block is not None and shape.grid.covers_all
        yield Finding(
            severity="blocks" if is_sure else "warns",
            code="quantization_shape",
            sentence=f"Its quantized weights cannot be loaded, since {problem}: ask for a release with another scheme, "
            "or onboard the unquantized model.",
        )


def multiplying_findings(model: ModelConfig, inventory: Sequence[Hardware]) -> Iterator[Finding]:
    """Whether the GPUs multiply the weights as they were quantized, or have to unpack them first."""
    wanted = multiplied_from(model)
    weak = [h for h in inventory if wanted is not None and (h.compute_capability or wanted) < wanted]
    if weak:
        names = ", ".join(f"{h.name} ({h.compute_capability})" for h in weak)
        yield Finding(
            severity="informs",
            code="weights_unpacked",
            sentence=f"Its weights are {model.quantization_format or model.quantization}, which GPUs multiply from "
            f"compute capability {wanted} on; {names} unpacks them first: expect the memory of the scheme and the "
            "speed of BF16.",
        )


def template_findings(release: Release, documents: Documents, report: TemplateReport | None) -> Iterator[Finding]:
    """Whether conversations become prompts. `report` is None where there is no template to render."""
    for path in documents.unreadable:
        yield Finding(
            severity="blocks" if path == "config.json" else "warns",
            code="unreadable_file",
            sentence=f"{path} cannot be read as what its name says: ask its publisher to upload it again.",
        )
    if report is None:
        if not release.has_chat_template:
            yield Finding(
                severity="warns",
                code="chat_template_missing",
                sentence="It has no chat template, so chat requests will be refused: take it for a base model, or wait "
                "for a commit that adds one.",
            )
        return
    plain = report.error("question") if report.text("question") is None else None
    if report.broken or (plain is not None and report.text("parts") is None):
        yield Finding(
            severity="blocks",
            code="chat_template_broken",
            sentence=f"Its chat template fails with a single question ({_short(report.broken or plain)}), so every "
            "chat would: wait for a commit that corrects it.",
        )
        return
    if QUESTION not in (report.text("question") or report.text("parts") or ""):
        yield Finding(
            severity="warns",
            code="chat_template_drops_text",
            sentence="Its chat template leaves the user's question out of the prompt: compare it with the "
            "example of its card.",
        )
    yield from _conversation_findings(report)


def _conversation_findings(report: TemplateReport) -> Iterator[Finding]:
    if (error := report.error("turns")) is not None:
        yield Finding(
            severity="warns",
            code="chat_template_turns",
            sentence=f"Its chat template refuses a conversation of several turns ({_short(error)}): clients must send "
            "single questions.",
        )
    elif ANSWER not in (report.text("turns") or ""):
        yield Finding(
            severity="warns",
            code="chat_template_drops_answer",
            sentence="Its chat template leaves the assistant's earlier answer out: the model will not know it.",
        )
    error, text = report.error("system"), report.text("system")
    if error is not None or (text is not None and SYSTEM not in text):
        what = f"refuses a system message ({_short(error)})" if error is not None else "drops the system message"
        yield Finding(
            severity="informs",
            code="chat_template_system",
            sentence=f"Its chat template {what}: clients must put instructions into the first question.",
        )
    if (tools := report.text("tools")) is None or "get_weather" not in tools:
        yield Finding(
            severity="informs",
            code="chat_template_tools",
            sentence="Its chat template does not show tools to the model: do not offer it tool calls.",
        )


def stop_findings(documents: Documents, report: TemplateReport | None) -> Iterator[Finding]:
    """Whether the model is told to stop where its own template ends a turn."""
    stops = stop_tokens(documents.generation_config, documents.config, documents.tokenizer_config, documents.tokenizer)
    if not stops.union:
        if documents.tokenizer_config is not None:
            yield Finding(
                severity="warns",
                code="eos_missing",
                sentence="Neither generation_config.json, config.json nor the tokenizer names an end token: expect "
                "answers that never stop; wait for a commit that adds one.",
            )
        return
    turn = end_of_turn(report, stops.specials) if report is not None else None
    yield from _turn_findings(stops, turn)
    if documents.generation_config is None:
        yield Finding(
            severity="informs",
            code="generation_config_missing",
            sentence="It has no generation_config.json, so engines stop at the tokenizer's end token and sample with "
            "defaults of their own.",
        )


def _turn_findings(stops: StopTokens, turn: str | None) -> Iterator[Finding]:
    named = ", ".join(sorted(stops.union))
    if turn is not None and turn not in stops.union and all(not name.isdigit() for name in stops.union):
        yield Finding(
            severity="warns",
            code="eos_mismatch",
            sentence=f"Its chat template ends a turn with {turn}, and it is told to stop at {named}: expect answers "
            "that do not stop, until a commit corrects generation_config.json.",
        )
        return
    stated = [name for name in stops.generation or () if not name.isdigit()]  # an id without a name says too little
    if stops.tokenizer and stated and not set(stated) & set(stops.tokenizer):
        yield Finding(
            severity="warns" if turn is not None and turn not in stated else "informs",
            code="eos_contradicts",
            sentence=f"generation_config.json stops at {', '.join(stated)} and the tokenizer at "
            f"{stops.tokenizer[0]}: engines differ in which of them they follow, so compare answers between them.",
        )


def _short(text: str | None, length: int = 160) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= length else line[: length - 1] + "…"
