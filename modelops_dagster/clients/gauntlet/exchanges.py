"""What people look at when scores surprise them: logged requests and answers, and a report of the first pairs."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TextIO

from modelops_dagster.clients.whole_files import write_whole
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.interceptors import Caching, Chain, PostEvalReport
from modelops_dagster.domain.gauntlet.redaction import redacted

OWNER_ONLY = 0o600


def write_json(path: Path, value: Any) -> None:
    """Write a file whole, readable by its owner only."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, text, is_private=True, is_durable=False)


class ExchangeLog:
    """`request_logging` and `response_logging`: at most so many lines each, secrets left out."""

    def __init__(self, chain: Chain, folder: Path, name: str, secrets: Sequence[str]) -> None:
        self._requests = chain.named("request_logging")
        self._responses = chain.named("response_logging")
        self._folder = folder
        self._name = name
        self._secrets = secrets
        self._files: dict[str, TextIO] = {}
        self._asked = self._answered = 0

    def request(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> int:
        """Log a request if there is room; its number ties the answer to it."""
        self._asked += 1
        settings = self._requests
        if settings is not None and (settings.max_requests is None or self._asked <= settings.max_requests):
            line: dict[str, Any] = {"number": self._asked}
            if settings.log_request_headers:
                line["headers"] = dict(headers)
            if settings.log_request_body:
                line["body"] = dict(body)
            self._write("requests", settings.output_dir, line)
        return self._asked

    def response(self, number: int, got: Completion) -> None:
        """Log an answer if there is room."""
        self._answered += 1
        settings = self._responses
        if settings is None or (settings.max_responses is not None and self._answered > settings.max_responses):
            return
        line: dict[str, Any] = {"number": number, "status": got.status, "cache_hit": got.cache_hit}
        if settings.log_response_body:
            line |= _shown(got)
        self._write("responses", settings.output_dir, line)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _write(self, name: str, folder: str | None, line: Mapping[str, Any]) -> None:
        if name not in self._files:
            path = Path(folder or self._folder) / f"{self._name}-{name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=OWNER_ONLY)
            self._files[name] = path.open("a", encoding="utf-8")
        self._files[name].write(json.dumps(redacted(line, self._secrets), ensure_ascii=False) + "\n")
        self._files[name].flush()


def _shown(got: Completion) -> dict[str, Any]:
    return {
        "text": got.text,
        "reasoning": got.reasoning,
        "finish_reason": got.finish_reason,
        "tokens_in": got.tokens_in,
        "tokens_out": got.tokens_out,
        "error": got.error,
        "error_detail": got.error_detail,
    }


class SavedPairs:
    """The first requests with their answers, and the report that `post_eval_report` makes of them."""

    def __init__(self, most: int | None, secrets: Sequence[str]) -> None:
        self._most = most
        self._secrets = secrets
        self._pairs: list[dict[str, Any]] = []

    @classmethod
    def of(cls, caching: Caching | None, secrets: Sequence[str]) -> Self:
        if caching is None or not (caching.save_requests or caching.save_responses):
            return cls(0, secrets)
        limits = [n for n in (caching.max_saved_requests, caching.max_saved_responses) if n is not None]
        return cls(max(limits) if limits else None, secrets)

    def save(self, sample: str, body: Mapping[str, Any], got: Completion) -> None:
        if self._most is None or len(self._pairs) < self._most:
            self._pairs.append(
                redacted({"sample": sample, "request": dict(body), "answer": _shown(got)}, self._secrets)
            )

    def report(self, folder: Path, name: str, hook: PostEvalReport, summary: Mapping[str, Any]) -> None:
        """Write NAME-report.json and NAME-report.html into the folder."""
        pairs = self._pairs[: hook.html_report_size]
        if "json" in hook.report_types:
            write_json(folder / f"{name}-report.json", {"summary": summary, "pairs": pairs})
        if "html" in hook.report_types:
            path = folder / f"{name}-report.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=OWNER_ONLY)
            path.write_text(_page(pairs, summary), encoding="utf-8")


def _page(pairs: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    def block(title: str, value: Any) -> str:
        return f"<h3>{html.escape(title)}</h3><pre>{html.escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"

    parts = [
        f"<section><h2>{html.escape(p['sample'])}</h2>{block('Request', p['request'])}{block('Answer', p['answer'])}"
        "</section>"
        for p in pairs
    ]
    style = "body{font:15px/1.5 system-ui;max-width:60rem;margin:2rem auto}pre{white-space:pre-wrap;background:#f4f4f4}"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Requests and answers</title>'
        f"<style>{style}</style><h1>Requests and answers</h1>{block('Summary', summary)}{''.join(parts)}</html>\n"
    )
