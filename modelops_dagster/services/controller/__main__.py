"""`python -m modelops_dagster.services.controller`: the program that owns the engines of one home."""

import argparse
import logging
import sys

from modelops_dagster.clients.engines import EngineRegistry
from modelops_dagster.domain.ladder import diagnose
from modelops_dagster.services.controller.server import serve
from modelops_dagster.services.exits import exit_code
from modelops_dagster.settings import Settings


def main() -> int:
    """Exit codes: 0 stopped by a signal, 2 the user must do something."""
    parser = argparse.ArgumentParser(prog="python -m modelops_dagster.services.controller", description=__doc__)
    parser.add_argument("--keep-engines", action="store_true", help="engines go on when the controller is stopped")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)

    def work() -> None:
        settings = Settings.load()
        serve(settings, EngineRegistry.from_settings(settings), diagnose, keep_engines=options.keep_engines)

    return exit_code("controller", work)


if __name__ == "__main__":
    sys.exit(main())
