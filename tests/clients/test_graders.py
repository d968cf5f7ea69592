"""`graders.yaml` from its two places, and what its names stand for now."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelops_dagster.clients.calibrations import open_panel
from modelops_dagster.clients.gauntlet.graders import Known, load_graders
from modelops_dagster.clients.gauntlet.loading import load_suites
from modelops_dagster.clients.gauntlet.panel import Panel
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.clients.scores import ScoreStore
from modelops_dagster.domain.errors import InvalidSpec, NotRunning
from modelops_dagster.domain.gateway import Route, RouteTarget
from tests.clients.grading_parts import written

FILE = """
graders:
  - {name: remote, url: "http://127.0.0.1:1/v1/chat/completions", model: big, key_env: JUDGE_KEY, repeats: 3}
  - {name: ours, alias: team/judge}
  - {name: local, endpoint: judge-raw}
admission: {labels: 40}
"""


def known(tmp_path: Path, **environment: str) -> Known:
    routes = RouteStore(tmp_path / "gateway")
    target = RouteTarget(endpoint="judge-1", url="http://127.0.0.1:2/v1", served_model_name="j", commit_hash="c" * 40)
    for alias in ("team/judge", "best"):
        if routes.get(alias) is None:
            routes.put(Route(alias=alias, targets=(target,), version=1, updated_at=datetime.now(UTC)), 0)

    def status_of(name: str) -> None:
        raise NotRunning("no controller was ever started here")

    return Known(status_of, routes.get, "http://127.0.0.1:4000", lambda route: f"key for {route.alias}", environment)


def opened(tmp_path: Path, **environment: str) -> Panel:
    store = ScoreStore(tmp_path / "scores")
    return open_panel(load_graders(tmp_path), known(tmp_path, **environment), store, [written(2)])


def test_the_home_goes_before_the_suites_and_no_file_is_no_grader(tmp_path: Path):
    home, suites = tmp_path / "home", tmp_path / "suites"
    home.mkdir()
    suites.mkdir()
    assert load_graders(home, suites).graders == ()
    (suites / "graders.yaml").write_text(FILE)
    assert [g.name for g in load_graders(home, suites).graders] == ["remote", "ours", "local"]
    (home / "graders.yaml").write_text("graders: [{name: own, alias: x}]")
    assert [g.name for g in load_graders(home, suites).graders] == ["own"]


def test_graders_beside_the_suites_are_no_suite(tmp_path: Path):
    (tmp_path / "graders.yaml").write_text(FILE)
    with pytest.raises(InvalidSpec, match="holds no suites"):
        load_suites(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("graders: [", "is not YAML"),
        ("graders: [{name: g, alias: a, key_env: sk-secret-123}]", r"graders\.0\.key_env"),
        ("graders: [{name: g, alias: a, prompt: 2}]", r"graders\.0\.prompt"),
        ("graders: [{name: g, alias: a, speed: 2}]", r"graders\.0\.speed"),
    ],
)
def test_a_bad_file_is_one_sentence_without_its_values(text: str, said: str, tmp_path: Path):
    (tmp_path / "graders.yaml").write_text(text)
    with pytest.raises(InvalidSpec, match=said) as error:
        load_graders(tmp_path)
    assert "sk-secret" not in str(error.value)


def test_what_can_be_asked_and_why_the_rest_cannot(tmp_path: Path):
    (tmp_path / "graders.yaml").write_text(FILE)
    panel = opened(tmp_path)
    assert [g.spec.name for g in panel.graders] == ["ours"]
    assert panel.graders[0].endpoints == ("judge-1",) and panel.graders[0].revisions == ("c" * 40,)
    assert "JUDGE_KEY, which is not set" in panel.notes[0]
    assert "no controller" in panel.notes[1]
    key = panel.graders[0].key
    assert key is not None
    assert key.get_secret_value() == "key for team/judge", "an alias is asked with the platform's own key"
    assert "key for" not in panel.graders[0].model_dump_json() + repr(panel.graders[0])
    remote = opened(tmp_path, JUDGE_KEY="k").graders[0]
    assert (remote.url, remote.model, remote.key) == ("http://127.0.0.1:1/v1", "big", None)


def test_an_alias_asked_by_url_is_looked_up_as_well(tmp_path: Path):
    (tmp_path / "graders.yaml").write_text('graders: [{name: g, url: "http://127.0.0.1:4000/v1", model: best}]')
    (grader,) = opened(tmp_path).graders
    assert grader.endpoints == ("judge-1",)


def test_an_alias_without_endpoints_and_a_bad_url_are_told(tmp_path: Path):
    (tmp_path / "graders.yaml").write_text("graders: [{name: g, alias: no/one}, {name: h, url: nowhere, model: m}]")
    panel = opened(tmp_path)
    assert panel.graders == ()
    assert "serves no endpoint" in panel.notes[0] and "not a URL" in panel.notes[1]
