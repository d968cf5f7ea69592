"""How each contract check judges what it sees: what a serving fault looks like from outside."""

import json
import math
from collections.abc import Callable, Sequence

from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.contract import NOT_OFFERED_STATUS, Finding, HttpAnswer, Observed
from modelops_dagster.domain.gauntlet.prompts import COLOURS, STORY_TOKENS
from modelops_dagster.domain.gauntlet.suite import ContractSettings
from modelops_dagster.domain.gauntlet.text import split_reasoning


def answered_panel(seen: Observed) -> Sequence[Completion]:
    return [c for c in seen["panel"] if c.is_ok]


def share(seen: Observed, is_bad: Callable[[str], object], least: float, what: str) -> Finding:
    """At least `least` of the panel's answers are free of what `is_bad` finds."""
    if not answered_panel(seen):
        return Finding("fail", "no short prompt was answered")
    answers = [text for c in answered_panel(seen) if (text := split_reasoning(c.text).answer)]
    if not answers:
        return Finding("not_offered", "there is no text to judge")
    bad = [(text, found) for text in answers if (found := is_bad(text))]
    said = f"{len(bad)} of {len(answers)} short answers {what}"
    if bad:
        said += f", e.g. {bad[0][1]!r}" if isinstance(bad[0][1], str) else f", e.g. {bad[0][0][:60]!r}"
    return Finding.of(1 - len(bad) / len(answers) >= least - 1e-9, said, bad[0][0] if bad else "")


def is_4xx(answer: HttpAnswer, what: str) -> Finding:
    return Finding.of(400 <= answer.status < 500, f"{what} was answered with {answer.status or answer.error}")


def not_offered(completion: Completion) -> Finding | None:
    if completion.status in NOT_OFFERED_STATUS:
        return Finding("not_offered", f"refused with {completion.status}")
    if not completion.is_ok:
        return Finding("fail", f"{completion.error}: {completion.error_detail}")
    return None


def judge_health(seen: Observed, _: ContractSettings) -> Finding:
    status = seen["health"].status
    return (
        Finding("not_offered")
        if status in (401, 403, 404, 405)
        else Finding.of(status == 200, f"/health answered {status}")
    )


def judge_models(seen: Observed, _: ContractSettings) -> Finding:
    answer, wanted = seen["models"], seen["model"]
    if answer.status in (404, 405):
        return Finding("not_offered")
    entries = answer.body.get("data") if isinstance(answer.body, dict) else None
    names = [e.get("id") for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    return Finding.of(wanted in names, f"/models lists {names[:5]}, wanted {wanted!r}")


def judge_chat(seen: Observed, _: ContractSettings) -> Finding:
    bad = [c for c in seen["panel"] if not c.is_ok]
    first = f": {bad[0].error}, {bad[0].error_detail[:120]}" if bad else ""
    return Finding.of(not bad, f"{len(bad)} of {len(seen['panel'])} chat requests failed{first}")


def judge_completions(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["completions"]
    if got.status in (404, 405):
        return Finding("not_offered")
    return Finding.of(got.is_ok, f"/completions: {got.error or 'answered'} {got.error_detail[:120]}".strip())


def judge_nearly_full(seen: Observed, settings: ContractSettings) -> Finding:
    if seen["nearly_full"] is None:
        return Finding("not_offered", "the context is unknown or too long to fill here")
    got: Completion = seen["nearly_full"]
    said = (
        f"a prompt of {settings.context_share:.0%} of the context: {got.error or 'answered'} {got.error_detail[:120]}"
    )
    return Finding.of(got.is_ok, said.strip())


def judge_overlong(seen: Observed, _: ContractSettings) -> Finding:
    if seen["overlong"] is None:
        return Finding("not_offered", "the context is unknown or too long to fill here")
    return is_4xx(seen["overlong"], "a prompt longer than the context")


def judge_usage(seen: Observed, _: ContractSettings) -> Finding:
    plain, streamed = seen["panel"][0], seen["streamed"]
    if not (plain.is_ok and streamed.is_ok):
        return Finding("fail", "the prompt was not answered")
    pair = (plain.tokens_in, streamed.tokens_in)
    counted = all(n is not None and n > 0 for n in (*pair, plain.tokens_out, streamed.tokens_out))
    return Finding.of(counted and pair[0] == pair[1], f"prompt tokens {pair[0]} plain, {pair[1]} streamed")


def judge_stream(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["streamed"]
    said = f"stream: {got.error or 'complete'}, finish_reason {got.finish_reason}, {len(got.text)} characters"
    return Finding.of(got.is_ok and bool(got.text or got.reasoning) and got.finish_reason is not None, said, got.text)


def judge_max_tokens(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["story"]
    if not got.is_ok:
        return Finding("fail", f"{got.error}: {got.error_detail}")
    held = (got.tokens_out or 0) <= STORY_TOKENS and (
        got.finish_reason == "length" or (got.tokens_out or 0) < STORY_TOKENS
    )
    return Finding.of(
        held, f"max_tokens={STORY_TOKENS} gave {got.tokens_out}, finish_reason {got.finish_reason}", got.text
    )


def judge_stop(seen: Observed, _: ContractSettings) -> Finding:
    if seen["stopped"] is None:
        return Finding("not_offered", "the text has no word to stop at")
    word, got = seen["stopped"]
    if not got.is_ok:
        return Finding("fail", f"{got.error}: {got.error_detail}")
    said = f"stop={word!r}: finish_reason {got.finish_reason}, text {got.text[-40:]!r}"
    if word not in got.text and got.finish_reason == "length" and (got.tokens_out or 0) >= STORY_TOKENS:
        return Finding("not_offered", "the text took another course and never came to the word")
    return Finding.of(word not in got.text and got.finish_reason == "stop", said, got.text)


def judge_ends(seen: Observed, settings: ContractSettings) -> Finding:
    answered = answered_panel(seen)
    ended = [c for c in answered if c.finish_reason == "stop"]
    text = next((c.text for c in answered if c.finish_reason != "stop"), "")
    held = bool(answered) and len(ended) / len(answered) >= settings.stopped_share
    return Finding.of(held, f"{len(ended)} of {len(answered)} short answers ended by themselves", text)


def judge_empty(seen: Observed, _: ContractSettings) -> Finding:
    answered = answered_panel(seen)
    empty = [c for c in answered if not (c.text.strip() or c.tool_calls)]
    return Finding.of(bool(answered) and not empty, f"{len(empty)} of {len(answered)} short answers were empty")


def judge_system(seen: Observed, _: ContractSettings) -> Finding:
    with_it, without = seen["with_system"], seen["panel"][0]
    if missing := not_offered(with_it):
        return missing
    if with_it.tokens_in is None or without.tokens_in is None:
        return Finding("not_offered", "no usage to compare")
    more = with_it.tokens_in - without.tokens_in
    # templates that carry a default system prompt swap it for ours, so less than the whole prompt may be added
    return Finding.of(more != 0, f"a system prompt changed the prompt by {more} tokens")


def judge_bos(seen: Observed, _: ContractSettings) -> Finding:
    tokens = seen["tokens"]
    if not tokens:
        return Finding("not_offered", "/tokenize is not there")
    return Finding.of(len(tokens) < 2 or tokens[0] != tokens[1], f"the prompt starts with the tokens {tokens[:3]}")


def judge_repeatable(seen: Observed, _: ContractSettings) -> Finding:
    texts = [c.text for c in (seen["panel"][0], seen["again"], seen["streamed"])]
    most = max(texts.count(t) for t in texts)
    return Finding.of(most >= 2 and bool(texts[0]), f"{most} of 3 answers at temperature 0 were identical", texts[0])


def judge_seed(seen: Observed, _: ContractSettings) -> Finding:
    one, two = seen["seeded"]
    if missing := not_offered(one):
        return missing
    return Finding.of(
        one.text == two.text, "the same seed gave " + ("one text" if one.text == two.text else "two texts")
    )


def judge_logprobs(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["logprobs"]
    if missing := not_offered(got):
        return missing
    if not got.logprobs:
        return Finding("not_offered", "the answer carries no logprobs")
    bad = [p for p in got.logprobs if not math.isfinite(p) or p > 1e-6]
    return Finding.of(not bad, f"{len(bad)} of {len(got.logprobs)} logprobs are not finite and <= 0: {bad[:3]}")


def judge_json(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["json"]
    if missing := not_offered(got):
        return missing
    try:
        value = json.loads(got.text)
    except json.JSONDecodeError:
        return Finding("fail", f"asked for JSON of a schema, got {got.text[:60]!r}", got.text)
    held = isinstance(value, dict) and value.get("colour") in COLOURS
    return Finding.of(held, f"asked for JSON of a schema, got {got.text[:60]!r}", got.text)


def judge_tool(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["tool"]
    if missing := not_offered(got):
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


def judge_burst(seen: Observed, _: ContractSettings) -> Finding:
    # 429 is an answer: a busy endpoint may say so
    bad = [c for c in seen["burst"] if not c.is_ok and c.error != "rate_limited"]
    first = f": {bad[0].error}" if bad else ""
    return Finding.of(not bad, f"{len(bad)} of {len(seen['burst'])} requests sent at once failed{first}")


def judge_history(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["history"]
    said = f"a conversation of three messages: {got.error or 'answered'} {got.error_detail[:120]}"
    return Finding.of(got.is_ok, said.strip(), got.text)


def judge_disconnect(seen: Observed, _: ContractSettings) -> Finding:
    got: Completion = seen["after_disconnect"]
    said = f"after a client left in the middle of a stream: {got.error or 'answered'} {got.error_detail[:120]}"
    return Finding.of(got.is_ok, said.strip(), got.text)


def judge_same_text(seen: Observed, _: ContractSettings) -> Finding:
    plain, streamed = seen["panel"][0], seen["streamed"]
    if not (plain.is_ok and streamed.is_ok):
        return Finding("fail", "the prompt was not answered")
    held = plain.text.strip() == streamed.text.strip()
    return Finding.of(held, f"{plain.text[:60]!r} plain, {streamed.text[:60]!r} streamed", streamed.text)


def judge_errors(seen: Observed, _: ContractSettings) -> Finding:
    if not 400 <= seen["unknown_model"].status < 500:
        return Finding("not_offered", "a request for another model is no error here")
    body = seen["unknown_model"].body
    told = body.get("error", body) if isinstance(body, dict) else None
    message = told.get("message") if isinstance(told, dict) else told
    held = isinstance(message, str) and bool(message.strip())
    return Finding.of(held, f"the answer to a request for another model says {str(body)[:80]!r}")


def judge_outside(seen: Observed, _: ContractSettings) -> Finding:
    inside = [c.text for c in answered_panel(seen) if split_reasoning(c.text).thought]
    said = f"{len(inside)} of {len(answered_panel(seen))} short answers hold reasoning in the content"
    return Finding.of(not inside, said, inside[0] if inside else "")
