"""What lm-evaluation-harness writes with `--log_samples`: `results_<time>.json` and `samples_<task>_<time>.jsonl`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gauntlet.foreign_documents import field, number, share, with_stderr
from modelops_dagster.domain.gauntlet.imported import ImportedAnswer, ImportedTask
from modelops_dagster.domain.gauntlet.report import Metric
from modelops_dagster.domain.gauntlet.samples import canonical, digest
from modelops_dagster.domain.hub import COMMIT_HASH

TOOL = "lm-eval"
# of the run: what changes a score beside the task's own settings. The arguments of the model are left out, since they
# may hold a key and name what is measured, not how.
SETTINGS = ("model", "limit", "gen_kwargs", "random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
PROMPTS = ("system_instruction_sha", "chat_template_sha", "fewshot_as_multiturn")
COUNTED = ("sample_len", "samples")

Lines = Sequence[tuple[str, Mapping[str, Any]]]
"""The lines of a samples file, each with its place for messages."""


def lm_eval_tasks(
    results: Mapping[str, Any], where: str, source: str, samples: Mapping[str, Lines]
) -> tuple[list[ImportedTask], str | None]:
    """Every task and group of a results file.

    Args:
        results: the document.
        where: its name, for messages.
        source: digest of the file.
        samples: the lines of the samples files beside it, by task.

    Returns:
        The tasks, and the commit of the model where the tool knew it.

    Raises:
        InvalidSpec: another tool's document, or one without a number.
    """
    scores = field(results, "results", dict, where, TOOL)
    versions = field(results, "versions", dict, where, TOOL)
    config = field(results, "config", dict, where, TOOL)
    scored_at = datetime.fromtimestamp(field(results, "date", (int, float), where, TOOL), UTC)
    version = str(results.get("lm_eval_version") or f"git {results.get('git_hash') or 'unknown'}")
    members = results.get("group_subtasks") or {}
    shared = {k: config.get(k) for k in SETTINGS} | {k: results.get(k) for k in PROMPTS}
    tasks = []
    for name in scores:
        metrics = _metrics(scores[name], _count(results, name, scores[name]))
        if not metrics:
            continue
        own = {n: _settings(results, n) for n in (name, *members.get(name, ()))}
        asked = {n: [versions.get(n), (results.get("task_hashes") or {}).get(n)] for n in own}
        lines = samples.get(name, ())
        tasks.append(
            ImportedTask(
                tool="lm-eval",
                version=version,
                task=name,
                questions=digest(asked),
                configuration=digest([shared, own]),
                metrics=tuple(metrics),
                answers=tuple(_answer(name, line, place) for place, line in lines),
                n_samples=_count(results, name, scores[name]),
                scored_at=scored_at,
                source=source,
            )
        )
    if not tasks:
        raise InvalidSpec(f"{where} holds no metric with a number; give the results of a run that ended.")
    sha = config.get("model_sha")
    return tasks, sha if isinstance(sha, str) and COMMIT_HASH.fullmatch(sha) else None


def _metrics(scores: Mapping[str, Any], n: int) -> list[Metric]:
    """Keys are `metric,filter`; of the usual filter, `none`, only the metric stays."""
    out = []
    for key, value in scores.items():
        metric, _, chain = key.partition(",")
        if not chain or metric.endswith("_stderr") or (found := number(value)) is None:
            continue
        name = metric if chain == "none" else f"{metric}/{chain}"
        out.append(with_stderr(name, found, number(scores.get(f"{metric}_stderr,{chain}")), n))
    return out


def _count(results: Mapping[str, Any], name: str, scores: Mapping[str, Any]) -> int:
    counted = (results.get("n-samples") or {}).get(name) or {}
    told = counted.get("effective") or next((scores[k] for k in COUNTED if isinstance(scores.get(k), int)), 0)
    return int(told)


def _settings(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    # `metadata` repeats the arguments of the model and says where the file lay
    config = (results.get("configs") or {}).get(name) or {}
    return {k: v for k, v in config.items() if k != "metadata"} | {"shots": (results.get("n-shot") or {}).get(name)}


def _answer(task: str, line: Mapping[str, Any], where: str) -> ImportedAnswer:
    doc_id = str(field(line, "doc_id", (int, str), where, TOOL))
    said = field(line, "filtered_resps", list, where, TOOL)
    names = field(line, "metrics", list, where, TOOL)
    chain = line.get("filter") or "none"
    values = {str(name): line.get(name) for name in names}
    hashes = [line.get(k) for k in ("doc_hash", "prompt_hash", "target_hash")]
    return ImportedAnswer(
        sample_id=doc_id if chain == "none" else f"{doc_id}/{chain}",
        item=canonical(hashes if any(hashes) else [doc_id, line.get("target")]),
        category=task,
        asked=_prompt(line.get("arguments")),
        said=said[0] if len(said) == 1 and isinstance(said[0], str) else canonical(said),
        score=next((s for value in values.values() if (s := share(value)) is not None), None),
        explanation=canonical({"target": line.get("target"), **values}),
    )


def _prompt(arguments: Any) -> str | None:
    """The first request's prompt; a task of choices makes one request per choice, with the same prompt."""
    first = next(iter(arguments.values()), None) if isinstance(arguments, dict) else None
    prompt = first.get("arg_0") if isinstance(first, dict) else None
    return prompt if prompt is None or isinstance(prompt, str) else canonical(prompt)
