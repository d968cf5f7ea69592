"""The gateway key that evaluations of an alias use: made on first use, kept for the owner of the home only."""

from pathlib import Path

from modelops_dagster.clients.keys import KeyStore, write_private
from modelops_dagster.domain.gateway import SHADOW, Route

ALIAS = "evaluations"


def evaluation_key(home: Path, route: Route) -> str:
    """A key that may call the route's targets. One that was revoked, or lacks a tag of the route, is made anew.

    Raises:
        IntegrityError: a key's record cannot be read.
    """
    path = home / "secrets" / "gateway_evaluation_key"
    store = KeyStore(home / "gateway")
    store.prepare()
    record = store.lookup(path.read_text().strip()) if path.is_file() else None
    wanted = _tags(route)
    if record is not None and wanted <= set(record.tags):
        return path.read_text().strip()
    key, _ = store.create(ALIAS, tags=sorted(wanted | set(record.tags if record else ())))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, key + "\n")
    if record is not None:
        store.revoke(record.key_id)
    return key


def _tags(route: Route) -> set[str]:
    return {tag for target in route.targets for tag in target.tags if tag != SHADOW}
