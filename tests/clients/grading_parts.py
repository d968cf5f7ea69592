"""A suite with a rubric and graders for it."""

from typing import Any

from modelops_dagster.domain.gauntlet.admission import Calibration, Interval
from modelops_dagster.domain.gauntlet.grading import Grader, GraderSpec
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.suite import Suite, SuiteSpec
from tests.fakes.openai_server import OpenAIServer

RUBRIC = {"asks": "Judge the text.", "criteria": {"supported": "It is true.", "brief": "It is short."}}


def written(count: int = 8, categories: tuple[str, ...] = ("summary/x", "reply/x"), **changes: Any) -> Suite:
    """A suite of which no code can score anything; the categories take turns."""
    spec = {
        "name": "writing", "kind": "dataset", "title": "Writing", "samples": "writing.jsonl",
        "rubrics": {"text": RUBRIC}, "requests": {"concurrency": 4, "attempt_timeout_s": 5}, **changes,
    }  # fmt: skip
    samples = [
        Sample.model_validate(
            {
                "id": f"w{i}",
                "input": f"Write text number {i}",
                "target": f"point {i}",
                "metadata": {
                    "category": categories[i % len(categories)],
                    "scorer": "rubric",
                    "params": {"rubric": "text"},
                },
            }
        )
        for i in range(count)
    ]
    return Suite(spec=SuiteSpec.model_validate(spec), samples=tuple(samples))


def grader(server: OpenAIServer, name: str = "strict", **changes: Any) -> Grader:
    """A grader at the server's address."""
    known = {k: changes.pop(k) for k in ("endpoints", "revisions") if k in changes}
    spec = GraderSpec.model_validate({"name": name, "url": server.url, "model": f"{name}-model", **changes})
    return Grader(spec=spec, url=server.url, model=f"{name}-model", **known)


def calibrated(grader: Grader, category: str, **changes: Any) -> Calibration:
    """An admission: 200 labels of a grader with sensitivity 0.95 and specificity 0.9."""

    def interval(value: float, low: float, high: float) -> Interval:
        return Interval(value=value, low=low, high=high)

    known = {
        "grader": grader.uid, "category": category, "answers": 200, "labels": 200, "n_right": 100, "n_wrong": 100,
        "sensitivity": interval(0.95, 0.89, 0.98), "specificity": interval(0.9, 0.83, 0.95),
        "kappa": interval(0.85, 0.77, 0.93), "skill": interval(0.85, 0.75, 0.91), "admitted": True,
    }  # fmt: skip
    return Calibration.model_validate(known | changes)


def number_in(body: Any) -> int:
    """Which text was asked for."""
    return int(str(body["messages"][-1]["content"]).split()[-1])


def by_number(body: Any) -> str:
    """A candidate whose even texts are good."""
    n = number_in(body)
    return f"{'good' if n % 2 == 0 else 'bad'} text {n}"
