"""What a pod of the quantizer's image runs in tests: the real worker's program, around the fake quantizer.

`FAKE_QUANTIZER` is ok, crash, say-failed, or `until FILE`: begin, and go on when there is such a file.
"""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from modelops_dagster.workers import quantize
from modelops_dagster.workers.quantize import __main__ as worker
from modelops_dagster.workers.quantize.reports import Failed, Reporter
from tests.fakes import quantizer


def behave(request: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    how = os.environ.get("FAKE_QUANTIZER", "ok")
    reporter.say("layer", 1, 2)
    print("a line of the log", file=sys.stderr, flush=True)
    if how == "crash":
        os._exit(3)
    if how == "say-failed":
        raise Failed("group_size", "None of the group sizes divides it.")
    if how.startswith("until "):
        (Path(request["result"]).parent / "begun").touch()
        for left in ("model.safetensors", "half"):
            if "output" in request:
                (Path(request["output"]) / left).write_bytes(b"of an attempt that was cut short")
        quantizer.wait_for(Path(how.removeprefix("until ")))
        if "output" in request:
            (Path(request["output"]) / "half").unlink()
    reporter.say("saving")
    return quantizer.quantize(request, how) if request["task"] == "quantize" else quantizer.compare(request, how)


for name, task in (("making", "make"), ("comparing", "compare")):
    module = ModuleType(f"{quantize.__name__}.{name}")
    setattr(module, task, behave)
    sys.modules[module.__name__] = module

if __name__ == "__main__":
    sys.exit(worker.main())
