"""Answers by the digest of everything that may change them, one file each; processes may share a folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.gauntlet.completion import Completion

_KEPT = ("text", "reasoning", "finish_reason", "status", "tokens_in", "tokens_out", "tool_calls")


class AnswerCache:
    """Only whole answers are kept. Usage is kept with them, times are not: nothing was waited for on a hit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> Completion | None:
        """The answer of that key, marked as a hit; None when there is none or its file cannot be read."""
        try:
            kept: dict[str, Any] = json.loads(self._path(key).read_bytes())
            if kept.pop("key") != key or set(kept) != set(_KEPT):
                return None
            kept["tool_calls"] = tuple((str(n), str(a)) for n, a in kept["tool_calls"])
            return replace(Completion(**kept), cache_hit=True, attempts=0)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def put(self, key: str, got: Completion) -> None:
        """Keep an answer; a file appears whole or not at all."""
        kept = {"key": key, **{name: getattr(got, name) for name in _KEPT}}
        write_whole(self._path(key), json.dumps(kept), is_durable=False)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
