"""Contract and sanity checks: what a serving fault looks like from outside, and which fault it probably is.

A check judges observations (completions and plain HTTP answers) that `clients.gauntlet.probes` gathers once and shares.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelops_dagster.domain.gauntlet.completion import Completion, ErrorClass
from modelops_dagster.domain.gauntlet.prompts import COLOURS, STORY_TOKENS
from modelops_dagster.domain.gauntlet.scorers.refusals import refuses
from modelops_dagster.domain.gauntlet.suite import ContractSettings
from modelops_dagster.domain.gauntlet.text import (
    has_broken_characters,
    reads_as_english,
    repetition,
    split_reasoning,
    template_leak,
    unbalanced_reasoning,
)

CONTRACT_VERSION = 1
"""Raised with every change that may turn a check."""

NOT_OFFERED_STATUS = frozenset({400, 404, 405, 415, 422, 501})

REQUIRED, ADVISORY = "contract/required", "contract/advisory"

Ruling = Literal["pass", "fail", "not_offered", "unscored"]
Observed = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """`said` is what was seen, without the check's name; `text` the completion that shows it."""

    ruling: Ruling
    said: str = ""
    text: str = ""

    @classmethod
    def of(cls, holds: bool, said: str, text: str = "") -> "Finding":
        return cls("pass" if holds else "fail", said, text)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A plain request's status and parsed body; status 0 and an error when there was no answer."""

    status: int
    body: Any = None
    error: ErrorClass | None = None
    error_detail: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """`needs` names the observations; `fault` is what probably broke when the check fails."""

    name: str
    needs: tuple[str, ...]
    judge: Callable[[Observed, ContractSettings], Finding]
    fault: str
    is_advisory: bool = False


def _panel(seen: Observed) -> Sequence[Completion]:
    return [c for c in seen["panel"] if c.is_ok]


def _share(seen: Observed, is_bad: Callable[[str], object], least: float, what: str) -> Finding:
    """At least `least` of the panel's answers are free of what `is_bad` finds."""
    if not _panel(seen):
        return Finding("fail", "no short prompt was answered")
    answers = [text for c in _panel(seen) if (text := split_reasoning(c.text).answer)]
    if not answers:
        return Finding("not_offered", "there is no text to judge")
    bad = [(text, found) for text in answers if (found := is_bad(text))]
    said = f"{len(bad)} of {len(answers)} short answers {what}"
    if bad:
        said += f", e.g. {bad[0][1]!r}" if isinstance(bad[0][1], str) else f", e.g. {bad[0][0][:60]!r}"
    return Finding.of(1 - len(bad) / len(answers) >= least - 1e-9, said, bad[0][0] if bad else "")


def _is_4xx(answer: HttpAnswer, what: str) -> Finding:
    return Finding.of(400 <= answer.status < 500, f"{what} was answered with {answer.status or answer.error}")


def _not_offered(completion: Completion) -> Finding | None:
    if completion.status in NOT_OFFERED_STATUS:
        return Finding("not_offered", f"refused with {completion.status}")
    if not completion.is_ok:
        return Finding("fail", f"{completion.error}: {completion.error_detail}")
    return None


def _health(seen: Observed, _: ContractSettings) -> Finding:
    status = seen["health"].status
    return (
        Finding("not_offered")
        if status in (401, 403, 404, 405)
        else Finding.of(status == 200, f"/health answered {status}")
    )


def _models(seen: Observed, _: ContractSettings) -> Finding:
    answer, wanted = seen["models"], seen["model"]
    if answer.status in (404, 405):
        return Finding("not_offered")
    entries = answer.body.get("data") if isinstance(answer.body, dict) else None
    names = [e.get("id") for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    return Finding.of(wanted in names, f"/models lists {names[:5]}, wanted {wanted!r}")


def _chat(seen: Observed, _: ContractSettings) -> Finding:
    bad = [c for c in seen["panel"] if not c.is_ok]
    first = f": {bad[0].error}, {bad[0].error_detail[:120]}" if bad else ""
    return Finding.of(not bad, f"{len(bad)} of {len(seen['panel'])} chat requests failed{first}")


def _completions(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["completions"]
    if got.status in (404, 405):
        return Finding("not_offered")
    return Finding.of(got.is_ok, f"/completions: {got.error or 'answered'} {got.error_detail[:120]}".strip())


def _nearly_full(seen: Observed, settings: ContractSettings) -> Finding:
    if seen["nearly_full"] is None:
        return Finding("not_offered", "the context is unknown or too long to fill here")
    got: Completion = seen["nearly_full"]
    said = (
        f"a prompt of {settings.context_share:.0%} of the context: {got.error or 'answered'} {got.error_detail[:120]}"
    )
    return Finding.of(got.is_ok, said.strip())


def _overlong(seen: Observed, _: ContractSettings) -> Finding:
    if seen["overlong"] is None:
        return Finding("not_offered", "the context is unknown or too long to fill here")
    return _is_4xx(seen["overlong"], "a prompt longer than the context")


def _usage(seen: Observed, _: ContractSettings) -> Finding:
    plain, streamed = seen["panel"][0], seen["streamed"]
    if not (plain.is_ok and streamed.is_ok):
        return Finding("fail", "the prompt was not answered")
    pair = (plain.tokens_in, streamed.tokens_in)
    counted = all(n is not None and n > 0 for n in (*pair, plain.tokens_out, streamed.tokens_out))
    return Finding.of(counted and pair[0] == pair[1], f"prompt tokens {pair[0]} plain, {pair[1]} streamed")


def _stream(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["streamed"]
    said = f"stream: {got.error or 'complete'}, finish_reason {got.finish_reason}, {len(got.text)} characters"
    return Finding.of(got.is_ok and bool(got.text or got.reasoning) and got.finish_reason is not None, said, got.text)


def _max_tokens(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["story"]
    if not got.is_ok:
        return Finding("fail", f"{got.error}: {got.error_detail}")
    held = (got.tokens_out or 0) <= STORY_TOKENS and (
        got.finish_reason == "length" or (got.tokens_out or 0) < STORY_TOKENS
    )
    return Finding.of(
        held, f"max_tokens={STORY_TOKENS} gave {got.tokens_out}, finish_reason {got.finish_reason}", got.text
    )


def _stop(seen: Observed, _: ContractSettings) -> Finding:
    if seen["stopped"] is None:
        return Finding("not_offered", "the text has no word to stop at")
    word, got = seen["stopped"]
    if not got.is_ok:
        return Finding("fail", f"{got.error}: {got.error_detail}")
    said = f"stop={word!r}: finish_reason {got.finish_reason}, text {got.text[-40:]!r}"
    if word not in got.text and got.finish_reason == "length" and (got.tokens_out or 0) >= STORY_TOKENS:
        return Finding("not_offered", "the text took another course and never came to the word")
    return Finding.of(word not in got.text and got.finish_reason == "stop", said, got.text)


def _ends(seen: Observed, settings: ContractSettings) -> Finding:
    answered = _panel(seen)
    ended = [c for c in answered if c.finish_reason == "stop"]
    text = next((c.text for c in answered if c.finish_reason != "stop"), "")
    held = bool(answered) and len(ended) / len(answered) >= settings.stopped_share
    return Finding.of(held, f"{len(ended)} of {len(answered)} short answers ended by themselves", text)


def _empty(seen: Observed, _: ContractSettings) -> Finding:
    answered = _panel(seen)
    empty = [c for c in answered if not (c.text.strip() or c.tool_calls)]
    return Finding.of(bool(answered) and not empty, f"{len(empty)} of {len(answered)} short answers were empty")


def _system(seen: Observed, _: ContractSettings) -> Finding:
    with_it, without = seen["with_system"], seen["panel"][0]
    if missing := _not_offered(with_it):
        return missing
    if with_it.tokens_in is None or without.tokens_in is None:
        return Finding("not_offered", "no usage to compare")
    more = with_it.tokens_in - without.tokens_in
    # templates that carry a default system prompt swap it for ours, so less than the whole prompt may be added
    return Finding.of(more != 0, f"a system prompt changed the prompt by {more} tokens")


def _bos(seen: Observed, _: ContractSettings) -> Finding:
    tokens = seen["tokens"]
    if not tokens:
        return Finding("not_offered", "/tokenize is not there")
    return Finding.of(len(tokens) < 2 or tokens[0] != tokens[1], f"the prompt starts with the tokens {tokens[:3]}")


def _repeatable(seen: Observed, _: ContractSettings) -> Finding:
    texts = [c.text for c in (seen["panel"][0], seen["again"], seen["streamed"])]
    most = max(texts.count(t) for t in texts)
    return Finding.of(most >= 2 and bool(texts[0]), f"{most} of 3 answers at temperature 0 were identical", texts[0])


def _seed(seen: Observed, _: ContractSettings) -> Finding:
    one, two = seen["seeded"]
    if missing := _not_offered(one):
        return missing
    return Finding.of(
        one.text == two.text, "the same seed gave " + ("one text" if one.text == two.text else "two texts")
    )


def _logprobs(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["logprobs"]
    if missing := _not_offered(got):
        return missing
    if not got.logprobs:
        return Finding("not_offered", "the answer carries no logprobs")
    bad = [p for p in got.logprobs if not math.isfinite(p) or p > 1e-6]
    return Finding.of(not bad, f"{len(bad)} of {len(got.logprobs)} logprobs are not finite and <= 0: {bad[:3]}")


def _json(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["json"]
    if missing := _not_offered(got):
        return missing
    try:
        value = json.loads(got.text)
    except json.JSONDecodeError:
        return Finding("fail", f"asked for JSON of a schema, got {got.text[:60]!r}", got.text)
    held = isinstance(value, dict) and value.get("colour") in COLOURS
    return Finding.of(held, f"asked for JSON of a schema, got {got.text[:60]!r}", got.text)


def _tool(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["tool"]
    if missing := _not_offered(got):
        return missing
    if not got.tool_calls:
        return Finding("fail", "the named tool was not called", got.text)
    name, arguments = got.tool_calls[0]
    try:
        value = json.loads(arguments)
    except json.JSONDecodeError:
        return Finding("fail", f"the arguments of {name} are not JSON: {arguments[:60]!r}", arguments)
    held = name == "paint" and isinstance(value, dict) and value.get("colour") in COLOURS
    return Finding.of(held, f"called {name} with {arguments[:60]}", arguments)


def _burst(seen: Observed, _: ContractSettings) -> Finding:
    # 429 is an answer: a busy endpoint may say so
    bad = [c for c in seen["burst"] if not c.is_ok and c.error != "rate_limited"]
    first = f": {bad[0].error}" if bad else ""
    return Finding.of(not bad, f"{len(bad)} of {len(seen['burst'])} requests sent at once failed{first}")


CHECKS: tuple[Check, ...] = (
    Check("health_answers", ("health",), _health, "the server runs but its engine loop is dead"),
    Check("model_is_listed", ("models",), _models, "served_model_name differs from what the route will send"),
    Check("chat_answers", ("panel",), _chat, "no chat template, or one that this engine cannot render"),
    Check("completions_answers", ("completions",), _completions, "the text completion route is broken"),
    Check(
        "unknown_model_is_rejected",
        ("unknown_model",),
        lambda s, _: _is_4xx(s["unknown_model"], "a request for another model"),
        "the server ignores the model name, so a wrong route would go unnoticed",
    ),
    Check(
        "bad_request_is_rejected",
        ("bad_request",),
        lambda s, _: _is_4xx(s["bad_request"], "a request with max_tokens=-1"),
        "invalid requests reach the engine; one client could take the endpoint down",
    ),
    Check(
        "overlong_prompt_is_rejected", ("overlong",), _overlong, "the context limit is not enforced before the engine"
    ),
    Check(
        "nearly_full_context_answers",
        ("nearly_full",),
        _nearly_full,
        "max_context is above what the memory or rope scaling allows",
    ),
    Check(
        "usage_is_reported",
        ("panel", "streamed"),
        _usage,
        "usage is missing or differs when streaming, so costs will be wrong",
    ),
    Check("stream_completes", ("streamed",), _stream, "server-sent events are cut, buffered or lack the finish reason"),
    Check(
        "max_tokens_is_honoured", ("story",), _max_tokens, "the token limit is ignored, or usage counts other tokens"
    ),
    Check("stop_is_honoured", ("stopped",), _stop, "stop strings are ignored or left in the text"),
    Check("ends_by_itself", ("panel",), _ends, "wrong or missing EOS token in generation_config.json or the tokenizer"),
    Check(
        "never_empty",
        ("panel",),
        _empty,
        "the EOS token comes first: wrong chat template, or a reasoning parser that eats the answer",
    ),
    Check(
        "reads_as_english",
        ("panel",),
        lambda s, c: _share(s, lambda t: not reads_as_english(t), c.english_share, "do not read as English"),
        "damaged weights (quantization, wrong dtype or sharding) or the wrong tokenizer",
    ),
    Check(
        "no_template_leak",
        ("panel",),
        lambda s, _: _share(s, template_leak, 1.0, "contain chat template tokens"),
        "special tokens are not stripped, or the template's end token is not a stop token",
    ),
    Check(
        "no_broken_characters",
        ("panel",),
        lambda s, _: _share(s, has_broken_characters, 1.0, "contain broken characters"),
        "the tokenizer's decoder is wrong, or streaming cuts characters in half",
    ),
    Check(
        "does_not_repeat",
        ("panel",),
        lambda s, c: _share(s, repetition, c.clean_share, "repeat themselves"),
        "damaged weights, wrong rope scaling, or a missing EOS token",
    ),
    Check(
        "reasoning_is_separated",
        ("panel",),
        lambda s, _: Finding.of(
            not any(unbalanced_reasoning(c.text) for c in _panel(s)), "reasoning tags inside the content, unbalanced"
        ),
        "no reasoning parser is set for this model",
    ),
    Check(
        "benign_is_not_refused",
        ("panel",),
        lambda s, c: _share(s, refuses, 1 - c.refused_share, "were refusals"),
        "a system prompt or guard in front of the model refuses everything",
    ),
    Check("system_prompt_reaches_model", ("panel", "with_system"), _system, "the chat template drops the system role"),
    Check("single_bos", ("tokens",), _bos, "the BOS token is added twice: by the template and by the tokenizer"),
    Check("burst_survives", ("burst",), _burst, "the engine crashes or times out when its queue fills"),
    Check(
        "logprobs_are_finite",
        ("logprobs",),
        _logprobs,
        "NaN in the logits: overflow in half precision, or damaged weights",
    ),
    Check("json_mode_holds", ("json",), _json, "guided decoding is off or broken"),
    Check("tool_call_holds", ("tool",), _tool, "the tool-call parser does not fit the model"),
    Check(
        "repeatable", ("panel", "again", "streamed"), _repeatable, "results depend on what else is in the batch", True
    ),
    Check("seed_is_honoured", ("seeded",), _seed, "the seed is ignored, so sampled runs cannot be repeated", True),
)
"""All checks. Advisory ones are shown and do not count against the endpoint."""
