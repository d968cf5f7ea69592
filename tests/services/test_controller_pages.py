"""The endpoint pages in headless Chromium: the key, what is shown, the playground; and what they are not allowed."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Page, expect

from modelops_dagster.clients.keys import AccessStore
from modelops_dagster.domain.access import Role
from tests.fakes.browser import new_page
from tests.fakes.stack import Stack, wait_until

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"
SLOW = ("--tokens-per-second", "40")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A controller with an endpoint that answers, and one that failed."""
    stack = Stack(tmp_path_factory.mktemp("pages")).up()
    stack.ready(*SLOW, name="small", visibility="private")
    stack.ready(*SLOW, name="open", visibility="public")
    stack.client.apply(
        stack.spec("--fail-line", "ValueError: <b>no such layer</b>", name="broken", visibility="private")
    )
    stack.client.wait_ready("broken", 60)
    yield stack
    stack.down()


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page that fails the test when it says anything in the console or asks another server."""
    with new_page(color_scheme=request.param) as page:
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        hosts: set[str] = set()
        page.on("request", lambda sent: hosts.add(urlsplit(sent.url).hostname or sent.url))
        yield page
        assert hosts == {"127.0.0.1"}, hosts
        # what Chromium itself says of an answer that is an error, which some of these tests ask for
        assert [text for text in said if not text.startswith("Failed to load resource")] == []


def url(stack: Stack, path: str) -> str:
    return f"http://127.0.0.1:{stack.port}{path}"


def unlock(page: Page, stack: Stack, role: Role = Role.OPERATOR) -> None:
    page.get_by_label("Key", exact=True).fill(AccessStore(stack.home).create("tester", role)[0])
    page.get_by_role("button", name="Use this key").click()


def shoot(page: Page, name: str) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    page.screenshot(path=ARTIFACTS / f"{name}-{'dark' if dark else 'light'}.png", full_page=True)


@pytest.mark.browser
def test_the_list_asks_for_a_key_and_shows_every_endpoint(pages: Stack, page: Page):
    page.goto(url(pages, "/"))
    page.get_by_label("Key", exact=True).fill("wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("alert")).to_have_text("That key is unknown or was revoked. Try another one.")
    unlock(page, pages, Role.VIEWER)
    expect(page.get_by_role("link", name="small")).to_be_visible()
    expect(page.get_by_text("DeployFailed")).to_be_visible()
    expect(page.get_by_text("tester, viewer")).to_be_visible()
    shoot(page, "endpoints")
    page.get_by_role("link", name="small").click()
    expect(page).to_have_url(url(pages, "/endpoints/small"))
    expect(page.get_by_role("heading", name="small", level=1)).to_be_visible()
    expect(page.get_by_role("button", name="Restart")).to_be_hidden()
    page.get_by_role("button", name="Forget key").click()
    expect(page.get_by_text("This needs a key.")).to_be_visible()


@pytest.mark.browser
def test_the_playground_streams_and_tells_its_speed(pages: Stack, page: Page):
    page.goto(url(pages, "/endpoints/small"))
    unlock(page, pages)
    expect(page.locator("#state")).to_have_text("Running")
    page.get_by_text("Parameters").click()
    page.get_by_label("Most tokens").fill("12")
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Message", exact=True).fill("<img src=x onerror=alert(1)> why is that so?")
    page.keyboard.press("Enter")
    answer = page.locator(".turn.assistant")
    expect(answer).to_contain_text("You asked: <img src=x onerror=alert(1)>")
    expect(page.locator("#speed")).to_have_text(
        re.compile(r"^First token after \d+ ms · [\d.]+ tokens/s · 12 tokens \(counted as they came\)$")
    )
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_text("1 of 1 ready")).to_be_visible()
    expect(page.locator("#logs")).to_contain_text("POST /v1/chat/completions")
    expect(page.locator("#spec")).to_contain_text("--tokens-per-second 40")
    shoot(page, "endpoint")
    kept = page.evaluate("[JSON.stringify(localStorage), document.cookie, location.href, document.body.innerHTML]")
    key = page.evaluate("sessionStorage.getItem('modelops-key')")
    assert key.startswith("mo-")
    assert not any(key in text for text in kept)
    engine = pages.client.get("small")
    assert engine is not None
    assert engine.url is not None
    assert urlsplit(engine.url).netloc not in kept[3], "the engine's address is nobody's business"


@pytest.mark.browser
def test_an_answer_can_be_stopped_and_a_failed_endpoint_says_why(pages: Stack, page: Page):
    page.goto(url(pages, "/endpoints/small"))
    unlock(page, pages)
    page.get_by_label("Most tokens").evaluate("field => field.value = 400")
    page.get_by_label("Message", exact=True).fill("a b c d e f g h i j k l m n o p q r s t u v w x y z " * 8)
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.assistant")).to_contain_text("You asked")
    page.get_by_role("button", name="Stop", exact=True).last.click()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert "The answer is 42" not in page.locator(".turn.assistant").inner_text()

    page.goto(url(pages, "/endpoints/broken"))
    expect(page.locator("#state")).to_have_text("DeployFailed")
    expect(page.locator("#notice")).to_contain_text("ended with exit code 1 before it was ready")
    expect(page.locator("#logs")).to_contain_text("<b>no such layer</b>")
    page.get_by_label("Message", exact=True).fill("hello?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".turn.error")).to_contain_text("is DeployFailed and answers nothing")
    shoot(page, "broken")


@pytest.mark.browser
def test_a_visitor_sees_a_public_endpoint_and_no_more_than_that(pages: Stack, page: Page):
    page.goto(url(pages, "/endpoints/open"))
    expect(page.locator("#state")).to_have_text("Running")
    expect(page.get_by_text("visitor", exact=True)).to_be_visible()
    expect(page.locator("#metrics")).to_contain_text("Availability")
    for heading in ("Spec", "Log", "Replicas"):
        expect(page.get_by_role("heading", name=heading)).to_be_hidden()
    page.get_by_label("Message", exact=True).fill("hello")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant")).to_contain_text("The answer is 42.")
    shoot(page, "visitor")
    page.get_by_role("button", name="Use a key").click()
    unlock(page, pages)
    expect(page.get_by_role("heading", name="Log")).to_be_visible()
    expect(page.get_by_role("button", name="Restart")).to_be_enabled()


@pytest.mark.browser
def test_every_replica_is_shown(pages: Stack, page: Page):
    pages.ready(name="pair", min_replicas=2, max_replicas=2, visibility="private")
    wait_until(lambda: pages.client.get("pair"), lambda s: s is not None and all(r.url for r in s.replicas))
    page.goto(url(pages, "/endpoints/pair"))
    unlock(page, pages)
    expect(page.locator("#each li")).to_have_text([re.compile("^1 Running"), re.compile("^2 Running")])
    expect(page.get_by_text("2 of 2 ready")).to_be_visible()
    metrics = pages.client.get_endpoint_metrics("pair")
    assert (metrics.ready_replicas, metrics.total_replicas, metrics.requests_waiting) == (2, 2, 4)
    assert pages.client.check_endpoint_health("pair").ready_replicas == 2
    shoot(page, "pair")


@pytest.mark.browser
def test_a_question_to_an_endpoint_that_starts_waits_for_it(pages: Stack, page: Page):
    pages.client.apply(pages.spec("--load-s", "4", name="late", visibility="public"))
    page.goto(url(pages, "/endpoints/late"))
    page.get_by_label("Message", exact=True).fill("hello")
    page.keyboard.press("Enter")
    expect(page.locator("#speed")).to_contain_text("ask again in a moment. Asking again every 5 s.")
    expect(page.locator(".turn.assistant")).to_contain_text("The answer is 42.", timeout=30_000)
    expect(page.locator("#speed")).to_have_text(re.compile(r"^First token after \d+ ms"))
    pages.client.delete("late")
    pages.client.wait_deleted("late")


@pytest.mark.browser
def test_the_rest_api_is_described_without_another_server(pages: Stack, page: Page):
    page.goto(url(pages, "/docs"))
    page.get_by_text("/v1/routes/{alias}/canary").first.click()
    expect(page.get_by_text('"percent": 5')).to_be_visible()
    page.get_by_role("link", name="CanaryStart").click()
    expect(page.locator("#schema-CanaryStart")).to_contain_text("of the alias's calls")
    document = httpx.get(url(pages, "/openapi.json"), trust_env=False).json()
    count = sum(len(methods) for methods in document["paths"].values())
    expect(page.locator("#operations .operation")).to_have_count(count)
    shoot(page, "reference")


@pytest.mark.browser
def test_the_page_fits_a_telephone(pages: Stack):
    with new_page(viewport={"width": 390, "height": 800}) as page:
        page.goto(url(pages, "/endpoints/small"))
        unlock(page, pages)
        expect(page.locator("#metrics")).to_contain_text("Requests")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        shoot(page, "telephone")


def test_pages_hold_nothing_and_allow_nothing_from_elsewhere(pages: Stack):
    for path in ("/endpoints", "/endpoints/small", "/endpoints/nobody", "/docs"):
        answer = httpx.get(url(pages, path), trust_env=False)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "small" not in answer.text, "without a key nobody learns which endpoints there are"
        assert "http://" not in answer.text.replace("http://www.w3.org/", "")
        assert "https://" not in answer.text
    for path in ("/endpoints/..%2f", "/assets/list.html", "/assets/..%2fapi.py", "/assets/nothing.js"):
        assert httpx.get(url(pages, path), trust_env=False).status_code == 404, path
    scripts = ("session.js", "list.js", "endpoint.js", "playground.js", "reference.js")
    for name in scripts:
        answer = httpx.get(url(pages, f"/assets/{name}"), trust_env=False)
        assert answer.headers["content-type"].startswith("text/javascript")
        assert "innerHTML" not in answer.text
