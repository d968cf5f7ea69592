"""The decisions of the ladder: which rungs there are, why an engine failed, and whether what it writes is text."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from modelops_dagster.domain.engines import CPU_LADDER, CUDA_LADDER, EngineManifest, FailureReason, Rung

Accelerator = Literal["cpu", "cuda"]
MAX_DETAIL = 300  # characters
MIN_REPEATS = 8

_NOT_GENERATIVE = re.compile(
    r"(For(SequenceClassification|TokenClassification|QuestionAnswering|MaskedLM|MultipleChoice"
    r"|ImageClassification|PreTraining|NextSentencePrediction|CTC|AudioClassification))$"
)


def rungs_for(
    accelerator: Accelerator, manifests: Mapping[str, EngineManifest], architectures: Sequence[str] = ()
) -> list[Rung]:
    """The rungs to try, highest first.

    With a GPU the CPU rungs follow the GPU ones: slow is better than parked, and the dry run says when it is too slow.
    An engine that is known and not installed keeps its rung, so that the result says it was missed. A model whose
    every architecture is made for something else than writing text has no rungs.
    """
    if architectures and all(_NOT_GENERATIVE.search(name) for name in architectures):
        return []
    order = (*CUDA_LADDER, *CPU_LADDER) if accelerator == "cuda" else CPU_LADDER
    rungs: list[Rung] = []
    for rung in order:
        manifest = manifests.get(rung.engine)
        if manifest is None or not manifest.serves or rung in rungs:
            continue
        if accelerator == "cpu" and "cpu" not in manifest.accelerators:
            continue
        if rung.variant is None or rung.variant in manifest.variants:
            rungs.append(rung)
    return rungs


@dataclass(frozen=True)
class _Symptom:
    """A line of a log, and what it means. Named groups of `pattern` fill `sentence`, or {line} is the line itself."""

    pattern: re.Pattern[str]
    reason: FailureReason
    sentence: str = "{line}"


def _symptom(pattern: str, reason: FailureReason, sentence: str = "{line}") -> _Symptom:
    return _Symptom(re.compile(pattern), reason, sentence)


# The first that is found anywhere in the log counts: causes stand above their consequences.
_SYMPTOMS: tuple[_Symptom, ...] = (
    # custom code is checked before the model type: both are said of a repository that brings its own classes
    _symptom(
        r"(requires you to execute the|contains custom code which must be executed)",
        "unsupported_architecture",
        "The model needs code of its own repository, which is never run.",
    ),
    _symptom(
        r"model type [`'\"](?P<name>[\w.-]+)[`'\"]\s+but Transformers does not recognize",
        "needs_newer_transformers",
        "This engine's Transformers does not know the model type {name}; a newer one is needed.",
    ),
    _symptom(
        r"requires? (?P<name>transformers\s*[>=~]=\s*[\w.]+)", "needs_newer_transformers", "The model requires {name}."
    ),
    _symptom(
        r"(?P<name>\w+) was supported in vLLM until (?P<version>v[\d.]+)",
        "unsupported_architecture",
        "{name} was supported in vLLM until {version}; an engine of that age is needed.",
    ),
    _symptom(
        r"Model architectures? \[(?P<name>[^\]]*)\] (are|is) not supported",
        "unsupported_architecture",
        "This engine does not support the architecture {name}.",
    ),
    _symptom(
        r"(?P<name>\w+) has no vLLM implementation",
        "unsupported_architecture",
        "{name} has no vLLM implementation, and its Transformers one does not fit.",
    ),
    _symptom(
        r"Unrecognized configuration class .*?(?P<name>\w+Config)\b",
        "unsupported_architecture",
        "Transformers has no text generation for {name}.",
    ),
    _symptom(
        r"Tried to allocate (?P<name>[\d.]+ ?[KMGT]i?B)",
        "out_of_memory",
        "The device ran out of memory while {name} more were asked for.",
    ),
    _symptom(
        r"you tried to allocate (?P<name>\d+) bytes",
        "out_of_memory",
        "The machine ran out of memory while {name} bytes more were asked for.",
    ),
    _symptom(
        r"\((?P<name>[\d.]+ GiB) KV cache is needed,? which is larger than"
        r" the available KV cache memory \((?P<room>[^)]*)\)",
        "out_of_memory",
        "The context needs {name} of KV cache and there is room for {room}; use a shorter max_context.",
    ),
    _symptom(
        r"(CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks"
        r"|is less than desired GPU memory utilization|\bMemoryError\b|larger than the available KV cache memory)",
        "out_of_memory",
    ),
    _symptom(
        r"(is not divisible by weight quantization block|no kernel image is available|undefined symbol:"
        r"|[Ff]ailed to find a kernel that can implement|ninja: build stopped"
        r"|requires the following packages that were not found|No module named '(mamba_ssm|causal_conv1d|flash_attn))",
        "custom_kernel",
    ),
    _symptom(
        r"(?P<name>lib[\w.+-]+\.so[\w.]*): cannot open shared object file",
        "custom_kernel",
        "The system library {name} is missing; install it with the system's package manager.",
    ),
    _symptom(
        r"No module named '(?P<name>torchvision|torchaudio|torchcodec|timm|librosa|soundfile|av)\b",
        "custom_kernel",
        "The model's code needs the package {name}, which this engine does not have.",
    ),
    _symptom(
        r"Model architectures? \[(?P<name>[^\]]*)\] failed to be inspected",
        "unsupported_architecture",
        "This engine lists the architecture {name} and cannot load its own code for it.",
    ),
    _symptom(r"[Aa]ddress already in use", "crash", "Another program took its port while it started."),
    _symptom(
        r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len \((?P<own>[^)]*)\)",
        "bad_config",
        "max_context {asked} is longer than the model's own context ({own}).",
    ),
    _symptom(
        r"Value error, (?P<name>[^\n\[]{1,400})",
        "bad_config",
        "The engine refuses the configuration: {name}",
    ),
    _symptom(
        r"(ignore_mismatched_sizes|size mismatch for)",
        "bad_config",
        "The weights do not have the shapes that config.json asks for.",
    ),
    _symptom(
        r"(max_context \d+ is longer than|unrecognized arguments:|error: argument |Unknown quantization method"
        r"|Can't load (the )?(tokenizer|configuration|feature extractor|(image |video )?processor)"
        r"|Couldn't instantiate the backend tokenizer"
        r"|does not appear to have (a file|files) named|is not a valid JSON file|SafetensorError|ValidationError"
        r"|There is no module or parameter named|invalid tool call parser"
        r"|Cannot find the config file for|JSONDecodeError)",
        "bad_config",
    ),
)
_PREFIX = re.compile(
    r"^\s*(\([\w-]+(?: pid=\d+)?\)\s*)?((ERROR|CRITICAL|WARNING|INFO)\s+[\d:\- ]+\[[^\]]*\]\s*)?"
    r"([\d-]{10} [\d:,]{8,12} (ERROR|INFO|WARNING) [\w.]+:\s*)?"
)
_EXCEPTION = re.compile(r"^([A-Za-z_][\w.]*\.)?[A-Z]\w*(Error|Exception|Refused|Unsound|Exit|Interrupt)\b(:|$)")
_ECHO = re.compile(r"See (the )?root cause above|EngineDeadError|Failed core proc|Engine core initialization failed")
_REPEATED = re.compile(r"(\S{1,8}?)\1{15,}")
_NOISE = re.compile(r"^(nanobind|\s*- |warnings\.warn|INFO:)|resource_tracker|leaked|\[shutdown\]")


def _clean_lines(log_tail: str) -> list[str]:
    lines = (_PREFIX.sub("", line.split("\r")[-1]).strip() for line in log_tail.splitlines())
    return [line for line in lines if line]


def _last_meaningful(lines: Sequence[str]) -> str:
    """The last exception that is not the echo of another, or else the last line that is no noise."""
    for wanted in (_EXCEPTION.match, lambda line: not _NOISE.search(line)):
        for line in reversed(lines):
            if wanted(line) and not _ECHO.search(line):
                return line
    return ""


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_DETAIL else text[: MAX_DETAIL - 1].rstrip() + "…"


def diagnose(log_tail: str, exit_code: int | None = None, timed_out: bool = False) -> tuple[FailureReason, str]:
    """Why an engine did not become ready: the reason, and a sentence about it.

    Args:
        log_tail: what the engine wrote last; a few hundred lines, for the cause may be far above the end.
        exit_code: of its first process; negative when a signal ended it; None when not known.
        timed_out: it was given up, and did not end by itself.
    """
    lines = _clean_lines(log_tail)
    text = "\n".join(lines)
    for symptom in _SYMPTOMS:
        found = symptom.pattern.search(text)
        if found:
            line = text[text.rfind("\n", 0, found.start()) + 1 :].split("\n", 1)[0]
            groups = {name: " ".join(value.split()) for name, value in found.groupdict(default="").items()}
            return symptom.reason, _shorten(symptom.sentence.format(line=line, **groups))
    if exit_code in (-9, 137):
        return "out_of_memory", "It was killed (signal 9), which the system does when memory runs out."
    last = _last_meaningful(lines)
    if timed_out:
        return "timeout", _shorten(
            f"It was not ready in time; the last line was: {last}" if last else "It said nothing."
        )
    ended = "It ended" if exit_code is None else f"It ended with exit code {exit_code}"
    return "crash", _shorten(f"{ended}: {last}" if last else f"{ended} and said nothing.")


def classify_failure(log_tail: str, exit_code: int | None = None, timed_out: bool = False) -> FailureReason:
    """The reason alone; see `diagnose`."""
    return diagnose(log_tail, exit_code, timed_out)[0]


def garbage_reason(text: str) -> str | None:
    """Why a completion is no text, as the end of a sentence; None when it may be one."""
    if not text.strip():
        return "it is empty"
    if "\ufffd" in text:
        return "it holds bytes that are no characters"
    words = text.split()
    if len(words) >= MIN_REPEATS:
        word, count = Counter(words).most_common(1)[0]
        if count / len(words) >= 0.8:
            return f"it repeats {word[:20]!r}"
    repeated = _REPEATED.search(text)
    return f"it repeats {repeated[1]!r}" if repeated else None


def panel_garbage_reason(texts: Sequence[str]) -> str | None:
    """Why most of these completions are no text; None when at least half of them may be."""
    reasons = [reason for text in texts if (reason := garbage_reason(text))]
    return reasons[0] if 2 * len(reasons) > len(texts) else None
