"""The real controller with the fake engine behind it, quick in everything: `python -m tests.fakes.controller`."""

import logging
import sys

from modelops_dagster.domain.ladder import diagnose
from modelops_dagster.domain.lifecycle import RestartPolicy
from modelops_dagster.services.controller.server import serve
from modelops_dagster.services.exits import exit_code
from modelops_dagster.settings import Settings
from tests.fakes.launcher import FakeLauncher


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s.%(msecs)03d %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    max_restarts = int(sys.argv[sys.argv.index("--max-restarts") + 1]) if "--max-restarts" in sys.argv else 2
    policy = RestartPolicy(max_restarts=max_restarts, first_delay_s=0.1, factor=2, max_delay_s=0.5)

    def work() -> None:
        serve(
            Settings.load(),
            FakeLauncher(),
            diagnose,
            keep_engines="--keep-engines" in sys.argv,
            policy=policy,
            tick_s=float(sys.argv[sys.argv.index("--tick") + 1]) if "--tick" in sys.argv else 0.1,
            grace_s=1.0,
            scale_down_s=2.0,
        )

    return exit_code("controller", work)


if __name__ == "__main__":
    sys.exit(main())
