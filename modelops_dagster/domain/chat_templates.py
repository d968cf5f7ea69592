"""Chat templates and the tokens a model stops at: what to render, and what the renderings and the configuration say."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from modelops_dagster.domain.values import Value

QUESTION = "What is the capital of Norway?"
ANSWER = "The capital of Norway is Oslo."
FOLLOW_UP = "And of Sweden?"
SYSTEM = "You answer in one sentence."
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_USER = {"role": "user", "content": QUESTION}
_ASSISTANT = {"role": "assistant", "content": ANSWER}
# Name of a conversation -> the arguments that a template is rendered with.
CONVERSATIONS: dict[str, dict[str, Any]] = {
    "question": {"messages": [_USER], "add_generation_prompt": True},
    "parts": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        "add_generation_prompt": True,
    },
    "system": {"messages": [{"role": "system", "content": SYSTEM}, _USER], "add_generation_prompt": True},
    "turns": {
        "messages": [_USER, _ASSISTANT, {"role": "user", "content": FOLLOW_UP}],
        "add_generation_prompt": True,
    },
    "tools": {"messages": [_USER], "tools": [_TOOL], "add_generation_prompt": True},
    "answered": {"messages": [_USER, _ASSISTANT], "add_generation_prompt": False},
}
_SPECIAL = re.compile(r"<[|｜][^<>]{1,60}[|｜]>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<eos>|<turn\|>")


class Rendering(Value):
    """What one conversation became."""

    text: str | None = None
    error: str | None = None


class TemplateReport(Value):
    """What a template did with every conversation."""

    broken: str | None = Field(default=None, description="why it does not parse, or did not end in time")
    renderings: dict[str, Rendering] = Field(default_factory=dict)

    def text(self, name: str) -> str | None:
        found = self.renderings.get(name)
        return found.text if found is not None else None

    def error(self, name: str) -> str | None:
        found = self.renderings.get(name)
        return found.error if found is not None else None


class StopTokens(Value):
    """Where a model is told to stop, by each of the files that say so; names where they are known, else ids."""

    generation: tuple[str, ...] | None = Field(description="of generation_config.json; None: it states none")
    config: tuple[str, ...] | None = Field(description="of config.json")
    tokenizer: tuple[str, ...] | None = Field(description="of tokenizer_config.json")
    specials: tuple[str, ...] = Field(default=(), description="names of all special tokens that are known")

    @property
    def union(self) -> frozenset[str]:
        return frozenset((*(self.generation or ()), *(self.config or ()), *(self.tokenizer or ())))


def chat_template(tokenizer_config: object, files: Mapping[str, str]) -> str | None:
    """The default template.

    Args:
        tokenizer_config: the parsed tokenizer_config.json, or None.
        files: contents of the template files the repository has, by path; they win, as in Transformers.
    """
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"]
    stated = tokenizer_config.get("chat_template") if isinstance(tokenizer_config, Mapping) else None
    if isinstance(stated, list):  # several by name
        named = {t.get("name"): t.get("template") for t in stated if isinstance(t, Mapping)}
        stated = named.get("default") or next(iter(named.values()), None)
    return stated if isinstance(stated, str) and stated else None


def template_variables(tokenizer_config: object) -> dict[str, str]:
    """The special tokens that Transformers passes to a template by name."""
    if not isinstance(tokenizer_config, Mapping):
        return {}
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
    return {name: content for name in names if (content := _content(tokenizer_config.get(name))) is not None}


def stop_tokens(generation: object, config: object, tokenizer_config: object, tokenizer: object) -> StopTokens:
    """Where the model is told to stop.

    Args:
        generation, config, tokenizer_config, tokenizer: generation_config.json, config.json, tokenizer_config.json and
            tokenizer.json, each parsed, or None where the repository has none.
    """
    names: dict[int, str] = {}
    specials: list[str] = []
    for number, entry in _added_tokens(tokenizer_config, tokenizer):
        if (content := _content(entry)) is not None:
            names[number] = content
            if isinstance(entry, Mapping) and entry.get("special"):
                specials.append(content)
    text = config.get("text_config") if isinstance(config, Mapping) else None
    eos = _ids(config, names) or _ids(text, names)
    own = _content(tokenizer_config.get("eos_token")) if isinstance(tokenizer_config, Mapping) else None
    return StopTokens(
        generation=_ids(generation, names),
        config=eos,
        tokenizer=(own,) if own else None,
        specials=tuple(dict.fromkeys(specials)),
    )


def end_of_turn(report: TemplateReport, specials: Sequence[str]) -> str | None:
    """The special token that the template puts behind what the assistant wrote: what the model must stop at."""
    text = report.text("answered")
    if text is None or ANSWER not in text:
        return None
    after = text.rpartition(ANSWER)[2]
    found = [(after.index(token), -len(token), token) for token in specials if token in after]
    if found:
        return min(found)[2]
    if not specials and (match := _SPECIAL.search(after)):
        return match[0]
    return None


def _added_tokens(tokenizer_config: object, tokenizer: object) -> list[tuple[int, object]]:
    decoder = tokenizer_config.get("added_tokens_decoder") if isinstance(tokenizer_config, Mapping) else None
    if isinstance(decoder, Mapping):
        return [(int(k), v) for k, v in decoder.items() if str(k).isdigit()]
    added = tokenizer.get("added_tokens") if isinstance(tokenizer, Mapping) else None
    entries = added if isinstance(added, list) else []
    return [(e["id"], e) for e in entries if isinstance(e, Mapping) and isinstance(e.get("id"), int)]


def _ids(document: object, names: Mapping[int, str]) -> tuple[str, ...] | None:
    stated = document.get("eos_token_id") if isinstance(document, Mapping) else None
    listed = stated if isinstance(stated, list) else [stated]
    ids = [n for n in listed if isinstance(n, int) and not isinstance(n, bool)]
    return tuple(names.get(n, str(n)) for n in ids) or None


def _content(token: object) -> str | None:
    """A token is a string, or an object with its content."""
    stated = token.get("content") if isinstance(token, Mapping) else token
    return stated if isinstance(stated, str) and stated else None
