"""Ask every sample of a dataset suite, score it, and keep going until something makes that pointless."""

import asyncio
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from modelops_dagster.clients.gauntlet.adapter import Adapter
from modelops_dagster.clients.gauntlet.inference import InferenceClient, RetryBudget
from modelops_dagster.clients.gauntlet.journal import Journal
from modelops_dagster.clients.gauntlet.sandbox import run_code
from modelops_dagster.clients.gauntlet.turns import Arm
from modelops_dagster.domain.gauntlet.completion import Completion, ErrorClass
from modelops_dagster.domain.gauntlet.interceptors import Chain
from modelops_dagster.domain.gauntlet.rows import Row, RunContext, sample_row
from modelops_dagster.domain.gauntlet.samples import Sample
from modelops_dagster.domain.gauntlet.scorers import Scored, runs_code, score_completion
from modelops_dagster.domain.gauntlet.suite import SuiteSpec

Progress = Callable[[float, float, str], None]
FATAL: frozenset[ErrorClass] = frozenset({"unauthorized", "not_found"})
LEAST_RETRIES = 20


def request_body(spec: SuiteSpec, sample: Sample, epoch: int, model: str) -> dict[str, Any]:
    """The JSON body that asks a sample for the `epoch`-th time (from 0)."""
    sampling, meta = spec.sampling, sample.metadata
    messages = sample.messages(spec.system_prompt)
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": max(meta.max_tokens or sampling.max_tokens, sampling.token_floor or 0),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    if spec.requests.api == "chat":
        body["messages"] = messages
    else:
        body["prompt"] = "\n\n".join(m["content"] for m in messages)
    if sampling.seed is not None:
        body["seed"] = sampling.seed + epoch
    if meta.stop:
        body["stop"] = list(meta.stop)
    if spec.requests.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


class DatasetRun:
    """One pass over the samples through the chain.

    Once `ask` returned, `adapter_summary` counts what passed, and `was_refused` says whether the endpoint ended it by
    refusing the key or the model.
    """

    def __init__(
        self,
        spec: SuiteSpec,
        samples: Sequence[Sample],
        context: RunContext,
        progress: Progress,
        chain: Chain | None = None,
    ) -> None:
        self.spec = spec
        self.context = context
        self.inference_seconds = 0.0
        self.adapter_summary: dict[str, Any] = {}
        self.was_refused = False
        self._chain = chain or Chain()
        self._progress = progress
        self._arm: Arm | None = None
        self.wanted = [(s, e) for e in range(spec.sampling.epochs) for s in samples]
        self._lost: dict[tuple[str, int], Row] = {}
        self._failed_in_a_row = 0
        self._right = self._cached = 0
        self._given_up = ""
        self._processes = asyncio.Semaphore(os.cpu_count() or 1)

    def beside(self, arm: Arm, progress: Progress) -> None:
        """Keep step with another run of the same samples."""
        self._arm, self._progress = arm, progress

    async def ask(self, journal: Journal, api_key: str | None = None) -> list[Row]:
        """Ask what the journal lacks, with exactly the suite's concurrency.

        Cancelling closes every connection before it returns; what was scored is in the journal.
        """
        limits = self.spec.requests
        todo = [(s, e) for s, e in self.wanted if (s.id, e) not in journal.rows]
        # longest first, so that no slot idles while a long one that began last comes to its end
        todo.sort(key=lambda pair: -(pair[0].metadata.max_tokens or self.spec.sampling.max_tokens))
        if self._arm is not None:
            arm = self._arm
            todo.sort(key=lambda pair: arm.turn(pair[0].id, pair[1]))
            self._given_up = arm.keep(journal.rows.values())
        client = InferenceClient(
            self.context.endpoint.url,
            concurrency=limits.concurrency,
            attempt_timeout_s=limits.attempt_timeout_s,
            retries=limits.retries,
            budget=RetryBudget(max(LEAST_RETRIES, len(todo))),
            api_key=api_key,
        )
        self._right = sum(row["outcome_class"] == "correct" for row in journal.rows.values())
        self._report(journal)
        queue = iter(todo)
        adapter = Adapter(
            self._chain,
            client,
            revision=self.context.served_by,
            folder=journal.path.parent,
            name=self.context.suite,
        )
        try:
            async with client, adapter, asyncio.timeout(limits.deadline_s), asyncio.TaskGroup() as group:
                for _ in range(min(limits.concurrency, len(todo))):
                    group.create_task(self._work(adapter, queue, journal))
        except TimeoutError:
            self._given_up = f"the suite's deadline of {limits.deadline_s:g} s passed"
        finally:
            if self._arm is not None:
                self._arm.leave()
        self.inference_seconds = client.inference_seconds
        self.adapter_summary = adapter.summary() if self._chain.interceptors else {}
        return [self._row(journal, s, e) for s, e in self.wanted]

    async def _work(self, adapter: Adapter, queue: Any, journal: Journal) -> None:
        for sample, epoch in queue:
            if self._arm is not None:
                await self._arm.wait(sample.id, epoch)
                self._given_up = self._given_up or self._arm.stopped
            if self._given_up:
                return
            started_at = datetime.now(UTC)
            body = request_body(self.spec, sample, epoch, self.context.endpoint.served_model_name)
            completion = await adapter.complete(body, api=self.spec.requests.api, sample=sample.id, epoch=epoch)
            if runs_code(sample):
                async with self._processes:
                    scored = await asyncio.to_thread(score_completion, sample, completion, run_code)
            else:
                scored = score_completion(sample, completion)
            row = sample_row(self.context, sample, epoch, completion, scored, started_at)
            self._keep(journal, row, completion, adapter.is_fatal(completion))

    def _keep(self, journal: Journal, row: Row, completion: Completion, is_fatal: bool) -> None:
        if completion.is_ok:
            self._failed_in_a_row = 0
            self._right += row["outcome_class"] == "correct"
            self._cached += completion.cache_hit
            journal.append(row)
        else:
            self._lost[row["sample_id"], row["epoch"]] = row
            self._failed_in_a_row += 1
            self.was_refused = self.was_refused or completion.error in FATAL
            if completion.error in FATAL or is_fatal:
                self._given_up = f"the endpoint answers {completion.error_detail}"
            elif self._failed_in_a_row >= self.spec.requests.give_up_after:
                self._given_up = f"{self._failed_in_a_row} requests in a row failed, the last with {completion.error}"
        if self._arm is not None:
            self._given_up = self._given_up or self._arm.keep([row])
        self._report(journal)

    def _report(self, journal: Journal) -> None:
        text = f"{self._right} right"
        text += f", {len(self._lost)} lost" if self._lost else ""
        text += f", {self._cached} cached" if self._cached else ""
        self._progress(len(journal.rows) + len(self._lost), len(self.wanted), text)

    def _row(self, journal: Journal, sample: Sample, epoch: int) -> Row:
        kept = journal.rows.get((sample.id, epoch)) or self._lost.get((sample.id, epoch))
        if kept is not None:
            return kept
        never = Completion(error="gave_up", attempts=0)
        scored = Scored("unscored", None, f"not asked: {self._given_up}")
        return sample_row(self.context, sample, epoch, never, scored, datetime.now(UTC))
