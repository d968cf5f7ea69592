"""The file that says what a cluster is like."""

from pathlib import Path

from pydantic import ValidationError

from modelops_dagster.clients.yaml_files import read_yaml
from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.kubernetes import Site


def read_site(path: Path, *, must_exist: bool = False) -> Site:
    """The site of the file; where there is none, one that fits `deploy/kubernetes`.

    Raises:
        InvalidSpec: the file is not there although it must, cannot be read, or does not hold.
    """
    if not path.is_file():
        if must_exist:
            raise InvalidSpec(f"{path} does not exist; docs/kubernetes.md describes what a site file says.")
        return Site()
    try:
        return Site.model_validate(read_yaml(path) or {})
    except ValidationError as error:
        raise invalid_spec(error, str(path)) from error
