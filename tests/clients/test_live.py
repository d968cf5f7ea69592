"""The files between controller and gateway: where endpoints answer, and when they were asked for."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelops_dagster.clients.endpoints import Demand, LiveEndpoint, LiveStore
from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.domain.errors import DiskFull

AT = datetime(2026, 1, 2, tzinfo=UTC)


def endpoint(name: str = "small", *urls: str) -> LiveEndpoint:
    state = EndpointState.RUNNING if urls else EndpointState.SLEEPING
    return LiveEndpoint(name=name, served_model_name="m", state=state, since=AT, urls=urls)


def test_a_table_is_read_as_it_was_written_and_says_what_changes_it(tmp_path: Path):
    store, reader = LiveStore(tmp_path / "controller"), LiveStore(tmp_path / "controller")
    assert (reader.read(), reader.signature()) == ({}, (0, 0, 0))
    assert store.put(endpoint("small", "http://127.0.0.1:1/v1"))
    assert store.put(endpoint("other"))
    store.write()
    before, signature = reader.read(), reader.signature()
    assert before == {"small": endpoint("small", "http://127.0.0.1:1/v1"), "other": endpoint("other")}
    assert not store.put(endpoint("other"))
    assert store.put(endpoint("small"))
    assert store.write() == (tmp_path / "controller" / "live.json").stat().st_size
    assert reader.signature() != signature
    after = reader.read()
    assert after == {"small": endpoint("small"), "other": endpoint("other")}
    assert after["other"] is before["other"], "what did not change is not validated again"
    store.drop("small")
    store.write()
    assert list(reader.read()) == ["other"]


@pytest.mark.parametrize("text", ["{", "3", '[{"name": "x"}]', "[1]"])
def test_what_is_no_table_is_refused(tmp_path: Path, text: str):
    (tmp_path / "live.json").write_text(text)
    with pytest.raises(ValueError, match=r"."):
        LiveStore(tmp_path).read()


def test_a_table_that_cannot_be_written_says_so_and_is_tried_again(tmp_path: Path):
    (tmp_path / "file").write_text("")
    store = LiveStore(tmp_path / "file" / "controller")
    with pytest.raises(DiskFull, match="cannot be written"):
        store.write()
    (tmp_path / "file").unlink()
    store.write()
    assert store.read() == {}
    assert store.signature() != (0, 0, 0)


def test_demand_is_a_time_that_only_moves_when_somebody_asks(tmp_path: Path):
    demand = Demand(tmp_path)
    assert demand.last("small") is None
    demand.note("small")
    os.utime(tmp_path / "demand" / "small", (0, 0))
    assert demand.last("small") == datetime.fromtimestamp(0, UTC)
    before = datetime.now(UTC)
    demand.note("small")
    last = demand.last("small")
    assert last is not None
    assert abs((last - before).total_seconds()) < 60
    assert Demand(tmp_path).last("small") == last, "another program sees it"
    demand.note("small", 12)
    assert Demand(tmp_path).under_way("small") == 12
    demand.note("small", 3)
    assert demand.under_way("small") == 3
    os.utime(tmp_path / "demand" / "small", (0, 0))
    assert demand.under_way("small") == 0, "it was said long ago"
    demand.forget("small")
    assert demand.under_way("small") == 0
    assert demand.last("small") is None


def test_a_name_that_no_endpoint_has_names_no_file(tmp_path: Path):
    with pytest.raises(ValueError, match="is not an endpoint name"):
        Demand(tmp_path).note("../small")
