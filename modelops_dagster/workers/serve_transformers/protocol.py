"""The OpenAI requests this engine understands, and the shapes of its answers."""

import json
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# Fields of the OpenAI API that this engine does not have, with the values that ask for nothing.
NOT_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "suffix": ("",),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "modalities": (["text"],),
    "store": (False,),
}
NOT_USED = ("user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key")


class Refused(Exception):
    """A request that cannot be answered as it was asked."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's shape."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class SchemaOf(BaseModel):
    model_config = ConfigDict(extra="allow", populate_by_name=True)

    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaOf | None = None

    def schema_text(self) -> str | None:
        """The JSON schema of the answer, as text; None for free text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return '{"type": "object"}'
        if self.json_schema is None:
            raise Refused("response_format of type json_schema needs json_schema.", param="response_format")
        return json.dumps(self.json_schema.json_schema)


class Sampling(BaseModel):
    """What both routes take. Fields that are not named here are kept, and judged by `refuse_unsupported`."""

    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: int | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[int, float] | None = None
    n: int | None = Field(default=None, ge=1, le=128)
    response_format: ResponseFormat | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None

    def refuse_unsupported(self) -> None:
        """Refuse what would otherwise be ignored."""
        for name, value in (self.model_extra or {}).items():
            if value is None or name in NOT_USED or value in NOT_SUPPORTED.get(name, ()):
                continue
            raise Refused(f"{name}={json.dumps(value)[:80]} is not supported by this engine.", param=name)

    @property
    def schema_text(self) -> str | None:
        """The JSON schema that the answer has to follow."""
        return None if self.response_format is None else self.response_format.schema_text()

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, defaults: dict[str, Any]) -> dict[str, Any]:
        """Arguments of generate(); what the request leaves open is taken from the model's own defaults."""
        asked = {
            name: value
            for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
            if (value := getattr(self, name)) is not None
        }
        chosen = {**defaults, **asked}
        if chosen.get("top_k") == -1:
            chosen["top_k"] = 0
        if chosen["temperature"] == 0:
            greedy: dict[str, Any] = {"do_sample": False}
            if "repetition_penalty" in chosen:
                greedy["repetition_penalty"] = chosen["repetition_penalty"]
            return greedy
        return {"do_sample": True, **chosen}


class Message(BaseModel):
    model_config = ConfigDict(extra="allow")

    role: str = Field(min_length=1)
    content: str | list[dict[str, Any]] | None = None

    def for_template(self) -> dict[str, str]:
        """Role and text, as chat templates want them."""
        parts = self.content if isinstance(self.content, list) else [{"type": "text", "text": self.content or ""}]
        for part in parts:
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise Refused(f"content of type {part.get('type')!r} is not supported; send text.", param="messages")
        if (self.model_extra or {}).get("tool_calls"):
            raise Refused("tool calls are not supported by this engine.", param="messages")
        return {"role": self.role, "content": "".join(part["text"] for part in parts)}


class ChatRequest(Sampling):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None

    def refuse_unsupported(self) -> None:
        super().refuse_unsupported()
        if self.tools and self.tool_choice != "none":
            # as vLLM answers while it is not told which parser reads the model's own notation
            raise Refused(
                "tools need a parser for what this model writes, and this engine has none; send tool_choice=none.",
                param="tools",
            )
        if not self.tools and self.tool_choice not in (None, "none", "auto"):
            raise Refused("tool_choice needs tools.", param="tool_choice")

    @property
    def wanted_logprobs(self) -> int | None:
        """How many alternatives per token; None for no log-probabilities at all."""
        if not self.logprobs and self.top_logprobs:
            raise Refused("top_logprobs needs logprobs: true.", param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(Sampling):
    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool = False

    @property
    def prompts(self) -> list[str | list[int]]:
        """One entry per choice."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt:
            raise Refused("prompt is an empty list; send text or token ids.", param="prompt")
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


class TokenizeRequest(BaseModel):
    """`/tokenize` as vLLM has it: of a text, or of a conversation rendered by the template."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool = True


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def envelope(request_id: str, kind: str, model: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    """The fields that every answer and every chunk has."""
    return {"id": request_id, "object": kind, "created": int(time.time()), "model": model, "choices": choices}


def event(document: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"
