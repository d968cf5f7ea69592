"""Holding a rehearsal: small files, engines that make weights up, and an end when the real ones are here."""

import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Protocol, Self

from modelops_dagster.clients.hub import HubClient
from modelops_dagster.clients.ladder import why_it_failed
from modelops_dagster.clients.rung_specs import EnginesPort, rung_specs
from modelops_dagster.domain.capacity import Placement
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.domain.endpoints import EndpointSpec, EndpointStatus, Priority
from modelops_dagster.domain.engines import Rung, RungResult, StartOverlay
from modelops_dagster.domain.errors import EngineMissing, IntegrityError, ModelOpsError
from modelops_dagster.domain.hub import Release
from modelops_dagster.domain.lanes import endpoint_name, served_model_name
from modelops_dagster.domain.rehearsal import Rehearsal
from modelops_dagster.domain.repo_files import (
    checkpoint_files,
    git_blob_sha1,
    has_code,
    is_weight,
    mismatch,
    sha256_of,
)

LANE = "rehearsal"  # in the name of its endpoint
POLL_S = 0.5
END_TIMEOUT_S = 30.0  # longest that the weights wait for a rehearsal to make room


class RehearsalController(Protocol):
    """What a rehearsal needs of a controller; `client.ModelOpsClient` is the real one."""

    def apply(self, spec: EndpointSpec) -> EndpointStatus: ...

    def get(self, name: str) -> EndpointStatus | None: ...

    def delete(self, name: str) -> EndpointStatus: ...

    def wait_deleted(self, name: str, timeout_s: float) -> None: ...

    def logs(self, name: str, tail: int = 200) -> str: ...


class Rehearsing:
    """Tries the rungs in a thread while the `with` block runs; leaving the block ends it, finished or not.

    Nothing that goes wrong here is raised: a rehearsal is advice, and the note of its result says what happened.

    Args:
        release: whose small files are fetched.
        hub: where from.
        controller: starts the engines.
        registry: says what arguments make weights up.
        folder: for the small files; removed afterwards.
        rungs: the ladder, without what is known to be left. It ends at the first rung that loads.
        versions: of the engines installed, by name.
        max_context: tokens.
        timeout_s: of one rung.
        progress: receives a line whenever something changes.
        placements, overlays: as `ladder.climb` has them.
    """

    def __init__(
        self,
        release: Release,
        hub: HubClient,
        controller: RehearsalController,
        registry: EnginesPort,
        folder: Path,
        rungs: Sequence[Rung],
        versions: Mapping[str, str],
        *,
        max_context: int,
        timeout_s: float,
        progress: Callable[[str], None],
        code_allowed: bool = False,
        placements: Mapping[str, Placement] = MappingProxyType({}),
        overlays: Mapping[str, StartOverlay] | None = None,
    ) -> None:
        self._release, self._hub, self._controller, self._registry = release, hub, controller, registry
        self._folder, self._rungs, self._versions, self._timeout_s = folder, rungs, versions, timeout_s
        self._max_context, self._progress, self._code_allowed = max_context, progress, code_allowed
        self._placements, self._overlays = placements, overlays
        self._name = endpoint_name(release.revision, LANE)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rehearsal", daemon=True)
        self._results: list[RungResult] = []
        self._note = ""
        self._begun = self._ended = 0.0

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(2 * END_TIMEOUT_S)

    def result(self) -> Rehearsal:
        """What is known by now; complete once the block was left."""
        ended = self._ended or time.monotonic()
        return Rehearsal(
            revision=self._release.revision,
            results=tuple(self._results),
            note=self._note,
            seconds=round(ended - self._begun, 1),
        )

    def _run(self) -> None:
        try:
            self._try_all(self._stand_in())
        except Exception as error:  # advice only: whatever it is, the weights go on
            said = error.sentence if isinstance(error, ModelOpsError) else f"{type(error).__name__}: {error}"
            self._note = f"It broke off: {said}"
        finally:
            self._ended = time.monotonic()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _stand_in(self) -> Checkpoint:
        """A checkpoint of the small files alone."""
        revision = self._release.revision
        files = checkpoint_files(self._release, code_allowed=self._code_allowed)
        small = [f for f in files if not is_weight(f.path)]
        shutil.rmtree(self._folder, ignore_errors=True)
        for file in small:
            target = self._folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            self._hub.fetch_file(revision, file, target)
            content = target.read_bytes()
            if problem := mismatch(file, len(content), sha256_of(content), git_blob_sha1(content)):
                raise IntegrityError(f"{file.path} of {revision} is not what the Hub lists ({problem}).")
        return Checkpoint(
            revision=revision,
            scheme="raw",
            directory=str(self._folder),
            digest=f"no weights of {revision.commit_hash}",
            size_bytes=sum(f.size_bytes for f in small),
            max_context=self._release.max_context,
            architectures=self._release.architectures,
            has_chat_template=self._release.has_chat_template,
            remote_code=has_code(f.path for f in small),
        )

    def _try_all(self, stand_in: Checkpoint) -> None:
        given = {rung: (self._overlays or {}).get(rung.engine, StartOverlay()) for rung in self._rungs}
        served = served_model_name(self._release.revision, LANE)
        specs = rung_specs(stand_in, given, self._registry, self._name, served, self._max_context, self._placements)
        try:
            for rung, spec in specs.items():
                if self._over.is_set():
                    self._note = self._note or f"The weights were here before {rung.label} was tried."
                    return
                found = self._try(rung, spec)
                if found is not None:
                    self._results.append(found)
                    self._progress(f"rehearsal: {rung.label}: {found.reason or 'loads'}. {found.detail}".strip())
                    if found.reason is None:
                        return
        finally:
            self._end()

    def _try(self, rung: Rung, spec: EndpointSpec) -> RungResult | None:
        """Start one engine; None when it cannot make weights up, is not here, or was not given the time."""
        try:
            arguments = self._registry.manifest(rung.engine).made_up_weights_args
        except EngineMissing:
            return None
        if not arguments or self._registry.missing(rung.engine) is not None:
            return None
        begun = time.monotonic()
        self._progress(f"rehearsal: {rung.label}: starting with made-up weights")
        made_up = {"engine_args": (*spec.engine_args, *arguments), "priority": Priority.RESEARCH}
        self._controller.apply(spec.model_copy(update=made_up))
        while (status := self._controller.get(self._name)) is not None:
            waited = time.monotonic() - begun
            result = RungResult(
                rung=rung.label,
                seconds=round(waited, 1),
                engine_version=self._versions.get(rung.engine, ""),
            )
            if status.url is not None:
                return result.model_copy(update={"detail": "It loads the architecture with made-up weights."})
            if status.queued:  # others need the accelerators more
                self._note = f"{rung.label} was not tried. {status.message}"
                return None
            if status.failed or waited > self._timeout_s:
                reason, detail = why_it_failed(self._controller.logs, status, timed_out=not status.failed)
                return result.model_copy(update={"reason": reason, "detail": f"With made-up weights: {detail}"})
            if self._over.wait(POLL_S):
                self._note = f"The weights were here before {rung.label} had started."
                return None
        return None

    def _end(self) -> None:
        """No engine of ours is left when the real weights are to be loaded."""
        if self._controller.get(self._name) is not None:
            self._controller.delete(self._name)
            self._controller.wait_deleted(self._name, END_TIMEOUT_S)
