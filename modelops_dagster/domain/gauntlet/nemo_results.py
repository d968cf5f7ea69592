"""What NeMo Evaluator writes: `results.yml` in 0.2; `eval-*.json` with `results.jsonl` beside it in 0.3."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.foreign_documents import field, moment, number, share, with_stderr
from modelops_dagster.domain.gauntlet.imported import ImportedAnswer, ImportedTask
from modelops_dagster.domain.gauntlet.report import Metric
from modelops_dagster.domain.gauntlet.samples import canonical, digest

TOOL = "NeMo Evaluator"
# what names the model or where it answers, and what changes with every run, is no part of the instrument
NO_SETTINGS = ("model", "model_id", "model_url", "url", "api_key", "output_dir", "run_id")


def nemo_bundle(
    bundle: Mapping[str, Any], where: str, source: str, lines: Sequence[tuple[str, Mapping[str, Any]]]
) -> ImportedTask:
    """The one benchmark of a 0.3 bundle, with the lines of the `results.jsonl` beside it.

    Raises:
        InvalidSpec: another tool's document, a line that lacks its problem or reward, or no number at all.
    """
    benchmark = field(bundle, "benchmark", dict, where, TOOL)
    name = field(benchmark, "name", str, where, TOOL)
    scores = field(benchmark, "scores", dict, where, TOOL)
    config = field(bundle, "config", dict, where, TOOL)
    scored_at = moment(field(bundle, "timestamp", str, where, TOOL), where)
    answers = tuple(_answer(name, line, place) for place, line in lines)
    twice = [key for key, n in Counter((a.sample_id, a.epoch) for a in answers).items() if n > 1]
    if twice:
        raise InvalidSpec(f"{lines[0][0].split(':')[0]} holds problem {twice[0][0]} twice in one repeat; run it again.")
    asked = int(number(benchmark.get("samples")) or 0)
    metrics = [
        Metric(
            name=metric,
            value=value,
            ci_low=number(found.get("ci_lower")),
            ci_high=number(found.get("ci_upper")),
            n=asked,
        )
        for metric, found in scores.items()
        if isinstance(found, dict) and (value := number(found.get("value"))) is not None
    ]
    for category, found in (benchmark.get("categories") or {}).items():
        if (mean := number(found.get("mean_reward"))) is not None:
            metrics.append(Metric(name=f"mean_reward/{category}", value=mean, n=int(number(found.get("n")) or 0)))
    if not metrics:
        raise InvalidSpec(f"{where} holds no score with a number; give the bundle of a run that ended.")
    return ImportedTask(
        tool="nemo",
        version=str(bundle.get("sdk_version") or "unknown"),
        task=name,
        questions=digest([name, asked]),
        configuration=digest(_settings(config)),
        metrics=tuple(metrics),
        answers=answers,
        n_samples=len(answers) or asked,
        scored_at=scored_at,
        source=source,
    )


def nemo_results(results: Mapping[str, Any], where: str, source: str, scored_at: datetime) -> list[ImportedTask]:
    """Every task and group of a 0.2 `results.yml`; the file does not say when, so `scored_at` is the caller's.

    Raises:
        InvalidSpec: another tool's document, or no number at all.
    """
    config = field(results, "config", dict, where, TOOL)
    found = field(results, "results", dict, where, TOOL)
    versions = (results.get("metadata") or {}).get("versioning") or {}
    version = str(versions.get("nemo_evaluator") or f"git {results.get('git_hash') or 'unknown'}")
    tasks = []
    for name, body in {**dict(_groups(found.get("groups"))), **(found.get("tasks") or {})}.items():
        metrics = _task_metrics(body or {})
        if metrics:
            tasks.append(
                ImportedTask(
                    tool="nemo",
                    version=version,
                    task=name,
                    questions=digest([config.get("type"), name]),
                    configuration=digest(_settings(config)),
                    metrics=tuple(metrics),
                    n_samples=max(metric.n for metric in metrics),
                    scored_at=scored_at,
                    source=source,
                )
            )
    if not tasks:
        raise InvalidSpec(f"{where} holds no score with a number; give the results of a run that ended.")
    return tasks


def _groups(groups: Mapping[str, Any] | None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, body in (groups or {}).items():
        yield f"{prefix}{name}", body
        yield from _groups((body or {}).get("groups"), f"{prefix}{name}/")


def _task_metrics(body: Mapping[str, Any]) -> list[Metric]:
    out = []
    for metric, made in (body.get("metrics") or {}).items():
        for score, found in ((made or {}).get("scores") or {}).items():
            if isinstance(found, dict) and (value := number(found.get("value"))) is not None:
                stats = found.get("stats") or {}
                n = int(number(stats.get("count")) or 0)
                name = metric if metric == score else f"{metric}/{score}"
                out.append(with_stderr(name, value, number(stats.get("stderr")), n))
    return out


def _answer(task: str, line: Mapping[str, Any], where: str) -> ImportedAnswer:
    problem = str(field(line, "problem_idx", (int, str), where, TOOL))
    reward = field(line, "reward", (int, float), where, TOOL)
    details = line.get("scoring_details") if isinstance(line.get("scoring_details"), dict) else {}
    metadata = line.get("metadata") if isinstance(line.get("metadata"), dict) else {}
    said = line.get("model_response")
    prompt, expected = line.get("prompt"), line.get("expected_answer")
    extracted = line.get("extracted_answer")
    category = (metadata or {}).get("category") or (details or {}).get("category") or task
    return ImportedAnswer(
        sample_id=problem,
        item=canonical([problem, prompt, expected]),
        epoch=int(number(line.get("repeat")) or 0),
        category=str(category),
        asked=prompt if prompt is None or isinstance(prompt, str) else canonical(prompt),
        said=extracted if said is None and isinstance(extracted, str) else said if isinstance(said, str) else None,
        score=share(reward),
        explanation=canonical({"target": expected, "reward": reward, "extracted": extracted}),
        latency_ms=number(line.get("latency_ms")),
    )


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in NO_SETTINGS}
