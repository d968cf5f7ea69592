"""Takes requests, asks the engine, stores answers. A request is settled only after its answer is stored."""

import asyncio
import logging
from dataclasses import dataclass

from modelops_dagster.clients.queues import Broker, Delivery, Lane
from modelops_dagster.domain.batch import BatchRequest, answer_line
from modelops_dagster.domain.counting import counted
from modelops_dagster.domain.errors import InvalidSpec, QueueUnavailable
from modelops_dagster.domain.queues import (
    MAX_ATTEMPTS,
    QueueNames,
    checked_submission,
    custom_id_of,
    new_answer_id,
    parse_queued,
    refusal_line,
)
from modelops_dagster.services.queue_consumer.engine import Answered, Broke, Engine, pause

log = logging.getLogger("modelops.consumer")
_TAKE_S = 1.0
_RETRY_S = 2.0
_FIRST_BACK_OFF_S = 1.0
_LONGEST_BACK_OFF_S = 30.0


@dataclass(frozen=True)
class Work:
    """What one consumer program does."""

    endpoint: str
    model: str  # the served model name; whatever a request calls it, the engine knows no other
    at_once: int  # requests under way at the same time
    drain_s: float  # between the request to end and giving back what is under way
    name: str  # of this program, and nobody else's
    attempts: int = MAX_ATTEMPTS
    back_off_s: float = _FIRST_BACK_OFF_S


class Consumer:
    """As many takers as there may be requests at once, until `stopping` is set."""

    def __init__(self, broker: Broker, engine: Engine, work: Work) -> None:
        self._broker = broker
        self._engine = engine
        self._work = work
        self._names = QueueNames(work.endpoint)
        self._unavailable = ""
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Work until told to stop, then finish what is under way, or give it back when that takes too long.

        Raises:
            UserError: the queue does not let this program in.
        """
        takers = {asyncio.create_task(self._take_part(number)) for number in range(self._work.at_once)}
        stop = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({stop, *takers}, return_when=asyncio.FIRST_COMPLETED)
            self.stopping.set()
            _, late = await asyncio.wait(takers, timeout=self._work.drain_s)
            if late:
                log.warning("%d requests are not answered after %g s and go back", len(late), self._work.drain_s)
        finally:
            stop.cancel()
            for taker in takers:
                taker.cancel()
            ended = await asyncio.gather(*takers, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    async def _take_part(self, number: int) -> None:
        while not self.stopping.is_set():
            try:
                if not await self._engine.ready(self.stopping):
                    return
                async with self._broker.lane(self._names, f"{self._work.name}-{number}") as lane:
                    self._unavailable = ""
                    await self._follow(lane)
            except QueueUnavailable as error:
                if error.sentence != self._unavailable:
                    log.warning("%s", error.sentence)
                    self._unavailable = error.sentence
                await pause(_RETRY_S, self.stopping)

    async def _follow(self, lane: Lane) -> None:
        # the engine is looked at first: what is taken while there is none would only wait where nobody else sees it
        while await self._engine.ready(self.stopping):
            delivery = await lane.take(_TAKE_S)
            if delivery is None:
                continue
            try:
                await self._handle(lane, delivery)
            except asyncio.CancelledError:
                await lane.again(delivery, delivery.attempt)
                raise

    async def _handle(self, lane: Lane, delivery: Delivery) -> None:
        try:
            checked_submission(delivery.submission)
        except InvalidSpec as error:
            await self._give_up(lane, delivery, None, "invalid_request", error.sentence)
            return
        custom_id = custom_id_of(delivery.text)
        try:
            request = parse_queued(delivery.text, self._work.model)
        except InvalidSpec as error:
            await self._give_up(lane, delivery, custom_id, "invalid_request", error.sentence)
            return
        if delivery.attempt > self._work.attempts:
            told = f"It was tried {self._work.attempts} times, and what tried it ended each time."
            await self._give_up(lane, delivery, custom_id, "no_answer", told)
            return
        await self._ask(lane, delivery, request)

    async def _ask(self, lane: Lane, delivery: Delivery, request: BatchRequest) -> None:
        while True:
            outcome = await self._engine.ask(request)
            if isinstance(outcome, Answered):
                line = answer_line(request, answer_id=new_answer_id(), status=outcome.status, body=outcome.body)
                await lane.answer(delivery, request.custom_id, line)
                return
            if isinstance(outcome, Broke) and not self.stopping.is_set():
                await self._broke(lane, delivery, request, outcome)
                return
            if not isinstance(outcome, Broke):
                await pause(outcome.wait_s, self.stopping)
            if not await self._engine.ready(self.stopping):
                # the engine ends with this pod: nothing is known against the request
                await lane.again(delivery, delivery.attempt)
                return

    async def _broke(self, lane: Lane, delivery: Delivery, request: BatchRequest, outcome: Broke) -> None:
        log.warning("attempt %d of %d: the engine failed, %s", delivery.attempt, self._work.attempts, outcome.said)
        if delivery.attempt >= self._work.attempts:
            told = f"The engine was asked {counted(delivery.attempt, 'time')}, and at last {outcome.said}."
            await self._give_up(lane, delivery, request.custom_id, "no_answer", told)
            return
        await pause(min(_LONGEST_BACK_OFF_S, self._work.back_off_s * 2 ** (delivery.attempt - 1)), self.stopping)
        await lane.again(delivery, delivery.attempt + 1)

    async def _give_up(self, lane: Lane, delivery: Delivery, custom_id: str | None, code: str, told: str) -> None:
        log.warning("a request is given up (%s): %s", code, told)
        line = refusal_line(custom_id, code, told) if custom_id is not None else None
        await lane.bury(delivery, told, custom_id, line)
