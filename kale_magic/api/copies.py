"""Files of jobs on a login host, kept here as they grow, for who shows them live: the dashboard's logs, plots and panels.

Owns the copies and the thread that keeps them. Of a log only the end is brought, and then what is new; the copy is as long as
the file and has a hole before. What stands in the hole is brought when it is asked for, and a word is searched for over there.
Of other files that grow by lines the copy begins with what was brought first. Tables (CSV and the like) are brought if they are
asked for, and if they are not too large.
Copies are in a folder of their own, 0700, that goes with them: whoever wants a file whole goes by :mod:`kale_magic.api.mirror`.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kale_magic.errors import KaleError
from kale_proxy import pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kale_magic.client import Client

_MB = 1 << 20
# What is kept of a job, and how much of it comes at once
_LOGS = {"stdout.log": 2 * pieces.WINDOW, "stderr.log": 2 * pieces.WINDOW}
_LINES = {"metrics.jsonl": 8 * _MB, "resources.jsonl": 4 * _MB, "events.jsonl": _MB}
_IS_REPLACED = {"job.sh": _MB, "result.json": _MB, "step.ipynb": 8 * _MB, "outputs/index.json": _MB}
_MOST_TABLE = 12 * _MB
_MOST_TABLES = 50  # of a folder
_LISTED_S = 5.0  # between two looks for new tables
_EVERY_S = 0.5
_RESTS_S = 2.0  # when nothing has been new for a while
_WANTED_S = 5.0  # after which a job that nobody has looked at is left alone


class _File(NamedTuple):
    """What is known of one file's copy."""

    mark: str = ""
    size: int = 0
    base: int = 0  # where in the file its copy begins


class Copies:
    """The copies of one login host's files.

    Parameters
    ----------
    client : Client
        The manager there, for the thread alone; closed with the copies.
    told : callable
        Called in the thread when something has come.
    tables : sequence of str
        Suffixes of files that are brought where tables are asked for; of those that are rewritten and do not grow, ``.npy``.
    """

    def __init__(self, client: Client, told: Callable[[], None], tables: Sequence[str] = ()) -> None:
        self._suffixes = tuple(tables)
        self._patterns: dict[str, set[str]] = {}  # of what is brought from a folder beside what a job always leaves
        self._tables: dict[str, list[str]] = {}
        self._listed: dict[str, float] = {}
        self._client = client
        self._told = told
        self._base = Path(tempfile.mkdtemp(prefix="kale-live-"))
        weakref.finalize(self, shutil.rmtree, self._base, ignore_errors=True)
        self._wanted: dict[str, float] = {}
        self._files: dict[Path, _File] = {}
        self._lock = threading.Lock()
        self._asks = threading.Lock()  # the client is one connection
        self._wake = threading.Event()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def folder(self, there: str, *, has_tables: bool = False) -> Path:
        """Return the copy of a job's folder, or of a workflow's, and keep it up to date from now on while it is asked for."""
        with self._lock:
            is_new = there not in self._wanted
            self._wanted[there] = time.monotonic()
            if has_tables:
                self._patterns.setdefault(there, set()).update(f"*{suffix}" for suffix in self._suffixes)
            step, _, point = there.rpartition("/")
            if point.isdecimal():  # it may share its files with others
                self._wanted[step] = time.monotonic()
                self._patterns.setdefault(step, set()).add("points-*.jsonl")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"kale-copies-{self._client.host}", daemon=True)
                self._thread.start()
        if is_new:
            self._wake.set()
        return self._place(there)

    def before(self, path: Path, end: int) -> pieces.Piece:
        """As :func:`kale_proxy.pieces.before`; raises KaleError if the host can't be asked."""
        self._fill(path, end - 2 * pieces.WINDOW, end)
        return pieces.before(path, end)

    def around(self, path: Path, at: int) -> tuple[pieces.Piece, int]:
        """As :func:`kale_proxy.pieces.around`; raises KaleError if the host can't be asked."""
        self._fill(path, at - pieces.WINDOW, at + pieces.WINDOW)
        return pieces.around(path, at)

    def find(self, path: Path, word: str, at: int, *, is_backward: bool = False) -> int | None:
        """As :func:`kale_proxy.pieces.find`, over there; raises KaleError if the host can't be asked."""
        with self._asks:
            return self._client.search(self._there(path.parent), path.name, word, at, is_backward=is_backward)

    def close(self) -> None:
        """End the thread."""
        self._is_closed = True
        self._wake.set()
        if self._thread is None:
            self._client.close()

    def _place(self, there: str) -> Path:
        return self._base / there.strip("/")

    def _there(self, here: Path) -> str:
        return f"/{here.relative_to(self._base)}"

    def _run(self) -> None:
        quiet = 0
        try:
            while not self._is_closed:
                self._wake.clear()
                now = time.monotonic()
                with self._lock:
                    self._wanted = {there: at for there, at in self._wanted.items() if now - at < _WANTED_S}
                    wanted = list(self._wanted)
                came = [self._look(there) for there in wanted]
                quiet = 0 if any(came) else quiet + 1
                if any(came):
                    self._told()
                self._wake.wait(_EVERY_S if quiet < 4 else _RESTS_S)
        finally:
            self._client.close()

    def _look(self, there: str) -> bool:
        """Bring what is new of one job; whether anything was. A host that does not answer is asked again."""
        place = self._place(there)
        try:
            limits = {**_LOGS, **_LINES, **_IS_REPLACED, **dict.fromkeys(self._tables_of(there), _MOST_TABLE)}
            known = {name: self._files.get(place / name, _File()) for name in limits}
            asked = [
                {"name": name, "mark": file.mark, "at": 0 if _is_replaced(name) else file.size, "most": limits[name]} for name, file in known.items()
            ]
            found = self._ask(there, asked)
        except KaleError:  # the dashboard says so by the run's state
            return False
        for name, part in found.items():
            if name in known:
                self._take(place / name, part, is_table=limits[name] == _MOST_TABLE)
        return bool(found)

    def _tables_of(self, there: str) -> list[str]:
        """Return the names of the tables in a folder, as they were some seconds ago at most."""
        if there in self._patterns and time.monotonic() - self._listed.get(there, -_LISTED_S) >= _LISTED_S:
            with self._lock:
                patterns = sorted(self._patterns[there])
            with self._asks:
                found = self._client.files(there, patterns, has_digests=False)
            own = {*_LOGS, *_LINES, *_IS_REPLACED}
            self._tables[there] = [name for name, item in sorted(found.items()) if name not in own and item["size"] <= _MOST_TABLE][:_MOST_TABLES]
            self._listed[there] = time.monotonic()
        return self._tables.get(there, [])

    def _ask(self, there: str, wanted: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        with self._asks:
            return self._client.read(there, wanted)

    def _take(self, path: Path, part: dict[str, Any], *, is_table: bool) -> None:
        data, at = base64.b64decode(part["data"]), int(part["at"])
        before = self._files.get(path, _File())
        is_whole = _is_replaced(str(path.relative_to(self._base)))
        is_new = is_whole or part["is_new"] or (at != before.size and path.name not in _LOGS)
        base = 0 if path.name in _LOGS else at if is_new else before.base
        self._files[path] = _File(str(part["mark"]), at + len(data), base)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (is_whole or is_table) and is_new and at:  # larger than what is brought
            path.unlink(missing_ok=True)
        elif is_new:  # another file of that name: who follows it sees that
            new = path.with_name(f".{path.name}.new")
            new.unlink(missing_ok=True)
            _write(new, at - base, data)
            new.replace(path)
        else:
            _write(path, at - base, data)

    def _fill(self, path: Path, start: int, end: int) -> None:
        start = max(0, start)
        part = self._ask(self._there(path.parent), [{"name": path.name, "at": start, "end": end, "most": end - start}]).get(path.name)
        if part is not None:
            _write(path, int(part["at"]), base64.b64decode(part["data"]))


def _is_replaced(name: str) -> bool:
    return name.endswith((*_IS_REPLACED, ".npy"))


def _write(path: Path, at: int, data: bytes) -> None:
    """Put bytes into a file where they belong; before them is a hole, if nothing is."""
    stream = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(stream, data, at)
    finally:
        os.close(stream)

