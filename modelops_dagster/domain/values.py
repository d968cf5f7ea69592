"""The base of every value that crosses a stage: frozen, closed, and written as JSON."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """An immutable record. Unknown fields are refused, so a typo in a file is an error and not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
