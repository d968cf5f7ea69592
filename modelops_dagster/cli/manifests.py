"""`modelops endpoints render`: what would be applied to a cluster, with the reason of every notable field."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelops_dagster.cli.output import emit, json_option

if TYPE_CHECKING:
    from modelops_dagster.domain.endpoints import EndpointSpec
    from modelops_dagster.domain.kubernetes import Site


def _weights(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[int, int]:
    weights = {}
    for text in given:
        revision, _equals, weight = text.partition("=")
        if not (revision.isdigit() and weight.isdigit()):
            raise click.BadParameter(f"{text!r} is not REVISION=WEIGHT, as 7=95 is.")
        weights[int(revision)] = int(weight)
    return weights


@click.command()
@click.option(
    "-f", "--file", "files", multiple=True, metavar="SPEC", type=click.Path(path_type=Path),
    help="A YAML or JSON file with specs or, as `kind: ResearchJob`, research jobs; repeatable.",
)  # fmt: skip
@click.option(
    "--site", "site_file", type=click.Path(path_type=Path), metavar="FILE",
    help="What the cluster is like; default: kubernetes.yaml of the home, where there is one.",
)  # fmt: skip
@click.option("--revision", type=click.IntRange(1), default=1, show_default=True, help="Of the endpoints.")
@click.option("--split", "weights", multiple=True, callback=_weights, metavar="REVISION=WEIGHT", help="Add a route.")
@click.option("--kserve", is_flag=True, help="As KServe's LLMInferenceService instead of plain objects.")
@click.option("--unseen", is_flag=True, help="Trust the spec: the checkpoint is not in this machine's store.")
@click.option("--platform", is_flag=True, help="What a cluster is given once: priority classes and queues.")
@click.option("--reasons/--no-reasons", default=True, show_default=True, help="Say why each field is there.")
@json_option
def render(
    files: tuple[Path, ...], site_file: Path | None, revision: int, weights: dict[int, int], kserve: bool,
    unseen: bool, platform: bool, reasons: bool, as_json: bool,
) -> None:  # fmt: skip
    """Print the Kubernetes objects of every spec in the files; nothing is applied."""
    from modelops_dagster.domain.errors import InvalidSpec
    from modelops_dagster.domain.kubernetes import http_route, platform_objects
    from modelops_dagster.domain.kubernetes.text import as_yaml

    if not files and not platform:
        raise InvalidSpec("There is nothing to render; give specs with -f, or --platform.")
    site = _site(site_file)
    objects: list[dict[str, Any]] = platform_objects(site) if platform else []
    for item in _wanted(files, site, unseen):
        if isinstance(item, dict):
            objects.append(_research(item, site))
            continue
        objects += _endpoint(item, site, revision, kserve)
        if weights:
            objects.append(http_route(item.name, weights, site, item.request_timeout_seconds))
    emit(objects, as_json, lambda: click.echo(as_yaml(objects, reasons=reasons), nl=False))


def _site(path: Path | None) -> "Site":
    from modelops_dagster.clients.kubernetes.site_file import read_site
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    site = read_site(path or settings.site_file, must_exist=path is not None)
    return site.model_copy(update={"checkpoint_root": site.checkpoint_root or str(settings.home / "checkpoints")})


def _wanted(files: tuple[Path, ...], site: "Site", unseen: bool) -> "Iterator[EndpointSpec | dict[str, Any]]":
    """The complete specs of the files, and the documents of research jobs as they are."""
    from modelops_dagster.cli.endpoint_specs import open_resolver
    from modelops_dagster.clients.endpoint_documents import parse_document, read_documents
    from modelops_dagster.domain.kubernetes.unseen import unseen_spec

    resolver = None if unseen else open_resolver()
    for path in files:
        for document in read_documents(path):
            if isinstance(document, dict) and document.get("kind") == "ResearchJob":
                yield document
                continue
            parsed = parse_document(document, str(path))
            yield unseen_spec(parsed, site) if resolver is None else resolver.resolve(parsed, str(path))


def _endpoint(spec: "EndpointSpec", site: "Site", revision: int, kserve: bool) -> list[dict[str, Any]]:
    from modelops_dagster.clients.engines import EngineRegistry
    from modelops_dagster.domain.kubernetes import kserve_service, render
    from modelops_dagster.settings import Settings

    settings = Settings.load()
    engines = EngineRegistry.from_settings(settings).manifests()
    return [kserve_service(spec, site, engines, revision)] if kserve else render(spec, site, engines, revision)


def _research(document: dict[str, Any], site: "Site") -> dict[str, Any]:
    from pydantic import ValidationError

    from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
    from modelops_dagster.domain.kubernetes import ResearchJob, research_job

    try:
        job = ResearchJob.model_validate({name: value for name, value in document.items() if name != "kind"})
    except ValidationError as error:
        raise invalid_spec(error, "ResearchJob") from error
    return research_job(job, site)
