"""What there is to label, in which order and why; labels that are only ever added; files that people fill in."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from modelops_dagster.clients.label_files import read_filled, write_tasks
from modelops_dagster.clients.labels import land_labels, latest_run, read_labels, said_by
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.labels import people_say
from tests.clients.labelling_parts import Scene, judged


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return judged(tmp_path_factory.mktemp("scene"))


def test_why_people_are_asked(scene: Scene):
    why = {(a.arm, a.text): a.reason for a in scene.answers()}
    assert why["candidate", "bad text 1"] == "split"
    assert why["candidate", "bad text 3"] == "flip"
    assert why["candidate", "bad text 5"] == why["incumbent", "good old text 5"] == "differs"
    assert why["candidate", "good text 0"] == why["incumbent", "good old text 0"] == "audit"
    assert len(why) == 24


def test_every_reason_has_its_turn_and_the_order_says_nothing(scene: Scene):
    order = scene.tasks()
    assert [t.answer.reason for t in order[:4]] == ["split", "flip", "differs", "audit"]
    audits = [t.answer.sample_id for t in order if t.answer.reason == "audit"]
    assert audits != sorted(audits) and order == scene.tasks()
    assert latest_run(scene.store, scene.graded) == "r1"
    assert latest_run(scene.store, scene.graded, "no/model") is None


def test_pairs_stand_on_both_sides_and_a_word_is_put_back(scene: Scene):
    pairs = scene.tasks(pairs=True)
    left = Counter(t.sides[0].arm for t in pairs)
    assert len(pairs) == 12 and min(left["candidate"], left["incumbent"]) >= 2
    for task in pairs:
        assert task.value("left") == (1.0 if task.sides[0].arm == "candidate" else 0.0)
        assert task.value("right") == 1 - task.value("left")
    assert (pairs[0].value("same"), pairs[0].value("unsure")) == (0.5, None)
    with pytest.raises(ValueError, match="'pass' is not one of left"):
        pairs[0].value("pass")


def test_labels_are_added_and_the_last_word_of_each_person_counts(tmp_path: Path):
    scene = judged(tmp_path, 4)
    task, other, *_ = scene.tasks()
    for who, said in (("ana", "pass"), ("bo", "fail"), ("ana", "fail"), ("cy", "unsure")):
        land_labels(scene.store, [(said_by(task, said, who, seconds=2.0), task.answer)], "page")
    land_labels(scene.store, [(said_by(other, "unsure", "ana"), other.answer)], "page")
    kept = read_labels(scene.store)
    assert [label.value for label in kept] == [1.0, 0.0, 0.0, None, None]
    files = list((tmp_path / "scores" / "landing" / "labels").rglob("*.parquet"))
    assert len(files) == 5
    assert people_say(kept) == {(task.answer.answer_uid, None): 0.0}
    rows = scene.store.query("select author, lane, run_id, reason, source from labels order by labelled_at")[1]
    assert rows[0] == ("ana", "raw", "r1", task.answer.reason, "page")
    scene.store.publish()
    assert read_labels(scene.store) == kept


@pytest.mark.parametrize(("ending", "separator"), [("jsonl", ""), ("csv", ","), ("csv", ";"), ("csv", "\t")])
def test_a_file_goes_out_without_names_and_comes_back_filled(ending: str, separator: str, scene: Scene, tmp_path: Path):
    path = tmp_path / f"tasks.{ending}"
    tasks = [*scene.tasks()[:6], *scene.tasks(pairs=True)[:2]]
    write_tasks(path, tasks, scene.graded)
    text = path.read_text()
    assert text.startswith("\ufeff") == (ending == "csv")
    with pytest.raises(InvalidSpec, match="is there already"):
        write_tasks(path, tasks, scene.graded)
    assert not any(word in text for word in ("org/model", "org-model", "strict", "kind", "candidate", "split", "audit"))
    rows = (
        list(csv.DictReader(path.open(encoding="utf-8-sig")))
        if ending == "csv"
        else [json.loads(x) for x in text.splitlines()]
    )
    assert [r["task"] for r in rows] == [t.uid for t in tasks]
    for row, said in zip(rows, ("pass", "fail", "unsure", "", "PASS ", "", "left", "same"), strict=True):
        row["said"] = said
    rows[0] |= {"author": "ana", "at": "2026-01-31T12:00:00+01:00", "comment": "clear"}
    with path.open("w", newline="", encoding="utf-8-sig" if separator == ";" else "utf-8") as file:
        if ending == "csv":
            out = csv.DictWriter(file, list(rows[0]), delimiter=separator)
            out.writeheader()
            out.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    found = [label for label, _ in read_filled(path, tasks, "bo")]
    assert [label.value for label in found] == [1.0, 0.0, None, 1.0, tasks[6].value("left"), 0.5]
    assert (found[0].author, found[0].comment, found[0].labelled_at.isoformat()) == (
        "ana", "clear", "2026-01-31T12:00:00+01:00",
    )  # fmt: skip
    assert found[1].author == "bo"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("f.txt", "", "ends neither in"),
        ("f.jsonl", "{", "f.jsonl:1 is not JSON"),
        ("f.jsonl", "[]", "f.jsonl:1 is not a JSON object"),
        ("f.jsonl", '\n{"task": "x", "said": "pass"}', "f.jsonl:2: there is no task 'x'"),
        ("f.jsonl", '{"task": "T", "said": "good"}', "'good' is not one of pass, fail, unsure"),
        ("f.jsonl", '{"task": "T", "said": "pass", "at": "2026-01-31"}', "has no offset"),
        ("f.csv", "task,said\nT,left\n", "f.csv:2: 'left' is not one of"),
        ("f.csv", "task,answer\nT,pass\n", "has no column 'said'"),
        ("f.csv", "task,said\nT,\n", "says anything: fill the column"),
        ("f.csv", "task,said\nT," + 200_000 * "x", "is not CSV: field larger"),
        ("f.csv", "", "has no column 'task'"),
        ("none.csv", None, "cannot be read"),
    ],
)
def test_a_bad_file_is_told_and_nothing_of_it_is_taken(
    name: str, text: str | None, said: str, scene: Scene, tmp_path: Path
):
    tasks = scene.tasks()
    if text is not None:
        (tmp_path / name).write_text(text.replace('"T"', f'"{tasks[0].uid}"').replace("\nT,", f"\n{tasks[0].uid},"))
    with pytest.raises(InvalidSpec, match=said):
        read_filled(tmp_path / name, tasks, "ana")


def test_a_cell_that_begins_like_a_formula_is_text(scene: Scene, tmp_path: Path):
    task = scene.tasks()[0]
    evil = task.model_copy(update={"answer": task.answer.model_copy(update={"text": '=HYPERLINK("http://x")'})})
    write_tasks(tmp_path / "t.csv", [evil], scene.graded)
    (row,) = csv.DictReader((tmp_path / "t.csv").open(encoding="utf-8-sig"))
    assert row["left"] == '\'=HYPERLINK("http://x")'
