"""Keys of hosted APIs: one file each, for the owner of the home only, named in routes and never written there."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.endpoint_spec.external import key_name_problem
from modelops_dagster.domain.errors import InvalidSpec

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def credentials_folder(home: Path) -> Path:
    """Where a home keeps them."""
    return home / "secrets" / "credentials"


class CredentialStore:
    """`<home>/secrets/credentials/<name>`, and beside it the variables that may be named as keys.

    Args:
        variable: the value of a variable of this process; None when it is not set. A key that is kept goes before it.
    """

    def __init__(self, folder: Path, variable: Callable[[str], str | None] = lambda _: None) -> None:
        self._folder = folder
        self._variable = variable

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
        write_whole(self._folder / name, key.strip() + "\n", is_private=True)

    def names(self) -> tuple[str, ...]:
        """Every credential there is, sorted."""
        return tuple(sorted(p.name for p in self._folder.glob("*"))) if self._folder.is_dir() else ()

    def read(self, names: Iterable[str]) -> dict[str, str]:
        """Keys by name; one that is not there is left out."""
        found = {name: self.get(name) for name in set(names)}
        return {name: key for name, key in found.items() if key is not None}

    def get(self, name: str) -> str | None:
        """The key of that name, or None."""
        path = self._folder / name
        if NAME.fullmatch(name) and path.is_file():
            return path.read_text().strip()
        return self._variable(name) if key_name_problem(name) is None else None
