"""The listing of models: which are asked for, in which order, and one page of them."""

import base64
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from multidict import MultiMapping

from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.services.hub_server import answers
from modelops_dagster.services.hub_server.storage import HubStorage

Info = dict[str, Any]
SORTS = ("createdAt", "lastModified", "downloads", "likes", "trendingScore", "id")
UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
UNKNOWN_FILTERS = ("apps", "inference", "inference_provider")
ALWAYS_FULL = ("author", "sha", "lastModified", "gated", "disabled", "siblings")


class Listing:
    """Every repository's facts at its present commit, computed once for each state of it."""

    def __init__(self, storage: HubStorage) -> None:
        self.storage = storage
        self._known: dict[str, tuple[object, Info]] = {}

    def infos(self, author: str | None, *, private_too: bool) -> list[Info]:
        """What is on the Hub, or of one organisation. A repository whose settings do not hold fails the listing."""
        found = []
        for repo_id in self.storage.repo_ids(author):
            settings = self.storage.settings(repo_id)
            if settings.private and not private_too:
                continue
            commit = self.storage.main(repo_id)
            if commit is not None:
                state = (commit.commit_hash, settings)
                known = self._known.get(repo_id)
                if known is None or known[0] != state:
                    known = state, answers.model_info(self.storage, repo_id, commit)
                    self._known[repo_id] = known
                found.append(known[1])
        return found


def chosen(infos: Sequence[Info], query: MultiMapping[str]) -> list[Info]:
    """Those that hold for every filter of the query, in the order it asks for.

    Raises:
        InvalidSpec: a filter or an order that this Hub does not know; leaving it out would list too much.
    """
    for name in UNKNOWN_FILTERS:
        if name in query:
            raise InvalidSpec(f"This Hub knows no filter {name!r}: leave it out.", field=name)
    search = [s.lower() for s in query.getall("search", [])]
    tags = {t for given in query.getall("filter", []) for t in given.split(",") if t}
    pipeline, gated = query.get("pipeline_tag"), query.get("gated")
    holds: list[Callable[[Info], bool]] = [
        lambda i: all(s in i["id"].lower() for s in search),
        lambda i: tags <= {*i["tags"], i["pipeline_tag"], i["library_name"]},
        lambda i: pipeline is None or i["pipeline_tag"] == pipeline,
        lambda i: gated is None or bool(i["gated"]) == (gated.lower() in ("true", "1")),
    ]
    if "num_parameters" in query:
        low, high = _bounds(query["num_parameters"])
        holds.append(lambda i: low <= (i.get("safetensors") or {"total": -1})["total"] <= high)
    key = _sort_key(query)
    return sorted((i for i in infos if all(h(i) for h in holds)), key=lambda i: _place(i, key), reverse=key != "id")


def page_of(infos: Sequence[Info], query: MultiMapping[str], longest: int) -> tuple[list[Info], str | None]:
    """One page, and the cursor of the next. A cursor is a place in the order, so what is published or deleted between
    two pages neither hides another repository nor shows one twice."""
    key, cursor = _sort_key(query), query.get("cursor")
    after = _read_cursor(cursor) if cursor else None
    if after is not None:
        infos = [i for i in infos if (_place(i, key) > after if key == "id" else _place(i, key) < after)]
    asked = query.get("limit", "")
    limit = max(1, min(int(asked) if asked.isdigit() else longest, longest))
    page = list(infos[:limit])
    if len(infos) <= limit:
        return page, None
    return page, base64.urlsafe_b64encode(json.dumps(_place(page[-1], key)).encode()).decode()


def shown(info: Info, query: MultiMapping[str]) -> Info:
    """The fields that the query asks for."""
    expand = query.getall("expand", []) + query.getall("expand[]", [])
    if expand:
        return answers.selected(info, expand)
    wanted = list(answers.LISTED_BY_DEFAULT)
    wanted += [*ALWAYS_FULL] if _is_set(query, "full") else []
    wanted += ["config"] if _is_set(query, "config") else []
    wanted += ["cardData"] if _is_set(query, "cardData") else []
    return answers.selected(info, wanted)


def _is_set(query: MultiMapping[str], name: str) -> bool:
    return query.get(name, "").lower() in ("true", "1")


def _sort_key(query: MultiMapping[str]) -> str:
    key = query.get("sort", "id")
    if key not in SORTS:
        raise InvalidSpec(f"This Hub cannot sort by {key!r}: choose one of {', '.join(SORTS)}.", field="sort")
    return key


def _place(info: Info, key: str) -> tuple[str, str]:
    return str(info.get(key, "")), info["id"]


def _read_cursor(cursor: str) -> tuple[str, str]:
    try:
        value, repo_id = json.loads(base64.urlsafe_b64decode(cursor))
    except ValueError:
        raise InvalidSpec(
            f"{cursor[:80]!r} is not a cursor of this Hub: begin at the first page.", field="cursor"
        ) from None
    return str(value), str(repo_id)


def _bounds(stated: str) -> tuple[float, float]:
    """`min:6B,max:128B` as numbers of parameters; either may be missing."""
    bounds = {"min": 0.0, "max": float("inf")}
    for part in stated.split(","):
        match = re.fullmatch(r"(min|max):(\d+(?:\.\d+)?)([KMBT]?)", part.strip())
        if match is None:
            raise InvalidSpec(
                f"{stated[:80]!r} is not a range of parameters: write it as min:6B,max:128B.", field="num_parameters"
            )
        bounds[match[1]] = float(match[2]) * UNITS[match[3]]
    return bounds["min"], bounds["max"]
