"""Who would break without a checkpoint, and deleting what nobody needs."""

from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from modelops_dagster.clients.checkpoints.inventory import Inventory, Pruned
from modelops_dagster.clients.endpoints.records import EndpointRecord
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.errors import IntegrityError
from modelops_dagster.domain.retention import RetentionPolicy, User, plan_retention


def prune_store(home: Path, policy: RetentionPolicy, now: datetime, *, dry_run: bool) -> Pruned:
    """One round of retention over the store of an installation.

    Args:
        home: of the installation.
        policy: what is kept although nobody uses it.
        now: UTC.
        dry_run: delete nothing, and say what would be.

    Raises:
        IntegrityError: a route, an endpoint's record or a manifest cannot be read; nothing was deleted.
    """
    inventory = Inventory(home / "checkpoints")
    decisions = plan_retention(inventory.checkpoints(), checkpoint_users(home), policy, now)
    return inventory.prune(decisions, policy.older_than_s, dry_run=dry_run)


def checkpoint_users(home: Path) -> list[User]:
    """Every route, and every endpoint that runs or is to run.

    Raises:
        IntegrityError: a document cannot be read, so nobody knows what it uses.
    """
    records = _records(home / "controller" / "endpoints")
    users = [
        User(name=f"endpoint {r.name}", directory=_resolved(r.spec.checkpoint))
        for r in records.values()
        if r.spec.checkpoint and (r.desired == "Running" or r.started)
    ]
    for route in RouteStore(home / "gateway").list():
        for target in route.targets:
            record = records.get(target.endpoint)
            directory = _resolved(record.spec.checkpoint) if record is not None and record.spec.checkpoint else None
            users.append(User(name=f"route {route.alias}", directory=directory, commit_hash=target.commit_hash))
    return users


def _resolved(directory: str) -> str:
    return str(Path(directory).resolve())


def _records(folder: Path) -> dict[str, EndpointRecord]:
    found: dict[str, EndpointRecord] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = EndpointRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            continue  # the controller removed it this moment
        except ValidationError as error:
            raise IntegrityError(
                f"{path} cannot be read, so what it uses is not known: nothing was deleted; let the controller start "
                "once, which puts such a record aside."
            ) from error
        found[record.name] = record
    return found
