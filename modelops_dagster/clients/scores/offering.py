"""The tables and views that one statement sees: the snapshot's rows and those that landed since, as one."""

import re
from collections.abc import Collection, Mapping, Sequence

import duckdb

from modelops_dagster.clients.scores.snapshot import ALL_TABLES, create_views, literals, macro_name, named, once
from modelops_dagster.clients.scores.views import LATEST, MACROS, VIEWS

WORD = re.compile(r"\w+")
# With these a statement can name a table without writing its name.
HIDING = {"query", "query_table", "u"}


def _rests_on() -> Mapping[str, frozenset[str]]:
    """Each table, view and macro with every name that it rests on, its own among them."""
    bodies = dict.fromkeys(ALL_TABLES, "") | {name: table for name, (table, _) in LATEST.items()} | VIEWS
    bodies |= {macro_name(macro): body for macro, body in MACROS.items()}
    found: dict[str, frozenset[str]] = {}
    # a view comes after those it is made of
    for name, body in bodies.items():
        found[name] = frozenset({name}).union(*(found[word] for word in WORD.findall(body) if word in found))
    return found


RESTS_ON = _rests_on()


def names_of(sql: str) -> frozenset[str]:
    """The tables, views and macros that a statement may read: those whose names are words of it, and what they rest on.

    Every one, where it names none, e.g. because it wants to know which there are.
    """
    words = set(WORD.findall(sql.lower()))
    named_there = words & RESTS_ON.keys()
    if words & HIDING or not named_there:
        return frozenset(RESTS_ON)
    return frozenset().union(*(RESTS_ON[name] for name in named_there))


def offer(
    connection: duckdb.DuckDBPyConnection, past: str | None, names: Collection[str], stale: Sequence[int]
) -> None:
    """Make the tables and views that a statement reads.

    Args:
        connection: has the snapshot's tables in `past`, and those of `names` as they landed since in `fresh`.
        past: None when there is no snapshot.
        names: as of `names_of`.
        stale: numbers of the files whose rows in the snapshot do not count.
    """
    gone = f"file in ({', '.join(map(str, stale))})" if stale else "false"
    for table, columns in ALL_TABLES.items():
        if table not in names:
            continue
        rows = f"select {named(columns)} from fresh.{table}"  # noqa: S608
        if past is not None:
            rows = f"select {named(columns)} from {past}.{table} where not {gone} union all {rows}"  # noqa: S608
        connection.execute(f"create view {table} as {once(table, rows)}")
    for name, (table, keep) in LATEST.items():
        if name not in names:
            continue
        latest = f"select * from {table} {keep}"  # noqa: S608
        if past is not None:
            # the snapshot has worked it out for the models that nothing happened to since
            touched = _touched(connection, past, table, gone)
            theirs = f"repo_id in ({literals(touched)})"
            latest = f"select * from {past}.{name}"  # noqa: S608
            if touched:
                again = f"select * from (select * from {table} where {theirs} {keep})"  # noqa: S608
                latest = f"{latest} where not {theirs} union all {again}"
        connection.execute(f"create view {name} as {latest}")
    create_views(connection, names)


def _touched(connection: duckdb.DuckDBPyConnection, past: str, table: str, gone: str) -> set[str]:
    """The models with rows in files that are new, or that count no more."""
    both = f"select repo_id from fresh.{table} union select repo_id from {past}.{table} where {gone}"  # noqa: S608
    sql = f"from ({both}) where repo_id is not null"
    return {repo_id for (repo_id,) in connection.execute(sql).fetchall()}
