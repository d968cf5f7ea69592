"""Run a chain of interceptors around one endpoint: amend, answer from the cache or ask, then log, count and part."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from modelops_dagster.clients.gauntlet.answer_cache import AnswerCache
from modelops_dagster.clients.gauntlet.exchanges import ExchangeLog, SavedPairs, write_json
from modelops_dagster.clients.gauntlet.inference import InferenceClient
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.interceptors import Chain, ProgressTracking, amended, answer_key, parted
from modelops_dagster.domain.gauntlet.response_stats import ReasoningCounts, ResponseCounts
from modelops_dagster.domain.openai_urls import Api

WEBHOOK_TIMEOUT_S = 5.0


class Adapter:
    """One suite's requests through the chain. Use it as an asynchronous context manager, inside the client's.

    `revision` says whose answers a cached one is: weights, engine and lane. `folder` takes what the chain writes where
    it names no folder of its own, and `name` (the suite's) tells its files from those of another suite.
    """

    def __init__(self, chain: Chain, client: InferenceClient, *, revision: str, folder: Path, name: str) -> None:
        self.chain = chain
        self._client = client
        self._revision = revision
        self._name = name
        secrets = (client.api_key,) if client.api_key else ()
        caching = chain.named("caching")
        self._cache = AnswerCache(Path(caching.cache_dir or folder / "answers")) if _reuses(caching) else None
        self._pairs = SavedPairs.of(caching, secrets)
        self._log = ExchangeLog(chain, folder / "exchanges", name, secrets)
        self._reasoning = chain.named("reasoning")
        self._stats = chain.named("response_stats")
        self._raise = chain.named("raise_client_errors")
        self._report_folder = Path((caching.cache_dir if caching else None) or folder)
        self.counts = ResponseCounts()
        self.reasoning_counts = ReasoningCounts()
        tracking = chain.named("progress_tracking")
        self._progress = _Progress(tracking) if tracking else None

    async def __aenter__(self) -> "Adapter":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._write_stats()
        hook = self.chain.named("post_eval_report")
        if hook is not None and self.counts.answers:
            self._pairs.report(self._report_folder, self._name, hook, self.summary())
        if self._progress is not None:
            await self._progress.close(self.counts.answers)
        self._log.close()

    async def complete(self, body: Mapping[str, Any], *, api: Api, sample: str, epoch: int) -> Completion:
        """Ask one sample through the whole chain. Like the client, it never raises for what the endpoint does."""
        if not self.chain.interceptors:
            return await self._client.complete(body, api=api)
        sent, headers = amended(self.chain, body, self._client.headers)
        number = self._log.request(sent, headers)
        if self._cache is None:
            got = await self._client.complete(sent, api=api, headers=headers)
        else:
            key = answer_key(sent, url=self._client.route(api), revision=self._revision, sample=sample, epoch=epoch)
            kept = self._cache.get(key)
            got = kept or await self._client.complete(sent, api=api, headers=headers)
            if kept is None and got.is_ok:
                self._cache.put(key, got)
        self._pairs.save(sample, sent, got)
        self.counts.add(got)
        self._log.response(number, got)
        if self._reasoning is not None:
            got = parted(self._reasoning, got)
            self.reasoning_counts.add(got)
        if self._stats is not None and self.counts.answers % self._stats_interval == 0:
            self._write_stats()
        if self._progress is not None:
            self._progress.tell(self.counts.answers)
        return got

    def is_fatal(self, got: Completion) -> bool:
        """Whether `raise_client_errors` ends the suite with this answer."""
        return self._raise is not None and not got.is_ok and bool(self._raise.covers(got.status))

    def summary(self) -> dict[str, Any]:
        """Counts of what passed, for people and programs."""
        out: dict[str, Any] = self._collected()
        if self._reasoning is not None and self._reasoning.enable_reasoning_tracking:
            out["reasoning"] = self.reasoning_counts.summary()
        return out

    def _collected(self) -> dict[str, Any]:
        out = self.counts.summary()
        wanted = {"tokens": "collect_token_stats", "finish_reasons": "collect_finish_reasons"}
        wanted["tool_calls"] = "collect_tool_calls"
        dropped = [k for k, flag in wanted.items() if self._stats is not None and not getattr(self._stats, flag)]
        return {k: v for k, v in out.items() if k not in dropped}

    @property
    def _stats_interval(self) -> int:
        interval: int = self._stats.stats_file_saving_interval or self._stats.logging_aggregated_stats_interval
        return interval

    def _write_stats(self) -> None:
        if self._stats is not None and self._stats.cache_dir:
            write_json(Path(self._stats.cache_dir) / f"{self._name}-response_stats.json", self._collected())
        tracked = self._reasoning is not None and self._reasoning.enable_reasoning_tracking
        if tracked and self._reasoning.cache_dir:
            path = Path(self._reasoning.cache_dir) / f"{self._name}-reasoning_stats.json"
            write_json(path, self.reasoning_counts.summary())


def _reuses(caching: Any) -> bool:
    return caching is not None and bool(caching.reuse_cached_responses)


class _Progress:
    """Tells a URL how many samples were answered. What the URL does never touches the run."""

    def __init__(self, settings: ProgressTracking) -> None:
        self._settings = settings
        self._calls: set[asyncio.Task[None]] = set()
        self._told = 0
        self._told_at = time.monotonic()

    def tell(self, done: int) -> None:
        """Send the count when it is due and the last call is over."""
        seconds = self._settings.progress_tracking_interval_seconds
        is_due = done - self._told >= self._settings.progress_tracking_interval
        is_late = seconds is not None and time.monotonic() - self._told_at >= seconds
        if (is_due or is_late) and not self._calls:
            self._told, self._told_at = done, time.monotonic()
            call = asyncio.ensure_future(self._call(done))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def close(self, done: int) -> None:
        """Send the last count, within one timeout."""
        for call in tuple(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._call(done)

    async def _call(self, done: int) -> None:
        if self._settings.output_dir:
            folder = Path(self._settings.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "progress").write_text(f"{done}\n")
        if self._settings.progress_tracking_url is None:
            return
        timeout = aiohttp.ClientTimeout(total=WEBHOOK_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.request(
                    self._settings.request_method,
                    self._settings.progress_tracking_url,
                    json={"samples_processed": done},
                ) as response,
            ):
                await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return  # the next count says more
