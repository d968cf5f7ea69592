"""Reports in a real browser: nothing is fetched, nothing is cut off, what was stored is text and not markup."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Page

from modelops_dagster.clients.reports import gather_leaderboard, gather_model, model_page, write_reports
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.errors import InvalidSpec
from tests.clients.score_rows import score, verdict
from tests.clients.score_world import SMALL, TINY, at_work, fill
from tests.fakes.browser import new_page

NOW = datetime(2026, 11, 23, 9, tzinfo=UTC)
ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_reports(fill(home), home / "reports", [TINY], NOW)
    return home / "reports"


def test_a_report_says_why_and_what_to_look_at(folder: Path):
    text = (folder / "acme@tiny.html").read_text()
    for words in (
        "Look at first",
        "fail: because",
        "1 sample that the incumbent got right and this model did not",
        "vllm-cpu was left (unsupported_architecture)",
        "run-old on q2",
        "0 only this model got, 1 only the incumbent",
        "Throughput, closed loop",
        "acme/tiny@bbbbbbbbbbbb",
        "sha256:c0ffee",
        "Every category in numbers",
        "sha256:0",
    ):
        assert words in text, words


def test_a_report_is_one_file_that_needs_no_network(folder: Path):
    for path in folder.glob("*.html"):
        text = path.read_text()
        assert "<script" not in text
        assert not re.findall(r"(?:src|@import|url\()\s*=?\s*[\"']?https?:", text)


def test_what_a_model_said_is_never_markup(tmp_path: Path):
    store = fill(tmp_path)
    rows = [
        dict(zip(*store_row, strict=True))
        for store_row in [
            (columns, row)
            for columns, found in [store.query("select * from samples where run_id = 'run-new' and lane = 'raw'")]
            for row in found
        ]
    ]
    evil = [row | {"completion": "<img src=x onerror=alert(1)>", "category": "<b>x</b>"} for row in rows]
    store.land("samples", evil, repo_id=TINY, run_id="run-new")
    text = model_page(gather_model(store, TINY, NOW))
    assert "<img" not in text
    assert "<b>x</b>" not in text
    assert "&lt;img" in text


def test_a_model_without_samples_and_an_unknown_one(tmp_path: Path):
    store = ScoreStore(tmp_path / "scores")
    with pytest.raises(InvalidSpec, match="no verdict on 'org/model'"):
        gather_model(store, "org/model", NOW)
    store.land_verdict(verdict(), run_id="r")
    store.land("scores", [score("r", value=None)], repo_id="org/model", run_id="r")
    assert "Nothing stands out" in model_page(gather_model(store, "org/model", NOW))
    board = write_reports(store, tmp_path / "reports", [], NOW)
    assert "org/model" in board.read_text()


def test_a_report_tells_what_the_model_occupied(tmp_path: Path):
    store = fill(tmp_path)
    decided = gather_model(store, TINY, NOW).lanes[0].verdict.decided_at
    now = decided + timedelta(hours=3)
    assert gather_model(store, TINY, now).lanes[0].occupancy is None, "its endpoint is not the controller's"
    at_work(tmp_path, gpus=2, usd_per_hour=4.0)
    found = gather_model(store, TINY, now).lanes[0].occupancy
    assert found is not None
    assert (found.hours, found.unit, found.usd) == ((4.0, 12.0), "GPU-hours", 32.0)
    text = model_page(gather_model(store, TINY, now))
    assert "4.00 GPU-hours while it was evaluated for this verdict, 12.0 besides" in text
    assert "$32.00 in all" in text
    at_work(tmp_path)
    bare = gather_model(store, TINY, now).lanes[0].occupancy
    assert bare is not None
    assert (bare.hours, bare.unit, bare.usd) == ((2.0, 6.0), "engine-hours on processors", None)


def test_a_verdict_is_told_of_the_commit_that_was_judged_only(tmp_path: Path):
    store = fill(tmp_path)
    newer = score("run-3", TINY, commit_hash="c" * 40, evaluated_at=NOW)
    store.land("scores", [newer], repo_id=TINY, run_id="run-3")
    (row,) = (r for r in gather_leaderboard(store) if (r["repo_id"], r["lane"]) == (TINY, "raw"))
    assert (row["commit_hash"], row["verdict"], row["reason"]) == ("c" * 40, None, None)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with new_page(viewport={"width": 1280, "height": 900}) as opened:
        yield opened


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["acme@tiny", "leaderboard"])
def test_a_browser_shows_it_in_light_and_dark(folder: Path, page: Page, name: str, scheme: str):
    ARTIFACTS.mkdir(exist_ok=True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(f"file://{folder / name}.html")
    page.screenshot(path=ARTIFACTS / f"report-{name}-{scheme}.png", full_page=True)
    assert {url.split(":")[0] for url in asked} == {"file"}
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"cut off at {width} pixels"
    assert page.locator("svg").count() > 0
    assert page.get_by_text(SMALL if name == "leaderboard" else "Look at first").first.is_visible()
    page.set_viewport_size({"width": 1280, "height": 900})


@pytest.mark.browser
def test_it_prints(folder: Path, page: Page, tmp_path: Path):
    page.goto(f"file://{folder / 'acme@tiny'}.html")
    folded = "[...document.querySelectorAll('details td')].map(cell => cell.checkVisibility())"
    assert set(page.evaluate(folded)) == {False}
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 less its margins, in CSS pixels
    assert set(page.evaluate(folded)) == {True}, "paper cannot be unfolded"
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / "report-acme@tiny-print.png", full_page=True)
    printed = page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
    assert printed.startswith(b"%PDF")


@pytest.mark.browser
def test_many_flips_print_on_few_pages_and_the_screen_has_all_of_them(tmp_path: Path, page: Page):
    """The first few in full; then a line each on paper, which nobody reads 40 long answers on."""
    report = gather_model(fill(tmp_path), TINY, NOW)
    lane = report.lanes[0]
    said = "Adding the two numbers, and checking each digit of what they make, gives this. " * 5
    flips = tuple({**lane.flips[0], "sample_id": f"q-{i}", "completion": f"{said[:380]}end {i}"} for i in range(40))
    crowded = report.model_copy(update={"lanes": (lane.model_copy(update={"flips": flips, "n_flips": 55}),)})
    (tmp_path / "crowded.html").write_text(model_page(crowded))
    page.emulate_media(media="screen", color_scheme="light")
    page.goto(f"file://{tmp_path / 'crowded.html'}")
    heights = "[...document.querySelectorAll('.brief tbody tr')].map(row => row.getBoundingClientRect().height)"
    page.get_by_text("32 more").click()
    assert page.get_by_text("end 39").is_visible()
    assert not page.get_by_text("a line each").is_visible()
    assert min(page.evaluate(heights)) > 60, "the whole answer"
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})
    lines = page.evaluate(heights)
    assert len(lines) == 32
    assert max(lines) < 30, "one line, which ends in dots"
    assert page.get_by_text("a line each").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    ARTIFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTIFACTS / "report-many-flips-print.png", full_page=True)
    printed = page.pdf(path=tmp_path / "crowded.pdf", format="A4", print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) <= 5
    page.set_viewport_size({"width": 1280, "height": 900})


def styled(page: Page, selector: str, name: str) -> set[str]:
    """What a style property is, on everything that the selector finds."""
    read = "([selector, name]) => [...document.querySelectorAll(selector)].map(e => getComputedStyle(e)[name])"
    return set(page.evaluate(read, [selector, name]))


@pytest.mark.browser
@pytest.mark.parametrize("name", ["acme@tiny", "leaderboard"])
def test_paper_is_white_and_ends_where_a_reader_can_stop(folder: Path, page: Page, name: str):
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(f"file://{folder / name}.html")
    assert styled(page, "body", "backgroundColor") == {"rgb(255, 255, 255)"}, "a dark screen prints on white paper"
    assert styled(page, "h1, td.number, svg text.value", "color") == {"rgb(27, 31, 36)"}
    assert styled(page, "figure, tbody tr, .first", "breakInside") == {"avoid"}
    assert styled(page, "h2, h3, summary, .pictures", "breakAfter") == {"avoid"}, "no heading without what it heads"
    assert styled(page, "footer", "breakBefore") == {"avoid"}, "no page for one line"
    page.emulate_media(media="screen", color_scheme="light")
