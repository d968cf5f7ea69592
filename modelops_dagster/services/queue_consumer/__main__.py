"""`python -m modelops_dagster.services.queue_consumer`: answers the requests in the queue of one ASYNC endpoint.

The queue's address and its credentials come from MODELOPS_QUEUE_URL, MODELOPS_QUEUE_USERNAME and
MODELOPS_QUEUE_PASSWORD. Ends on SIGTERM, once what is under way is answered or given back.
"""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys

from pydantic import ValidationError

from modelops_dagster.clients.queues import open_broker
from modelops_dagster.domain.endpoint_spec.complaints import invalid_spec
from modelops_dagster.domain.errors import UserError
from modelops_dagster.domain.queues import LEASE_S, PASSWORD_VARIABLE, URL_VARIABLE, USERNAME_VARIABLE, QueueAddress
from modelops_dagster.services.exits import exit_code
from modelops_dagster.services.queue_consumer.consumer import Consumer, Work
from modelops_dagster.services.queue_consumer.engine import Engine
from modelops_dagster.settings import secret


def main() -> int:
    """Exit codes: 0 stopped by a signal, 2 the user must do something."""
    options = _parse()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    return exit_code("consumer", lambda: asyncio.run(_serve(options, _address())))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m modelops_dagster.services.queue_consumer", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--endpoint", required=True, help="whose queue")
    parser.add_argument("--engine", required=True, metavar="URL", help="of the engine, without /v1")
    parser.add_argument("--health", default="/health", metavar="PATH", help="of the engine: 200 while it can work")
    parser.add_argument("--model", required=True, help="the served model name")
    parser.add_argument("--at-once", type=int, default=1, help="requests under way at the same time")
    parser.add_argument("--timeout-s", type=float, default=900.0, help="longest that one request may take")
    parser.add_argument("--drain-s", type=float, default=30.0, help="to finish what is under way after SIGTERM")
    parser.add_argument("--lease-s", type=float, default=LEASE_S, help="of Redis: silence that gives a request away")
    return parser.parse_args()


def _address() -> QueueAddress:
    url = secret(URL_VARIABLE)
    if url is None:
        raise UserError(f"{URL_VARIABLE} is not set: give the address of the queue, as redis://host:6379 is.")
    try:
        return QueueAddress(url=url)
    except ValidationError as error:
        raise invalid_spec(error, URL_VARIABLE) from error


async def _serve(options: argparse.Namespace, address: QueueAddress) -> None:
    broker = open_broker(address, secret(USERNAME_VARIABLE), secret(PASSWORD_VARIABLE), lease_s=options.lease_s)
    engine = Engine(options.engine, options.health, options.timeout_s, options.at_once)
    name = f"{socket.gethostname()}-{os.getpid()}"
    work = Work(options.endpoint, options.model, options.at_once, options.drain_s, name)
    consumer = Consumer(broker, engine, work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, consumer.stopping.set)
    logging.info("takes requests of %s from %s, %d at once", work.endpoint, address.url, work.at_once)
    try:
        await consumer.run()
    finally:
        await engine.close()
        await broker.close()


if __name__ == "__main__":
    sys.exit(main())
