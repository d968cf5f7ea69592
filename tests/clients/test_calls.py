"""The call log: visible at once, each row once, whatever is written again; and the spending it tells."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from modelops_dagster.clients import calls
from modelops_dagster.clients.calls import CallFile, query_calls, spend
from modelops_dagster.domain.errors import InvalidSpec

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)


def row(call_id: str, **more: Any) -> dict[str, Any]:
    made = dict.fromkeys(calls.SCHEMA.names)
    made |= {"time": NOW, "call_id": call_id, "key_id": "k", "key_alias": "me", "status": 200, "shadow": False}
    return made | {"failures": [], "alias": "acme/x", "team": "ml", "cost_usd": 0.5} | more


def ids(root: Path) -> list[str]:
    return [r["call_id"] for r in query_calls(root, "SELECT call_id FROM calls ORDER BY 1", since=NOW - HOUR)]


def test_rows_are_there_at_once_and_each_of_them_once(tmp_path: Path) -> None:
    one, two = CallFile(tmp_path), CallFile(tmp_path)
    one.append([row("a")])
    two.append([row("b")])
    assert ids(tmp_path) == ["a", "b"]
    one.append([row("c")])
    assert ids(tmp_path) == ["a", "b", "c"]
    everything = duckdb.sql(f"SELECT count(*) FROM read_parquet('{tmp_path}/*/*.parquet')").fetchall()
    assert everything == [(3,)], "the folder read as it is says the same"


def test_an_unfinished_row_is_replaced_by_the_final_one(tmp_path: Path) -> None:
    file = CallFile(tmp_path)
    file.append([], [row("a", error="Unfinished")])
    assert query_calls(tmp_path, "SELECT error FROM calls", since=NOW - HOUR) == [{"error": "Unfinished"}]
    file.append([row("a")], [row("b", error="Unfinished")])
    file.append([row("b")])
    found = query_calls(tmp_path, "SELECT call_id, error FROM calls ORDER BY 1", since=NOW - HOUR)
    assert found == [{"call_id": "a", "error": None}, {"call_id": "b", "error": None}]


def test_a_file_is_closed_when_it_is_large_and_then_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_ROWS", 3)
    file = CallFile(tmp_path)
    file.append([row("a"), row("b")])
    file.append([row("c")], [row("d", error="Unfinished")])
    (closed,) = tmp_path.rglob("*.parquet")
    before = closed.read_bytes()
    file.append([row("d")])
    assert closed.read_bytes() == before
    assert len(list(tmp_path.rglob("*.parquet"))) == 2
    assert ids(tmp_path) == ["a", "b", "c", "d"]


def test_what_cannot_be_written_can_be_written_again(tmp_path: Path) -> None:
    root = tmp_path / "calls"
    root.write_text("in the way")
    file = CallFile(root)
    with pytest.raises(OSError, match="calls"):
        file.append([row("a")])
    root.unlink()
    file.append([row("a")])
    assert ids(root) == ["a"]


def test_spending_is_put_together_by_team_key_and_alias(tmp_path: Path) -> None:
    CallFile(tmp_path).append(
        [
            row("a", prompt_tokens=10, completion_tokens=5, cached_tokens=4),
            row("b", team="web", key_alias="you", cost_usd=2.0),
            row("c", status=502, error="endpoint_failed", cost_usd=None),
            row("old", time=NOW - timedelta(days=30)),
            row("copy", shadow=True),
            row("refused", key_id=None, key_alias=None, team=None, status=401, error="invalid_api_key"),
        ]
    )
    by_team = spend(tmp_path, "team", NOW - HOUR)
    assert [(r["name"], r["calls"], r["failed"], r["cost_usd"]) for r in by_team] == [
        ("web", 1, 0, 2.0),
        ("ml", 2, 1, 0.5),
    ]
    assert (by_team[1]["prompt_tokens"], by_team[1]["completion_tokens"], by_team[1]["cached_tokens"]) == (10, 5, 4)
    assert [r["name"] for r in spend(tmp_path, "key", NOW - HOUR)] == ["you", "me"]
    assert [r["calls"] for r in spend(tmp_path, "alias", NOW - HOUR)] == [3]
    assert spend(tmp_path / "none", "team", NOW) == []
    with pytest.raises(InvalidSpec, match="choose one of team, key"):
        spend(tmp_path, "hair", NOW)
