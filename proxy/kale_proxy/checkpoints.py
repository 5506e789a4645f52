"""What a step saves to go on later: ``checkpoint(x=x)``, ``checkpoint.keep(x=x)``, ``checkpoint.load()``.

Owns the ``checkpoint`` folder of a step. Imported by users' code, as ``kale_magic.inside``, also in the kernel of an
environment that has no Kale; so it is standard library only, and for Python 3.8 on. Outside of Kale (no
``KALE_STEP_FOLDER``) nothing is written.

That the end is near, a step learns by the file ``ending.json`` in its live folder (``KALE_LIVE``), which its supervisor writes
(:meth:`kale_proxy.job.Job.warn`), or by SIGTERM, which a batch system sends to all processes of a job at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

CHECKPOINT = "checkpoint"
ENDING = "ending.json"  # in the step's live folder once it was told that its end is near
_LOOK_S = 0.1
_WATCH_S = 0.25
_LONG_S = 1.0  # there may be seconds left at most
_SHARE = 10  # of the time that is left, saving again and again may take one part in so many
_LOCKS = ("importlib", "logging", "threading", "queue", "concurrent", "multiprocessing")
before_end: list[Callable[[], object]] = []  # done before a signal ends a process that has saved


def step_folder() -> str:
    """Return the folder of the step that this process belongs to; empty outside of Kale."""
    return os.environ.get("KALE_STEP_FOLDER", "")


def iso(at: float) -> str:
    """Return a time as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"


def append(path: str, text: str) -> None:
    """Append to a file of this user's alone."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def record_event(folder: str, event: str, **data: Any) -> None:
    """Append a line to the step's ``events.jsonl``."""
    line = {"at": iso(time.time()), "attempt": int(os.environ.get("KALE_ATTEMPT", "0")), "event": event, **data}
    append(os.path.join(folder, "events.jsonl"), json.dumps(line) + "\n")


class Checkpoint:
    """Saving what a step needs to go on, and loading it: ``checkpoint(x=x, i=i)``, ``checkpoint.load()``."""

    def __init__(self) -> None:
        self._end: _End | None = None

    def __call__(self, **values: Any) -> None:
        """Save values, whole or not at all; they replace those of the last checkpoint."""
        if not step_folder():
            return
        from kale_proxy.values import save_all, write_atomic

        home = Path(step_folder()) / CHECKPOINT
        number = int((_current(home) or {}).get("number", 0)) + 1
        folder = home / str(number)
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed here
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        save_all(values, folder, portable=vars(sys.modules["__main__"]))
        write_atomic(home / "current.json", json.dumps({"number": number, "at": iso(time.time())}).encode(), is_durable=True)
        for old in home.iterdir():
            if old.is_dir() and old.name != str(number):
                shutil.rmtree(old, ignore_errors=True)

    def keep(self, *functions: Callable[[], dict[str, Any]], **values: Any) -> bool:
        """Save values once the step is about to be ended, and do nothing before: for every turn of a loop.

        ``checkpoint.keep(i=i, x=x)`` takes a microsecond until the step is told that its walltime ends, or that the batch
        system ends it; the next call then saves, and calls after that do so again now and then. So what is saved is
        whole: the values as they are together at this line. ``checkpoint.keep(function)`` is for code that has no such line,
        as a long call of a library: the function is called then, between two lines of the step's Python code, and
        returns the dict of what is to be saved. A process that has got SIGTERM ends when it has saved.

        Parameters
        ----------
        *functions : callable
            Called without arguments in the main thread.
        **values
            As of :meth:`__call__`.

        Returns
        -------
        bool
            Whether the end is near, for a loop that would rather stop by itself.

        Raises
        ------
        RuntimeError
            A function is given in a thread that is not the main one.
        """
        if not step_folder():
            return False
        if self._end is None or (self._end.pid, self._end.folder) != (os.getpid(), step_folder()):  # a kernel may run many points
            self._end = _End(self)
        if functions:
            self._end.register(functions)
        if values and self._end.is_due():
            self._end.save(lambda: values)
        return self._end.is_near()

    def load(self, **defaults: Any) -> dict[str, Any]:
        """Return the values of the last checkpoint over ``defaults``, which are all there is before the first.

        It is this step's own, of an attempt before, or for a step that was run again (``%kale_rerun``) that of the
        earlier run.

        Raises
        ------
        kale_proxy.values.ValueFileError
            A value can't be loaded, or is not this user's alone.
        """
        from kale_proxy.values import load, read_index

        for home in _homes(step_folder(), os.environ.get("KALE_CHECKPOINT", "")):
            current = _current(home)
            if current is not None:
                files = home / str(current["number"])
                return {**defaults, **{name: load(files, name) for name in read_index(files)}}
        return dict(defaults)


class _End:
    """How near the end of this process's step is, and what is still to be saved; one per process that keeps something."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.pid = os.getpid()
        self._save_values = checkpoint
        self.folder = step_folder()
        self._path = os.path.join(os.environ.get("KALE_LIVE", self.folder), ENDING)
        self._is_warned = self._is_termed = self._has_saved = self._is_saving = False
        self._next_look = self._next_save = self._took = 0.0
        self._functions: list[Callable[[], dict[str, Any]]] = []
        self._signal = 0
        handler = signal.getsignal(signal.SIGTERM)
        is_ours_to_take = handler in (signal.SIG_DFL, None) or isinstance(getattr(handler, "__self__", None), _End)
        if is_ours_to_take and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._term)

    def is_near(self) -> bool:
        """Whether the step was told."""
        if self._is_warned or self._is_termed:
            return True
        moment = time.monotonic()
        if moment >= self._next_look:
            self._next_look = moment + _LOOK_S
            self._is_warned = os.path.exists(self._path)
        return self._is_warned

    def is_due(self) -> bool:
        """Whether the values at hand are to be saved now."""
        if not self.is_near():
            return False
        return self._is_termed or time.monotonic() >= self._next_save

    def save(self, values: Callable[[], dict[str, Any]]) -> None:
        """Save what ``values`` returns and tell of it; what goes wrong is told too, and must not end the step."""
        begun = time.monotonic()
        self._is_saving = True
        try:
            self._save_values(**values())
        except Exception as exc:  # a user's object or function, or a full disk
            sys.stderr.write("kale: the checkpoint could not be saved:\n" + traceback.format_exc())
            said = {"error": f"{type(exc).__name__}: {exc}"}
        else:
            said = {"reason": "saved, since the end of the step is near"}
        self._is_saving = False
        with contextlib.suppress(OSError):
            if said.get("error") or not self._has_saved:
                record_event(step_folder(), CHECKPOINT, **said)
        self._has_saved = True
        self._took = time.monotonic() - begun
        self._next_save = time.monotonic() + max(1.0, _SHARE * self._took)
        if self._is_termed:
            os.kill(self.pid, signal.SIGTERM)

    def register(self, functions: tuple[Callable[[], dict[str, Any]], ...]) -> None:
        """Call functions in the main thread once the end is near."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("checkpoint.keep(function) works in the main thread only: call it in the step's cell, or keep values there")
        is_first = not self._functions
        self._functions = list(functions)
        if is_first:
            self._signal = getattr(signal, "SIGRTMAX", signal.SIGUSR2) - 8
            signal.signal(self._signal, self._handle)
            threading.Thread(target=self._watch, name="kale-keep", daemon=True).start()

    def _watch(self) -> None:
        while not self.is_near():
            time.sleep(_WATCH_S)
        while not self._has_saved:  # it may come at a bad moment
            signal.raise_signal(self._signal)  # to this thread, so that no system call of the step's is broken off; handled in the main one
            time.sleep(_WATCH_S)

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        """Run in the main thread between two bytecodes."""
        if self._has_saved or self._is_saving or os.getpid() != self.pid or _may_hold_a_lock(frame):
            return
        functions = self._functions
        self.save(lambda: {name: value for function in functions for name, value in function().items()})

    def _term(self, number: int, frame: FrameType | None) -> None:
        """Take SIGTERM: save first, at the next line that keeps; once that is done, or in another process, end."""
        is_saved = self._has_saved and not self._is_saving
        if os.getpid() != self.pid or (is_saved and (self._is_termed or self._functions or self._took > _LONG_S)):
            if os.getpid() == self.pid:
                _before_end()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._is_termed = True
        if self._functions:
            self._handle(number, frame)


def _may_hold_a_lock(frame: FrameType | None) -> bool:
    """Whether the code that was interrupted may hold a lock of the whole process, which a function called now may need."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).split(".", 1)[0] in _LOCKS:
            return True
        frame = frame.f_back
    return False


def _before_end() -> None:
    for deed in [sys.stdout.flush, sys.stderr.flush, *before_end]:
        with contextlib.suppress(Exception):
            deed()


def _homes(*folders: str) -> list[Path]:
    """Return where checkpoints may be: of a step's folder its own, then those of its earlier attempts, newest first.

    Those of a rank of an MPI step are in ``ranks/N`` of the step's folder, and of each attempt's.
    """
    found: list[Path] = []
    for folder in map(Path, filter(None, folders)):
        rank = Path(*folder.parts[-2:]) if folder.parent.name == "ranks" else Path()
        home = folder.parent.parent if rank.parts else folder
        earlier = [path for path in (home / "attempts").glob("[0-9]*") if path.name.isdigit()]
        found += [folder, *(path / rank for path in sorted(earlier, key=lambda path: -int(path.name)))]
    return [path / CHECKPOINT for path in found]


def _current(home: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((home / "current.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found
