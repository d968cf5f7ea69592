"""The quantizer's worker as a process: started, watched, ended, and its result read back. No Dagster here."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from modelops_dagster.clients.checkpoints import CheckpointStore
from modelops_dagster.clients.checkpoints.derived import ensure_derived
from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.clients.quantization_recipes import RecipeFolder
from modelops_dagster.clients.worker_tasks import Say, TaskEnd, TaskLimits, TaskRunner
from modelops_dagster.domain.checkpoints import Checkpoint, Derivation
from modelops_dagster.domain.errors import EngineMissing, InvalidSpec, QuantizationFailed, UserError
from modelops_dagster.domain.model_config import ModelConfig
from modelops_dagster.domain.quantization import Recipe, derived_name
from modelops_dagster.domain.recovery import Findings, Recovery, RecoveryPolicy, judge_recovery

ENGINE = "llmcompressor"


class Elsewhere(Protocol):
    """Where tasks are done, when it is not a process of this machine."""

    def made_by(self) -> str:
        """What does them, for the lineage."""

    def run(self, what: str, request: Mapping[str, Any]) -> TaskEnd:
        """Do one task, to its end."""


class Quantizer:
    """Quantizes checkpoints, and compares them with their originals, in the environment of `engine`.

    Args:
        registry: where that environment is.
        recipes: recipes, texts and policies.
        work: folder for requests, logs and results; one subfolder a task, removed when it succeeded.
        memory_limit_bytes: resident memory of the worker at which it is ended; None for no limit of ours.
        timeout_s: longest a task may take.
        elsewhere: does the tasks instead of a process of this machine; the environment need not be here then.
    """

    def __init__(
        self,
        registry: EngineRegistry,
        recipes: RecipeFolder,
        work: Path,
        *,
        memory_limit_bytes: int | None = None,
        timeout_s: float = 6 * 3600,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._elsewhere = elsewhere
        self._registry, self._recipes, self._work = registry, recipes, work
        self._memory_limit_bytes, self._timeout_s = memory_limit_bytes, timeout_s

    @property
    def engine(self) -> str:
        """An operator's engine that extends `llmcompressor`, where there is one, else that itself."""
        known = self._registry.manifests()
        return next((name for name, manifest in known.items() if manifest.extends == ENGINE), ENGINE)

    def missing(self) -> str | None:
        """Why nothing can be quantized here, as half a sentence; None when it can."""
        engine = self.engine
        if engine not in self._registry.manifests():
            return f"there is no engine {engine}"
        if self._registry.environment(engine) is None:
            return f"the engine {engine} is not installed; run `modelops engines install {engine}`"
        return None

    def accelerator(self) -> Literal["cpu", "cuda"]:
        """What the quantizer's environment computes on."""
        manifest = self._registry.manifests().get(self.engine)
        return "cuda" if manifest is not None and "cuda" in manifest.accelerators else "cpu"

    def quantize(
        self,
        source: Checkpoint,
        recipe: Recipe,
        store: CheckpointStore,
        say: Say,
        environ: Mapping[str, str] | None = None,
    ) -> Checkpoint:
        """Make the checkpoint that `recipe` makes of `source`, unless the store has it.

        Args:
            source: a whole checkpoint, as released.
            recipe: how.
            store: where it is kept.
            say: receives lines of progress.
            environ: more variables for the worker, such as those of a Dagster Pipes session.

        Raises:
            UserError: the source is no longer there, or is quantized already.
            EngineMissing: the quantizer is not installed.
            QuantizationFailed: it could not be made; says why. The store is as it was.
        """
        if store.read(Path(source.directory)) is None:
            repo_id = source.revision.repo_id
            raise UserError(f"{source.directory} is gone: fetch it again with `modelops onboard {repo_id}`.")
        _require_unquantized(source)
        made_by = self._made_by()
        path, digest = None, None
        if recipe.calibration is not None:
            path, digest = self._recipes.texts(recipe.calibration.file)

        def make(folder: Path) -> Derivation:
            request = _request(source, recipe, path, folder)
            result = self._run(f"{source.revision} by {recipe.name}", request, say, environ or {})
            return Derivation(
                source_digest=source.digest,
                recipe=recipe.name,
                recipe_digest=recipe.digest,
                calibration_digest=digest,
                calibration_samples=result["samples"],
                calibration_tokens=result["tokens"],
                made_by=made_by,
                path=result["path"],
                group_size=result["group_size"],
                notes=tuple(result["notes"]),
                wall_s=result["wall_s"],
                cpu_s=result["cpu_s"],
                peak_rss_bytes=result["peak_rss_bytes"],
                taken_away=result.get("taken_away", 0),
                lost_gpu_hours=result.get("lost_gpu_hours", 0.0),
            )

        name = derived_name(source, recipe, digest, made_by)
        return ensure_derived(
            store, source, name, recipe.scheme, make, lambda: say("another process quantizes it; waiting")
        )

    def compare(
        self,
        source: Checkpoint,
        candidate: Checkpoint,
        policy: RecoveryPolicy,
        lane: str,
        say: Say,
        environ: Mapping[str, str] | None = None,
        known: Recovery | None = None,
    ) -> Recovery:
        """Compare a quantized checkpoint with its original on the policy's held-out texts, and judge it.

        `known` is returned as it is when it judged the same bytes by the same policy on the same texts.

        Raises:
            EngineMissing, QuantizationFailed: the comparison itself broke; says nothing about the checkpoint.
        """
        begun = time.monotonic()
        path, texts_digest = self._recipes.texts(policy.texts)
        same = (candidate.digest, source.digest, policy.digest, texts_digest)
        if known is not None and (known.digest, known.source_digest, known.policy_digest, known.texts_digest) == same:
            return known
        request = {
            "task": "compare",
            "original": source.directory,
            "candidate": candidate.directory,
            "scheme": candidate.scheme,
            "texts": str(path),
            "window_tokens": policy.window_tokens,
            "max_windows": policy.max_windows,
        }
        self._made_by()
        result = self._run(f"{candidate.revision} {candidate.scheme}", request, say, environ or {})
        findings = Findings.model_validate({k: v for k, v in result.items() if k in Findings.model_fields})
        outcome, reason, criteria = judge_recovery(policy, findings, candidate.scheme)
        return Recovery(
            revision=candidate.revision,
            lane=lane,
            scheme=candidate.scheme,
            digest=candidate.digest,
            source_digest=source.digest,
            outcome=outcome,
            reason=reason,
            criteria=criteria,
            findings=findings,
            policy=policy.name,
            policy_digest=policy.digest,
            texts_digest=texts_digest,
            judged_at=datetime.now(UTC),
            seconds=round(time.monotonic() - begun, 1),
        )

    def _made_by(self) -> str:
        """Engine, version and digest of its lock. Raises: EngineMissing when it is not installed."""
        if self._elsewhere is not None:
            return self._elsewhere.made_by()
        engine = self.engine
        environment = self._registry.environment(engine)
        if environment is None:
            raise EngineMissing(f"Engine {engine} is not installed; run `modelops engines install {engine}`.")
        return f"{engine} {self._registry.version(engine)}+{environment.name.rpartition('-')[2]}"

    def _run(self, what: str, request: dict[str, Any], say: Say, environ: Mapping[str, str]) -> dict[str, Any]:
        """One task, elsewhere or in a process with a session of its own; returns its result. Nothing of it is left."""
        limits = TaskLimits(self._timeout_s, self._memory_limit_bytes)
        # in a Pipes session the worker tells the step itself
        tell: Say = _nothing if "DAGSTER_PIPES_CONTEXT" in environ else say
        if self._elsewhere is not None:
            end = self._elsewhere.run(what, request)
        else:
            end = TaskRunner(self._registry, self.engine, self._work, limits, environ).run(request, tell)
        if end.result is not None:
            end.remove()
            return end.result
        hint = "; raise MODELOPS_QUANTIZE_TIMEOUT_S" if end.reason == "timeout" else ""
        raise QuantizationFailed(
            f"{what}: {end.why}{hint}; the whole log is {end.log}.", reason=end.reason, log_tail=end.log_tail
        )


def _nothing(line: str) -> None:
    del line


def _require_unquantized(source: Checkpoint) -> None:
    config = json.loads((Path(source.directory) / "config.json").read_text())
    by = ModelConfig.from_json(config).quantization or ("unknown" if "quantization_config" in config else None)
    if source.scheme != "raw" or by is not None:
        raise InvalidSpec(
            f"{source.revision} is quantized already ({by or source.scheme}), and quantizing it again would lose more; "
            "serve it as it is.",
            field="checkpoint",
        )


def _request(source: Checkpoint, recipe: Recipe, texts: Path | None, output: Path) -> dict[str, Any]:
    """What the worker is given to quantize."""
    calibration = recipe.calibration
    return {
        "task": "quantize",
        "checkpoint": source.directory,
        "output": str(output),
        "recipe": recipe.model_dump(mode="json"),
        "calibration": str(texts) if texts else None,
        "samples": calibration.samples if calibration else 0,
        "max_tokens": calibration.max_tokens if calibration else 0,
        "seed": calibration.seed if calibration else 1,
    }
