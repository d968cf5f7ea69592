"""The gateway keys that the platform itself uses: made on first use, kept for the owner of the home only.

Evaluations of an alias and graders behind one have a key each, so that `modelops spend` tells them apart.
"""

from pathlib import Path
from typing import Literal

from modelops_dagster.clients.keys import KeyStore
from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.gateway import SHADOW, Route

Use = Literal["evaluation", "grader"]


def platform_key(home: Path, route: Route, use: Use) -> str:
    """A key that may call the route's targets, named `evaluations` or `graders`. One that was revoked, or lacks a tag
    of the route, is made anew.

    Raises:
        IntegrityError: a key's record cannot be read.
    """
    path = home / "secrets" / f"gateway_{use}_key"
    store = KeyStore(home / "gateway")
    store.prepare()
    record = store.lookup(path.read_text().strip()) if path.is_file() else None
    wanted = _tags(route)
    if record is not None and wanted <= set(record.tags):
        return path.read_text().strip()
    key, _ = store.create(f"{use}s", tags=sorted(wanted | set(record.tags if record else ())))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(path, key + "\n", is_private=True)
    if record is not None:
        store.revoke(record.key_id)
    return key


def _tags(route: Route) -> set[str]:
    return {tag for target in route.targets for tag in target.tags if tag != SHADOW}
