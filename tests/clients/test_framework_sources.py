"""GitHub's API, its feed and a package index, as a loopback server speaks them."""

from collections.abc import Iterator

import pytest

from modelops_dagster.clients.frameworks import FrameworkClient, Reading
from modelops_dagster.domain.frameworks import Framework, SourceMemory
from tests.fakes.github import GitHub

VLLM = Framework(repo="vllm-project/vllm", package="vllm")
NOW = 1_795_000_000.0


@pytest.fixture
def github() -> Iterator[GitHub]:
    with GitHub().running() as server:
        server.publish(VLLM.repo, "v0.31.0")
        server.publish(VLLM.repo, "v0.32.0")
        yield server


def read(
    github: GitHub,
    memory: SourceMemory | None = None,
    *,
    token: str | None = None,
    index: bool = False,
    now: float = NOW,
) -> Reading:
    index_url = f"{github.url}/index" if index else None
    with FrameworkClient(github.url, github.url, token, index_url, timeout_s=2, now=lambda: now) as client:
        return client.read(VLLM, memory or SourceMemory())


def test_the_api_is_read_and_then_asked_conditionally(github: GitHub):
    first = read(github)
    (listed,) = first.releases.values()
    assert [(r.tag, r.version, r.url.rpartition("/")[2]) for r in listed] == [
        ("v0.32.0", "0.32.0", "v0.32.0"),
        ("v0.31.0", "0.31.0", "v0.31.0"),
    ]
    second = read(github, first.memory)
    assert (second.releases, second.answered, second.unread) == ({}, True, ())
    assert second.memory == first.memory
    github.publish(VLLM.repo, "v0.33.0")
    assert read(github, second.memory).releases["api"][0].tag == "v0.33.0"
    assert github.paths("/repos") == [200, 304, 200]
    assert "authorization" not in github.asked[0][2]


def test_flags_are_passed_on(github: GitHub):
    github.publish(VLLM.repo, "v0.33.0rc1", prerelease=True)
    github.publish(VLLM.repo, "v0.34.0", draft=True)
    listed = read(github, token="t0ken").releases["api"]
    assert [(r.tag, r.prerelease) for r in listed][:2] == [("v0.33.0rc1", True), ("v0.32.0", False)]
    assert github.asked[-1][2]["authorization"] == "Bearer t0ken"


def test_the_feed_stands_in_while_the_api_is_limited(github: GitHub):
    github.limited = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW) + 600)}
    first = read(github)
    assert [r.tag for r in first.releases["atom"]] == ["v0.32.0", "v0.31.0"]
    assert "GITHUB_TOKEN" in first.unread[0]
    assert first.memory.limited_until == NOW + 600
    second = read(github, first.memory, now=NOW + 599)
    assert (second.releases, second.answered, second.unread) == ({}, True, ())
    assert (github.paths("/repos"), github.paths("/vllm-project")) == ([403], [200, 304])
    github.limited = None
    third = read(github, second.memory, now=NOW + 601)
    assert list(third.releases) == ["api"]
    assert set(third.memory.etags) == {"api", "atom"}


@pytest.mark.parametrize("headers", [{"Retry-After": "120"}, {"X-RateLimit-Remaining": "0"}])
def test_a_limit_without_a_reset_time(github: GitHub, headers: dict[str, str]):
    github.limited = headers
    assert read(github).memory.limited_until == NOW + (120 if "Retry-After" in headers else 900)


def test_a_refusal_that_is_no_limit_and_a_name_that_does_not_exist(github: GitHub):
    github.limited = {}
    refused = read(github)
    assert "answered 403" in refused.unread[0]
    assert (refused.memory.limited_until, list(refused.releases)) == (0, ["atom"])
    github.limited = None
    github.broken = {"/repos": (404, b""), "/vllm-project": (404, b"")}
    unread = read(github)
    assert not unread.answered
    assert all("check the framework's name" in sentence for sentence in unread.unread)


BOMB = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><feed xmlns="http://www.w3.org/2005/Atom">&a;</feed>'


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"message": "hi"}', b"[1]", b'[{"name": "x"}]', b"\xff\xfe", BOMB, b"null", b"<feed/>"]
)
def test_nonsense_changes_nothing(github: GitHub, body: bytes):
    memory = read(github, index=True).memory
    github.broken = dict.fromkeys(("/repos", "/vllm-project", "/index"), (200, body))
    after = read(github, memory, index=True)
    assert (after.releases, after.memory, after.answered, len(after.unread)) == ({}, memory, False, 3)


def test_nobody_there():
    with FrameworkClient("http://127.0.0.1:9", "http://127.0.0.1:9", timeout_s=1) as client:
        found = client.read(VLLM, SourceMemory())
    assert (found.releases, found.answered, len(found.unread)) == ({}, False, 2)


def test_the_index_is_a_second_source(github: GitHub):
    github.upload("vllm", "0.33.0")
    github.upload("vllm", "0.34.0", yanked=True)
    github.upload("vllm", "0.35.0rc1")
    github.packages["vllm"]["0.1.0"] = []
    first = read(github, index=True)
    assert [(r.version, r.prerelease) for r in first.releases["index"]] == [("0.33.0", False), ("0.35.0rc1", True)]
    assert first.releases["index"][0].published_at is not None
    assert read(github, first.memory, index=True).releases == {}
    assert github.paths("/index") == [200, 304]
    github.broken = {"/index": (500, b"")}
    broken = read(github, first.memory, index=True)
    assert (broken.answered, len(broken.unread)) == (True, 1)
