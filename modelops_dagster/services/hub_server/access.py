"""Who asks: the tokens that open private and gated repositories. Hashes in memory, and on disk where so written."""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from modelops_dagster.domain.errors import InvalidSpec, UserError

HASHED = "sha256:"
DIGEST = re.compile(r"[0-9a-f]{64}")
ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
UNNAMED = "local"


class Tokens:
    """The tokens one Hub knows.

    Args:
        lines: `TOKEN [ACCOUNT]` or `sha256:DIGEST [ACCOUNT]` each.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._accounts: dict[str, str] = {}
        for line in lines:
            token, _, account = line.partition(" ")
            digest = token.removeprefix(HASHED) if is_hashed(token) else _digest(token)
            self._accounts[digest] = account.strip() or UNNAMED

    def account(self, authorization: str) -> str | None:
        """Whose token an Authorization header carries. None: none of ours; a token for another Hub counts as none."""
        scheme, _, token = authorization.partition(" ")
        given = _digest(token.strip())
        found = [name for digest, name in self._accounts.items() if hmac.compare_digest(digest, given)]
        return found[0] if found and scheme.lower() == "bearer" else None


def read_tokens(path: Path, served: Path | None = None) -> frozenset[str]:
    """Lines of a token file as `Tokens` takes them; empty lines and lines that start with # are skipped.

    Args:
        path: the file.
        served: the folder that is served, where no token may lie in clear.

    Raises:
        UserError: the file cannot be read, has no token, or lies in the served folder with a token in clear.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(
            f"The token file {path} cannot be read ({error}): name a text file with a token a line."
        ) from error
    tokens = frozenset(line for line in lines if line and not line.startswith("#"))
    if not tokens:
        raise UserError(f"The token file {path} has no token in it: write one a line.")
    inside = served is not None and path.resolve().is_relative_to(served.resolve())
    if inside and not all(is_hashed(line.partition(" ")[0]) for line in tokens):
        raise UserError(
            f"The token file {path} holds a token in clear and lies in the folder that is served: keep it elsewhere, "
            "or write `sha256:` and the token's digest instead."
        )
    return tokens


def create_token(path: Path, account: str) -> str:
    """Make a token for an account and keep its digest in the token file, which only its owner may read.

    Returns:
        The token, which is nowhere else.

    Raises:
        InvalidSpec: not the name of an account.
        UserError: the file cannot be written.
    """
    if not ACCOUNT.fullmatch(account):
        raise InvalidSpec(
            f"{account!r} cannot name an account: use letters, digits, '.', '_' and '-'.", field="account"
        )
    token = f"hf_{secrets.token_urlsafe(24)}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "a") as out:
            out.write(f"{HASHED}{_digest(token)} {account}\n")
    except OSError as error:
        raise UserError(f"The token file {path} cannot be written ({error.strerror}): name another.") from error
    return token


def is_hashed(token: str) -> bool:
    """Whether this is the digest of a token and not the token."""
    return token.startswith(HASHED) and DIGEST.fullmatch(token.removeprefix(HASHED)) is not None


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
