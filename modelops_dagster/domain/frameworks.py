"""Releases of the frameworks models are served with: which tag is a version, and which version is new."""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.values import Value

Source = Literal["api", "atom", "index"]
MAX_SEEN = 100  # versions remembered of one framework

_VERSION = re.compile(
    r"v?(?P<numbers>\d+(?:\.\d+)*)(?:[-_.]?(?P<pre>a|b|c|rc|alpha|beta|pre|preview)[-_.]?(?P<n>\d*))?"
    r"(?:[-_.]?(?P<post>post|rev|r)[-_.]?(?P<p>\d*))?(?:[-_.]?(?P<dev>dev)[-_.]?(?P<d>\d*))?(?:\+[a-z0-9.]+)?",
    re.IGNORECASE,
)
_PRE_RANK = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}
_FRAMEWORK = re.compile(r"(?P<repo>[A-Za-z0-9][\w-]*/[\w.-]+?)(?:=(?P<package>[A-Za-z0-9][\w.-]*))?")

VersionKey = tuple[tuple[int, ...], tuple[int, int], int, float]


class Framework(Value):
    """One program whose releases are watched."""

    repo: str = Field(description="owner/name of its source repository")
    package: str = Field(description="its name in the package index")


class FrameworkRelease(Value):
    """One published version."""

    framework: str = Field(description="owner/name")
    tag: str
    version: str = Field(description="without a leading v")
    prerelease: bool = False
    draft: bool = False
    published_at: datetime | None = None
    url: str = ""


class SourceMemory(Value):
    """What a conditional request needs of the one before it."""

    etags: dict[Source, str] = Field(default_factory=dict)
    limited_until: float = Field(default=0, description="seconds since the epoch; until then the API is not asked")


class FrameworkState(Value):
    """One framework as it was seen last. `seen` is None before the first whole look."""

    memory: SourceMemory = SourceMemory()
    seen: tuple[str, ...] | None = None
    looked_at: float = Field(default=0, description="seconds since the epoch")


def parse_framework(text: str) -> Framework:
    """`owner/name` or `owner/name=package`; the package is called as the repository unless said otherwise.

    Raises:
        InvalidSpec: the text is neither.
    """
    found = _FRAMEWORK.fullmatch(text)
    if not found:
        raise InvalidSpec(
            f"{text!r} is not a framework: write owner/name or owner/name=package in MODELOPS_FRAMEWORKS.",
            field="frameworks",
        )
    return Framework(repo=found["repo"], package=found["package"] or found["repo"].partition("/")[2])


def version_key(text: str) -> VersionKey | None:
    """A sort key for a tag or version (`v0.32.0`, `4.57.0rc1`, `0.8.5.post1`); None where it is no version at all.

    Development versions come before pre-releases, those before the release, and that before its post-releases.
    """
    found = _VERSION.fullmatch(text.strip())
    if not found:
        return None
    numbers = [int(n) for n in found["numbers"].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    pre = (_PRE_RANK[found["pre"].lower()], int(found["n"] or 0)) if found["pre"] else (9, 0)
    if found["dev"] and not found["pre"] and not found["post"]:
        pre = (-1, 0)
    post = int(found["p"] or 0) if found["post"] else -1
    return tuple(numbers), pre, post, float(found["d"] or 0) if found["dev"] else float("inf")


def is_prerelease(text: str) -> bool:
    """Whether the version says of itself that it is none of the final ones."""
    key = version_key(text)
    return key is not None and (key[1][0] < 9 or key[3] != float("inf"))


def plain_version(tag: str) -> str:
    """The version a tag stands for: `v0.32.0` -> `0.32.0`."""
    return tag.strip().removeprefix("v").removeprefix("V")


def is_final(release: FrameworkRelease) -> bool:
    """A draft, a pre-release and a tag that is no version are left undecided: they may become final later."""
    return (
        not release.draft
        and not release.prerelease
        and version_key(release.version) is not None
        and not is_prerelease(release.version)
    )


def new_releases(
    seen: Sequence[str] | None, listed: Iterable[FrameworkRelease]
) -> tuple[tuple[str, ...], list[FrameworkRelease]]:
    """Compare a listing with what was seen before.

    A release is new when its version was not seen and is above every seen version that is still listed: a patch of an
    older line is noted and not announced, and a release that was withdrawn does not hide the ones after it.

    Args:
        seen: versions seen before; None before the first look, which is the baseline and announces nothing.
        listed: releases as one source lists them, in any order.

    Returns:
        The versions seen now, and the new releases, lowest first.
    """
    final: dict[VersionKey, FrameworkRelease] = {}
    for release in listed:
        key = version_key(release.version)
        if key is not None and is_final(release):
            final.setdefault(key, release)
    known = {version_key(v) for v in seen or ()}
    bar = max((key for key in final if key in known), default=None)
    unseen = {key: release for key, release in sorted(final.items(), key=lambda pair: pair[0]) if key not in known}
    fresh = [] if seen is None else [r for key, r in unseen.items() if bar is None or key > bar]
    keyed = {key: v for v in (*(r.version for r in unseen.values()), *(seen or ())) if (key := version_key(v))}
    return tuple(keyed[key] for key in sorted(keyed))[-MAX_SEEN:], fresh


def look(
    state: FrameworkState, listings: Iterable[Iterable[FrameworkRelease]], *, answered: bool
) -> tuple[FrameworkState, list[FrameworkRelease]]:
    """Take the listings of several sources into the state; a release that two of them list is new once.

    Args:
        listings: one per source that had something new to say.
        answered: the first source was read. Until it was, there is no baseline, and nothing is announced.
    """
    if state.seen is None:
        if not answered:
            return state, []
        seen, _ = new_releases(None, [release for listed in listings for release in listed])
        return state.model_copy(update={"seen": seen}), []
    seen, fresh = state.seen, []
    for listed in listings:
        seen, found = new_releases(seen, listed)
        fresh += found
    return state.model_copy(update={"seen": seen}), fresh
