"""Run the contract checks against an endpoint. A check that fails is asked again once, then it counts."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from modelops_dagster.clients.gauntlet.inference import InferenceClient
from modelops_dagster.clients.gauntlet.probes import Probes
from modelops_dagster.domain.gauntlet.completion import Completion
from modelops_dagster.domain.gauntlet.contract import ADVISORY, REQUIRED, Check, Finding, HttpAnswer
from modelops_dagster.domain.gauntlet.contract_checks import CHECKS
from modelops_dagster.domain.gauntlet.interceptors import Chain
from modelops_dagster.domain.gauntlet.report import OutcomeClass
from modelops_dagster.domain.gauntlet.rows import Row, RunContext, completion_columns, suite_columns
from modelops_dagster.domain.gauntlet.samples import canonical, digest
from modelops_dagster.domain.gauntlet.suite import ContractSettings, SuiteSpec

OUTCOMES: dict[str, OutcomeClass] = {
    "pass": "correct",
    "fail": "wrong",
    "unscored": "infra_error",
    "not_offered": "not_offered",
}
SCORES = {"pass": 1.0, "fail": 0.0}
MACHINERY = ("connection", "gave_up")


class ContractRun:
    """One pass over the checks. `failing` holds a sentence per failed check once `ask` returned."""

    def __init__(
        self,
        spec: SuiteSpec,
        context: RunContext,
        progress: Callable[[float, float, str], None],
        api_key: str | None = None,
        transport: Chain | None = None,
    ) -> None:
        self.failing: tuple[str, ...] = ()
        self.inference_seconds = 0.0
        self._settings = spec.contract or ContractSettings()
        self._requests = spec.requests
        self._context = context
        self._progress = progress
        self._api_key = api_key
        self._transport = transport

    async def ask(self) -> list[Row]:
        """Judge every check and return one row each, in the order of `CHECKS`.

        What is not ruled when the suite's deadline passes is unscored.
        """
        endpoint = self._context.endpoint
        client = InferenceClient(
            endpoint.url,
            concurrency=self._requests.concurrency,
            attempt_timeout_s=self._requests.attempt_timeout_s,
            retries=self._requests.retries,
            api_key=self._api_key,
            transport=self._transport,
        )
        findings: dict[str, Finding] = {}
        async with client:
            probes = Probes(client, self._settings, endpoint.served_model_name, endpoint.max_context)
            try:
                async with asyncio.timeout(self._requests.deadline_s):
                    await self._judge_all(probes, findings)
            except TimeoutError:
                late = Finding("unscored", f"not ruled before the deadline of {self._requests.deadline_s:g} s")
                findings = {c.name: findings.get(c.name, late) for c in CHECKS}
            finally:
                await probes.close()
            self.inference_seconds = client.inference_seconds
        self.failing = tuple(_sentence(c, findings[c.name]) for c in CHECKS if _counts(findings[c.name]))
        return [self._row(c, findings[c.name]) for c in CHECKS]

    async def _judge_all(self, probes: Probes, findings: dict[str, Finding]) -> None:
        async with asyncio.TaskGroup() as group:
            for check in CHECKS:
                group.create_task(self._judge(check, probes, findings))
        again = [c for c in CHECKS if findings[c.name].ruling in ("fail", "unscored")]
        for name in {n for c in again for n in c.needs}:
            probes.forget(name)
        async with asyncio.TaskGroup() as group:
            for check in again:
                group.create_task(self._judge(check, probes, findings))

    async def _judge(self, check: Check, probes: Probes, findings: dict[str, Finding]) -> None:
        seen: dict[str, Any] = {"model": self._context.endpoint.served_model_name}
        for name in check.needs:
            seen[name] = await probes.observe(name)
        broken = next((a for name in check.needs for a in _answers(seen[name]) if a.error in MACHINERY), None)
        if broken is not None:
            findings[check.name] = Finding("unscored", f"{broken.error}: {broken.error_detail}")
        else:
            findings[check.name] = check.judge(seen, self._settings)
        self._progress(len(findings), len(CHECKS), check.name)

    def _row(self, check: Check, finding: Finding) -> Row:
        return {
            **suite_columns(self._context),
            "item_uid": digest(["contract", check.name]).removeprefix("sha256:"),
            "sample_id": check.name,
            "category": ADVISORY if check.is_advisory else REQUIRED,
            "cluster": check.name,
            "epoch": 0,
            "input": canonical(list(check.needs)),
            **completion_columns(Completion(text=finding.text)),
            "outcome_class": OUTCOMES[finding.ruling],
            "score": SCORES.get(finding.ruling),
            "explanation": finding.said,
            "started_at": datetime.now(UTC),
        }


def _answers(observation: object) -> Sequence[Completion | HttpAnswer]:
    """The answers inside an observation, whatever its shape."""
    found = observation if isinstance(observation, list | tuple) else (observation,)
    return [a for a in found if isinstance(a, Completion | HttpAnswer)]


def _counts(finding: Finding) -> bool:
    return finding.ruling in ("fail", "unscored")


def _sentence(check: Check, finding: Finding) -> str:
    label = f"{check.name} (advisory)" if check.is_advisory else check.name
    if finding.ruling == "unscored":
        return f"{label}: could not be asked, {finding.said}"
    return f"{label}: {finding.said}; probable fault: {check.fault}"
