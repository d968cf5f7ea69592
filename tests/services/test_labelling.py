"""The labelling page by HTTP and in a browser: blind, on loopback, append-only, by keyboard alone."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, sync_playwright

from modelops_dagster.clients.labels import read_labels
from modelops_dagster.domain.errors import PortTaken
from modelops_dagster.services.labelling import LabelApp, LabelServer
from tests.clients.labelling_parts import Scene, judged

MARKUP = "<img src=x onerror=\"document.title='owned'\"> good"


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return judged(tmp_path, 4)


@pytest.fixture
def server(scene: Scene) -> Iterator[LabelServer]:
    with LabelServer(LabelApp(scene.store, scene.graded, scene.tasks(), read_labels(scene.store), "ana")) as running:
        yield running


def client(server: LabelServer, **headers: str) -> httpx.Client:
    base = f"http://127.0.0.1:{server.port}"
    return httpx.Client(base_url=base, headers={"X-Label-Key": server.app.key, **headers}, trust_env=False)


def test_from_the_first_task_to_the_last(server: LabelServer, scene: Scene):
    with client(server) as http:
        found = http.get("/api/next").json()
        order = []
        while (task := found["task"]) is not None:
            order.append(task["id"])
            assert found["progress"] == {"done": len(order) - 1, "total": 8}
            said = "pass" if "good" in task["answers"][0] else "fail"
            answered = http.post("/api/labels", json={"task": task["id"], "said": said, "seconds": 1.5})
            assert answered.status_code == 200
            found = answered.json()
    assert order == [t.uid for t in scene.tasks()]
    assert found["progress"] == {"done": 8, "total": 8} and server.app.labelled == 8
    kept = read_labels(scene.store)
    assert {label.author for label in kept} == {"ana"} and {label.seconds for label in kept} == {1.5}
    texts = {a.answer_uid: a.text for a in scene.answers()}
    assert all((label.value == 1.0) == ("good" in texts[label.answer_uid]) for label in kept)


def test_nothing_shown_tells_whose_answer_it_is(server: LabelServer, scene: Scene):
    with client(server) as http:
        task = http.get("/api/next").json()["task"]
    assert set(task) == {"id", "kind", "question", "target", "asks", "criteria", "answers"}
    answer = scene.tasks()[0].answer
    secret = (answer.endpoint, answer.repo_id, answer.run_id, answer.reason, answer.answer_uid, "strict", "kind-model")
    assert not [word for word in secret if word in str({k: v for k, v in task.items() if k != "kind"})]


def test_saying_something_else_adds_a_label(server: LabelServer, scene: Scene):
    with client(server) as http:
        uid = http.get("/api/next").json()["task"]["id"]
        http.post("/api/labels", json={"task": uid, "said": "pass"})
        assert http.get(f"/api/tasks/{uid}").json()["task"]["id"] == uid
        again = http.post("/api/labels", json={"task": uid, "said": "unsure", "comment": " hm "})
    assert again.json()["progress"]["done"] == 1
    assert [(label.value, label.comment) for label in read_labels(scene.store)] == [(1.0, ""), (None, "hm")]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"task": "nothing", "said": "pass"}, 400),
        ({"said": "pass"}, 400),
        ({"task": "T", "said": "left"}, 400),
        ({"task": "T", "said": "pass", "seconds": -1}, 400),
        ({"task": "T", "said": "pass", "comment": "x" * 2001}, 400),
        ({"task": "T", "said": "pass", "comment": "x" * 70_000}, 413),
        ([1], 400),
    ],
)
def test_what_is_no_label_is_refused(body: object, status: int, server: LabelServer, scene: Scene):
    with client(server) as http:
        uid = http.get("/api/next").json()["task"]["id"]
        sent = {k: uid if v == "T" else v for k, v in body.items()} if isinstance(body, dict) else body
        assert http.post("/api/labels", json=sent).status_code == status
        assert http.get("/api/tasks/nothing").status_code == 404
    assert read_labels(scene.store) == []


def test_neither_another_name_nor_a_missing_key_is_let_in(server: LabelServer):
    with client(server, Host="evil.example") as http:
        assert http.get("/api/next").status_code == 421
    for given in ("", "x", "ä"):
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as http:
            assert http.get("/", params={"key": given}).status_code == 403
            assert http.get("/api/next", headers={b"X-Label-Key": given.encode()}).status_code == 403
            assert http.post("/api/labels", json={}).status_code == 403
    with client(server) as http:
        page = http.get("/", params={"key": server.app.key})
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert page.headers["Cache-Control"] == "no-store"
        assert server.app.key not in page.text


def test_a_port_in_use_is_told(server: LabelServer, scene: Scene):
    second = LabelServer(LabelApp(scene.store, scene.graded, scene.tasks(), [], "bo"), server.port)
    with pytest.raises(PortTaken, match=str(server.port)), second:
        raise AssertionError("it may not start")


@pytest.fixture
def page(scene: Scene) -> Iterator[Page]:  # after the scene, whose models want the event loop
    chromium = shutil.which("chromium")
    assert chromium, "Chromium is missing: apt-get install chromium"
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser.new_page(viewport={"width": 1200, "height": 900})
        browser.close()


@pytest.mark.browser
def test_a_person_labels_by_keyboard_alone(server: LabelServer, scene: Scene, page: Page):
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(server.url)
    page.get_by_text("0 of 8").wait_for()
    for done, press in enumerate(("1", "0", "?"), start=1):
        page.keyboard.press(press)
        page.get_by_text(f"{done} of 8").wait_for()
    page.keyboard.press("Tab")
    page.locator("#comment").focus()
    page.keyboard.type("110?")  # inside the comment keys are letters
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.get_by_text("4 of 8").wait_for()
    page.keyboard.press("Backspace")
    fourth = scene.tasks()[3].answer.text
    page.get_by_text(fourth, exact=True).wait_for()
    page.keyboard.press("0")
    page.get_by_text(scene.tasks()[4].answer.text, exact=True).wait_for()
    for done in range(5, 9):
        page.get_by_text(f"{done - 1} of 8").wait_for()
        page.keyboard.press("1")
    page.get_by_text("Nothing is left to label").wait_for()
    kept = read_labels(scene.store)
    assert [label.value for label in kept] == [1.0, 0.0, None, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    assert kept[3].comment == "110?" and kept[3].seconds is not None
    assert faults == []


@pytest.mark.browser
def test_pairs_are_judged_by_arrows_and_markup_stays_text(scene: Scene, page: Page):
    pairs = [
        t.model_copy(update={"answer": t.answer.model_copy(update={"text": MARKUP})}) for t in scene.tasks(pairs=True)
    ]
    with LabelServer(LabelApp(scene.store, scene.graded, pairs, [], "ana")) as server:
        page.goto(server.url)
        for done, task in enumerate(pairs):
            page.get_by_text(f"{done} of {len(pairs)}").wait_for()
            shown = page.locator("#answers pre").all_inner_texts()
            assert shown == [answer.text for answer in task.sides]
            page.keyboard.press("ArrowLeft" if shown[0] == MARKUP else "ArrowRight")
        page.get_by_text("Nothing is left to label").wait_for()
    assert page.title() == "Label answers"
    assert [label.value for label in read_labels(scene.store)] == [1.0] * len(pairs)
