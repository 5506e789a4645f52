"""The tables of the store, as the list of steps that lead to them. The only place with DDL.

A database's ``user_version`` is the number of steps it has gone; opening it goes the rest. A step that has been
released is never changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kale_magic.errors import StoreError

if TYPE_CHECKING:
    import sqlite3

_STEPS = (
    """
    CREATE TABLE runs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        token TEXT NOT NULL UNIQUE,
        workflow TEXT NOT NULL,
        workflow_folder TEXT NOT NULL,
        state TEXT NOT NULL,
        submitted_at TEXT NOT NULL,
        ended_at TEXT,
        is_cancel_asked INTEGER NOT NULL,
        counts TEXT NOT NULL,
        fixed TEXT NOT NULL,
        body TEXT NOT NULL
    );
    CREATE INDEX runs_of_folder ON runs (workflow_folder, number);
    CREATE INDEX runs_live ON runs (state) WHERE state = 'running';
    CREATE TABLE jobs (
        run INTEGER NOT NULL,
        number INTEGER NOT NULL,
        step TEXT NOT NULL,
        point INTEGER,
        state TEXT NOT NULL,
        detail TEXT NOT NULL,
        PRIMARY KEY (run, number)
    ) WITHOUT ROWID;
    CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, body TEXT NOT NULL);
    CREATE INDEX events_of_run ON events (run, seq);
    CREATE TABLE environments (key TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
    """,
)


def migrate(database: sqlite3.Connection) -> None:
    """Bring a database to the present form, each step in a transaction of its own.

    Raises
    ------
    StoreError
        It was written by a later version.
    """
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > len(_STEPS):
        raise StoreError(
            f"The manager's store is of a later version of Kale (form {version}, this one reads {len(_STEPS)}).",
            "Use that version, or move kale.db away.",
        )
    for number, script in enumerate(_STEPS[version:], version + 1):
        database.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
