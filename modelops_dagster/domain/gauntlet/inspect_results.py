"""What Inspect writes: one task's eval log (log format 2, as JSON), read as a scored task."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelops_dagster.domain.gauntlet.foreign_documents import field, moment, number, share, with_stderr
from modelops_dagster.domain.gauntlet.imported import ImportedAnswer, ImportedTask
from modelops_dagster.domain.gauntlet.metrics import Scoring, mean_metric, share_metric
from modelops_dagster.domain.gauntlet.report import Metric
from modelops_dagster.domain.gauntlet.samples import canonical, digest

TOOL = "Inspect"
# A sample that one of these ended says nothing of the model. What it used up itself (messages, tokens, turns) does.
NOT_THE_MODELS = frozenset({"time", "working", "operator", "custom", "cost"})
WORDS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
# of the run's settings, those that can move a score
SETTINGS = (
    "limit", "sample_id", "sample_shuffle", "epochs", "epochs_reducer", "message_limit", "token_limit", "turn_limit",
)  # fmt: skip
OPERATIONAL = frozenset({"max_retries", "timeout", "attempt_timeout", "max_connections", "adaptive_connections"})


def inspect_task(log: Mapping[str, Any], where: str, source: str, code: str = "") -> ImportedTask:
    """The task of one log.

    A sample that failed, or that time or a budget ended, has no score, whatever Inspect gave it; one that was never
    begun is an answer without a score as well. Each scorer's mean, a metric
    by its name, is computed here from what is scored. Inspect's own, `scorer/metric`, stand beside it unless they count
    such a sample.

    Args:
        log: the document.
        where: its name, for messages.
        source: digest of the file.
        code: digest of the task's file, where it is known.

    Raises:
        InvalidSpec: another tool's document.
    """
    spec = field(log, "eval", dict, where, TOOL)
    name = field(spec, "task", str, where, TOOL)
    dataset = field(spec, "dataset", dict, where, TOOL)
    config = field(spec, "config", dict, where, TOOL)
    logged = [one for one in log.get("samples") or () if isinstance(one, dict)]
    scorers = list(dict.fromkeys(scorer for one in logged for scorer in one.get("scores") or ()))
    answers = [_answer(name, one, scorers) for one in logged]
    answers += _never_begun(name, dataset, config, answers)
    return ImportedTask(
        tool="inspect",
        version=str((spec.get("packages") or {}).get("inspect_ai") or "unknown"),
        task=name,
        questions=digest([name, spec.get("task_version"), sorted({answer.item for answer in answers if answer.asked})]),
        configuration=digest([code, _settings(log, spec, config)]),
        metrics=tuple(_metrics(log, logged, scorers, len(answers))),
        answers=tuple(answers),
        n_samples=len(answers),
        scored_at=moment((log.get("stats") or {}).get("completed_at") or spec.get("created") or "", where),
        source=source,
    )


def ended_badly(log: Mapping[str, Any]) -> str:
    """Why the run did not come to its end, as Inspect says it; empty when it did."""
    if log.get("status") == "success":
        return ""
    said = (log.get("error") or {}).get("message") or "no reason given"
    return f"{log.get('status')}: {' '.join(str(said).split())[:300]}"


def _lost(sample: Mapping[str, Any]) -> str:
    """Why the sample has no score that counts; empty when it may have one."""
    if error := sample.get("error"):
        if str(error.get("message")).startswith("Cancelled"):
            return "not answered: the run ended before"
        return " ".join(str(error.get("message")).split())[:300] or "an error without a message"
    limit = sample.get("limit") or {}
    if limit.get("type") in NOT_THE_MODELS:
        return f"ended by its {limit['type']} limit of {limit.get('limit'):g}"
    return "" if sample.get("scores") else "no scorer said anything"


def _value(score: Mapping[str, Any]) -> float | None:
    """A score as a share: Inspect's letters, words for yes and no, or a number from 0 to 1."""
    value = score.get("value")
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        return WORDS.get(value, WORDS.get(value.lower()))
    return share(value)


def _answer(task: str, sample: Mapping[str, Any], scorers: Sequence[str]) -> ImportedAnswer:
    """The sample with the score of the first scorer, as Inspect's own headline has it."""
    lost, scores = _lost(sample), sample.get("scores") or {}
    score = None if lost else _value(scores.get(scorers[0]) or {})
    said = {name: [one.get("value"), one.get("explanation")] for name, one in scores.items()}
    output = sample.get("output") or {}
    seconds = number(output.get("time"))
    asked = sample.get("input")
    return ImportedAnswer(
        sample_id=str(sample.get("id")),
        item=canonical([sample.get("id"), asked, sample.get("choices"), sample.get("target")]),
        epoch=int(number(sample.get("epoch")) or 1) - 1,
        category=str((sample.get("metadata") or {}).get("category") or task),
        asked=asked if isinstance(asked, str) else canonical(asked),
        said=output.get("completion") or None,
        score=score,
        explanation=lost or _finite({"target": sample.get("target"), **said}),
        latency_ms=None if seconds is None else seconds * 1000,
    )


def _never_begun(
    task: str, dataset: Mapping[str, Any], config: Mapping[str, Any], answers: Sequence[ImportedAnswer]
) -> Iterator[ImportedAnswer]:
    known = {(answer.sample_id, answer.epoch) for answer in answers}
    for epoch in range(int(number(config.get("epochs")) or 1)):
        for sample_id in map(str, dataset.get("sample_ids") or ()):
            if (sample_id, epoch) not in known:
                why = "never asked: the run ended before"
                yield ImportedAnswer(
                    sample_id=sample_id, item=sample_id, epoch=epoch, category=task, score=None, explanation=why
                )


def _metrics(
    log: Mapping[str, Any], logged: Sequence[Mapping[str, Any]], scorers: Sequence[str], planned: int
) -> Iterator[Metric]:
    lost = [one for one in logged if _lost(one)]
    kept = [one for one in logged if not _lost(one)]
    for scorer in scorers or ("score",):
        values = [(one, _value((one.get("scores") or {}).get(scorer) or {})) for one in kept]
        found = [Scoring(value, 1.0, str(one.get("id"))) for one, value in values if value is not None]
        yield mean_metric(scorer, found)
        if scorer == (scorers or ("score",))[0]:
            yield share_metric("scored_share", len(found), planned)
    if any(one.get("scores") for one in lost):
        return
    for made in (log.get("results") or {}).get("scores") or ():
        metrics = made.get("metrics") or {}
        for name, metric in metrics.items():
            value = number(metric.get("value"))
            if value is not None and name != "stderr":
                error = number((metrics.get("stderr") or {}).get("value")) if name in ("accuracy", "mean") else None
                n = int(number(made.get("scored_samples")) or len(kept))
                yield with_stderr(f"{made.get('name')}/{name}", value, error, n)


def _settings(log: Mapping[str, Any], spec: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    plan = log.get("plan") or {}
    return {
        "arguments": spec.get("task_args"),
        "steps": [[step.get("solver"), step.get("params")] for step in plan.get("steps") or ()],
        "generation": [
            {k: v for k, v in (made or {}).items() if k not in OPERATIONAL}
            for made in (plan.get("config"), spec.get("model_generate_config"))
        ],
        "scorers": [[one.get("name"), one.get("options")] for one in spec.get("scorers") or ()],
        "roles": {role: model.get("model") for role, model in (spec.get("model_roles") or {}).items()},
        "run": {k: config.get(k) for k in SETTINGS},
    }


def _finite(value: dict[str, Any]) -> str:
    """JSON without NaN, which Inspect writes for what a scorer could not tell."""

    def plain(one: Any) -> Any:
        if isinstance(one, list):
            return [plain(each) for each in one]
        return None if isinstance(one, float) and not math.isfinite(one) else one

    return canonical({key: plain(one) for key, one in value.items()})
