"""`alerts.yaml`: which channels there are, and which kinds of alerts go where. Secrets are named, never written."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from modelops_dagster.clients.yaml_files import read_yaml
from modelops_dagster.domain.alerts import KINDS, AlertKind
from modelops_dagster.domain.complaints import first_fault
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.values import Value

CONFIG_NAME = "alerts.yaml"
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
Variable = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$", description="name of an environment variable")]


class _Channel(Value):
    name: Name
    kinds: tuple[AlertKind, ...] = Field(default=KINDS, min_length=1, description="what goes there; default: all")
    timeout_s: float = Field(default=10, gt=0, le=30)


class SlackChannel(_Channel):
    """A Slack channel that a bot may write to (scope chat:write)."""

    type: Literal["slack"]
    channel: str = Field(min_length=1, description="id or #name")
    token_env: Variable
    base_url: str = "https://slack.com/api/"

    @field_validator("base_url")
    @classmethod
    def _base_url(cls, value: str) -> str:
        return _http_url(value)


class EmailChannel(_Channel):
    """Addresses behind an SMTP server. Without `username` nobody logs in."""

    type: Literal["email"]
    host: str = Field(min_length=1)
    port: int = Field(default=587, ge=1, le=65535)
    starttls: bool = True
    username: str | None = None
    password_env: Variable | None = None
    sender: str = Field(min_length=3)
    to: tuple[str, ...] = Field(min_length=1)

    @field_validator("sender", "to")
    @classmethod
    def _addresses(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for address in (value,) if isinstance(value, str) else value:
            if "@" not in address or any(c in address for c in "\r\n"):
                raise ValueError(f"{address!r} is not an e-mail address")
        return value

    @model_validator(mode="after")
    def _login(self) -> "EmailChannel":
        if (self.username is None) != (self.password_env is None):
            raise ValueError("username and password_env belong together: give both, or neither")
        if self.username is not None and not self.starttls and self.host not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("a password is not sent without encryption: set starttls: true")
        return self


class WebhookChannel(_Channel):
    """Any HTTP endpoint that takes JSON. `url_env` is for an address that is itself a secret."""

    type: Literal["webhook"]
    url: str | None = None
    url_env: Variable | None = None
    secret_env: Variable | None = Field(default=None, description="key of the HMAC-SHA256 signature header")

    @field_validator("url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return None if value is None else _http_url(value)

    @model_validator(mode="after")
    def _one_address(self) -> "WebhookChannel":
        if (self.url is None) == (self.url_env is None):
            raise ValueError("give either url or url_env")
        return self


ChannelConfig = Annotated[SlackChannel | EmailChannel | WebhookChannel, Field(discriminator="type")]


class AlertConfig(Value):
    """Everything `alerts.yaml` may say. Without channels alerts are only logged."""

    channels: tuple[ChannelConfig, ...] = ()

    @field_validator("channels")
    @classmethod
    def _distinct(cls, value: tuple[ChannelConfig, ...]) -> tuple[ChannelConfig, ...]:
        names = [c.name for c in value]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"two channels are called {twice[0]!r}")
        return value

    def names_for(self, kind: AlertKind) -> tuple[str, ...]:
        """The channels that want alerts of this kind."""
        return tuple(c.name for c in self.channels if kind in c.kinds)


def load_alert_config(path: Path) -> AlertConfig:
    """Read the file; without one nothing is sent anywhere.

    Raises:
        InvalidSpec: the file does not hold; names the field.
    """
    if not path.is_file():
        return AlertConfig()
    document = read_yaml(path)
    try:
        return AlertConfig.model_validate({} if document is None else document)
    except ValidationError as error:
        field, said = first_fault(error)
        raise InvalidSpec(f"{path}: {field + ': ' if field else ''}{said}.", field=field or None) from None


def _http_url(value: str) -> str:
    if not value.startswith(("https://", "http://")):
        raise ValueError("an address starts with https:// or http://")
    return value
