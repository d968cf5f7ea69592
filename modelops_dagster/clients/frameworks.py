"""Where framework releases are read from: GitHub's API, its Atom feed while the API is rate-limited, a package index.

All three are asked conditionally, so an answer of "not changed" costs next to nothing.
"""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import httpx

from modelops_dagster.domain.errors import SourceUnavailable
from modelops_dagster.domain.frameworks import (
    Framework,
    FrameworkRelease,
    Source,
    SourceMemory,
    is_prerelease,
    plain_version,
)

PER_PAGE = 30
MAX_BYTES = 32 * 2**20  # of one answer; an index document of a large project has several MiB
LIMIT_WITHOUT_RESET_S = 900.0
_ATOM = "{http://www.w3.org/2005/Atom}"


class Reading(NamedTuple):
    """What one look at one framework gave.

    `releases` holds a listing per source that had something new to say; a source that said "not changed" is absent.
    `unread` holds a sentence per source that could not be read.
    """

    releases: dict[Source, tuple[FrameworkRelease, ...]]
    memory: SourceMemory
    unread: tuple[str, ...] = ()
    answered: bool = True
    """Whether GitHub was read, by API or feed, a "not changed" included."""


class FrameworkClient:
    """Reads releases.

    Args:
        api_url: GitHub's API, e.g. https://api.github.com.
        web_url: GitHub itself, for the feeds, e.g. https://github.com.
        token: raises the API's limit from 60 to 5000 requests an hour; sent to `api_url` only.
        index_url: base of a package index's JSON, asked for `<index_url>/<package>/json`; None or empty: not asked.
        timeout_s: for one request.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        api_url: str,
        web_url: str,
        token: str | None = None,
        index_url: str | None = None,
        *,
        timeout_s: float = 5,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._api_url, self._web_url = api_url.rstrip("/"), web_url.rstrip("/")
        self._token = token
        self._index_url = index_url.rstrip("/") if index_url else None
        self._now = now
        self._http = httpx.Client(timeout=timeout_s, follow_redirects=True)

    def __enter__(self) -> "FrameworkClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def read(self, framework: Framework, memory: SourceMemory) -> Reading:
        """Look at every source of one framework. Never raises: what could not be read is said in `unread`."""
        found: dict[Source, tuple[FrameworkRelease, ...]] = {}
        unread: list[str] = []
        etags = dict(memory.etags)
        limited_until = memory.limited_until

        def ask(source: Source, read: Callable[[Framework, str | None], tuple[Any, str | None]]) -> bool:
            nonlocal limited_until
            try:
                listed, etag = read(framework, etags.get(source))
            except SourceUnavailable as error:
                unread.append(error.sentence)
                limited_until = error.limited_until or limited_until
                return False
            if listed is not None:
                found[source] = listed
                etags.pop(source, None)
                if etag:
                    etags[source] = etag
            return True

        answered = self._now() >= limited_until and ask("api", self._api)
        if not answered:
            answered = ask("atom", self._atom)
        if self._index_url:
            ask("index", self._index)
        return Reading(found, SourceMemory(etags=etags, limited_until=limited_until), tuple(unread), answered)

    def _api(self, framework: Framework, etag: str | None) -> tuple[Any, str | None]:
        headers = {"Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        url = f"{self._api_url}/repos/{framework.repo}/releases?per_page={PER_PAGE}"
        answer = self._get(url, headers, etag)
        if answer is None:
            return None, etag
        return _understood(answer, url, lambda: tuple(_api_release(framework, r) for r in answer.json()))

    def _atom(self, framework: Framework, etag: str | None) -> tuple[Any, str | None]:
        url = f"{self._web_url}/{framework.repo}/releases.atom"
        answer = self._get(url, {"Accept": "application/atom+xml"}, etag)
        return (None, etag) if answer is None else _understood(answer, url, lambda: _atom_releases(framework, answer))

    def _index(self, framework: Framework, etag: str | None) -> tuple[Any, str | None]:
        url = f"{self._index_url}/{framework.package}/json"
        answer = self._get(url, {"Accept": "application/json"}, etag)
        if answer is None:
            return None, etag
        return _understood(answer, url, lambda: _index_releases(framework, answer.json()))

    def _get(self, url: str, headers: dict[str, str], etag: str | None) -> httpx.Response | None:
        """The answer; None when nothing has changed since `etag`."""
        host = urlsplit(url).hostname or url
        try:
            with self._http.stream("GET", url, headers=headers | ({"If-None-Match": etag} if etag else {})) as answer:
                body = bytearray()
                for piece in answer.iter_bytes():
                    body += piece
                    if len(body) > MAX_BYTES:
                        raise SourceUnavailable(f"{url} is longer than {MAX_BYTES} bytes and was not read further.")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SourceUnavailable(
                f"{host} did not answer about {url} ({type(error).__name__}); it is asked again with the next tick."
            ) from error
        if answer.status_code == 304:
            return None
        if answer.status_code in (403, 429):
            until = _limited_until(answer.headers, self._now())
            if until is not None:
                at = datetime.fromtimestamp(until).astimezone().strftime("%H:%M")
                raise SourceUnavailable(
                    f"{host} limits requests until {at}: set GITHUB_TOKEN to raise the limit; its feed is read.",
                    limited_until=until,
                )
        if not answer.is_success:
            raise SourceUnavailable(f"{host} answered {answer.status_code} about {url}; check the framework's name.")
        headers_out = {"ETag": answer.headers["ETag"]} if "ETag" in answer.headers else {}
        return httpx.Response(200, content=bytes(body), headers=headers_out)


def _limited_until(headers: Mapping[str, str], now: float) -> float | None:
    """When a limit ends, in seconds since the epoch; None when the refusal is no rate limit."""
    asked, reset = headers.get("Retry-After", ""), headers.get("X-RateLimit-Reset", "")
    if asked.isdigit():
        return now + float(asked)
    if headers.get("X-RateLimit-Remaining") == "0":
        return float(reset) if reset.isdigit() else now + LIMIT_WITHOUT_RESET_S
    return None


def _understood(
    answer: httpx.Response, url: str, read: Callable[[], tuple[FrameworkRelease, ...]]
) -> tuple[tuple[FrameworkRelease, ...], str | None]:
    try:
        return read(), answer.headers.get("ETag")
    except (ValueError, KeyError, TypeError, AttributeError, ElementTree.ParseError) as error:
        raise SourceUnavailable(
            f"{url} is not a list of releases ({type(error).__name__}); nothing was changed, check the address."
        ) from error


def _api_release(framework: Framework, item: dict[str, Any]) -> FrameworkRelease:
    return FrameworkRelease(
        framework=framework.repo,
        tag=item["tag_name"],
        version=plain_version(item["tag_name"]),
        prerelease=bool(item.get("prerelease")),
        draft=bool(item.get("draft")),
        published_at=item.get("published_at"),
        url=item.get("html_url") or "",
    )


def _atom_releases(framework: Framework, answer: httpx.Response) -> tuple[FrameworkRelease, ...]:
    """The feed knows neither drafts nor a pre-release flag; the tag itself says whether it is final."""
    if b"<!DOCTYPE" in answer.content[:2048].upper() or b"<!ENTITY" in answer.content.upper():
        raise ValueError("a feed with entities of its own is not read")
    root = ElementTree.fromstring(answer.content)  # noqa: S314 - entities are refused above
    if root.tag != f"{_ATOM}feed":
        raise ValueError("no feed")
    found = []
    for entry in root.iter(f"{_ATOM}entry"):
        link = entry.find(f"{_ATOM}link")
        url = link.get("href", "") if link is not None else ""
        tag = unquote(url.rpartition("/tag/")[2]) or (entry.findtext(f"{_ATOM}id") or "").rpartition("/")[2]
        found.append(
            FrameworkRelease(
                framework=framework.repo,
                tag=tag,
                version=plain_version(tag),
                prerelease=is_prerelease(tag),
                published_at=datetime.fromisoformat(entry.findtext(f"{_ATOM}updated") or ""),
                url=url,
            )
        )
    return tuple(found)


def _index_releases(framework: Framework, document: dict[str, Any]) -> tuple[FrameworkRelease, ...]:
    """Versions with at least one file that was not taken back."""
    found = []
    for version, files in document["releases"].items():
        kept = [f for f in files if not f.get("yanked")]
        if kept:
            uploaded = min((f["upload_time_iso_8601"] for f in kept if f.get("upload_time_iso_8601")), default=None)
            found.append(
                FrameworkRelease(
                    framework=framework.repo,
                    tag=version,
                    version=version,
                    prerelease=is_prerelease(version),
                    published_at=uploaded,
                    url=document.get("info", {}).get("project_url") or "",
                )
            )
    return tuple(found)
