"""`modelops label` as a person types it."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from click.testing import CliRunner, Result

from modelops_dagster.assets.metadata import verdict_metadata
from modelops_dagster.cli import main
from modelops_dagster.clients.labels import land_labels, read_labels, said_by
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.attention import look_first
from modelops_dagster.domain.errors import UserError
from modelops_dagster.domain.verdicts.label_plan import waiting_for_labels
from tests.clients import calibrating
from tests.clients.calibrating import SUITE, decided, judging
from tests.clients.grading_parts import grader, written
from tests.clients.labelling_parts import Scene, judged
from tests.fakes.values import an_endpoint


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    found = judged(tmp_path, 4)
    found.write_suite(tmp_path / "suites")
    return found


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"MODELOPS_EVAL_DATASETS": str(tmp_path / "suites"), "MODELOPS_HOME": str(tmp_path), "NO_COLOR": "1"}


def run(environ: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(main.cli, ["label", *arguments], env=environ)


def test_out_to_a_file_and_back(scene: Scene, environ: dict[str, str], tmp_path: Path):
    path = tmp_path / "tasks.jsonl"
    out = run(environ, "--author", "ana", "--export", str(path))
    assert out.exit_code == 0 and "8 of 8 answers" in out.stdout
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps(line | {"said": "pass"}) for line in lines[:3]))
    back = run(environ, "--author", "ana", "--import", str(path), "--json")
    assert json.loads(back.stdout) == {"labels": 3}
    assert [label.author for label in read_labels(scene.store)] == ["ana"] * 3
    taken = run(environ, "--author", "ana", "--export", str(path))
    assert isinstance(taken.exception, UserError) and "is there already" in taken.exception.sentence
    again = run(environ, "--author", "ana", "--export", str(tmp_path / "rest.jsonl"), "--json")
    assert json.loads(again.stdout)["tasks"] == 5
    pairs = run(environ, "--author", "ana", "--pairs", "--export", str(tmp_path / "pairs.csv"), "--json")
    assert json.loads(pairs.stdout)["tasks"] == 4


def test_nothing_to_label_is_one_sentence(scene: Scene, environ: dict[str, str], tmp_path: Path):
    for arguments, said in ((("--run", "r9"), "of run 'r9'"), (("--repo-id", "no/model"), "of no/model")):
        result = run(environ, *arguments)
        assert isinstance(result.exception, UserError) and said in result.exception.sentence
        assert "none is to writing; name a grader in" in result.exception.sentence
    code_only = tmp_path / "code"
    code_only.mkdir()
    (code_only / "contract.yaml").write_text("name: contract\nkind: contract\ntitle: C\ncontract: {}\n")
    there = {**environ, "MODELOPS_EVAL_DATASETS": str(code_only)}
    nothing = run(there)
    assert isinstance(nothing.exception, UserError)
    assert f"code scores every sample in {code_only}; docs/grading.md says" in nothing.exception.sentence
    assert "There is nothing to label: code scores every sample" in run(there, "--plan").stdout
    both = run(environ, "--export", "a.csv", "--import", "b.csv")
    assert isinstance(both.exception, UserError) and "exclude each other" in both.exception.sentence


def test_a_hold_that_labels_may_close_says_so_with_the_commands(environ: dict[str, str], tmp_path: Path):
    scene = Scene(ScoreStore(tmp_path / "scores"), SUITE)
    scene.write_suite(tmp_path / "suites")
    with judging().server().in_thread() as server:
        held = decided(scene.store, calibrating.run(scene.store, grader(server), "r1", tmp_path))
    of_it = f"--repo-id {held.repo_id}"
    shown = CliRunner().invoke(main.cli, ["verdict", "show", held.repo_id], env=environ)
    said = waiting_for_labels(held)
    assert f"`modelops label {of_it} --plan` says how many it takes" in said
    assert f"`modelops label {of_it}` shows the answers to writing" in said
    assert said in shown.stdout
    assert look_first(held, [], [], [])[0] == said
    assert verdict_metadata(held, an_endpoint(), tmp_path)["labels"] == said
    plan = run(environ, "--plan", *of_it.split())
    assert "more labels at this rate would admit strict" in plan.stdout and "is held by verdict" in plan.stdout
    out = run(environ, *of_it.split(), "--export", str(tmp_path / "tasks.csv"), "--json")
    assert json.loads(out.stdout)["tasks"] == 60
    pairs = run(environ, *of_it.split(), "--pairs")
    assert isinstance(pairs.exception, UserError)
    assert pairs.exception.sentence == (
        f"There are no pairs of {held.repo_id} to label: no incumbent answered otherwise; leave out --pairs."
    )


def test_the_page_runs_until_it_is_stopped_and_says_what_is_kept(scene: Scene, environ: dict[str, str]):
    command = [sys.executable, "-m", "modelops_dagster.cli", "label", "--author", "ana", "--no-browser", "--json"]
    process = subprocess.Popen(
        command, env={**environ, "PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = "".join(iter(process.stdout.readline, "}\n")) + "}"
        url = json.loads(said)["url"]
        key = parse_qs(urlsplit(url).query)["key"][0]
        base = url.split("/?")[0]
        with httpx.Client(base_url=base, headers={"X-Label-Key": key}, trust_env=False) as http:
            task = http.get("/api/next").json()["task"]
            assert http.post("/api/labels", json={"task": task["id"], "said": "fail"}).status_code == 200
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "1 label by ana kept." in told
    assert [label.value for label in read_labels(scene.store)] == [0.0]


def test_the_plan_and_the_calibration_table(scene: Scene, environ: dict[str, str], tmp_path: Path):
    (tmp_path / "graders.yaml").write_text("admission: {labels: 10, kappa: 0.1, skill: 0.1, flips: 1.0}")
    before = json.loads(run(environ, "--plan", "--json").stdout)
    assert before["holds"] == [] and before["seconds_per_label"] == 45.0
    assert {(n["category"], n["labels"]) for n in before["categories"]} == {("reply", 10), ("summary", 10)}
    tasks = scene.tasks()
    said = [(said_by(t, "pass" if "good" in t.answer.text else "fail", "ana", seconds=6.0), t.answer) for t in tasks]
    land_labels(scene.store, said, "page")
    shown = run(environ, "--plan")
    assert "for reply: 4 of 10 labels are there" in shown.stdout and "one person about 1 min" in shown.stdout
    grader = CliRunner().invoke(main.cli, ["verdict", "grader", "--json"], env=environ)
    found = {(c["grader"].split("-")[0], c["category"]): c for c in json.loads(grader.stdout)["calibrations"]}
    assert set(found) == {(g, c) for g in ("strict", "kind") for c in ("reply", "summary")}
    # texts 1 and 3 are bad; the one likes 1, the other wavers over 3, which is no pass
    assert found["kind", "reply"]["specificity"]["value"] == 0.5
    assert found["strict", "reply"]["specificity"]["value"] == 1.0
    assert found["strict", "reply"]["flip_rate"] == 0.25
    assert "both kinds" in found["strict", "summary"]["why"]
    land_labels(scene.store, [(said_by(tasks[0], "unsure", "bo"), tasks[0].answer)], "page")
    land_labels(scene.store, [(label.model_copy(update={"author": "cy"}), a) for label, a in said[:4]], "page")
    table = CliRunner().invoke(main.cli, ["verdict", "grader"], env=environ)
    assert "people: 4 answers were labelled by several, who have an alpha of 1.00" in table.stdout
    assert "advisory, because 4 of 10 labels are there" in table.stdout
    both = run(environ, "--plan", "--export", "a.csv")
    assert isinstance(both.exception, UserError)


def test_without_any_judgement_the_plan_names_what_is_missing(environ: dict[str, str], tmp_path: Path):
    Scene(ScoreStore(tmp_path / "scores"), written(2)).write_suite(tmp_path / "suites")
    shown = run(environ, "--plan")
    assert "No grader has judged answers of reply: name one in graders.yaml" in shown.stdout
    table = CliRunner().invoke(main.cli, ["verdict", "grader"], env=environ)
    assert "No grader has judged anything yet" in table.stdout
