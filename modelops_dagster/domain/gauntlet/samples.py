"""Samples: what is asked, what a good answer is, and the digest that tells one question from another."""

import hashlib
import json
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, field_validator

from modelops_dagster.domain.values import Value

Expected = Literal["answer", "refuse", "abstain", "clarify", "format"]
Split = Literal["core", "reserve", "anchor", "holdout", "sentinel"]
Severity = Literal["critical", "major", "minor"]

CHOICE_REQUEST = "Answer with the letter of the right choice only."


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return _CANONICAL.encode(value)


def digest(value: object) -> str:
    """`sha256:…` of the canonical JSON."""
    return "sha256:" + hashlib.sha256(canonical(value).encode()).hexdigest()


class Message(Value):
    role: Literal["system", "user", "assistant"]
    content: str


class SampleMetadata(Value):
    """Everything about a sample that is neither asked nor wanted."""

    category: str = Field(pattern=r"^[a-z0-9_-]+(/[a-z0-9_-]+)*$", description="`group` or `group/name`")
    scorer: str = Field(description="name of a scorer")
    params: dict[str, Any] = Field(default_factory=dict, description="parameters of the scorer")
    expected: Expected = Field(default="answer", description="what a good answer does")
    cluster: str | None = Field(default=None, description="samples of one template or passage; None: the sample alone")
    twin: str | None = Field(default=None, description="id of the benign or harmful counterpart")
    max_tokens: int | None = Field(default=None, gt=0, description="overrides the suite's")
    stop: tuple[str, ...] | None = Field(default=None, description="strings that end the answer")
    weight: float = Field(default=1, gt=0, description="how much it counts in a mean")
    split: Split = Field(default="core", description="which part of the set it belongs to; a suite asks some of them")
    severity: Severity = Field(default="minor", description="how bad a wrong answer is")
    difficulty: int | None = Field(default=None, ge=1, le=5, description="1, easy, to 5")
    lang: str = Field(default="en", description="language of the question")
    rubric: str | None = Field(default=None, description="name of the suite's rubric that graders judge it by")
    min_context: int = Field(default=0, ge=0, description="tokens an endpoint must offer for the sample to be asked")
    origin: str | None = Field(default=None, description="where it was taken from, or who wrote it")
    added: str | None = Field(default=None, description="version of the set it came in with")
    retired: str | None = Field(default=None, description="version it went out with; then it is not asked")
    license: str | None = Field(default=None, description="licence it may be used under")
    canary: str | None = Field(default=None, description="string that shows in training data when the set leaked")
    note: str | None = Field(default=None, description="for whoever reads the file")

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @cached_property
    def canonical_params(self) -> str:
        return canonical(self.params) if self.params else "{}"

    @property
    def group(self) -> str:
        """The part of the category before the first slash."""
        return self.category.split("/")[0]


class Sample(Value):
    """One line of a samples file."""

    id: str = Field(min_length=1, max_length=120, description="its name, unique in the file")
    input: str | tuple[Message, ...] = Field(description="text (one user message) or messages that end with a user's")
    target: str | tuple[str, ...] = Field(default="", description="what is wanted, or any of several")
    choices: tuple[str, ...] | None = Field(
        default=None, min_length=2, max_length=26, description="answers to choose from, lettered from A"
    )
    metadata: SampleMetadata = Field(description="everything that is neither asked nor wanted")

    @field_validator("input")
    @classmethod
    def _asks(cls, value: str | tuple[Message, ...]) -> str | tuple[Message, ...]:
        if isinstance(value, str):
            if not value.strip():
                raise ValueError("input is empty")
        elif not value or value[-1].role != "user":
            raise ValueError("input must end with a message of the role user")
        return value

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target,) if isinstance(self.target, str) else self.target

    @property
    def cluster(self) -> str:
        return self.metadata.cluster or self.id

    @cached_property
    def asked(self) -> str:
        """The input as canonical JSON."""
        return canonical(self._asked)

    @property
    def _asked(self) -> str | list[dict[str, str]]:
        return self.input if isinstance(self.input, str) else [m.model_dump() for m in self.input]

    @cached_property
    def uid(self) -> str:
        """64 hex digits over what is asked and how it is scored; the id, category and provenance do not enter."""
        meta = self.metadata
        what = [
            self._asked,
            self.choices,
            self.target,
            meta.scorer,
            meta.params,
            meta.expected,
            meta.stop,
            meta.max_tokens,
        ]
        return hashlib.sha256(canonical(what).encode()).hexdigest()

    def messages(self, system_prompt: str | None = None) -> list[dict[str, str]]:
        """The chat messages to send. The suite's system prompt goes first unless the sample brings its own."""
        out = (
            [{"role": "user", "content": self.input}]
            if isinstance(self.input, str)
            else [{"role": str(m.role), "content": m.content} for m in self.input]
        )
        if system_prompt and out[0]["role"] != "system":
            out.insert(0, {"role": "system", "content": system_prompt})
        if self.choices:
            lines = [f"{chr(65 + i)}) {text}" for i, text in enumerate(self.choices)]
            out[-1]["content"] = "\n".join([out[-1]["content"], *lines, CHOICE_REQUEST])
        return out


def item_uid(sample: Sample) -> str:
    """`Sample.uid` as a function, to sort by."""
    return sample.uid
