"""Read a `modelops eval --config` file, and find the suites its tasks mean."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from modelops_dagster.clients.yaml_files import read_yaml
from modelops_dagster.domain.errors import InvalidSpec, UserError
from modelops_dagster.domain.gauntlet.eval_config import EvalPlan, EvalTask, eval_plan, overridden
from modelops_dagster.domain.gauntlet.interceptors import Chain
from modelops_dagster.domain.gauntlet.suite import Suite


def load_plan(path: Path, overrides: Sequence[str], variables: Mapping[str, str]) -> EvalPlan:
    """The plan in a file, with `-o a.b=c` applied.

    Raises:
        InvalidSpec: the file cannot be read, or something in it does not hold.
    """
    try:
        document = read_yaml(path, field="--config")
    except FileNotFoundError:
        raise InvalidSpec(f"{path} does not exist: give the path of an evaluation file.", field="--config") from None
    if not isinstance(document, dict):
        raise InvalidSpec(f"{path} is not a mapping: docs/examples/bring_your_own.yaml shows one.", field="--config")
    try:
        return eval_plan(overridden(document, overrides, _value), variables)
    except InvalidSpec as error:
        raise InvalidSpec(f"{path}: {error.sentence}", field=error.field) from None


def make_folders(work: Path, chain: Chain) -> None:
    """Make every folder that a run writes to, so that one that cannot be made is told before anything is asked.

    Raises:
        UserError: one cannot be made, or nothing can be written there.
    """
    links = (*chain.interceptors, *chain.hooks)
    named = [link.given.get(key) for link in links for key in ("cache_dir", "output_dir")]
    for folder in (work, *(Path(name) for name in named if name)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be written to ({error.strerror}): name another folder.") from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{folder} cannot be written to (its rights forbid it): name another folder.")


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


class Asked(NamedTuple):
    """A suite to ask. `stands_in_for` is the public benchmark in whose place it is asked, or None."""

    suite: Suite
    stands_in_for: str | None = None


def asked_suites(plan: EvalPlan, suites: Sequence[Suite]) -> tuple[Asked, ...]:
    """The suite of each task, each once, with the task's parameters; every suite when there are no tasks.

    Raises:
        InvalidSpec: a task is neither a suite nor a benchmark that one stands in for.
    """
    if not plan.tasks:
        return tuple(Asked(plan.params.applied(s)) for s in suites)
    out: dict[str, Asked] = {}
    for task in plan.tasks:
        found = _suite_of(task, suites)
        if found is None:
            known = ", ".join(s.name for s in suites)
            raise InvalidSpec(
                f"There is no suite {task.name!r}, and none stands in for a benchmark of that name: use {known}, or "
                f"put {task.name}.yaml and {task.name}.jsonl into the folder of suites.",
                field="evaluation.tasks",
            )
        found = found._replace(suite=task.params.applied(found.suite))
        previous = out.get(found.suite.name)
        names = [n for n in (previous.stands_in_for if previous else None, found.stands_in_for) if n]
        out[found.suite.name] = found._replace(stands_in_for=", ".join(names) or None)
    return tuple(out.values())


def _suite_of(task: EvalTask, suites: Sequence[Suite]) -> Asked | None:
    wanted = task.name.rsplit("://", 1)[-1].rsplit(".", 1)[-1]  # `lm-eval://gsm8k`, `harness.gsm8k`
    for suite in suites:
        if suite.name in (task.name, wanted):
            return Asked(suite)
    for suite in suites:
        if wanted.lower() in suite.spec.stands_in_for:
            return Asked(suite, task.name)
    return None
