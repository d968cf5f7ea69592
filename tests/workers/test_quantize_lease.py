"""A worker on another machine than its run ends when the run does, which it learns from a file."""

import json
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "fakes" / "quantizer_pod.py"
LEASE_S = 2.0


def worker(folder: Path) -> subprocess.Popen[bytes]:
    """The real worker around a task that never ends."""
    request = {
        "task": "compare",
        "original": "",
        "progress": str(folder / "progress"),
        "result": str(folder / "result.json"),
        "lease": str(folder / "lease"),
        "lease_s": LEASE_S,
    }
    (folder / "request.json").write_text(json.dumps(request))
    environ = {"FAKE_QUANTIZER": f"until {folder / 'never'}"}
    return subprocess.Popen([sys.executable, str(PROGRAM), str(folder / "request.json")], env=environ)


def test_it_goes_on_as_long_as_the_lease_is_renewed_and_then_ends(tmp_path: Path):
    lease = tmp_path / "lease"
    program = worker(tmp_path)
    try:
        begun, renewals = time.monotonic(), 0
        while time.monotonic() - begun < 2.5 * LEASE_S:
            renewals += 1
            lease.write_text(str(renewals))
            assert program.poll() is None, f"it ended although the lease was renewed {renewals} times"
            time.sleep(0.05)
        assert program.wait(timeout=30) == 1
        assert not (tmp_path / "result.json").exists()
    finally:
        program.kill()
        program.wait()
