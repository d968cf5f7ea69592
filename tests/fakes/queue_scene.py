"""The queue of an endpoint, with consumers as programs and a reader of the answers."""

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelops_dagster.clients.queues import follow_answers
from modelops_dagster.domain.batch import BatchRequest
from modelops_dagster.domain.queues import QueueNames, new_submission
from tests.fakes.brokers import QueueServer
from tests.fakes.stack import ROOT, wait_until

ANSWERED_S = 240.0


class QueueScene:
    """An endpoint's queue, the engine, and the consumers that were started."""

    def __init__(self, server: QueueServer, url: str, model: str, log: Path) -> None:
        self.server = server
        self._url = url.removesuffix("/v1")
        self._model = model
        self.log = log
        self.names = QueueNames(f"nightly-{uuid.uuid4().hex[:8]}")
        self.submission = new_submission()
        self.programs: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str, engine: str | None = None, **environ: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "modelops_dagster.services.queue_consumer"]
        command += ["--endpoint", self.names.endpoint, "--model", self._model, "--lease-s", "2"]
        command += ["--engine", engine or self._url, *arguments]
        with self.log.open("ab") as log:
            program = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **self.server.environ(), **environ}, stdout=log, stderr=log
            )
        self.programs.append(program)
        return program

    def submit(self, *ids: str, **asked: object) -> None:
        body = {"model": "nobody's", "messages": [{"role": "user", "content": "hello"}], **asked}
        requests = [BatchRequest(custom_id=i, url="/v1/chat/completions", body=body) for i in ids]
        self.put([request.model_dump_json() for request in requests])

    def put(self, lines: Sequence[str]) -> None:
        async def work() -> None:
            broker = self.server.broker()
            await broker.put(self.names, self.submission, lines)
            await broker.close()

        asyncio.run(work())

    def answers(self) -> list[dict[str, Any]]:
        """What a reader of the submission sees now."""

        async def work() -> list[dict[str, Any]]:
            broker = self.server.broker()
            found = follow_answers(broker, self.names, self.submission, wait=False)
            lines = [json.loads(line) async for line in found]
            await broker.close()
            return lines

        return asyncio.run(work())

    def all_answered(self, *ids: str) -> list[dict[str, Any]]:
        """Every answer, once there is one for each; and there is one for each, however often the engine was asked."""
        found = wait_until(self.answers, lambda seen: len(seen) >= len(ids), ANSWERED_S)
        assert sorted(answer["custom_id"] for answer in found) == sorted(ids)
        return found

    def end(self) -> None:
        for program in self.programs:
            program.kill()
            program.wait()
