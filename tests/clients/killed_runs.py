"""A run that is killed while it asks, and the journal that it leaves."""

import subprocess
import sys
import time
from pathlib import Path

from tests.fakes.openai_server import OpenAIServer

ASKED = 6


def kill_amid(asked: OpenAIServer, program: str, *arguments: str) -> None:
    """Start the program and kill it when it has asked the server a few times."""
    child = subprocess.Popen([sys.executable, "-c", program, *arguments])
    while len(asked.bodies) < ASKED:
        time.sleep(0.01)
        assert child.poll() is None
    child.kill()
    child.wait()


def torn(folder: Path, pattern: str, half_line: str) -> int:
    """How many answers the only journal kept; then it ends in half a line, as a crash may leave it."""
    (journal,) = folder.glob(pattern)
    kept = len(journal.read_text().splitlines()) - 1
    assert ASKED - 2 <= kept <= ASKED
    with journal.open("a") as end:
        end.write(half_line)
    return kept
