"""`<home>/watch.yaml`: whom to follow, read strictly and at every tick."""

from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import ValidationError

from modelops_dagster.clients.yaml_files import read_yaml
from modelops_dagster.domain.complaints import first_fault
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.watchlist import OrgWatch, Watchlist, is_org

FILE_NAME = "watch.yaml"


def load_watchlist(home: Path, orgs: Sequence[str] = (), policies: Collection[str] | None = None) -> Watchlist:
    """The organisations of the file, and those of the short form, which have no filters.

    Args:
        home: the folder that may hold `watch.yaml`.
        orgs: names from MODELOPS_HUB_ORGS.
        policies: the promotion policies there are; None: any name is taken.

    Raises:
        InvalidSpec: the file does not hold, or a name cannot be one; names the field.
    """
    for org in orgs:
        if not is_org(org):
            raise InvalidSpec(f"{org!r} is not the name of an organisation on the Hub: correct it.", field="hub_orgs")
    path = home / FILE_NAME
    listed = _read(path).organisations if path.is_file() else {}
    for org, watch in listed.items():
        if policies is not None and watch.policy is not None and watch.policy not in policies:
            there = ", ".join(policies) or "none"
            raise InvalidSpec(
                f"{path} asks for the policy {watch.policy!r} for {org}; there are: {there}.", field="policy"
            )
    return Watchlist(organisations={**{org: OrgWatch() for org in orgs}, **listed})


def _read(path: Path) -> Watchlist:
    document = read_yaml(path)
    try:
        return Watchlist.model_validate(document if document is not None else {})
    except ValidationError as error:
        field, said = first_fault(error)
        raise InvalidSpec(
            f"{path} does not hold at {field or 'its top'}: {said}; correct it.", field=field or None
        ) from error
