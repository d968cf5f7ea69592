"""`modelops scores export` and `modelops scores import`, as a person types them."""

import json
from pathlib import Path

import pytest

from tests.cli.test_scores_cli import modelops
from tests.clients.test_exporting import stored_run
from tests.clients.test_importing import GEN, GOLDEN, RESULTS


def test_a_run_is_exported_for_inspect_and_an_unknown_one_is_a_sentence(tmp_path: Path) -> None:
    stored_run(tmp_path / "home")
    to = tmp_path / "logs"
    result = modelops(tmp_path / "home", "scores", "export", "run-1", "--suite", "quality", "-o", str(to), "--json")
    assert result.returncode == 0, result.stderr
    (line,) = json.loads(result.stdout)
    assert (line["suite"], line["samples"]) == ("quality", 5)
    log = json.loads(Path(line["file"]).read_text())
    assert sorted(s["scores"]["modelops"]["value"] for s in log["samples"] if s["scores"]) == [0, 0.5, 1]
    assert log["results"]["scores"][0]["metrics"]["accuracy"]["value"] == 0.5
    unknown = modelops(tmp_path / "home", "scores", "export", "nothing", "-o", str(to))
    assert unknown.returncode == 2
    assert "there are no samples of run 'nothing'" in unknown.stderr
    assert "Traceback" not in unknown.stderr


def test_another_tools_results_are_imported_once_and_shown_beside_ours(tmp_path: Path) -> None:
    stored_run(tmp_path)
    results = GOLDEN / "lm-eval" / RESULTS
    taken = modelops(
        tmp_path, "scores", "import", str(results), "--format", "lm-eval", "--repo-id", "org/model", "--json"
    )
    assert taken.returncode == 0, taken.stderr
    assert [(line["suite"], line["is_new"]) for line in json.loads(taken.stdout)] == [
        ("lm-eval:toy_gen", True),
        ("lm-eval:toy_mc", True),
    ]
    again = modelops(tmp_path, "scores", "import", str(results), "--format", "lm-eval", "--repo-id", "org/model")
    assert again.stdout.count("was there") == 2
    shown = modelops(tmp_path, "scores", "--repo-id", "org/model")
    assert "exact_match" in shown.stdout
    # quality sorts behind lm-eval:…, and still it is our own run that heads the table
    assert f"org/model (raw) at {'a' * 12} on fake" in shown.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--format", "nemo"), "needs one eval-*.json beside it"),
        (("--format", "lm-eval", "--commit", "main"), "'main' is not a commit hash"),
        (("--format", "lm-eval", "--lane", "fp3"), "there is no lane 'fp3'"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    path = GOLDEN / "lm-eval" / GEN
    result = modelops(tmp_path, "scores", "import", str(path), "--repo-id", "org/m", *options)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
