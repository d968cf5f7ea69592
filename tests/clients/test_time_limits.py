"""Many attempts under one timer."""

import asyncio

import pytest

from modelops_dagster.clients.gauntlet.limits import Limits


def test_an_attempt_that_takes_too_long_ends_and_the_others_go_on():
    async def run() -> list[str | BaseException]:
        limits = Limits(0.3)
        limits.watch()

        async def attempt(seconds: float) -> str:
            async with limits.limit():
                await asyncio.sleep(seconds)
            return "done"

        ended = await asyncio.gather(attempt(0.01), attempt(60), attempt(0.02), attempt(60), return_exceptions=True)
        limits.stop()
        assert limits.ends == {}
        return ended

    ended = asyncio.run(run())
    assert [one if isinstance(one, str) else type(one) for one in ended] == ["done", TimeoutError, "done", TimeoutError]


def test_one_that_is_slow_to_end_is_told_once():
    async def run() -> None:
        limits = Limits(0.05)
        limits.watch()
        with pytest.raises(TimeoutError):
            async with limits.limit():
                try:
                    await asyncio.sleep(60)
                finally:
                    await asyncio.sleep(0.2)  # it is looked at some more times meanwhile
        async with limits.limit():
            pass
        limits.stop()

    asyncio.run(run())


def test_a_cancelled_attempt_is_cancelled_and_not_late():
    async def run() -> None:
        limits = Limits(60)
        limits.watch()

        async def attempt() -> None:
            async with limits.limit():
                await asyncio.sleep(60)

        task = asyncio.create_task(attempt())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        limits.stop()
        assert limits.ends == {}

    asyncio.run(run())
