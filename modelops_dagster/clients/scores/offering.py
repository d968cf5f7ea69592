"""The tables and views that one statement sees: the snapshot's rows and those that landed since, as one."""

import re
from collections.abc import Collection, Mapping, Sequence

import duckdb

from modelops_dagster.clients.scores.snapshot import ALL_TABLES, create_views, literals, named, nothing, once
from modelops_dagster.clients.scores.views import LATEST, MACROS, VIEWS

WORD = re.compile(r"\w+")
# With these a statement can name a table without writing its name.
HIDING = {"query", "query_table", "u"}


def _uses() -> Mapping[str, frozenset[str]]:
    """Which tables each name of a table, view or macro stands for."""
    bodies = {name: table for name, (table, _) in LATEST.items()} | VIEWS
    bodies |= {name.partition("(")[0]: body for name, body in MACROS.items()}
    uses = {table: frozenset({table}) for table in ALL_TABLES}
    # a view comes after those it is made of
    for name, body in bodies.items():
        uses[name] = frozenset().union(*(uses[word] for word in WORD.findall(body) if word in uses))
    return uses


USES = _uses()


def tables_of(sql: str) -> set[str]:
    """The tables that a statement may read: every one whose name, or a view's that rests on it, is a word of it."""
    words = set(WORD.findall(sql.lower()))
    if words & HIDING:
        return set(ALL_TABLES)
    return {table for word in words & USES.keys() for table in USES[word]}


def offer(
    connection: duckdb.DuckDBPyConnection, past: str | None, asked: Collection[str], stale: Sequence[int]
) -> None:
    """Make the tables and views. Of tables that are not asked for, what landed since the snapshot is left out.

    Args:
        connection: has the snapshot's tables in `past`, and what landed since in `fresh`.
        past: None when there is no snapshot.
        asked: the tables in `fresh`.
        stale: numbers of the files whose rows in the snapshot do not count.
    """
    gone = f"file in ({', '.join(map(str, stale))})" if stale else "false"
    for table, columns in ALL_TABLES.items():
        parts = [f"select {named(columns)} from {past}.{table} where not {gone}"] if past is not None else []  # noqa: S608
        parts += [f"select {named(columns)} from fresh.{table}"] if table in asked else []  # noqa: S608
        rows = " union all ".join(parts) or nothing(table)
        connection.execute(f"create view {table} as {once(table, rows)}")
    for name, (table, keep) in LATEST.items():
        latest = f"select * from {table} {keep}"  # noqa: S608
        if past is not None:
            # the snapshot has worked it out for the models that nothing happened to since
            touched = _touched(connection, past, table, gone) if table in asked else set()
            theirs = f"repo_id in ({literals(touched)})"
            latest = f"select * from {past}.{name}"  # noqa: S608
            if touched:
                again = f"select * from (select * from {table} where {theirs} {keep})"  # noqa: S608
                latest = f"{latest} where not {theirs} union all {again}"
        connection.execute(f"create view {name} as {latest}")
    create_views(connection)


def _touched(connection: duckdb.DuckDBPyConnection, past: str, table: str, gone: str) -> set[str]:
    """The models with rows in files that are new, or that count no more."""
    both = f"select repo_id from fresh.{table} union select repo_id from {past}.{table} where {gone}"  # noqa: S608
    sql = f"from ({both}) where repo_id is not null"
    return {repo_id for (repo_id,) in connection.execute(sql).fetchall()}
