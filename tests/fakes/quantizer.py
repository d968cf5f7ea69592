"""A quantizer's worker without torch: the same files in and out, and the ways in which a real one goes wrong.

`FAKE_QUANTIZER` says how it behaves: ok, hang, eat (memory), sigkill, crash, say-failed, half, empty, block. Without
it, a model whose name holds "lossy" is one that loses too much. `until FILE` hangs until there is such a file.
"""

import json
import os
import signal
import struct
import sys
import time
from pathlib import Path

FIGURES = {
    "perplexity_original": 20.0, "perplexity": 20.1, "perplexity_ratio": 1.005, "perplexity_ratio_low": 1.0,
    "perplexity_ratio_high": 1.01, "mean_kl": 0.001, "kl_p99": 0.01, "top1_agreement": 0.99,
}  # fmt: skip


def say(request: dict, text: str, done: int = 0, total: int = 0) -> None:
    with open(request["progress"], "a") as out:
        out.write(json.dumps({"text": text, "done": done, "total": total}) + "\n")


def weights(path: Path, data: bytes = bytes(32)) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [len(data) // 4], "data_offsets": [0, len(data)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def quantize(request: dict, how: str) -> dict:
    output = Path(request["output"])
    config = json.loads((Path(request["checkpoint"]) / "config.json").read_text())
    if how != "empty":
        weights(output / "model.safetensors")
    if how == "half":
        (output / "model.safetensors").write_bytes(b"half")
    (output / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "fake"}}))
    spent = {"wall_s": 1.0, "cpu_s": 2.0, "peak_rss_bytes": 1000}
    return {"path": "oneshot", "group_size": 64, "samples": request["samples"], "tokens": 7, "notes": ["n"], **spent}


def compare(request: dict, how: str) -> dict:
    bad = ["it does not load: RuntimeError: unflatten"] if how == "block" else []
    measured = None if bad else FIGURES
    found = {"problems": bad, "loads": not bad, "measured": measured, "noise": measured, "unmeasured": ""}
    return {**found, "n_tokens": 3000, "n_windows": 12, "dtypes": {"I8": 1}, "size_ratio": 0.5, "parameters": 10}


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.02)


def main() -> int:
    request = json.loads(Path(sys.argv[1]).read_text())
    where = request.get("original", "")
    how = os.environ.get("FAKE_QUANTIZER", "block" if "lossy" in where else "ok")
    (Path(request["result"]).parent / "pid").write_text(str(os.getpid()))
    say(request, "layer", 1, 2)
    print("a line of the log", file=sys.stderr, flush=True)
    if how == "hang":
        time.sleep(600)
    if how.startswith("until "):
        wait_for(Path(how.removeprefix("until ")))
    if how == "eat":
        kept = []
        while True:
            kept.append(b"x" * 2**24)
            time.sleep(0.01)
    if how == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "crash":
        return 3
    if how == "say-failed":
        failed = {"ok": False, "reason": "group_size", "detail": "None of the group sizes divides it."}
        Path(request["result"]).write_text(json.dumps(failed))
        return 1
    say(request, "saving")
    result = quantize(request, how) if request["task"] == "quantize" else compare(request, how)
    Path(request["result"]).write_text(json.dumps({"ok": True, **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
