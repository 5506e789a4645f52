"""The store in SQLite: the one place with SQL.

WAL with ``locking_mode=EXCLUSIVE`` keeps the index in memory instead of a shared file, which network file
systems can't do (sqlite.org/wal.html, "Use of WAL Without Shared-Memory"); it also keeps a second manager out.
A batch is one transaction. ``synchronous`` is FULL for new runs and for intents that outlive this machine, and
NORMAL for the rest: that survives a killed manager all the same, and what a power cut could take from it is in
the run folders, whose results and claims are read again. It is what keeps a hop between two local steps short.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

from kale_magic.abc import Batch, Store
from kale_magic.errors import StoreError
from kale_magic.manager.migrations import migrate
from kale_magic.model.events import Event
from kale_magic.model.run import Job, Phase, RunRecord
from kale_magic.model.states import RunState, StepState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

T = TypeVar("T")
_TRIM_EVERY = 5_000
_FIXED = ("executor", "folder", "python", "environment", "seed")
_RUN_COLUMNS = (
    "number, id, token, workflow, workflow_folder, state, submitted_at, ended_at, is_cancel_asked, counts, fixed"
)
_DETAIL = (
    "attempt", "uuid", "phase", "reason", "queued_at", "started_at", "ended_at", "native_id", "node", "live",
    "exit_code", "error", "outputs", "failures", "losses", "is_cancel_asked", "source", "decision",
)  # fmt: skip
_DEFAULTS = {name: getattr(Job(0, "", None), name) for name in _DETAIL}


class SqliteStore(Store):
    """A store in one file.

    Parameters
    ----------
    path : Path or str
        The file, made 0600 when missing; ``:memory:`` for tests.
    keep_events : int
        How many events are kept at least; somewhat more before old ones are dropped.

    Raises
    ------
    StoreError
        Another process has it open, it is damaged, or of a later version.
    """

    def __init__(self, path: Path | str, *, keep_events: int = 200_000) -> None:
        self._path = path
        self._keep_events = keep_events
        self._untrimmed = 0
        self._is_full: bool | None = None
        self._database = sqlite3.connect(path, isolation_level=None, timeout=1.0)
        try:
            self._run(self._prepare)
        except BaseException:
            self._database.close()
            raise

    def write(self, batch: Batch) -> None:
        """Write a batch as one transaction."""
        self._run(lambda: self._write(batch))

    def live_runs(self) -> list[RunRecord]:
        """Return the runs that have not ended, oldest first."""
        return self._records("WHERE state = 'running' ORDER BY number")

    def run(self, run: str | None) -> RunRecord | None:
        """Return a run by its id, None: the newest."""
        found = self._records("ORDER BY number DESC LIMIT 1") if run is None else self._records("WHERE id = ?", run)
        return found[0] if found else None

    def run_of_token(self, token: str) -> RunRecord | None:
        """Return the run that was submitted with this token."""
        found = self._records("WHERE token = ?", token)
        return found[0] if found else None

    def earlier_runs(self, workflow: str, workflow_folder: str, limit: int) -> list[RunRecord]:
        """Return runs of a workflow in a folder, newest first."""
        where = "WHERE workflow_folder = ? AND workflow = ? ORDER BY number DESC LIMIT ?"
        return self._records(where, workflow_folder, workflow, limit)

    def runs_with(
        self, step: str, workflow: str | None, folder: str | None, *, is_below: bool, limit: int
    ) -> list[str]:
        """Return the ids of runs that have a step, newest first; of a workflow and in (or below) a folder, where given."""
        sql, values = (
            "SELECT id FROM runs WHERE EXISTS (SELECT 1 FROM jobs WHERE jobs.run = runs.number AND step = ?)",
            [step],
        )
        if workflow is not None:
            sql, values = f"{sql} AND workflow = ?", [*values, workflow]
        if folder is not None:
            inside = folder.rstrip("/") + "/"
            below = " OR substr(workflow_folder, 1, length(?)) = ?" * is_below
            sql, values = f"{sql} AND (workflow_folder = ?{below})", [*values, folder, *[inside, inside] * is_below]
        return [str(row[0]) for row in self._fetch(f"{sql} ORDER BY number DESC LIMIT ?", *values, limit)]

    def jobs(self, record: RunRecord) -> list[Job]:
        """Return the jobs of a run in their order."""
        sql = "SELECT number, step, point, state, detail FROM jobs WHERE run = ? ORDER BY number"
        return [_job(*row) for row in self._fetch(sql, record.number)]

    def list_runs(self, workflow_folder: str | None, limit: int) -> list[RunRecord]:
        """Return runs, newest first, without their bodies."""
        where = "" if workflow_folder is None else "WHERE workflow_folder = ?"
        values = [] if workflow_folder is None else [workflow_folder]
        sql = f"SELECT {_RUN_COLUMNS}, '{{}}' FROM runs {where} ORDER BY number DESC LIMIT ?"  # noqa: S608
        return [_record(*row) for row in self._fetch(sql, *values, limit)]

    def events(self, since: int, run: str | None, limit: int) -> list[Event]:
        """Return up to ``limit`` events after number ``since``, in order."""
        if run is None:
            rows = self._fetch("SELECT body FROM events WHERE seq > ? ORDER BY seq LIMIT ?", since, limit)
        else:
            rows = self._fetch(
                "SELECT body FROM events WHERE run = ? AND seq > ? ORDER BY seq LIMIT ?", run, since, limit
            )
        return [Event.from_wire(json.loads(body)) for (body,) in rows]

    def last_seq(self) -> int:
        """Return the number of the newest event ever written, 0 if none."""
        rows = self._fetch("SELECT seq FROM sqlite_sequence WHERE name = 'events'")
        return int(rows[0][0]) if rows else 0

    def first_seq(self) -> int:
        """Return the number of the oldest event that is still kept."""
        first = self._fetch("SELECT min(seq) FROM events")[0][0]
        return int(first) if first is not None else self.last_seq() + 1

    def save_environment(self, environ: Mapping[str, str]) -> str:
        """Keep an environment and return its key; those that no live run needs any more are dropped."""
        body = json.dumps(dict(environ), sort_keys=True)
        key = hashlib.sha256(body.encode(errors="surrogateescape")).hexdigest()[:16]
        unused = "DELETE FROM environments WHERE key NOT IN (SELECT json_extract(fixed, '$.environment') FROM runs WHERE state = 'running')"

        def save() -> None:
            self._database.execute(unused)
            self._database.execute("INSERT OR IGNORE INTO environments VALUES (?, ?)", (key, body))

        self._run(lambda: self._transaction(save))
        return key

    def environment(self, key: str) -> dict[str, str]:
        """Return a kept environment."""
        rows = self._fetch("SELECT body FROM environments WHERE key = ?", key)
        if not rows:
            raise StoreError(f"The environment {key} of a run is missing in {self._path}.")
        return {str(name): str(value) for name, value in json.loads(rows[0][0]).items()}

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    # -- how ---------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "temp_store = MEMORY", "cache_size = -8000"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("BEGIN IMMEDIATE")  # takes the lock, and with EXCLUSIVE keeps it
        self._database.execute("COMMIT")
        migrate(self._database)

    def _write(self, batch: Batch) -> None:
        self._set_synchronous(is_full=batch.is_intent or bool(batch.new_runs))
        self._transaction(lambda: self._write_rows(batch))
        self._untrimmed += len(batch.events)
        if self._untrimmed >= min(_TRIM_EVERY, self._keep_events):
            self._untrimmed = 0
            self._database.execute(
                "DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?", (self._keep_events,)
            )

    def _write_rows(self, batch: Batch) -> None:
        execute, executemany = self._database.execute, self._database.executemany
        for record in batch.new_runs:
            sql = f"INSERT INTO runs ({_RUN_COLUMNS}, body) VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
            record.number = execute(sql, _row(record)).lastrowid or 0
        if batch.runs:
            rows = [
                (run.state.value, run.ended_at, run.is_cancel_asked, _dumps(run.counts), run.number)
                for run in batch.runs
            ]
            executemany(
                "UPDATE runs SET state = ?, ended_at = ?, is_cancel_asked = ?, counts = ? WHERE number = ?", rows
            )
        if batch.jobs:
            jobs = [
                (run.number, job.index, job.step, job.point, job.state.value, _detail(job)) for run, job in batch.jobs
            ]
            executemany("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?)", jobs)
        if batch.events:
            events = [(event.seq, event.run, _dumps(event.to_wire())) for event in batch.events]
            executemany("INSERT INTO events VALUES (?, ?, ?)", events)

    def _transaction(self, work: Callable[[], None]) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            work()
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _set_synchronous(self, *, is_full: bool) -> None:
        if is_full is not self._is_full:
            self._database.execute(f"PRAGMA synchronous = {'FULL' if is_full else 'NORMAL'}")
            self._is_full = is_full

    def _records(self, where: str, *values: object) -> list[RunRecord]:
        return [_record(*row) for row in self._fetch(f"SELECT {_RUN_COLUMNS}, body FROM runs {where}", *values)]  # noqa: S608

    def _fetch(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self._run(lambda: self._database.execute(sql, values).fetchall())

    def _run(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except sqlite3.Error as exc:
            if "locked" in str(exc):
                raise StoreError(f"Another process has the manager's store {self._path} open.") from exc
            hint = (
                "Make room on that disk."
                if "full" in str(exc) or "disk I/O" in str(exc)
                else "Move it away to begin anew; run folders stay readable."
            )
            raise StoreError(f"The manager's store {self._path} can't be used: {exc}.", hint) from exc


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _row(record: RunRecord) -> tuple[Any, ...]:
    fixed = _dumps({name: getattr(record, name) for name in _FIXED})
    head = (record.id, record.token, record.workflow, record.workflow_folder, record.state.value, record.submitted_at)
    return (*head, record.ended_at, record.is_cancel_asked, _dumps(record.counts), fixed, _dumps(record.body))


def _record(
    number: int,
    run: str,
    token: str,
    workflow: str,
    folder: str,
    state: str,
    at: str,
    ended: str | None,
    asked: int,
    counts: str,
    fixed: str,
    body: str,
) -> RunRecord:
    return RunRecord(
        id=run,
        number=number,
        token=token,
        workflow=workflow,
        workflow_folder=folder,
        state=RunState(state),
        submitted_at=at,
        ended_at=ended,
        is_cancel_asked=bool(asked),
        counts=json.loads(counts),
        body=json.loads(body),
        **json.loads(fixed),
    )


def _detail(job: Job) -> str:
    return _dumps({name: value for name in _DETAIL if (value := getattr(job, name)) != _DEFAULTS[name]})


def _job(number: int, step: str, point: int | None, state: str, detail: str) -> Job:
    values = json.loads(detail)
    if "outputs" in values:
        values["outputs"] = tuple(values["outputs"])
    if "phase" in values:
        values["phase"] = Phase(values["phase"])
    return Job(number, step, point, StepState(state), **values)
