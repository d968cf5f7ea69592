"""Looking at a release before any weight is fetched: every fact is gathered here, every judgement is in the domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modelops_dagster.clients.architectures import engine_facts
from modelops_dagster.clients.chat_templates import render_conversations
from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.hub import HubClient
from modelops_dagster.domain.architectures import EngineFacts, Support, support
from modelops_dagster.domain.capacity import Demand, Hardware, make_plan, weakest_capability
from modelops_dagster.domain.chat_templates import TemplateReport, chat_template, template_variables
from modelops_dagster.domain.engines import Rung
from modelops_dagster.domain.errors import PreflightBlocked
from modelops_dagster.domain.findings import (
    Documents,
    capacity_findings,
    engine_findings,
    file_findings,
    multiplying_findings,
    stop_findings,
    template_findings,
    terms_findings,
)
from modelops_dagster.domain.hub import ModelRevision, Release
from modelops_dagster.domain.model_config import ModelConfig
from modelops_dagster.domain.model_shape import ModelShape
from modelops_dagster.domain.preflight import Preflight, require_acceptable
from modelops_dagster.domain.repo_files import is_weight, wanted_files

_SEVERITIES = ("blocks", "warns", "informs")


@dataclass(frozen=True)
class Surroundings:
    """What a release is judged against."""

    registry: EngineRegistry
    accelerator: str  # whose ladder is looked at: auto, cpu, cuda
    store: CheckpointStore
    inventory: tuple[Hardware, ...]
    max_context: int  # tokens; a model's own context counts where that is shorter
    sequences: int
    allowed_licenses: tuple[str, ...] = ()  # none: all are


def preflight(release: Release, hub: HubClient, here: Surroundings, accept: Sequence[str] = ()) -> Preflight:
    """What the metadata of a release says about serving it here.

    Args:
        release: as the Hub tells it.
        hub: where its small files are read.
        here: engines, store and hardware.
        accept: codes of findings that are not to block this time.

    Raises:
        InvalidSpec: `accept` holds what cannot be accepted.
        RepoGated, HubUnavailable, IntegrityError: its small files cannot be read.
    """
    require_acceptable(accept)
    documents = hub.documents(release)
    code_allowed = here.store.allows_code(release.revision)
    capability = weakest_capability(here.inventory)
    supports = _supports(release, documents, here.registry, here.accelerator, code_allowed, capability)
    release = release.model_copy(update={"preflight": Preflight(supports=supports)})
    shape = ModelShape.from_json(documents.config)
    weight_bytes = sum(f.size_bytes for f in wanted_files(release.files) if is_weight(f.path))
    plan = None
    if weight_bytes:
        demand = Demand(
            weight_bytes=weight_bytes,
            parameters=release.parameters,
            shape=shape,
            context=min(release.max_context or here.max_context, here.max_context),
            sequences=here.sequences,
        )
        plan = make_plan(demand, here.inventory)
    report = _rendered(documents)
    findings = [
        *file_findings(release, documents, here.store.space(release), code_allowed=code_allowed),
        *engine_findings(supports),
        *(capacity_findings(plan, shape) if plan is not None else ()),
        *multiplying_findings(ModelConfig.from_json(documents.config), here.inventory),
        *terms_findings(release, here.allowed_licenses),
        *template_findings(release, documents, report),
        *stop_findings(documents, report),
    ]
    findings.sort(key=lambda f: _SEVERITIES.index(f.severity))
    return Preflight(supports=supports, plan=plan, findings=tuple(findings)).accepting(accept)


def require_passed(revision: ModelRevision, found: Preflight) -> None:
    """Refuse a release whose preflight blocks it.

    Raises:
        PreflightBlocked: with one sentence over every finding that blocks.
    """
    if found.blocking:
        said = " ".join(f.sentence for f in found.blocking)
        raise PreflightBlocked(f"{revision} was stopped before any weight was fetched: {said}", findings=found.findings)


def with_supports(release: Release, hub: HubClient, registry: EngineRegistry, accelerator: str) -> Release:
    """The release with what the engines would do with it, for those who fetch it and do not judge it.

    Raises:
        RepoGated, HubUnavailable, IntegrityError: its small files cannot be read.
    """
    supports = _supports(release, hub.documents(release), registry, accelerator, code_allowed=False)
    return release.model_copy(update={"preflight": Preflight(supports=supports)})


def _supports(
    release: Release,
    documents: Documents,
    registry: EngineRegistry,
    accelerator: str,
    code_allowed: bool,
    capability: float | None = None,
) -> tuple[Support, ...]:
    rungs: Sequence[Rung] = registry.rungs(accelerator, release.architectures)
    manifests, versions = registry.manifests(), registry.installed_versions()
    environments: Mapping[str, Path | None] = {r.engine: registry.environment(r.engine) for r in rungs}
    # what is in an image cannot be read from here: only starting it tells
    facts = {
        name: engine_facts(path, versions[name]) if path is not None else EngineFacts(version=versions[name])
        for name, path in environments.items()
        if name in versions
    }
    model = ModelConfig.from_json(documents.config, documents.tokenizer_config)
    return tuple(
        support(
            r,
            manifests[r.engine],
            facts.get(r.engine),
            model,
            code_allowed=code_allowed,
            compute_capability=capability,
        )
        for r in rungs
    )


def _rendered(documents: Documents) -> TemplateReport | None:
    template = chat_template(documents.tokenizer_config, documents.templates)
    if template is None:
        return None
    return render_conversations(template, template_variables(documents.tokenizer_config))
