"""How long the command takes to answer, against the interpreter alone in the same run."""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from bench.figures import Figure

REPEATS = 7


def _median_s(*argv: str) -> float:
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        subprocess.run(argv, check=True, capture_output=True)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def run() -> Iterator[Figure]:
    """`modelops --help` must answer in under half a second."""
    bare = _median_s(sys.executable, "-c", "pass")
    ours = _median_s(sys.executable, "-m", "modelops_dagster.cli", "--help")
    yield Figure("cli", "help_s", ours, "s", "< 0.5")
    yield Figure("cli", "help_ratio", ours / bare, "ratio", "python -c pass")
