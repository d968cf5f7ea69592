"""SQLite files that several processes count in at the same time."""

import sqlite3
from pathlib import Path

BUSY_TIMEOUT_S = 2.0


def open_database(path: Path, schema: str) -> sqlite3.Connection:
    """A connection to the file, which is made when it is not there; one per process, opened after a fork.

    Transactions are begun by whoever writes. A power cut may cost the last counts, a killed process does not: nothing
    waits for the disk.

    Args:
        schema: statements that may be run again.

    Raises:
        sqlite3.Error: the file cannot be opened, or is no database.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.executescript(schema)
    return connection


class CountingStore:
    """A store over one such file, connected to at its first use.

    Args:
        path: of the file; made when it is not there.
        schema: as of `open_database`.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self._path, self._schema = path, schema
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = open_database(self._path, self._schema)
        return self._connection
