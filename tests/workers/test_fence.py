"""What a fenced process can still do: talk to its endpoint, write in its folder, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.openai_server import OpenAIServer

ROOT = Path(__file__).resolve().parents[2]
FENCED = """
import json, os, socket, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1] + "/modelops_dagster/workers/inspect_task")
import fence
folder, port, other = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
if len(sys.argv) > 5:  # without the audit hook, only what the kernel holds is left
    fence._hook = lambda *_: lambda event, arguments: None
stand = fence.raise_fence("127.0.0.1", port, folder, [Path(sys.prefix), Path(sys.base_prefix)], 2**30)
said = {}

def attempt(name, what):
    try:
        what()
        said[name] = "done"
    except MemoryError:
        said[name] = "MemoryError"
    except OSError as error:
        said[name] = type(error).__name__

attempt("endpoint", lambda: socket.create_connection(("127.0.0.1", port), 5).close())
attempt("another port", lambda: socket.create_connection(("127.0.0.1", other), 5).close())
attempt("a name", lambda: socket.getaddrinfo("example.org", 443))
attempt("a server", lambda: socket.socket().bind(("127.0.0.1", 0)))
attempt("own folder", lambda: (folder / "mine").write_text("x"))
attempt("beside it", lambda: (folder.parent / "theirs").write_text("x"))
attempt("a secret", lambda: (folder.parent / "secret").read_text())
attempt("a program", lambda: os.posix_spawn("/bin/true", ["true"], {}))
attempt("a fork", lambda: os._exit(0) if os.fork() == 0 else os.wait())
attempt("memory", lambda: bytearray(2**31))
print(json.dumps({"stand": stand, "said": said}))
"""


def fenced(tmp_path: Path, *more: str) -> tuple[list[str], dict[str, str]]:
    folder = tmp_path / "task"
    folder.mkdir()
    (tmp_path / "secret").write_text("key")
    with OpenAIServer().in_thread() as ours, OpenAIServer().in_thread() as another:
        ports = [server.url.split(":")[2].split("/")[0] for server in (ours, another)]
        done = subprocess.run(
            [sys.executable, "-c", FENCED, str(ROOT), str(folder), *ports, *more],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    return out["stand"], out["said"]


def test_only_the_endpoint_is_reached_and_nothing_is_started(tmp_path: Path) -> None:
    stand, said = fenced(tmp_path)
    assert stand[0] == "audit hook"
    for name in ("another port", "a name", "a program", "a fork"):
        assert said[name] == "PermissionError", name
    assert (said["endpoint"], said["own folder"], said["memory"]) == ("done", "done", "MemoryError")


def test_the_kernel_holds_what_native_code_could_pass_by(tmp_path: Path) -> None:
    stand, said = fenced(tmp_path, "no hook")
    if len(stand) == 1:
        pytest.skip("this kernel has no Landlock, so there is only the audit hook")
    for name in ("another port", "a server", "beside it", "a secret", "a program"):
        assert said[name] == "PermissionError", name
    assert (said["endpoint"], said["own folder"]) == ("done", "done")
    assert not (tmp_path / "theirs").exists()
