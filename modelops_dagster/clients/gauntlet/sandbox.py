"""Run code a model wrote: in a process that can compute and nothing else, or not at all."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from modelops_dagster.domain.gauntlet.scorers.code import CodeOrder, Execution

PROGRAM = Path(__file__).resolve().parents[2] / "workers" / "run_code.py"
START_S = 20.0
"""Added to the processor seconds of an order: what starting an interpreter may take on a busy machine."""


def run_code(order: CodeOrder) -> Execution:
    """Call the function as ordered. Code that ends the process, or takes too long, has an error for every call."""
    request = {
        "code": order.code,
        "entry": order.entry,
        "calls": order.calls,
        "seconds": order.seconds,
        "memory_mb": order.memory_mb,
    }
    with tempfile.TemporaryDirectory(prefix="modelops-code-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", str(PROGRAM)],
                input=json.dumps(request).encode(),
                capture_output=True,
                timeout=order.seconds + START_S,
                cwd=folder,
                env={},
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return _failed(order, "TimeoutError: it did not end")
    try:
        answer = json.loads(done.stdout)
        if "refused" in answer:
            return Execution(refused=str(answer["refused"]))
        results = tuple(dict(r) for r in answer["results"])
    except (ValueError, KeyError, TypeError):
        if done.returncode == 1 and done.stderr:  # the program itself broke, before any code ran
            return Execution(refused=done.stderr.decode(errors="replace").strip().splitlines()[-1][:200])
        return _failed(order, f"the process ended with {done.returncode}: too long, too large, or by itself")
    return Execution(results) if len(results) == len(order.calls) else _failed(order, "results are missing")


def _failed(order: CodeOrder, why: str) -> Execution:
    return Execution(tuple({"error": why} for _ in order.calls))
