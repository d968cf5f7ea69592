"""Dagster's pages in headless Chromium, as somebody who looks after models opens them, on a running platform."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from modelops_dagster.services.hub_server import publish
from tests.e2e.many_models import PAGES, fill, open_page
from tests.e2e.platform import Platform, running_platform
from tests.e2e.scenery import fake_engine, write_model
from tests.fakes.browser import new_page

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"
REPO_ID = "acme/tiny"
LOAD_MS = 60_000
CHAIN = (
    "release",
    "lane_plan",
    "raw_weights",
    "raw/endpoint",
    "raw/gauntlet/quality",
    "raw/verdict",
    "raw/gateway_registration",
)
DERIVED = ("scores_db", "leaderboard", "report", "watcher")
CHECKS = {"release": "preflight", "raw_weights": "integrity", "raw/endpoint": "first_rung", "raw/verdict": "promotion"}
NUMBERS = {"IntMetadataEntry", "FloatMetadataEntry"}
LINKS = {"UrlMetadataEntry", "PathMetadataEntry"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Three revisions of one model, of which the second answers a third of its questions wrong."""
    place = tmp_path_factory.mktemp("platform")
    commits = [
        publish(place / "hub", REPO_ID, write_model(place / f"model-{n}", tensor=bytes([65 + n]) * 16)).commit_hash
        for n in range(3)
    ]
    environ = fake_engine(place, "--wrong-for", commits[1][:12])
    with running_platform(place / "home", environ, "--hub-dir", str(place / "hub"), "--org", "acme") as running:
        for commit in commits:
            done = running.modelops("onboard", REPO_ID, "--ref", commit, "--wait")
            assert done.returncode == int(commit == commits[1]), done  # 1: it failed the Gauntlet
        deadline = time.monotonic() + 120
        while not all(metadata_of(running, asset) for asset in DERIVED):
            assert time.monotonic() < deadline, running.lines[-40:]
            time.sleep(1)
        yield running


@pytest.fixture
def page(platform: Platform) -> Iterator[Page]:
    with new_page() as page:
        page.set_default_timeout(LOAD_MS)
        yield page


def look(page: Page, platform: Platform, path: str, *texts: str) -> None:
    """Open a page and wait for every text."""
    page.goto(f"{platform.settings.dagster_url}{path}")
    for text in texts:
        page.get_by_text(text).first.wait_for(timeout=LOAD_MS)


def shoot(page: Page, name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    page.wait_for_timeout(1500)  # charts and graphs move into their places
    page.screenshot(path=ARTIFACTS / f"dagster-{name}.png")


def metadata_of(platform: Platform, asset: str) -> list[dict[str, str]]:
    """The entries of the newest materialization, in the order they are shown in; empty where there is none."""
    query = """query($path: [String!]!) { assetOrError(assetKey: {path: $path}) { ... on Asset {
      assetMaterializations(limit: 1) { metadataEntries { __typename label ... on PathMetadataEntry { path }
      } } } } }"""
    found = platform.ask(query, path=asset.split("/"))["assetOrError"].get("assetMaterializations")
    return list(found[0]["metadataEntries"]) if found else []


@pytest.mark.parametrize("asset", [*CHAIN, *DERIVED])
def test_every_asset_shows_numbers_first_then_a_table_and_a_link(platform: Platform, asset: str):
    kinds = [entry["__typename"] for entry in metadata_of(platform, asset)]
    assert kinds[0] in NUMBERS, kinds
    assert "TableMetadataEntry" in kinds
    assert LINKS & set(kinds), kinds


@pytest.mark.parametrize(("asset", "check"), CHECKS.items())
def test_every_gate_leaves_its_numbers(platform: Platform, asset: str, check: str):
    query = """query($key: AssetKeyInput!, $check: String!) {
      assetCheckExecutions(assetKey: $key, checkName: $check, limit: 5) {
        status evaluation { description metadataEntries { __typename label } } } }"""
    found = platform.ask(query, key={"path": asset.split("/")}, check=check)["assetCheckExecutions"]
    assert len(found) == 3, found
    for execution in found:
        assert execution["evaluation"]["description"]
        assert NUMBERS & {entry["__typename"] for entry in execution["evaluation"]["metadataEntries"]}
    assert [e["status"] for e in found] == ["SUCCEEDED", "FAILED" if check == "promotion" else "SUCCEEDED", "SUCCEEDED"]


def test_the_graph_of_a_model_shows_what_was_made_and_by_whom(platform: Platform, page: Page):
    look(page, platform, "/locations/modelops_dagster/asset-groups/raw/lineage", "gateway_registration", "100% filled")
    for name in ("raw_weights", "endpoint", "quality", "verdict"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    shoot(page, "graph")
    look(page, platform, "/assets/raw/verdict?view=overview", "required_held", "Owners", "platform")
    expect(page.get_by_text("why, as a sentence").first).to_be_visible()
    shoot(page, "verdict")
    look(
        page, platform, f"/assets/raw/verdict?view=partitions&partition={quote(REPO_ID, safe='')}", "required criteria"
    )
    shoot(page, "model")


def test_the_gauntlet_is_a_plot_over_revisions(platform: Platform, page: Page):
    look(page, platform, "/assets/raw/gauntlet/quality?view=overview", "accuracy", "Plots")
    page.get_by_role("button", name="Plots").click()
    page.get_by_role("button", name="Events").click()
    page.get_by_text("accuracy", exact=True).first.wait_for()
    page.get_by_text("accuracy", exact=True).first.scroll_into_view_if_needed()
    expect(page.locator("canvas").first).to_be_visible()
    shoot(page, "plot")


def test_a_backfill_is_launched_from_the_launchpad(platform: Platform, page: Page):
    look(page, platform, "/locations/modelops_dagster/jobs/backfill/playground", "Launch Run")
    shoot(page, "launchpad")
    page.locator(".CodeMirror").first.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text("ops: {backfill_suite: {config: {suite: quality, again: true}}}")
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url(re.compile(r"/runs/"))
    page.get_by_text("Success", exact=True).first.wait_for(timeout=180_000)
    page.get_by_text(f"{REPO_ID} (raw): evaluated").first.wait_for()
    shoot(page, "backfill")


def test_the_report_is_found_from_the_page_of_its_asset(platform: Platform, page: Page):
    look(page, platform, "/assets/report?view=overview", "pages_written", "tiny.html")
    shoot(page, "report")
    look(page, platform, "/assets/leaderboard?view=overview", REPO_ID)
    shoot(page, "leaderboard")
    (path,) = (entry["path"] for entry in metadata_of(platform, "report") if entry["label"] == "leaderboard")
    page.goto(Path(path).as_uri())
    page.get_by_role("link", name=REPO_ID).first.click()
    expect(page.get_by_text("Look at first")).to_be_visible()
    shoot(page, "report-page")


def test_jobs_and_checks_are_where_people_look_for_them(platform: Platform, page: Page):
    look(page, platform, "/assets/raw/verdict?view=checks", "promotion")
    shoot(page, "checks")
    look(page, platform, "/locations/modelops_dagster/jobs", "re_evaluate", "roll_back", "start_endpoint", "onboard")
    shoot(page, "jobs")


def test_pages_load_when_there_are_many_models(tmp_path: Path):
    """The pages that `make bench ONLY=ui_pages` times at 20,000."""
    fill(tmp_path / "home", models=200, served=20)
    (tmp_path / "hub").mkdir()
    environ = fake_engine(tmp_path)
    with running_platform(tmp_path / "home", environ, "--hub-dir", str(tmp_path / "hub")) as many, new_page() as page:
        for opened in PAGES:
            open_page(page, many.settings.dagster_url, opened)
