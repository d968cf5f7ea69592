"""`python -m modelops_dagster.services.gateway`: one worker of the gateway in the foreground."""

import gc
import os
import socket
import sys
import time

from modelops_dagster.clients.keys import KeyStore, operator_key
from modelops_dagster.clients.processes import who_listens
from modelops_dagster.domain.errors import ModelOpsError, NotRunning, PortTaken, UserError
from modelops_dagster.services.gateway.config import UNSET, GatewayPaths, litellm_environment, write_config
from modelops_dagster.settings import Settings

GRACE_S = 10
REPEAT_AFTER_S = 10


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
    KeyStore(paths.root).prepare()
    write_config(paths.config)
    master_key = operator_key(paths.operator_key)
    for name in UNSET:
        os.environ.pop(name, None)
    os.environ.update(litellm_environment(paths.config, master_key))
    gc.disable()  # a quarter of the import would be the collector walking objects that stay for good
    import uvicorn

    from modelops_dagster.services.gateway.app import build_app

    address = "{}:{}".format(*claimed.getsockname()[:2])
    app = build_app(
        paths,
        complain=Complaints(),
        on_ready=lambda: say(f"gateway: ready at http://{address}/v1 after {time.monotonic() - began:.1f} s"),
    )
    gc.freeze()
    gc.enable()
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    try:
        server.run(sockets=[claimed])
    except SystemExit as failed:
        raise NotRunning("LiteLLM did not start, so nothing is served; the lines above say why.") from failed


def main() -> None:
    """Entry point: the sentence of a user's mistake and exit code 2, or the gateway until it is stopped."""
    try:
        serve(Settings.load())
    except ModelOpsError as error:
        print(f"modelops: {error.sentence}", file=sys.stderr, flush=True)
        sys.exit(2 if isinstance(error, UserError) else 1)


if __name__ == "__main__":
    main()
