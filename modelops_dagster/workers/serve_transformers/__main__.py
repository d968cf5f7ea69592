"""`python -m serve_transformers --checkpoint DIR --host H --port P --served-model-name NAME [--max-context TOKENS]`"""

import argparse
import logging
import os
import sys

import uvicorn

from .app import Api
from .auth import VARIABLE, RequireKey
from .generation import Engine
from .server import Server

SHUTDOWN_GRACE_S = 5
log = logging.getLogger("serve_transformers")


def main() -> int:
    parser = argparse.ArgumentParser(prog="serve_transformers", description="Serve one checkpoint with Transformers.")
    parser.add_argument("--checkpoint", required=True, help="directory of a safetensors checkpoint")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True, help="the name clients send")
    parser.add_argument("--max-context", type=int, help="tokens; the model's own length when left out")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the checkpoint's own Python files")
    parser.add_argument("--max-num-seqs", type=int, default=8, help="requests that are answered at the same time")
    parser.add_argument("--drain-s", type=int, default=0, help="told to end, finish open requests for up to so long")
    parser.add_argument("--made-up-weights", action="store_true", help="random ones; the directory holds none")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    engine = Engine(
        arguments.checkpoint,
        arguments.max_context,
        trust_remote_code=arguments.trust_remote_code,
        made_up_weights=arguments.made_up_weights,
        max_at_once=max(1, arguments.max_num_seqs),
    )
    app = Api(engine, arguments.served_model_name).app()
    if key := os.environ.pop(VARIABLE, None):
        app.add_middleware(RequireKey, key=key)
    config = uvicorn.Config(
        app,
        host=arguments.host,
        port=arguments.port,
        log_config=None,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(SHUTDOWN_GRACE_S, arguments.drain_s),
    )
    server = Server(config, engine, drain=arguments.drain_s > 0)

    def give_up() -> None:
        server.should_exit = True

    engine.start(on_failure=give_up)
    server.run()
    if engine.failure:
        log.error("cannot serve %s: %s", arguments.checkpoint, engine.failure)
        return 1
    return 0


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except SystemExit as error:  # uvicorn's way to say that the port is taken
        code = error.code if isinstance(error.code, int) else 1
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # a model that is still loading cannot be interrupted otherwise
