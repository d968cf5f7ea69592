"""Queues on Redis streams (Redis 6.2 or newer), with a consumer group that every replica of an endpoint is in.

A request stays in the stream until it is answered, so the stream's length is what waits and what is being answered;
KEDA scales by it. Whoever takes a request holds it by a lease that is renewed while the engine works: what a killed
consumer held is claimed by another one when the lease has run out.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from modelops_dagster.clients.queues.broker import Delivery, errors_of
from modelops_dagster.domain.queues import (
    ANSWERS_KEPT_S,
    DEAD_LETTERS_KEPT,
    LEASE_S,
    QueueAddress,
    QueueNames,
    QueueState,
    dead_letter,
)

log = logging.getLogger("modelops.queues")
GROUP = "modelops"
_TIMEOUT_S = 10.0
_LONGEST_BLOCK_S = 5.0
_CHUNK = 500

# Each script is one step for everybody else: a consumer that is killed has done all of it or nothing.
# KEYS: requests, answers, answered; ARGV: group, entry, custom_id, line, seconds to keep
_ANSWER = """
if redis.call('SADD', KEYS[3], ARGV[3]) == 1 then redis.call('XADD', KEYS[2], '*', 'answer', ARGV[4]) end
redis.call('EXPIRE', KEYS[2], ARGV[5])
redis.call('EXPIRE', KEYS[3], ARGV[5])
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[2])
"""
# KEYS: requests; ARGV: group, entry, request, submission, attempt. Nobody's any more when somebody else settled it.
_AGAIN = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 1 then
  redis.call('XDEL', KEYS[1], ARGV[2])
  redis.call('XADD', KEYS[1], '*', 'request', ARGV[3], 'submission', ARGV[4], 'attempt', ARGV[5])
end
"""
# KEYS: requests, dead, answers, answered
# ARGV: group, entry, request, submission, reason, how many are kept, custom_id (or nothing), line, seconds to keep
_BURY = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 1 then
  redis.call('XDEL', KEYS[1], ARGV[2])
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], '*',
             'request', ARGV[3], 'submission', ARGV[4], 'reason', ARGV[5])
  if ARGV[7] ~= '' and redis.call('SADD', KEYS[4], ARGV[7]) == 1 then
    redis.call('XADD', KEYS[3], '*', 'answer', ARGV[8])
    redis.call('EXPIRE', KEYS[3], ARGV[9])
    redis.call('EXPIRE', KEYS[4], ARGV[9])
  end
end
"""
# KEYS: requests; ARGV: group, consumer. A consumer that is deleted takes what it holds with it.
_LEAVE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
"""


class RedisBroker:
    """One Redis.

    Args:
        lease_s: seconds without a sign of life after which a request is taken from who holds it.
    """

    def __init__(
        self, address: QueueAddress, username: str | None, password: str | None, *, lease_s: float = LEASE_S
    ) -> None:
        self._address = address
        self._lease_s = lease_s
        self._redis: Any = Redis(
            host=address.host,
            port=address.port,
            db=address.database,
            username=username,
            password=password,
            ssl=address.tls,
            protocol=2,  # its answers have one shape in every version of the client
            decode_responses=True,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            health_check_interval=30,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.1), 3),
        )

    @contextlib.asynccontextmanager
    async def lane(self, names: QueueNames, name: str) -> AsyncIterator["RedisLane"]:
        """Take requests as the consumer `name` of the group."""
        with told(self._address):
            await self._make_group(names)
        lane = RedisLane(self._redis, self._address, names, name, self._lease_s)
        try:
            yield lane
        finally:
            lane.let_go()
        with told(self._address):
            await self._redis.eval(_LEAVE, 1, names.requests, GROUP, name)

    async def put(self, names: QueueNames, submission: str, lines: Sequence[str]) -> None:
        with told(self._address):
            for start in range(0, len(lines), _CHUNK):
                async with self._redis.pipeline(transaction=False) as pipe:
                    for line in lines[start : start + _CHUNK]:
                        pipe.xadd(names.requests, _entry(line, submission, 1))
                    await pipe.execute()

    async def answers(self, names: QueueNames, submission: str, *, wait: bool) -> AsyncGenerator[str, None]:
        last, block_ms = "0-0", int(1000 * _LONGEST_BLOCK_S) if wait else None
        while True:
            with told(self._address):
                found = await self._redis.xread({names.answers(submission): last}, count=_CHUNK, block=block_ms)
            entries = _entries(found)
            if not entries and not wait:
                return
            for last, fields in entries:  # noqa: B007 - the last id is where the next read begins
                yield str(fields["answer"])

    async def look(self, names: QueueNames) -> QueueState:
        with told(self._address):
            requests = await self._redis.xlen(names.requests)
            dead = await self._redis.xrange(names.dead)
        letters = tuple(dead_letter(f["request"], f["submission"], f["reason"]) for _, f in dead)
        return QueueState(requests=requests, dead_letters=letters)

    async def close(self) -> None:
        await self._redis.aclose()

    async def _make_group(self, names: QueueNames) -> None:
        try:
            await self._redis.xgroup_create(names.requests, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


class RedisLane:
    """One consumer of the group."""

    def __init__(self, redis: Any, address: QueueAddress, names: QueueNames, name: str, lease_s: float) -> None:
        self._redis = redis
        self._address = address
        self._names = names
        self._name = name
        self._lease_ms = int(1000 * lease_s)
        self._cursor = "0-0"
        self._holding: asyncio.Task[None] | None = None

    async def take(self, wait_s: float) -> Delivery | None:
        with told(self._address):
            delivery = await self._abandoned() or await self._next(wait_s)
        if delivery is not None:
            self._holding = asyncio.create_task(self._hold(str(delivery.receipt)))
        return delivery

    async def answer(self, delivery: Delivery, custom_id: str, line: str) -> None:
        names, submission = self._names, delivery.submission
        keys = (names.requests, names.answers(submission), names.answered(submission))
        with told(self._address):
            await self._redis.eval(_ANSWER, len(keys), *keys, GROUP, delivery.receipt, custom_id, line, ANSWERS_KEPT_S)
        self.let_go()

    async def again(self, delivery: Delivery, attempt: int) -> None:
        what = (GROUP, delivery.receipt, delivery.text, delivery.submission, attempt)
        with told(self._address):
            await self._redis.eval(_AGAIN, 1, self._names.requests, *what)
        self.let_go()

    async def bury(self, delivery: Delivery, reason: str, custom_id: str | None, line: str | None) -> None:
        names, submission = self._names, delivery.submission
        keys = (names.requests, names.dead, names.answers(submission), names.answered(submission))
        what = (GROUP, delivery.receipt, delivery.text, submission, reason, DEAD_LETTERS_KEPT)
        with told(self._address):
            await self._redis.eval(_BURY, len(keys), *keys, *what, custom_id or "", line or "", ANSWERS_KEPT_S)
        self.let_go()

    def let_go(self) -> None:
        """Renew the lease no more."""
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None

    async def _abandoned(self) -> Delivery | None:
        """A request whose holder has given no sign of life."""
        found = await self._redis.xautoclaim(
            self._names.requests, GROUP, self._name, self._lease_ms, start_id=self._cursor, count=1
        )
        self._cursor, entries = found[0], [entry for entry in found[1] if entry[1] is not None]
        if not entries:
            return None
        entry, fields = entries[0]
        (pending,) = await self._redis.xpending_range(self._names.requests, GROUP, entry, entry, 1)
        return _delivery(entry, fields, int(pending["times_delivered"]) - 1)

    async def _next(self, wait_s: float) -> Delivery | None:
        block_ms = max(1, int(1000 * min(wait_s, _LONGEST_BLOCK_S)))
        found = await self._redis.xreadgroup(GROUP, self._name, {self._names.requests: ">"}, count=1, block=block_ms)
        entries = _entries(found)
        return _delivery(*entries[0], lost=0) if entries else None

    async def _hold(self, entry: str) -> None:
        """Renew the lease on a request. JUSTID: it is not counted as given out once more."""
        while True:
            await asyncio.sleep(self._lease_ms / 3000)
            try:
                await self._redis.xclaim(self._names.requests, GROUP, self._name, 0, [entry], justid=True)
            except RedisError as error:
                log.warning("a lease could not be renewed (%s)", type(error).__name__)


def _entry(line: str, submission: str, attempt: int) -> dict[str, Any]:
    return {"request": line, "submission": submission, "attempt": attempt}


def _delivery(entry: str, fields: dict[str, str], lost: int) -> Delivery:
    """A request as it is in the stream, `lost` times given out to a consumer that ended with it."""
    attempt = fields.get("attempt", "1")
    return Delivery(
        text=fields.get("request", ""),
        submission=fields.get("submission", ""),
        attempt=(int(attempt) if attempt.isdigit() else 1) + lost,
        receipt=entry,
    )


def _entries(found: Any) -> list[tuple[str, dict[str, str]]]:
    """The entries of a read of one stream."""
    return [entry for _, entries in found or () for entry in entries]


def told(address: QueueAddress) -> contextlib.AbstractContextManager[None]:
    """Errors of the client as errors of ours."""
    return errors_of("Redis", address, refused=(AuthenticationError, NoPermissionError), silent=(RedisError, OSError))
