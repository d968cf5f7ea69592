"""`python -m modelops_dagster.services.gateway`: the gateway in the foreground, its workers and its keeper."""

import asyncio
import gc
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from modelops_dagster.client import ModelOpsClient
from modelops_dagster.clients.alerts import Outbox
from modelops_dagster.clients.batches import BatchStore
from modelops_dagster.clients.hosted_models import HostedModelsFile, hosted_models_path
from modelops_dagster.clients.keys import KeyStore, operator_key
from modelops_dagster.clients.processes import who_listens
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.trials import TrialStore
from modelops_dagster.domain.errors import ModelOpsError, PortTaken, UserError
from modelops_dagster.services.gateway.batch_runner import BatchRunner
from modelops_dagster.services.gateway.config import UNSET, GatewayPaths, litellm_environment, write_config
from modelops_dagster.services.gateway.hosted import follow_hosted_models
from modelops_dagster.services.gateway.keeper import Keeper
from modelops_dagster.services.gateway.supervisor import Child, Supervisor
from modelops_dagster.services.gateway.traffic import SharedCounts
from modelops_dagster.settings import Settings

if TYPE_CHECKING:
    from modelops_dagster.services.gateway.app import Worker

REPEAT_AFTER_S = 10
TEARDOWN_S = 3.0  # for a worker to end once its last call is over


def say(line: str) -> None:
    """One line for whoever reads the gateway's log."""
    print(line, flush=True)


class Complaints:
    """Says what is wrong with the gateway itself, the same thing once in ten seconds at most."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def __call__(self, sentence: str) -> None:
        now = time.monotonic()
        self._said = {said: at for said, at in self._said.items() if now - at < REPEAT_AFTER_S}
        if sentence not in self._said:
            self._said[sentence] = now
            say(f"gateway: {sentence}")


def claim_port(host: str, port: int) -> socket.socket:
    """Bind the address now, so that a port somebody holds is found before seconds of start-up. It listens later.

    Raises:
        PortTaken: names the port and who listens there.
        UserError: the address cannot be bound for another reason.
    """
    claimed = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        claimed.bind((host, port))
    except OSError as error:
        claimed.close()
        holder = who_listens(port, host)
        if holder is None:
            raise UserError(
                f"the gateway cannot bind {host}:{port} ({error.strerror}): set MODELOPS_HOST and "
                "MODELOPS_GATEWAY_PORT to an address of this machine."
            ) from error
        raise PortTaken(
            f"port {port} for the gateway is already in use by {holder}: stop it, or set MODELOPS_GATEWAY_PORT to "
            "another port (0 picks a free one)."
        ) from error
    return claimed


def serve(settings: Settings) -> None:
    """Serve until a signal ends it.

    Raises:
        NotRunning: LiteLLM did not start.
    """
    began = time.monotonic()
    paths = GatewayPaths.of(settings)
    claimed = claim_port(settings.host, settings.gateway_port)
    url = "http://{}:{}".format(*claimed.getsockname()[:2])
    KeyStore(paths.root).prepare()
    write_config(paths.config)
    for name in UNSET:
        os.environ.pop(name, None)
    os.environ.update(litellm_environment(paths.config, operator_key(paths.operator_key)))
    counts = SharedCounts(settings.gateway_workers)
    batch_key = secrets.token_urlsafe(32)  # of this run: forked workers know it, and it is written nowhere
    complain = Complaints()
    gc.disable()  # a quarter of the import would be the collector walking objects that stay for good
    from modelops_dagster.services.gateway.app import Worker

    worker = Worker(
        paths,
        counts,
        batch_key=batch_key,
        max_in_flight=settings.gateway_max_in_flight,
        wake_hold_s=settings.gateway_wake_hold_s,
        max_wait_s=settings.gateway_max_wait_s,
        complain=complain,
    )
    gc.freeze()
    gc.enable()
    children = {
        f"worker {number}": Child(
            f"worker {number}",
            partial(_work, worker, number, claimed, settings.gateway_drain_s),
            before=partial(counts.clear, number),
            beats=partial(counts.beats, number),
        )
        for number in range(settings.gateway_workers)
    }
    children["keeper"] = Child("keeper", partial(_keep, settings, paths, url, batch_key, complain))
    Supervisor(children, say, grace_s=settings.gateway_drain_s + TEARDOWN_S).run(
        on_ready=lambda: say(f"gateway: ready at {url}/v1 after {time.monotonic() - began:.1f} s")
    )


def _work(worker: "Worker", number: int, claimed: socket.socket, drain_s: int, ready: Callable[[], None]) -> int:
    """One worker, in a process of its own, until a signal ends it."""
    import uvicorn

    from modelops_dagster.services.gateway.app import build_app

    worker.number, worker.on_ready = number, ready
    config = uvicorn.Config(
        build_app(worker),
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=drain_s,
    )
    uvicorn.Server(config).run(sockets=[claimed])
    return 0


def _keep(
    settings: Settings,
    paths: GatewayPaths,
    url: str,
    batch_key: str,
    complain: Callable[[str], None],
    ready: Callable[[], None],
) -> int:
    """Looks after canaries, swaps and batches, in a process of its own, until a signal ends it."""

    async def follow() -> None:
        store = BatchStore(paths.root)
        store.prepare()
        keeper = Keeper(
            RouteStore(paths.root),
            TrialStore(paths.trials),
            Outbox(settings.home / "alerts"),
            lambda: ModelOpsClient.from_settings(settings),
            complain=complain,
        )
        runner = BatchRunner(store, url, batch_key, complain=complain)
        hosted = HostedModelsFile(hosted_models_path(settings.home), RouteStore(paths.root))
        listed = asyncio.create_task(follow_hosted_models(hosted, complain))
        ready()
        with store.running() as mine:
            batches = asyncio.create_task(runner.follow()) if mine else None
            await keeper.follow()
            if batches is not None:
                batches.cancel()
            listed.cancel()

    asyncio.run(follow())
    return 0


def main() -> None:
    """Entry point: the sentence of a user's mistake and exit code 2, or the gateway until it is stopped."""
    try:
        serve(Settings.load())
    except ModelOpsError as error:
        print(f"modelops: {error.sentence}", file=sys.stderr, flush=True)
        sys.exit(2 if isinstance(error, UserError) else 1)


if __name__ == "__main__":
    main()
