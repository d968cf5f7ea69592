"""What `modelops onboard` makes sure of before it changes anything, beside a Hub and a Dagster of the tests."""

import json
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from modelops_dagster.clients.lineage import write_value
from modelops_dagster.domain.checkpoints import Checkpoint
from modelops_dagster.services.hub_server import HubServer
from tests.fakes.commands import modelops_beside
from tests.fakes.dagster_api import RUN_ID, IdleDagster, answering
from tests.fakes.hub import released, write_repo

STARTED = ["addDynamicPartition", "launchRun"]


def onboard(hub: HubServer, home: Path, *arguments: str) -> tuple["subprocess.CompletedProcess[str]", list[str]]:
    """What the command said, and what it had Dagster change."""
    dagster = IdleDagster()
    with answering(dagster.answer) as url:
        port = str(urlsplit(url).port)
        done = modelops_beside(hub, home, "onboard", *arguments, MODELOPS_DAGSTER_PORT=port)
    return done, dagster.changes


def test_what_is_on_the_hub_becomes_a_partition_and_a_run(hub: HubServer, tmp_path: Path):
    released(hub, write_repo(tmp_path / "model"))
    done, changes = onboard(hub, tmp_path, "acme/one", "--json")
    assert (done.returncode, changes) == (0, STARTED), done
    assert json.loads(done.stdout)["run_id"] == RUN_ID


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("acme/onee", "--wait"), "has no model acme/onee for this account: check the spelling"),
        (("acme/one", "--ref", "v9"), "acme/one has no branch, tag or commit 'v9'"),
        (("acme/onee", "--lane", "awq"), "The weights of acme/onee were never fetched"),
    ],
)
def test_a_typing_mistake_is_one_sentence_and_leaves_nothing(
    hub: HubServer, tmp_path: Path, arguments: tuple[str, ...], words: str
):
    released(hub, write_repo(tmp_path / "model"))
    done, changes = onboard(hub, tmp_path, *arguments)
    assert (done.returncode, changes) == (2, []), done
    assert done.stderr.splitlines()[-1].startswith("modelops: ")
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_hub_that_does_not_answer_starts_nothing(hub: HubServer, tmp_path: Path):
    released(hub, write_repo(tmp_path / "model"))
    hub.faults.unavailable = 1000
    done, changes = onboard(hub, tmp_path, "acme/one", "--wait")
    assert (done.returncode, changes) == (2, []), done
    assert "answered 503 about acme/one: nothing was changed; try again later" in done.stderr.splitlines()[-1]


def test_a_quantized_lane_of_fetched_weights_asks_no_hub(hub: HubServer, tmp_path: Path):
    revision = released(hub, write_repo(tmp_path / "model")).revision
    fetched = Checkpoint(
        revision=revision, scheme="raw", directory=str(tmp_path), digest=f"sha256:{0:064x}", size_bytes=0
    )
    write_value(tmp_path / "lineage", "raw_weights", revision.repo_id, "run", fetched)
    asked = len(hub.faults.requests)
    done, changes = onboard(hub, tmp_path, revision.repo_id, "--lane", "awq")
    assert (done.returncode, changes) == (0, STARTED), done
    assert len(hub.faults.requests) == asked
