"""How the server ends."""

from types import FrameType
from typing import Protocol

import uvicorn


class Stoppable(Protocol):
    """An engine, as far as its end is concerned."""

    def stop(self) -> None: ...


class Server(uvicorn.Server):
    """Ends the running generations as soon as it is told to stop, so that open requests end too.

    Args:
        drain: let them come to their end first, within the time the configuration gives.
    """

    def __init__(self, config: uvicorn.Config, engine: Stoppable, *, drain: bool) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._drain:
            self._engine.stop()
        super().handle_exit(sig, frame)
