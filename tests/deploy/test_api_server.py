"""The manifests of deploy/kubernetes and of endpoints, given to a real API server: `pytest --kubeconfig FILE`.

Nothing is left there: the server checks, admits and forgets.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.cluster.real import RealCluster

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = sorted(path.parent for path in (ROOT / "deploy" / "kubernetes" / "overlays").glob("*/kustomization.yaml"))
GOLDEN = sorted((ROOT / "tests" / "golden" / "kubernetes").glob("*.yaml"))


@pytest.fixture(scope="module")
def kubeconfig(request: pytest.FixtureRequest) -> Iterator[Path]:
    given: Path | None = request.config.getoption("--kubeconfig")
    if given is None:
        pytest.skip("for a real API server: run `pytest --kubeconfig FILE`, see docs/kubernetes.md")
    with RealCluster(given):
        yield given


def checked(kubeconfig: Path, *what: str) -> str:
    """What the server warns of; it takes the objects, and every field of them is known to it."""
    command = ["kubectl", "--kubeconfig", str(kubeconfig), "apply", "--server-side", "--dry-run=server"]
    done = subprocess.run(
        [*command, "--force-conflicts", "--validate=strict", *what], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_objects_of_an_endpoint_are_taken_without_a_warning(kubeconfig: Path, path: Path):
    assert checked(kubeconfig, "-f", str(path)) == ""


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_platform_is_taken_without_a_warning(kubeconfig: Path, folder: Path):
    assert checked(kubeconfig, "-k", str(folder)) == ""
