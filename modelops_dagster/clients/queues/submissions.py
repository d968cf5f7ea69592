"""What somebody does who has questions: put them into the queue, and read the answers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence

from modelops_dagster.clients.queues.broker import Broker
from modelops_dagster.domain.batch import BatchRequest
from modelops_dagster.domain.errors import QueueUnavailable
from modelops_dagster.domain.queues import QueueNames

_RETRY_S = 1.0


async def submit(broker: Broker, names: QueueNames, submission: str, requests: Sequence[BatchRequest]) -> None:
    """Put requests into an endpoint's queue. After a failure the same call may be made again: answers come once.

    Raises:
        QueueUnavailable: the server does not answer; some of the requests may be in the queue.
    """
    await broker.put(names, submission, [request.model_dump_json() for request in requests])


async def follow_answers(
    broker: Broker, names: QueueNames, submission: str, *, wait: bool
) -> AsyncGenerator[str, None]:
    """The answer lines of a submission, one for each custom_id, in the order in which they were given.

    Args:
        wait: go on for ever, also over an outage of the server; otherwise end with what is there now.
    """
    seen: set[str] = set()
    while True:
        try:
            async with contextlib.aclosing(broker.answers(names, submission, wait=wait)) as lines:
                async for line in lines:
                    custom_id = str(json.loads(line)["custom_id"])
                    if custom_id not in seen:
                        seen.add(custom_id)
                        yield line
        except QueueUnavailable:
            if not wait:
                raise
            await asyncio.sleep(_RETRY_S)
        if not wait:
            return
