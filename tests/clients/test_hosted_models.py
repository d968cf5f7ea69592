"""`hosted_models.yaml` followed into the route documents."""

from pathlib import Path

import pytest
import yaml

from modelops_dagster.clients.hosted_models import HostedModelsFile, hosted_models_path
from modelops_dagster.clients.keys import KeyStore
from modelops_dagster.clients.platform_keys import platform_key
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.errors import InvalidSpec

CLAUDE = {"model": "anthropic/claude-sonnet-4-5", "api_key_name": "ANTHROPIC_API_KEY"}


@pytest.fixture
def routes(tmp_path: Path) -> RouteStore:
    return RouteStore(tmp_path / "gateway")


@pytest.fixture
def followed(tmp_path: Path, routes: RouteStore) -> HostedModelsFile:
    return HostedModelsFile(hosted_models_path(tmp_path), routes)


def write(tmp_path: Path, content: object) -> None:
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    hosted_models_path(tmp_path).write_text(text)


def look(followed: HostedModelsFile) -> list[str]:
    """Two looks: a file that has just changed is left alone by the first."""
    return [*followed.follow_once(), *followed.follow_once()]


def test_the_routes_follow_the_file(tmp_path: Path, routes: RouteStore, followed: HostedModelsFile):
    assert look(followed) == []
    write(tmp_path, {"smart": CLAUDE, "smarter": {**CLAUDE, "tags": []}})
    assert look(followed) == [
        "route 'smart' follows hosted_models.yaml", "route 'smarter' follows hosted_models.yaml"
    ]  # fmt: skip
    assert look(followed) == []
    assert [(r.alias, r.version, r.targets[0].tags) for r in routes.list()] == [
        ("smart", 1, ("preview",)), ("smarter", 1, ())
    ]  # fmt: skip
    write(tmp_path, {"smart": CLAUDE})
    assert look(followed) == ["route 'smarter' follows hosted_models.yaml"]
    assert routes.aliases() == ("smart",)
    assert [r.version for r in routes.list()] == [1]
    hosted_models_path(tmp_path).unlink()
    look(followed)
    assert routes.aliases() == ()


def test_another_start_changes_nothing(tmp_path: Path, routes: RouteStore, followed: HostedModelsFile):
    write(tmp_path, {"smart": CLAUDE})
    look(followed)
    assert look(HostedModelsFile(hosted_models_path(tmp_path), routes)) == []


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path, routes: RouteStore, followed: HostedModelsFile):
    write(tmp_path, {"smart": CLAUDE})
    look(followed)
    write(tmp_path, "")
    assert followed.follow_once() == []
    assert routes.aliases() == ("smart",)
    write(tmp_path, {"smart": CLAUDE, "other": CLAUDE})
    look(followed)
    assert routes.aliases() == ("other", "smart")
    hosted_models_path(tmp_path).unlink()
    look(followed)
    assert routes.aliases() == ()


@pytest.mark.parametrize("content", ["a: [", "- a", {"smart": {"model": "x"}}, "smart:\n"])
def test_a_file_that_does_not_hold_changes_nothing(
    tmp_path: Path, routes: RouteStore, followed: HostedModelsFile, content: object
):
    write(tmp_path, {"smart": CLAUDE})
    look(followed)
    write(tmp_path, content)
    with pytest.raises(InvalidSpec, match=r"hosted_models\.yaml"):
        look(followed)
    assert routes.aliases() == ("smart",)


def test_evaluations_have_a_key_that_fits_the_route(tmp_path: Path, routes: RouteStore, followed: HostedModelsFile):
    write(tmp_path, {"smart": CLAUDE, "inner": {**CLAUDE, "tags": ["research"]}})
    look(followed)
    smart, inner = routes.get("smart"), routes.get("inner")
    assert smart is not None
    assert inner is not None
    keys = KeyStore(tmp_path / "gateway")
    first = platform_key(tmp_path, smart, "evaluation")
    assert platform_key(tmp_path, smart, "evaluation") == first
    second = platform_key(tmp_path, inner, "evaluation")
    record = keys.lookup(second)
    assert record is not None
    assert set(record.tags) == {"preview", "research"}
    assert keys.lookup(first) is None
    assert platform_key(tmp_path, smart, "evaluation") == second
    keys.revoke(record.key_id)
    assert platform_key(tmp_path, smart, "evaluation") not in (first, second)
    assert (tmp_path / "secrets" / "gateway_evaluation_key").stat().st_mode & 0o777 == 0o600
    judges = keys.lookup(platform_key(tmp_path, smart, "grader"))
    assert judges is not None
    assert (record.alias, judges.alias) == ("evaluations", "graders"), "what each of them spends is told apart"
