"""An endpoint that somebody else serves: where it is, what its model is called, and which variable holds its key."""

import re
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from modelops_dagster.domain.openai_urls import Api, api_of, base_url
from modelops_dagster.domain.values import Value

# A spec may name a key and not have the controller or the gateway send another secret of theirs to an address of its
# choice: only names that end so are read, and none that the platform itself or its sources use.
KEY_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,100}(?:_KEY|_TOKEN|_CREDENTIALS|_BEARER_TOKEN_BEDROCK)|API_KEY")
RESERVED_KEY = re.compile(
    r"(?:MODELOPS|LITELLM|GITHUB|GH|GITLAB|HF|HUGGING_?FACE(?:HUB)?|SLACK|SMTP|DAGSTER|AWS_SESSION|AWS_SECRET)_.*"
)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def key_name_problem(name: str) -> str | None:
    """Why the variable may not be named as a key, as a sentence without its end; None when it may."""
    if RESERVED_KEY.fullmatch(name) and not name.startswith("AWS_BEARER"):
        return f"{name} belongs to this platform or its sources and is never sent to an endpoint; use another variable"
    if not KEY_NAME.fullmatch(name):
        return (
            f"{name!r} does not name a variable that holds a key: use capitals, digits and '_', and end with _KEY, "
            "_TOKEN or _CREDENTIALS; the key itself is never written here"
        )
    return None


def _describe_reference(schema: dict[str, Any]) -> None:
    told = "${NAME}: the same as api_key_name NAME"
    schema["properties"]["api_key"] = {"type": "string", "pattern": f"^{_REFERENCE.pattern}$", "description": told}


class ApiEndpoint(Value):
    """Where an OpenAI-compatible endpoint is. Names as in NeMo Evaluator's `target.api_endpoint`."""

    model_config = ConfigDict(json_schema_extra=_describe_reference)

    url: str = Field(max_length=2000, description="base URL, or the full path of chat/completions or completions")
    model_id: str = Field(min_length=1, max_length=200, description="the name it answers to")
    type: Literal["undefined", "chat", "completions"] = Field(
        default="undefined", description="which of the two routes it has; undefined: as the path of the URL says"
    )
    api_key_name: str | None = Field(default=None, description="variable that holds the key; never the key")

    @model_validator(mode="before")
    @classmethod
    def _reference(cls, value: Any) -> Any:
        """`api_key: ${NAME}`, as in the files of other tools, is the same as `api_key_name: NAME`."""
        if not isinstance(value, dict) or "api_key" not in value:
            return value
        given = {k: v for k, v in value.items() if k != "api_key"}
        literal = value["api_key"]
        if literal in (None, ""):
            return given
        found = _REFERENCE.fullmatch(str(literal))
        if found is None:
            raise ValueError("api_key holds a key in clear: put it into a variable and write ${NAME} here")
        return {"api_key_name": found[1], **given}

    @field_validator("url")
    @classmethod
    def _url(cls, value: str) -> str:
        if any(c.isspace() or c in "\0?#" for c in value) or "@" in value.split("//", 1)[-1].split("/", 1)[0]:
            raise ValueError("a URL here has no spaces, no query and no user name; a key is named with api_key_name")
        base_url(value)
        return value

    @field_validator("api_key_name")
    @classmethod
    def _key(cls, value: str | None) -> str | None:
        problem = key_name_problem(value) if value is not None else None
        if problem:
            raise ValueError(problem)
        return value

    @property
    def base_url(self) -> str:
        """What ends in /v1, or in what its owner chose."""
        return base_url(self.url)

    @property
    def api(self) -> Api:
        """The route that is asked for one token: the one named, else the one in the URL, else chat."""
        return self.type if self.type != "undefined" else api_of(self.url) or "chat"


class Target(Value):
    """What an endpoint of somebody else's is."""

    api_endpoint: ApiEndpoint
