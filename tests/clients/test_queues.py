"""The queues of ASYNC endpoints on a real Redis and a real RabbitMQ."""

import asyncio
import contextlib
import json
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from modelops_dagster.clients.queues import Broker, Delivery, Lane, follow_answers, open_broker, submit
from modelops_dagster.clients.queues.redis_streams import RedisBroker
from modelops_dagster.domain.batch import BatchRequest, answer_line
from modelops_dagster.domain.errors import QueueUnavailable, UserError
from modelops_dagster.domain.queues import QueueAddress, QueueNames, new_submission, refusal_line
from tests.fakes.brokers import QueueServer

SOON_S = 30.0


@pytest.fixture
def names() -> QueueNames:
    return QueueNames(f"Endpoint-{uuid.uuid4().hex[:8]}")


def run(server: QueueServer, work: Callable[[Broker], Coroutine[Any, Any, None]], lease_s: float = 30.0) -> None:
    async def whole() -> None:
        broker = server.broker(lease_s=lease_s)
        try:
            await asyncio.wait_for(work(broker), 4 * SOON_S)
        finally:
            await broker.close()

    asyncio.run(whole())


def requests(*ids: str) -> list[BatchRequest]:
    return [BatchRequest(custom_id=i, url="/v1/completions", body={"model": "m", "prompt": i}) for i in ids]


def line_for(delivery: Delivery, text: str = "") -> tuple[str, str]:
    request = BatchRequest.model_validate_json(delivery.text)
    line = answer_line(request, answer_id="a", status=200, body={"text": text or request.custom_id})
    return request.custom_id, line


async def taken(lane: Lane) -> Delivery:
    """The next request, however long a busy machine takes to hand it out."""
    async with asyncio.timeout(SOON_S):
        while (delivery := await lane.take(0.2)) is None:
            continue
    return delivery


async def answers(broker: Broker, names: QueueNames, submission: str) -> list[dict[str, Any]]:
    return [json.loads(line) async for line in follow_answers(broker, names, submission, wait=False)]


@contextlib.asynccontextmanager
async def killed(server: QueueServer, names: QueueNames) -> AsyncIterator[Lane]:
    """A lane whose program ends without a word."""
    broker = server.broker(lease_s=0.4)
    lane = broker.lane(names, f"killed-{uuid.uuid4().hex[:6]}")
    entered = await lane.__aenter__()
    yield entered
    if isinstance(broker, RedisBroker):
        entered.let_go()  # type: ignore[attr-defined]
    await broker.close()


def test_every_request_is_answered_once_and_its_answer_can_be_read_again(queue_server: QueueServer, names: QueueNames):
    async def work(broker: Broker) -> None:
        submission = new_submission()
        await submit(broker, names, submission, requests("a", "b", "c"))
        assert (await broker.look(names)).requests == 3
        async with broker.lane(names, "one") as one, broker.lane(names, "two") as two:
            first, second = await taken(one), await taken(two)
            assert {json.loads(d.text)["custom_id"] for d in (first, second)} == {"a", "b"}
            assert (first.submission, first.attempt) == (submission, 1)
            await two.answer(second, *line_for(second))
            third = await taken(two)
            await two.answer(third, *line_for(third))
            await one.answer(first, *line_for(first))
            assert await one.take(0.2) is None
        for _ in range(2):
            found = await answers(broker, names, submission)
            assert [a["response"]["body"]["text"] for a in found] == [a["custom_id"] for a in found]
            assert {a["custom_id"] for a in found} == {"a", "b", "c"}
        assert await answers(broker, names, new_submission()) == []

    run(queue_server, work)


def test_request_of_a_taker_that_ended_is_given_out_again_and_counted(queue_server: QueueServer, names: QueueNames):
    async def work(broker: Broker) -> None:
        submission = new_submission()
        await submit(broker, names, submission, requests("a"))
        for attempt in (1, 2):
            async with killed(queue_server, names) as lane:
                assert (await taken(lane)).attempt == attempt
        async with broker.lane(names, "heir") as lane:
            delivery = await taken(lane)
            assert delivery.attempt == 3
            await lane.answer(delivery, *line_for(delivery))
            assert await lane.take(1.0) is None
        assert [a["custom_id"] for a in await answers(broker, names, submission)] == ["a"]

    run(queue_server, work, lease_s=0.4)


def test_request_that_is_put_back_comes_with_the_attempt_it_was_given(queue_server: QueueServer, names: QueueNames):
    async def work(broker: Broker) -> None:
        await submit(broker, names, new_submission(), requests("a"))
        async with broker.lane(names, "one") as lane:
            await lane.again(await taken(lane), 2)
            delivery = await taken(lane)
            assert delivery.attempt == 2
            await lane.again(delivery, 2)
            assert (await taken(lane)).attempt == 2

    run(queue_server, work)


def test_custom_id_that_was_put_in_twice_is_answered_once(queue_server: QueueServer, names: QueueNames):
    """As it is when a submission was repeated because its first try lost the connection."""

    async def work(broker: Broker) -> None:
        submission = new_submission()
        for _ in range(2):
            await submit(broker, names, submission, requests("a"))
        async with broker.lane(names, "one") as lane:
            for text in ("first", "second"):
                delivery = await taken(lane)
                await lane.answer(delivery, *line_for(delivery, text))
            assert await lane.take(0.2) is None
        (found,) = await answers(broker, names, submission)
        assert found["response"]["body"]["text"] == "first"

    run(queue_server, work)


def test_request_that_is_given_up_is_a_dead_letter_and_has_an_error_for_its_answer(
    queue_server: QueueServer, names: QueueNames
):
    async def work(broker: Broker) -> None:
        submission = new_submission()
        await submit(broker, names, submission, requests("a", "b"))
        async with broker.lane(names, "one") as lane:
            await lane.bury(await taken(lane), "it kills engines", "a", refusal_line("a", "no_answer", "It was hard."))
            await lane.bury(await taken(lane), "nobody knows whose it is", None, None)
            assert await lane.take(0.2) is None
        (found,) = await answers(broker, names, submission)
        assert (found["custom_id"], found["response"]) == ("a", None)
        assert found["error"] == {"code": "no_answer", "message": "It was hard."}
        for _ in range(2):
            state = await broker.look(names)
            assert state.requests == 0
            told = [(letter.submission, letter.custom_id, letter.reason) for letter in state.dead_letters]
            assert told == [(submission, "a", "it kills engines"), (submission, "b", "nobody knows whose it is")]
            assert json.loads(state.dead_letters[0].request)["custom_id"] == "a"

    run(queue_server, work)


def test_taker_that_works_for_long_keeps_its_request(queue_server: QueueServer, names: QueueNames):
    """On Redis by a lease that it renews; RabbitMQ sees the connection."""

    async def work(broker: Broker) -> None:
        submission = new_submission()
        await submit(broker, names, submission, requests("a"))
        async with broker.lane(names, "slow") as slow, broker.lane(names, "idle") as idle:
            delivery = await taken(slow)
            assert [await idle.take(0.5) for _ in range(10)] == [None] * 10
            await slow.answer(delivery, *line_for(delivery))
        assert len(await answers(broker, names, submission)) == 1

    run(queue_server, work, lease_s=3.0)


def test_reader_waits_for_answers_that_come_later(queue_server: QueueServer, names: QueueNames):
    async def work(broker: Broker) -> None:
        submission = new_submission()

        async def read() -> list[str]:
            found: list[str] = []
            async with contextlib.aclosing(follow_answers(broker, names, submission, wait=True)) as lines:
                async for line in lines:
                    found.append(str(json.loads(line)["custom_id"]))
                    if len(found) == 2:
                        break
            return found

        reader = asyncio.create_task(read())
        await submit(broker, names, submission, requests("a", "b"))
        async with broker.lane(names, "one") as lane:
            for _ in range(2):
                delivery = await taken(lane)
                await lane.answer(delivery, *line_for(delivery))
        assert await reader == ["a", "b"]

    run(queue_server, work)


def test_wrong_password_and_silent_server_are_told_apart(queue_server: QueueServer, names: QueueNames):
    async def work() -> None:
        stranger = queue_server.broker("wrong")
        with pytest.raises(UserError, match=r"does not let this program in .*MODELOPS_QUEUE_PASSWORD"):
            await stranger.put(names, "none", ["{}"])
        scheme = queue_server.url.split(":")[0]
        nobody = open_broker(QueueAddress(url=f"{scheme}://127.0.0.1:1"), None, None)
        with pytest.raises(QueueUnavailable, match="does not answer"):
            await nobody.put(names, "none", ["{}"])
        await stranger.close()
        await nobody.close()

    asyncio.run(work())


def test_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "aio_pika", None)
    monkeypatch.delitem(sys.modules, "modelops_dagster.clients.queues.rabbitmq", raising=False)
    with pytest.raises(UserError, match=r"aio_pika is not installed.*pip install 'modelops-dagster\[async\]'"):
        open_broker(QueueAddress(url="amqp://rabbitmq"), None, None)
