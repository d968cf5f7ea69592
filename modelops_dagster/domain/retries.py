"""Models that wait for a newer engine: who they are, what would help them, and what is remembered of their ladder."""

from collections.abc import Mapping, Sequence

from pydantic import Field

from modelops_dagster.domain.endpoints import Endpoint, Parked
from modelops_dagster.domain.engines import FailureReason, RungResult
from modelops_dagster.domain.frameworks import FrameworkRelease, FrameworkState
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.values import Value

ARCHITECTURE_REASONS: frozenset[FailureReason] = frozenset({"unsupported_architecture", "needs_newer_transformers"})
# An older engine is wanted then, so no newer one helps.
_DROPPED = "was supported in vLLM until"
RETRY_TAG = "modelops/retry"  # on a run: the release that may let the model stand higher
MAX_REMEMBERED = 1000  # requests, so that the state of the sensor stays small


class Waiting(Value):
    """A model that would stand higher if an engine knew its architecture."""

    repo_id: str
    commit_hash: str
    standing: str | None = Field(description="label of the rung it stands on; None when it is parked")
    rungs: tuple[RungResult, ...] = Field(description="rungs that were left because of the architecture")


class Retry(Value):
    """A revision that is to be onboarded again."""

    repo_id: str
    commit_hash: str
    because: str = Field(description="the framework or engine and its version, e.g. vllm-project/vllm 0.33.0")

    @property
    def run_key(self) -> str:
        return f"{self.repo_id}@{self.commit_hash}+{self.because.replace(' ', '@')}"


class FrameworkCursor(Value):
    """The framework sensor's state between two ticks."""

    frameworks: dict[str, FrameworkState] = Field(default_factory=dict, description="by owner/name")
    pending: tuple[Retry, ...] = Field(default=(), description="decided and not requested yet, oldest first")
    requested: tuple[str, ...] = Field(default=(), description="run keys of the newest requests")


def waiting(found: Endpoint | Parked | Release) -> Waiting | None:
    """Whether the model waits for a newer engine; None when it stands at the top or was stopped by something else."""
    if isinstance(found, Release):
        ladder = found.preflight.ladder if found.preflight is not None else ()
        revision = found.revision
    else:
        ladder, revision = found.ladder, found.checkpoint.revision
    rungs = tuple(r for r in ladder if r.reason in ARCHITECTURE_REASONS and _DROPPED not in r.detail)
    if not rungs:
        return None
    return Waiting(
        repo_id=revision.repo_id,
        commit_hash=revision.commit_hash,
        standing=found.rung if isinstance(found, Endpoint) else None,
        rungs=rungs,
    )


def helps(framework: str, model: Waiting) -> bool:
    """Whether a newer release of `framework` (owner/name) may let the model stand higher.

    A newer vLLM may know the architecture, or carry a newer Transformers; a newer Transformers helps whoever lacks it
    and the rungs that serve through its model classes.
    """
    name = framework.partition("/")[2].lower()
    if name == "vllm":
        return any(_engine(r).startswith("vllm") for r in model.rungs)
    if name == "transformers":
        return any(r.reason == "needs_newer_transformers" or "transformers" in r.rung for r in model.rungs)
    return False


def changed_engines(ladder: Sequence[RungResult], versions: Mapping[str, str]) -> dict[str, str]:
    """Engines of left rungs that have another version now than when they were tried, with that version.

    Args:
        versions: installed engines' versions by name. An engine that is not there has not changed.
    """
    return {
        _engine(r): versions[_engine(r)]
        for r in ladder
        if r.reason is not None and r.engine_version and versions.get(_engine(r), r.engine_version) != r.engine_version
    }


def worth_climbing_again(ladder: Sequence[RungResult], versions: Mapping[str, str]) -> bool:
    """Whether leaving the present rung for a trial of the higher ones can end differently than before.

    Only then is an endpoint that may have traffic interrupted. Where the version that was tried is not known, it can.
    """
    left = [r for r in ladder if r.reason in ARCHITECTURE_REASONS]
    return any(not r.engine_version and _engine(r) in versions for r in left) or bool(changed_engines(left, versions))


def remembered(
    ladder: Sequence[RungResult], previous: Sequence[RungResult], versions: Mapping[str, str]
) -> tuple[RungResult, ...]:
    """The ladder with the versions that were tried, and with the earlier reason of each rung not tried this time."""
    before = {r.rung: r for r in previous if r.reason is not None}
    return tuple(
        before.get(r.rung, r)
        if r.reason == "not_tried"
        else r.model_copy(update={"engine_version": r.engine_version or versions.get(_engine(r), "")})
        for r in ladder
    )


def take(cursor: FrameworkCursor, found: Sequence[Retry], limit: int) -> tuple[FrameworkCursor, list[Retry]]:
    """Add what was found to what is pending, and take at most `limit` of it, each request once."""
    known = {*cursor.requested, *(r.run_key for r in cursor.pending)}
    pending = list(cursor.pending)
    for retry in found:
        if retry.run_key not in known:
            known.add(retry.run_key)
            pending.append(retry)
    taken, left = pending[:limit], pending[limit:]
    requested = (*cursor.requested, *(r.run_key for r in taken))[-MAX_REMEMBERED:]
    return cursor.model_copy(update={"pending": tuple(left), "requested": requested}), taken


def _engine(result: RungResult) -> str:
    return result.rung.partition(":")[0]


def retries_for(
    releases: Sequence[FrameworkRelease], models: Sequence[Waiting], versions: Mapping[str, str]
) -> list[Retry]:
    """Which waiting models to onboard again, and because of what; each revision once.

    An engine that changed on this machine comes first, because it surely can end differently; then the newest release
    of each framework.

    Args:
        releases: new ones, lowest version first.
        models: all that wait.
        versions: of the installed engines, by name.
    """
    newest = {release.framework: release for release in releases}
    found: dict[tuple[str, str], Retry] = {}
    for model in models:
        changed = changed_engines(model.rungs, versions)
        reasons = [f"{engine} {version}" for engine, version in sorted(changed.items())]
        reasons += [f"{name} {r.version}" for name, r in newest.items() if helps(name, model)]
        if reasons:
            retry = Retry(repo_id=model.repo_id, commit_hash=model.commit_hash, because=reasons[0])
            found.setdefault((model.repo_id, model.commit_hash), retry)
    return list(found.values())


def helped(framework: str, retries: Sequence[Retry], models: Sequence[Waiting]) -> list[str]:
    """The repo_ids among the retries that a release of `framework` may help."""
    wanted = {m.repo_id for m in models if helps(framework, m)}
    return [r.repo_id for r in retries if r.repo_id in wanted]


def installed_note(framework: str, versions: Mapping[str, str]) -> list[str]:
    """A line about the engines here that are built on the framework; nothing when there is none."""
    name = framework.partition("/")[2].lower()
    here = [f"{engine} {version.partition('+')[0]}" for engine, version in versions.items() if engine.startswith(name)]
    return [f"installed here: {', '.join(here)}; a new engine is tried as soon as it is installed"] if here else []
