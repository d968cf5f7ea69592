"""Scores that another tool made of a model: shown beside ours, never compared with them, and named by no policy.

Three things mark them: the suite is `<tool>:<task>`, a name that neither a suite of ours nor a policy's criterion can
have; engine and endpoint are `imported`; and the instrument is a digest of the tool, its version, the task and how it
was configured.
"""

from datetime import datetime
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.gauntlet.report import Metric
from modelops_dagster.domain.gauntlet.rows import Row, metric_columns
from modelops_dagster.domain.gauntlet.samples import canonical, digest
from modelops_dagster.domain.hub import ModelRevision
from modelops_dagster.domain.values import Value

Tool = Literal["lm-eval", "nemo", "inspect"]
IMPORTED = "imported"


class ImportedAnswer(Value):
    """One answer as the tool logged it."""

    sample_id: str
    item: str = Field(description="what tells the question from others of the task, in the tool's own terms")
    epoch: int = 0
    category: str
    asked: str | None = Field(default=None, description="the prompt, as far as the tool logged it")
    said: str | None = None
    score: float | None = Field(description="None when the tool gives no number, or one that is no share")
    explanation: str = ""
    latency_ms: float | None = None


class ImportedTask(Value):
    """One task that a tool scored, with whatever answers it logged."""

    tool: Tool
    version: str = Field(description="of the tool")
    task: str
    questions: str = Field(description="digest of what the tool says of the questions")
    configuration: str = Field(description="digest of how the tool asked and scored")
    metrics: tuple[Metric, ...] = Field(min_length=1)
    answers: tuple[ImportedAnswer, ...] = ()
    n_samples: int
    scored_at: datetime
    source: str = Field(description="digest of the file that the scores are from: what makes a second import the same")

    @property
    def suite(self) -> str:
        return f"{self.tool}:{self.task}"

    @property
    def parts(self) -> dict[str, str]:
        """The instrument: everything that may change a score but the model, as far as the tool tells."""
        return {
            "kind": IMPORTED,
            "tool": self.tool,
            "version": self.version,
            "task": self.task,
            "questions": self.questions,
            "configuration": self.configuration,
        }

    @property
    def n_unscored(self) -> int:
        return sum(answer.score is None for answer in self.answers)

    def run_id(self, revision: ModelRevision, lane: str) -> str:
        """The same file imported for the same model is the same run."""
        what = [self.tool, self.source, revision.repo_id, revision.commit_hash, lane]
        return f"import-{digest(what).removeprefix('sha256:')[:16]}"


def imported_scores(task: ImportedTask, revision: ModelRevision, lane: str) -> list[Row]:
    """The task's rows of the table `scores`."""
    return [
        _shared(task, revision, lane)
        | {
            "scheme": IMPORTED,
            "instrument_parts": canonical(task.parts),
            **metric_columns(metric),
            "n_samples": task.n_samples,
            "n_unscored": task.n_unscored,
            "evaluated_at": task.scored_at,
        }
        for metric in task.metrics
    ]


def imported_samples(task: ImportedTask, revision: ModelRevision, lane: str) -> list[Row]:
    """The task's rows of the table `samples`."""
    return [
        _shared(task, revision, lane)
        | {
            "item_uid": digest([task.tool, task.task, answer.item]).removeprefix("sha256:"),
            "sample_id": answer.sample_id,
            "category": answer.category,
            "cluster": answer.sample_id,
            "weight": 1.0,
            "epoch": answer.epoch,
            "input": canonical(answer.asked or ""),
            "completion": answer.said,
            "outcome_class": _outcome(answer.score),
            "score": answer.score,
            "explanation": answer.explanation,
            "latency_ms": answer.latency_ms,
            "started_at": task.scored_at,
        }
        for answer in task.answers
    ]


def _shared(task: ImportedTask, revision: ModelRevision, lane: str) -> Row:
    return {
        "run_id": task.run_id(revision, lane),
        "repo_id": revision.repo_id,
        "commit_hash": revision.commit_hash,
        "lane": lane,
        "endpoint": IMPORTED,
        "engine": IMPORTED,
        "suite": task.suite,
        "suite_digest": task.questions,
        "instrument": digest(task.parts),
    }


def _outcome(score: float | None) -> str:
    return "unscored" if score is None else "correct" if score == 1 else "wrong"
