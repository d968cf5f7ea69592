"""The route store: whole documents, no lost update between processes, and a history one can go back to."""

import multiprocessing
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelops_dagster.clients.routes import RouteStore
from modelops_dagster.domain.errors import Conflict, IntegrityError, InvalidSpec
from modelops_dagster.domain.gateway import Route, RouteTarget, with_targets, with_weights

AT = datetime(2026, 1, 2, tzinfo=UTC)
ALIAS = "acme/SmolLM2-135M-Instruct"


def target(name: str = "a", weight: int = 1) -> RouteTarget:
    return RouteTarget(
        endpoint=name, url="http://127.0.0.1:1/v1", served_model_name="m", commit_hash="c" * 40, weight=weight
    )


def fresh(alias: str = ALIAS, weight: int = 1) -> Route:
    return with_targets(None, alias, [target(weight=weight)], at=AT)


def test_a_route_comes_back_as_it_was_written(tmp_path: Path) -> None:
    store = RouteStore(tmp_path)
    assert store.get(ALIAS) is None
    assert store.list() == ()
    written = store.put(fresh(), 0)
    assert written.version == 1
    assert store.get(ALIAS) == written
    assert store.list() == (written,)
    assert store.aliases() == (ALIAS,)
    assert [p.name for p in (tmp_path / "routes").iterdir()] == ["acme%2FSmolLM2-135M-Instruct.json"]


def test_a_change_based_on_an_old_version_is_refused(tmp_path: Path) -> None:
    store = RouteStore(tmp_path)
    first = store.put(fresh(), 0)
    store.put(with_weights(first, {"a": 2}, at=AT), first.version)
    with pytest.raises(Conflict, match="version 2 and not 1"):
        store.put(with_weights(first, {"a": 3}, at=AT), first.version)
    with pytest.raises(Conflict):
        store.put(fresh(), 0)
    assert [t.weight for t in (store.get(ALIAS) or fresh()).targets] == [2]


def test_a_withdrawn_route_is_gone_and_its_successor_counts_on(tmp_path: Path) -> None:
    store = RouteStore(tmp_path)
    first = store.put(fresh(), 0)
    with pytest.raises(Conflict):
        store.delete(ALIAS, 7)
    store.delete(ALIAS, first.version)
    assert store.get(ALIAS) is None
    with pytest.raises(Conflict):
        store.delete(ALIAS, 0)
    again = store.put(fresh(), 0)
    assert again.version == 3
    assert [(r.version, len(r.targets)) for r in store.history(ALIAS)] == [(1, 1), (2, 0), (3, 1)]


@pytest.mark.parametrize("alias", ["../escape", "a/b/c", "", "a/../../b"])
def test_an_alias_cannot_leave_the_folder(tmp_path: Path, alias: str) -> None:
    with pytest.raises(InvalidSpec):
        RouteStore(tmp_path).get(alias)


def test_a_document_that_is_no_route_is_an_error_and_not_an_absence(tmp_path: Path) -> None:
    store = RouteStore(tmp_path)
    store.put(fresh(), 0)
    path = next((tmp_path / "routes").iterdir())
    path.write_text('{"alias": "x"')
    with pytest.raises(IntegrityError, match="is not a route"):
        store.get(ALIAS)
    path.write_text(fresh("somebody/else").model_dump_json())
    with pytest.raises(IntegrityError, match="somebody/else"):
        store.list()


def test_the_signature_differs_after_every_change(tmp_path: Path) -> None:
    store = RouteStore(tmp_path)
    store.prepare()
    seen = {store.signature()}
    for version in range(5):
        store.put(fresh(weight=version + 1), version)
        seen.add(store.signature())
    assert len(seen) == 6


def test_a_missing_folder_is_an_error_for_who_follows_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RouteStore(tmp_path).signature()


def _add_one(root: Path, times: int) -> None:
    """Raise the weight by one, again and again, as whoever changes a route has to: read, change, swap, or retry."""
    store = RouteStore(root)
    for _ in range(times):
        while True:
            current = store.get(ALIAS)
            assert current is not None
            raised = with_weights(current, {"a": current.targets[0].weight + 1}, at=AT)
            try:
                store.put(raised, current.version)
                break
            except Conflict:
                continue


def test_no_update_is_lost_between_processes(tmp_path: Path) -> None:
    store = RouteStore(tmp_path)
    store.put(fresh(), 0)
    spawn = multiprocessing.get_context("fork")
    workers = [spawn.Process(target=_add_one, args=(tmp_path, 25)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [w.exitcode for w in workers] == [0] * 4
    final = store.get(ALIAS)
    assert final is not None
    assert (final.version, final.targets[0].weight) == (101, 101)
    assert [r.targets[0].weight for r in store.history(ALIAS)] == list(range(1, 102))


def test_a_killed_writer_leaves_a_whole_document_and_a_free_lock(tmp_path: Path) -> None:
    store = RouteStore(tmp_path)
    store.put(fresh(), 0)
    for _ in range(5):
        worker = multiprocessing.get_context("fork").Process(target=_add_one, args=(tmp_path, 100_000))
        worker.start()
        time.sleep(0.1)
        os.kill(worker.pid or 0, signal.SIGKILL)
        worker.join(10)
        left = store.get(ALIAS)
        assert left is not None
        assert left.version == left.targets[0].weight
        assert store.put(with_weights(left, {"a": left.targets[0].weight + 1}, at=AT), left.version)
    assert [r.version for r in store.history(ALIAS)] == list(range(1, len(store.history(ALIAS)) + 1))
