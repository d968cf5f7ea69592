"""Logs without secrets: what a header or member of that name holds, and every known or typical key, is left out."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

REDACTED = "[redacted]"
_NAME = re.compile(
    r"(^|[-_ ])(authorization|cookie|password|passwd|secret|credentials?|api[-_]?key|access[-_]?key|"
    r"(access|auth|refresh|session|bearer)[-_]?token)($|[-_ ])|^(x-)?token$",
    re.I,
)
_TYPICAL = re.compile(
    r"\b(sk-[A-Za-z0-9_-]{8,}|hf_[A-Za-z0-9]{16,}|nvapi-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16})"
    r"|(?<=Bearer )[A-Za-z0-9._~+/=-]{6,}"
)
_SHORTEST_SECRET = 4


def redacted(value: Any, secrets: Sequence[str] = ()) -> Any:
    """The same JSON value with secrets replaced. `secrets` are texts known to be secret, e.g. the endpoint's key."""
    if isinstance(value, Mapping):
        return {
            k: REDACTED if _NAME.search(str(k)) and v is not None else redacted(v, secrets) for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted(v, secrets) for v in value]
    if isinstance(value, str):
        for secret in secrets:
            if len(secret) >= _SHORTEST_SECRET:
                value = value.replace(secret, REDACTED)
        return _TYPICAL.sub(REDACTED, value)
    return value
