"""`modelops scores export`, as a person types it."""

import json
from pathlib import Path

from tests.cli.test_scores_cli import modelops
from tests.clients.test_exporting import stored_run


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
