"""`modelops endpoints render`: no cluster, no controller, no store."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
SITE = {"namespace": "models", "keda": {"prometheus_url": "http://prometheus:9090"}}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / ".modelops"


def render(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelops_dagster.cli", "endpoints", "render", *map(str, arguments)],
        env={**os.environ, "MODELOPS_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_manifests_of_specs_and_research_jobs_with_their_reasons(home: Path, tmp_path: Path):
    site = tmp_path / "site.yaml"
    site.write_text(yaml.safe_dump(SITE))
    given = ("-f", EXAMPLES / "endpoint_gpu.yaml", "-f", EXAMPLES / "research_job.yaml", "--site", site, "--unseen")
    done = render(home, *given, "--revision", "7")
    assert (done.returncode, done.stderr) == (0, "")
    kinds = [item["kind"] for item in yaml.safe_load_all(done.stdout)]
    assert kinds == ["Deployment", "Service", "PodDisruptionBudget", "Job"]
    assert "# no surge: it would need accelerators that are not there" in done.stdout
    assert "name: qwen-7b-r7" in done.stdout
    plain = render(home, *given, "--no-reasons")
    assert "# " not in plain.stdout
    listed = json.loads(render(home, *given, "--json").stdout)
    assert [item["metadata"]["namespace"] for item in listed] == ["models"] * 4


def test_site_of_the_home_is_used_and_platform_objects_need_no_spec(home: Path):
    home.mkdir()
    (home / "kubernetes.yaml").write_text(yaml.safe_dump({"kueue": {"serving_queue": "fast"}}))
    listed = json.loads(render(home, "--platform", "--json").stdout)
    assert {item["kind"] for item in listed} == {"PriorityClass", "WorkloadPriorityClass", "LocalQueue"}
    assert "fast" in {item["metadata"]["name"] for item in listed}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "There is nothing to render"),
        (("-f", EXAMPLES / "endpoint_cpu.yaml", "--unseen"), "give org/name@ and all 40 digits of the commit"),
        (("-f", EXAMPLES / "endpoint_gpu.yaml"), "The store has no raw checkpoint of Qwen/Qwen2.5-7B-Instruct"),
        (("-f", EXAMPLES / "endpoint_gpu.yaml", "--unseen", "--site", "/no/site.yaml"), "/no/site.yaml does not exist"),
        (("-f", EXAMPLES / "endpoint_gpu.yaml", "--unseen", "--split", "1=5"), "This site has no Gateway"),
    ],
)
def test_mistakes_are_one_sentence(home: Path, arguments: tuple[str | Path, ...], said: str):
    done = render(home, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_site_file_names_the_field_that_does_not_hold(home: Path, tmp_path: Path):
    site = tmp_path / "site.yaml"
    site.write_text("keda: {demand_query: sum(x)}\n")
    done = render(home, "--platform", "--site", site)
    assert done.returncode == 2
    assert "keda.demand_query: a demand query names the endpoint with {endpoint}." in done.stderr
