"""Queues on RabbitMQ (3.10 or newer): a quorum queue of requests, and one queue of answers for each submission.

An answer is published, and its request acknowledged, in one transaction of the channel: a consumer that is killed has
done both or neither, and the server gives what was not acknowledged to somebody else. A server that itself ends in the
middle of it may keep the answer and the request; then the second answer has the custom_id of the first, and readers
take one.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import aio_pika
from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractIncomingMessage,
    AbstractQueue,
    AbstractTransaction,
)
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, AuthenticationError, ProbableAuthenticationError

from modelops_dagster.clients.queues.broker import Delivery, errors_of
from modelops_dagster.domain.queues import (
    ANSWERS_KEPT_S,
    DEAD_LETTERS_KEPT,
    QueueAddress,
    QueueNames,
    QueueState,
    dead_letter,
)

logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # what it writes is raised as well
_TIMEOUT_S = 10.0
_LOOK_S = 1.0
_AT_ONCE = 200  # messages on their way to the server
_QUORUM = {"x-queue-type": "quorum"}
# classic ones: they may be read again and again without an end, which quorum queues count and forbid
_DEAD = {"x-max-length": DEAD_LETTERS_KEPT}
_ANSWERS = {"x-expires": 1000 * ANSWERS_KEPT_S}


class RabbitBroker:
    """One RabbitMQ."""

    def __init__(self, address: QueueAddress, username: str | None, password: str | None) -> None:
        self._address = address
        self._username = username or "guest"
        self._password = password or "guest"
        self._connection: AbstractConnection | None = None
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def lane(self, names: QueueNames, name: str) -> AsyncIterator["RabbitLane"]:
        """Take requests on a channel of its own; `name` is what the server's own pages call it."""
        with told(self._address):
            connection = await self._connected()
            channel = await connection.channel(publisher_confirms=False)
            lane = RabbitLane(self._address, names, channel)
            await lane.open(name)
        try:
            yield lane
        finally:
            with contextlib.suppress(*CONNECTION_EXCEPTIONS, TimeoutError):
                await lane.close()

    async def put(self, names: QueueNames, submission: str, lines: Sequence[str]) -> None:
        with told(self._address):
            connection = await self._connected()
            async with connection.channel() as channel:
                await _declare(channel, names.requests, _QUORUM)
                await _declare(channel, names.answers(submission), _ANSWERS)
                for start in range(0, len(lines), _AT_ONCE):
                    chunk = lines[start : start + _AT_ONCE]
                    sent = (_publish(channel, names.requests, line, submission, {"attempt": 1}) for line in chunk)
                    await asyncio.gather(*sent)

    async def answers(self, names: QueueNames, submission: str, *, wait: bool) -> AsyncGenerator[str, None]:
        async with contextlib.aclosing(self._peek(names.answers(submission), _ANSWERS, wait=wait)) as messages:
            async for message in messages:
                yield message.body.decode()

    async def look(self, names: QueueNames) -> QueueState:
        with told(self._address):
            connection = await self._connected()
            async with connection.channel() as channel:
                queue = await _declare(channel, names.requests, _QUORUM)
                requests = queue.declaration_result.message_count or 0
        letters = []
        async with contextlib.aclosing(self._peek(names.dead, _DEAD, wait=False)) as messages:
            async for message in messages:
                text, reason = message.body.decode(errors="replace"), str(message.headers.get("reason", ""))
                letters.append(dead_letter(text, message.correlation_id or "", reason))
        return QueueState(requests=requests, dead_letters=tuple(letters))

    async def _peek(
        self, name: str, arguments: dict[str, Any], *, wait: bool
    ) -> AsyncGenerator[AbstractIncomingMessage, None]:
        """Nothing is acknowledged, so everything is there again for the next reader; one reads at a time."""
        inbox: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        with told(self._address):
            connection = await self._connected()
            async with connection.channel() as channel:
                queue = await _declare(channel, name, arguments)
                ready = queue.declaration_result.message_count or 0
                await queue.consume(inbox.put, exclusive=True)
                while wait or ready > 0:
                    try:
                        message = await asyncio.wait_for(inbox.get(), _LOOK_S)
                    except TimeoutError:
                        _still_open(channel)
                        continue
                    ready -= 1
                    yield message

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def _connected(self) -> AbstractConnection:
        async with self._lock:
            # one that broke is not `connected`; `is_closed` is only one that was closed from here
            if self._connection is None or not self._connection.connected.is_set():
                path = urlsplit(self._address.url).path
                self._connection = await aio_pika.connect(
                    host=self._address.host,
                    port=self._address.port,
                    virtualhost=unquote(path[1:]) or "/",
                    ssl=self._address.tls,
                    timeout=_TIMEOUT_S,
                    login=self._username,
                    password=self._password,
                )
            return self._connection


class RabbitLane:
    """One consumer, on a channel that is in transactions from the beginning."""

    def __init__(self, address: QueueAddress, names: QueueNames, channel: AbstractChannel) -> None:
        self._address = address
        self._names = names
        self._channel = channel
        self._inbox: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        self._queue: AbstractQueue | None = None
        self._tag = ""
        self._transaction: AbstractTransaction = channel.transaction()

    async def open(self, name: str) -> None:
        await self._channel.set_qos(prefetch_count=1)
        self._queue = await _declare(self._channel, self._names.requests, _QUORUM)
        await _declare(self._channel, self._names.dead, _DEAD)
        await self._transaction.select()
        self._tag = await self._queue.consume(self._inbox.put, consumer_tag=name)

    async def close(self) -> None:
        """Take no more; what came and was not begun goes back as it was."""
        if self._queue is not None and not self._channel.is_closed:
            await self._queue.cancel(self._tag)
            while not self._inbox.empty():
                delivery = _delivery(self._inbox.get_nowait())
                await self.again(delivery, delivery.attempt)
        await self._channel.close()

    async def take(self, wait_s: float) -> Delivery | None:
        try:
            return _delivery(await asyncio.wait_for(self._inbox.get(), wait_s))
        except TimeoutError:
            with told(self._address):
                _still_open(self._channel)
            return None

    async def answer(self, delivery: Delivery, custom_id: str, line: str) -> None:
        with told(self._address):
            await self._tell(delivery, custom_id, line)
            await self._settle(delivery)

    async def again(self, delivery: Delivery, attempt: int) -> None:
        with told(self._address):
            headers = {"attempt": attempt}
            await _publish(self._channel, self._names.requests, delivery.text, delivery.submission, headers)
            await self._settle(delivery)

    async def bury(self, delivery: Delivery, reason: str, custom_id: str | None, line: str | None) -> None:
        with told(self._address):
            await _publish(self._channel, self._names.dead, delivery.text, delivery.submission, {"reason": reason})
            if custom_id is not None and line is not None:
                await self._tell(delivery, custom_id, line)
            await self._settle(delivery)

    async def _tell(self, delivery: Delivery, custom_id: str, line: str) -> None:
        """The answer, as a part of the transaction. Declared anew, its queue does not expire while answers come."""
        answers = self._names.answers(delivery.submission)
        await _declare(self._channel, answers, _ANSWERS)
        await _publish(self._channel, answers, line, delivery.submission, {"custom_id": custom_id})

    async def _settle(self, delivery: Delivery) -> None:
        await delivery.receipt.ack()
        await self._transaction.commit()


def _delivery(message: AbstractIncomingMessage) -> Delivery:
    """A message; a quorum queue counts how often it was given out and came back."""
    attempt, lost = message.headers.get("attempt"), message.headers.get("x-delivery-count")
    return Delivery(
        text=message.body.decode(errors="replace"),
        submission=message.correlation_id or "",
        attempt=(attempt if isinstance(attempt, int) else 1) + (lost if isinstance(lost, int) else 0),
        receipt=message,
    )


async def _declare(channel: AbstractChannel, name: str, arguments: dict[str, Any]) -> AbstractQueue:
    return await channel.declare_queue(name, durable=True, arguments=arguments)


async def _publish(channel: AbstractChannel, queue: str, text: str, submission: str, headers: dict[str, Any]) -> None:
    message = aio_pika.Message(
        text.encode(),
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        correlation_id=submission,
        headers=headers,
    )
    await channel.default_exchange.publish(message, routing_key=queue)


def _still_open(channel: AbstractChannel) -> None:
    if channel.is_closed:
        raise ConnectionError("the channel was closed")


def told(address: QueueAddress) -> contextlib.AbstractContextManager[None]:
    """Errors of the client as errors of ours."""
    refused, silent = (AuthenticationError, ProbableAuthenticationError), (*CONNECTION_EXCEPTIONS, TimeoutError)
    return errors_of("RabbitMQ", address, refused=refused, silent=silent)
