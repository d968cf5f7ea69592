"""How the Transformers server ends: at once, or after the requests under way when it was told to drain."""

import asyncio
import signal
import threading
from typing import Any

import httpx
import pytest
import uvicorn

from modelops_dagster.clients.processes import free_port
from modelops_dagster.workers.serve_transformers.server import Server
from tests.fakes.stack import wait_until


class Engine:
    """Generates two words, the second when it is let or when it is stopped."""

    def __init__(self) -> None:
        self.stopped, self.let = False, threading.Event()

    def stop(self) -> None:
        self.stopped = True
        self.let.set()

    async def app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        while not self.let.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body", "body": b" cut" if self.stopped else b" two"})


@pytest.mark.parametrize(("drain", "answer"), [(True, "one two"), (False, "one cut")])
def test_requests_under_way_come_to_their_end_when_it_drains(drain: bool, answer: str):
    engine, port = Engine(), free_port("127.0.0.1")
    config = uvicorn.Config(
        engine.app,
        port=port,
        log_level="warning",
        lifespan="off",
        interface="asgi3",
        loop="asyncio",
        timeout_graceful_shutdown=30,
    )
    server = Server(config, engine, drain=drain)
    running = threading.Thread(target=server.run)
    running.start()
    wait_until(lambda: server.started)
    with httpx.stream("GET", f"http://127.0.0.1:{port}/", trust_env=False, timeout=30) as stream:
        said = stream.iter_text()
        words = [next(said)]
        server.handle_exit(signal.SIGTERM, None)
        with pytest.raises(httpx.TransportError):
            wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/", trust_env=False, timeout=0.5) is None)
        engine.let.set()
        words += said
    running.join(30)
    assert "".join(words) == answer
    assert not running.is_alive()
