"""When the gateway's table is written: with every change while it is short, changes together when it is long."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelops_dagster.clients.endpoints import LiveEndpoint, LiveStore
from modelops_dagster.domain.endpoints import EndpointState
from modelops_dagster.services.controller.publishing import Publisher

AT = datetime(2026, 1, 2, tzinfo=UTC)
MANY = 2000


def endpoint(name: str, *urls: str) -> LiveEndpoint:
    return LiveEndpoint(name=name, served_model_name="m", state=EndpointState.RUNNING, since=AT, urls=urls)


class CountedTable(LiveStore):
    """Counts how often it is written."""

    written = 0

    def write(self) -> int:
        self.written += 1
        return super().write()


class Table:
    """A publisher whose loop and clock go on when the test says so."""

    def __init__(self, folder: Path, size: int) -> None:
        self.put_off: list[tuple[float, Callable[[], None]]] = []
        self.live = CountedTable(folder)
        self.now_s = 0.0
        self.publisher = Publisher(self.live, clock=lambda: self.now_s)
        self.publisher.begin(endpoint(f"e{number}") for number in range(size))
        self.publisher.put_off_with(lambda wait_s, write: self.put_off.append((wait_s, write)))

    def urls(self, name: str) -> tuple[str, ...]:
        return self.live.read()[name].urls


@pytest.fixture
def short(tmp_path: Path) -> Table:
    return Table(tmp_path, 3)


@pytest.fixture
def long(tmp_path: Path) -> Table:
    return Table(tmp_path, MANY)


def test_a_short_table_is_written_with_every_change_and_with_no_other(short: Table):
    for number in range(1, 4):
        short.publisher.tell(endpoint("e1", f"http://127.0.0.1:{number}/v1"))
        assert short.urls("e1") == (f"http://127.0.0.1:{number}/v1",)
    short.publisher.tell(endpoint("e1", "http://127.0.0.1:3/v1"))
    short.publisher.forget("e2")
    assert list(short.live.read()) == ["e0", "e1"]
    assert (short.live.written, short.put_off) == (5, [])


def test_changes_of_a_long_table_that_come_close_together_are_written_together(long: Table):
    long.now_s = 10.0
    long.publisher.tell(endpoint("e1", "http://10.0.0.1:8000/v1"))
    assert long.urls("e1") == ("http://10.0.0.1:8000/v1",), "the first one after a while is written at once"
    long.now_s = 10.01
    long.publisher.tell(endpoint("e1", "http://10.0.0.2:8000/v1"))
    long.publisher.tell(endpoint("e2", "http://10.0.0.3:8000/v1"))
    long.publisher.forget("e3")
    assert (long.live.written, long.urls("e2")) == (2, ())
    ((wait_s, write),) = long.put_off
    assert wait_s == pytest.approx(0.04)
    write()
    assert (long.live.written, long.urls("e1"), long.urls("e2")) == (
        3,
        ("http://10.0.0.2:8000/v1",),
        ("http://10.0.0.3:8000/v1",),
    )
    assert "e3" not in long.live.read()
    long.now_s = 20.0
    long.publisher.tell(endpoint("e4", "http://10.0.0.4:8000/v1"))
    assert (long.live.written, len(long.put_off)) == (4, 1)
    long.publisher.tell(endpoint("e4"))
    long.publisher.flush()
    assert (long.live.written, long.urls("e4")) == (5, ()), "nothing is left out at the end"
    long.publisher.flush()
    assert long.live.written == 5


def test_before_a_loop_runs_nothing_is_put_off(tmp_path: Path):
    publisher = Publisher(LiveStore(tmp_path))
    publisher.begin(endpoint(f"e{number}") for number in range(MANY))
    publisher.tell(endpoint("e1", "http://10.0.0.1:8000/v1"))
    assert LiveStore(tmp_path).read()["e1"].urls == ("http://10.0.0.1:8000/v1",)


def test_a_full_disk_is_said_and_the_next_change_tells_all(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "file").write_text("")
    publisher = Publisher(LiveStore(tmp_path / "file" / "controller"))
    publisher.begin([endpoint("e1")])
    assert "cannot be written" in caplog.text
    (tmp_path / "file").unlink()
    publisher.tell(endpoint("e2"))
    assert list(LiveStore(tmp_path / "file" / "controller").read()) == ["e1", "e2"]
