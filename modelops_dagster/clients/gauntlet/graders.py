"""`graders.yaml`, and the graders it names as they answer now."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr, ValidationError

from modelops_dagster.clients.gauntlet.loading import GRADERS_NAME
from modelops_dagster.clients.yaml_files import read_yaml
from modelops_dagster.domain.complaints import first_fault
from modelops_dagster.domain.endpoints import EndpointStatus
from modelops_dagster.domain.errors import InvalidSpec, ModelOpsError, UserError
from modelops_dagster.domain.gateway import Route
from modelops_dagster.domain.gauntlet.grading import Grader, GradersFile, GraderSpec
from modelops_dagster.domain.incumbents import is_answering
from modelops_dagster.domain.openai_urls import base_url


class Known(NamedTuple):
    """Where the platform looks up what a grader's name stands for.

    `status_of` tells how an endpoint stands, `route_of` what an alias serves; each None for what it does not know.
    `key_of` is the platform's own key for a route, for graders without one of theirs.
    """

    status_of: Callable[[str], EndpointStatus | None]
    route_of: Callable[[str], Route | None]
    gateway_url: str
    key_of: Callable[[Route], str]
    environment: Mapping[str, str] = os.environ


def load_graders(*folders: Path) -> GradersFile:
    """The graders of the first folder that has a `graders.yaml`; none where no folder has.

    Raises:
        InvalidSpec: the file does not hold; names the field.
    """
    path = next((found for folder in folders if (found := folder / GRADERS_NAME).is_file()), None)
    if path is None:
        return GradersFile()
    try:
        document = read_yaml(path)
        return GradersFile.model_validate({} if document is None else document)
    except ValidationError as error:
        name, said = first_fault(error)
        raise InvalidSpec(f"{path}: {name + ': ' if name else ''}{said}.", field=name or None) from None


def present(spec: GraderSpec, known: Known) -> Grader:
    """The grader with its address and what is known of the models behind it.

    Raises:
        UserError: its endpoint does not run, its alias serves nothing, or its key's variable is not set.
    """
    if spec.key_env is not None and not known.environment.get(spec.key_env):
        raise UserError(f"The grader {spec.name!r} needs its key in the variable {spec.key_env}, which is not set.")
    if spec.endpoint is not None:
        status = known.status_of(spec.endpoint)
        if status is None or not is_answering(status) or status.url is None:
            state = status.state.value if status else "gone"
            raise UserError(f"The grader {spec.name!r} is the endpoint {spec.endpoint}, which is {state}: start it.")
        return Grader(
            spec=spec,
            url=status.url,
            model=status.spec.served_model_name,
            endpoints=(spec.endpoint,),
            revisions=(status.spec.checkpoint_digest,),
        )
    url, model = spec.url or f"{known.gateway_url.rstrip('/')}/v1", spec.alias or spec.model or ""
    try:
        url = base_url(url)
    except ValueError as error:
        raise UserError(f"The grader {spec.name!r}: {error}.") from None
    # an alias may have any name, so who answers behind it is looked up wherever the gateway is asked
    route = known.route_of(model) if url == base_url(known.gateway_url) else None
    targets = [t for t in (route.targets if route else ()) if t.weight]
    if spec.alias is not None and not targets:
        raise UserError(f"The grader {spec.name!r} is the alias {model}, which serves no endpoint.")
    return Grader(
        spec=spec,
        url=url,
        model=model,
        endpoints=tuple(sorted(t.endpoint for t in targets)),
        revisions=tuple(sorted({t.commit_hash for t in targets})),
        key=SecretStr(known.key_of(route)) if route is not None and spec.key_env is None else None,
    )


def present_graders(file: GradersFile, known: Known) -> tuple[tuple[Grader, ...], tuple[str, ...]]:
    """The graders that can be asked now, and a sentence about each that cannot."""
    found, notes = [], []
    for spec in file.graders:
        try:
            found.append(present(spec, known))
        except ModelOpsError as error:
            notes.append(error.sentence)
    return tuple(found), tuple(notes)
