"""`modelops keys`, `routes` and `spend` without a gateway: what they write, what they refuse, and how they say it."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from modelops_dagster.cli import keys, routes, spend
from modelops_dagster.clients.calls import SCHEMA, CallFile
from modelops_dagster.clients.processes import free_port
from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.errors import InvalidSpec
from modelops_dagster.domain.gateway import Grant, RouteTarget, with_targets

AT = datetime(2026, 1, 2, tzinfo=UTC)
ALIAS = "acme/tiny"


def target(name: str, weight: int) -> RouteTarget:
    url = f"http://127.0.0.1:1/{name}/v1"
    grant = Grant(verdict_id="v", at=AT)
    return RouteTarget(
        endpoint=name,
        url=url,
        served_model_name="m",
        commit_hash="c" * 40,
        weight=weight,
        tags=("preview",),
        grant=grant,
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELOPS_HOME", str(tmp_path))
    monkeypatch.setenv("MODELOPS_GATEWAY_PORT", str(free_port("127.0.0.1")))
    store = RouteStore(tmp_path / "gateway")
    store.put(with_targets(None, ALIAS, [target("blue", 1), target("green", 0)], at=AT), 0)
    return tmp_path


def run(group: Any, *words: str, given: str | None = None) -> Any:
    told: Result = CliRunner().invoke(group, [*words, "--json"], input=given)
    if told.exception is not None and not isinstance(told.exception, SystemExit):
        raise told.exception
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


def weights(told: Any) -> dict[str, int]:
    return {t["endpoint"]: t["weight"] for t in told["route"]["targets"]}


def test_canary_promotion_and_the_way_back(home: Path) -> None:
    begun = run(routes.command, "canary", ALIAS, "green", "--weight", "10", "--max-error-increase", "0.1")
    assert weights(begun) == {"blue": 9000, "green": 1000}
    assert begun["route"]["canary"]["bounds"]["max_error_increase"] == 0.1
    assert begun["served"] is False
    assert weights(run(routes.command, "promote", ALIAS)) == {"blue": 0, "green": 10000}
    assert weights(run(routes.command, "rollback", ALIAS)) == {"blue": 9000, "green": 1000}
    assert weights(run(routes.command, "rollback", ALIAS, "--to", "1")) == {"blue": 1, "green": 0}
    history = run(routes.command, "show", ALIAS)["history"]
    told = ["", "canary green at 10 %", "promoted green", "back to version 2", "back to version 1"]
    assert [r["reason"] for r in history] == told


def test_a_swap_and_its_plan_are_in_the_route(home: Path) -> None:
    begun = run(routes.command, "swap", ALIAS, "--to", "green", "--steps", "20,100", "--hold", "30s", "--retain", "2h")
    swap = begun["route"]["swap"]
    assert (swap["steps"], swap["hold_s"], swap["retain_s"]) == ([20, 100], 30, 7200)
    assert weights(begun) == {"blue": 8000, "green": 2000}
    assert weights(run(routes.command, "canary", ALIAS, "--end")) == {"blue": 8000, "green": 0}
    with pytest.raises(InvalidSpec, match="rise and end with 100"):
        run(routes.command, "swap", ALIAS, "--to", "green", "--steps", "50,20")
    assert CliRunner().invoke(routes.command, ["swap", ALIAS, "--to", "green", "--hold", "soon"]).exit_code == 2


def test_settings_of_a_route_are_set_and_cleared(home: Path) -> None:
    words = ("--sticky", "--fallback", "acme/spare", "--timeout-s", "30", "--max-in-flight", "8")
    made = run(routes.command, "set", ALIAS, "green=3", *words, "--usd-per-hour", "2.5")["route"]
    assert (made["sticky"], made["fallbacks"], made["timeout_s"], made["max_in_flight"]) == (
        True,
        ["acme/spare"],
        30,
        8,
    )
    assert [(t["weight"], t["usd_per_hour"]) for t in made["targets"]] == [(1, 0), (3, 2.5)]
    cleared = ("--no-sticky", "--fallback", "none", "--timeout-s", "0", "--max-in-flight", "0")
    made = run(routes.command, "set", ALIAS, *cleared)["route"]
    assert (made["sticky"], made["fallbacks"], made["timeout_s"], made["max_in_flight"]) == (False, [], None, None)


def test_a_misspelt_alias_makes_no_empty_route(home: Path) -> None:
    with pytest.raises(InvalidSpec, match="there is no route 'misspelt' yet: name what answers"):
        run(routes.command, "set", "misspelt", "--sticky")
    assert [r["alias"] for r in run(routes.command, "list")] == [ALIAS]


def test_a_hosted_model_needs_its_key_and_a_reason(home: Path) -> None:
    hosted = ("hosted", "smart", "openai/gpt-4o-mini", "--credential", "openai")
    with pytest.raises(InvalidSpec, match="modelops routes credential openai"):
        run(routes.command, *hosted)
    run(routes.command, "credential", "openai", given="sk-of-the-provider\n")
    with pytest.raises(InvalidSpec, match="--override-reason"):
        run(routes.command, *hosted)
    made = run(routes.command, *hosted, "--override-reason", "pilot of the docs team")
    assert made["route"]["targets"][0]["grant"]["reason"] == "pilot of the docs team"
    assert made["route"]["targets"][0]["grant"]["by"]
    assert "sk-of-the-provider" not in json.dumps(made)


def test_a_shadow_is_never_what_answers(home: Path) -> None:
    with pytest.raises(InvalidSpec, match="cannot be its shadow"):
        run(routes.command, "shadow", ALIAS, "blue")
    made = run(routes.command, "shadow", ALIAS, "green", "--percent", "25")["route"]["targets"]
    assert [(t["endpoint"], t["tags"], t["mirror_percent"]) for t in made][-1] == ("green", ["shadow"], 25)
    ended = run(routes.command, "shadow", ALIAS, "green", "--percent", "0")
    assert weights(ended) == {"blue": 1}


def test_a_keys_policy_is_made_and_listed_without_the_key(home: Path) -> None:
    words = ("--alias", "ci", "--team", "ml", "--rpm", "60", "--tpm", "1000", "--budget-usd-per-day", "2.5")
    made = run(keys.command, "create", *words, "--log-prompts")
    (listed,) = run(keys.command, "list")
    assert (listed["team"], listed["rpm"], listed["tpm"], listed["budget_usd_per_day"]) == ("ml", 60, 1000, 2.5)
    assert listed["log_prompts"] is True
    assert made["key"] not in json.dumps(listed)
    table = CliRunner().invoke(keys.command, ["list"]).output
    assert "2.5 USD a day, 60 rpm, 1000 tpm" in table


def test_spending_is_told_by_team_and_by_sql(home: Path) -> None:
    row = dict.fromkeys(SCHEMA.names) | {"time": datetime.now(UTC), "call_id": "a", "key_id": "k", "team": "ml"}
    CallFile(home / "gateway/calls").append([row | {"status": 200, "shadow": False, "cost_usd": 0.25, "failures": []}])
    assert [(r["name"], r["calls"], r["cost_usd"]) for r in run(spend.command, "--since", "1h")] == [("ml", 1, 0.25)]
    assert run(spend.command, "--sql", "SELECT count(*) AS n FROM calls") == [{"n": 1}]
    with pytest.raises(InvalidSpec, match="the query does not hold"):
        run(spend.command, "--sql", "SELECT nothing FROM nowhere")
