"""What a queue's server must do, whichever it is, and how its errors are told."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from modelops_dagster.domain.errors import QueueUnavailable, UserError
from modelops_dagster.domain.queues import PASSWORD_VARIABLE, USERNAME_VARIABLE, QueueAddress, QueueNames, QueueState


@dataclass(frozen=True)
class Delivery:
    """A request that was given out and not settled yet."""

    text: str
    submission: str
    attempt: int  # counted from 1; one that ended with its consumer is counted too
    receipt: Any  # what the server knows it by


@contextmanager
def errors_of(
    server: str, address: QueueAddress, *, refused: tuple[type[Exception], ...], silent: tuple[type[Exception], ...]
) -> Iterator[None]:
    """Errors of a server's client as errors of ours.

    Args:
        refused: what the client raises where the credentials do not hold; looked for first.
        silent: and where the server does not answer.

    Raises:
        UserError: the server does not let this program in.
        QueueUnavailable: it does not answer.
    """
    try:
        yield
    except refused as error:
        raise UserError(
            f"{server} at {address.url} does not let this program in ({error}): "
            f"correct {USERNAME_VARIABLE} and {PASSWORD_VARIABLE}."
        ) from error
    except silent as error:
        raise QueueUnavailable(
            f"{server} at {address.url} does not answer ({type(error).__name__}: {error}); it is asked again."
        ) from error


class Lane(Protocol):
    """One taker of requests, with one request at a time. What it did not settle when it ends is given out again.

    Every method raises QueueUnavailable when the server does not answer; then nothing is settled.
    """

    async def take(self, wait_s: float) -> Delivery | None:
        """The next request; None when there was none for so long."""

    async def answer(self, delivery: Delivery, custom_id: str, line: str) -> None:
        """Store the answer and take the request out of the queue, both or neither."""

    async def again(self, delivery: Delivery, attempt: int) -> None:
        """Put the request back, to be given out as its `attempt`-th."""

    async def bury(self, delivery: Delivery, reason: str, custom_id: str | None, line: str | None) -> None:
        """Give the request up: into the dead letters with the reason, and `line` as its answer where it has a name."""


class Broker(Protocol):
    """A queue's server."""

    def lane(self, names: QueueNames, name: str) -> AbstractAsyncContextManager[Lane]:
        """Begin to take requests. `name` is of the taker, and nobody else's."""

    async def put(self, names: QueueNames, submission: str, lines: Sequence[str]) -> None:
        """Add requests; returns when the server has them."""

    def answers(self, names: QueueNames, submission: str, *, wait: bool) -> AsyncGenerator[str, None]:
        """The answer lines of a submission from the first one on, also those read before; `wait`: and those to come."""

    async def look(self, names: QueueNames) -> QueueState:
        """What is in the queue now; nothing is taken out."""

    async def close(self) -> None:
        """End every connection."""
