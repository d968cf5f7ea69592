"""Keys of hosted APIs: one file each, for the owner of the home only, named in routes and never written there."""

import re
from collections.abc import Iterable
from pathlib import Path

from modelops_dagster.clients.keys import write_private
from modelops_dagster.domain.errors import InvalidSpec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class CredentialStore:
    """`<home>/secrets/credentials/<name>`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, key: str) -> None:
        """Keep a provider's key; the gateway takes it with the next route that names it.

        Raises:
            InvalidSpec: the name is none, or the key is empty.
        """
        if not NAME.fullmatch(name):
            raise InvalidSpec(f"{name!r} cannot name a credential; use letters, digits, '-' and '_'.", field="name")
        if not key.strip():
            raise InvalidSpec(f"the key for credential {name!r} is empty; give it on standard input.", field="key")
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(self._folder / name, key.strip() + "\n")

    def names(self) -> tuple[str, ...]:
        """Every credential there is, sorted."""
        return tuple(sorted(p.name for p in self._folder.glob("*"))) if self._folder.is_dir() else ()

    def read(self, names: Iterable[str]) -> dict[str, str]:
        """Keys by name; one that is not there is left out."""
        found = {name: self._folder / name for name in set(names) if NAME.fullmatch(name)}
        return {name: path.read_text().strip() for name, path in found.items() if path.is_file()}
