"""What a step's code may call: ``metric``, ``progress``, ``checkpoint``, ``params``.

Owns the lines of ``metrics.jsonl``, the step's ``checkpoint`` folder and the live parameters; starts nothing until
it is used, and outside of Kale (no ``KALE_STEP_FOLDER``) does nothing. Imported by users' code, as
``kale_magic.inside``, also in the kernel of an environment that has no Kale (:func:`bootstrap_source`); so it is
standard library only, and for Python 3.8 on. Each name is safe in threads and after a fork.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import getpass
import json
import math
import os
import shutil
import socket
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["checkpoint", "metric", "params", "progress", "time_left"]

METRICS = "metrics.jsonl"
PARAMS = "params.json"
CHECKPOINT = "checkpoint"
_FLUSH_S = 0.2
_LOOK_S = 0.02  # between looks at the file of changed parameters
_MAX_WAITING = 100_000
_TEXT_MAX = 200
_PLAIN = frozenset({int, float, bool, str, type(None)})


def step_folder() -> str:
    """Return the folder of the step that this process belongs to; empty outside of Kale."""
    return os.environ.get("KALE_STEP_FOLDER", "")


class _Writer:
    """Lines on their way to ``metrics.jsonl``: kept for 0.2 s at most, written by a thread of its own."""

    def __init__(self) -> None:
        self.folder, self.mark = _metrics_of()
        self.last: dict[str, Any] = {}
        self._waiting: deque[tuple[float, dict[str, Any]]] = deque()
        self._progress: tuple[float, dict[str, Any]] | None = None
        self._is_awake = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, line: dict[str, Any]) -> None:
        """Keep a line; whoever makes them faster than a disk takes them waits for it."""
        self._waiting.append((time.time(), line))
        if not self._is_awake.is_set():
            self._wake()
        if len(self._waiting) > _MAX_WAITING:
            self.flush()

    def advance(self, line: dict[str, Any]) -> None:
        """Keep how far the step is; what was not written yet is replaced."""
        self._progress = (time.time(), line)
        if not self._is_awake.is_set():
            self._wake()

    def flush(self) -> None:
        """Write what there is."""
        with self._lock:
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            at_last, self._progress = self._progress, None
            if at_last is not None:
                lines.append(at_last)
            if lines:
                _append(os.path.join(self.folder, METRICS), "".join(_line(at, {**self.mark, **line}) for at, line in lines))
            if self.mark:
                for _, line in lines:
                    self.last.update(line)

    def _wake(self) -> None:
        with self._lock:
            self._is_awake.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="kale-metrics", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._is_awake.wait()
            time.sleep(_FLUSH_S)
            self._is_awake.clear()
            with contextlib.suppress(OSError):  # a full disk loses metrics, not the step
                self.flush()


_writer: _Writer | None = None


def _get_writer() -> _Writer:
    global _writer  # noqa: PLW0603 - one per process; a fork begins anew
    _writer = _Writer()
    return _writer


def begin_point(values: dict[str, Any]) -> None:
    """Begin the next point of a sweep in this process, whose environment names it already; ``values`` are its parameters."""
    if _writer is not None:
        _writer.folder, _writer.mark = _metrics_of()
        _writer.last = {}
    params.__init__()  # type: ignore[misc]
    params._values = values


def end_point() -> dict[str, Any]:
    """Write what the point has recorded, and return the last value of each metric."""
    if _writer is None:
        return {}
    with contextlib.suppress(OSError):  # a full disk loses metrics, not the point
        _writer.flush()
    return {name: value for name, value in _writer.last.items() if name not in {"step", "progress", "of", "text"}}


def _metrics_of() -> tuple[str, dict[str, Any]]:
    """Return the folder of this process's metrics and what marks its lines: points that share a kernel share a file."""
    folder, lane = step_folder(), os.environ.get("KALE_LANE", "")
    return (os.path.dirname(folder), {"of_point": int(os.environ["KALE_POINT"])}) if folder and lane else (folder, {})


def _begin_anew() -> None:
    global _writer  # noqa: PLW0603 - see above
    _writer = None


def _flush_at_end() -> None:
    if _writer is not None:
        with contextlib.suppress(OSError):
            _writer.flush()


os.register_at_fork(after_in_child=_begin_anew)
atexit.register(_flush_at_end)


def metric(*, step: float | None = None, **values: Any) -> None:
    """Record numbers of a running step, for live plots and tables: ``metric(step=i, energy=e)``.

    Takes about a microsecond; written some tenths of a second later, and at the step's end. What is no number is
    kept as text; ``at`` is the time's own name.

    Parameters
    ----------
    step : int or float, optional
        The x of a plot; without it, points are counted.
    **values
        Names and numbers; numpy's and torch's scalars too.
    """
    writer = _writer or _get_writer()
    if not writer.folder:
        return
    line = {name: value if type(value) in _PLAIN else _plain(value) for name, value in values.items()}
    writer.add(line if step is None else {"step": step if type(step) in _PLAIN else _plain(step), **line})


def progress(done: float, total: float, text: str = "") -> None:
    """Tell how far the step is: ``progress(i, n)``; shown as a bar. As cheap as :func:`metric`."""
    writer = _writer or _get_writer()
    if writer.folder:
        said = {"text": text} if text else {}
        writer.advance({"progress": _plain(done), "of": _plain(total), **said})


class Params:
    """The step's parameters as they are now: ``params.n``, ``params["n"]``, ``params.get("n", 10)``.

    Each read sees what was changed from outside in the meantime, by ``%kale_push`` or ``jupyter kale push``. Outside of
    Kale a name is looked for among the notebook's own variables.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] | None = None
        self._seen: dict[str, Any] = {}
        self._stamp: tuple[int, int] | None = None
        self._next_look = 0.0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as exc:
            raise AttributeError(*exc.args) from None

    def __getitem__(self, name: str) -> Any:
        values = self._now()
        if name in values:
            return values[name]
        main = vars(sys.modules["__main__"])
        if not step_folder() and name in main:
            return main[name]
        known = f"there are: {', '.join(values)}" if values else "declare it with --params"
        raise KeyError(f"the step has no parameter {name!r}; {known}")

    def get(self, name: str, default: Any = None) -> Any:
        """Return a parameter, or ``default`` if there is none of that name."""
        try:
            return self[name]
        except KeyError:
            return default

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def __contains__(self, name: object) -> bool:
        return name in self._now()

    def keys(self) -> list[str]:
        """Return the names."""
        return list(self._now())

    def __repr__(self) -> str:
        return f"params({', '.join(f'{name}={value!r}' for name, value in self._now().items())})"

    def _now(self) -> dict[str, Any]:
        moment = time.monotonic()
        if self._values is None:
            self._values = _declared_params()
        elif moment < self._next_look:
            return self._values
        self._next_look = moment + _LOOK_S
        if step_folder():
            self._read_changes(os.path.join(step_folder(), PARAMS))
        return self._values

    def _read_changes(self, path: str) -> None:
        try:
            info = os.stat(path)
            stamp = (info.st_mtime_ns, info.st_ino)
            if stamp == self._stamp:
                return
            with open(path, encoding="utf-8") as stream:
                found = json.load(stream)
        except (OSError, ValueError):
            return
        self._stamp = stamp
        for name, entry in found.items():
            if self._seen.get(name) != entry:
                self._seen[name] = entry
                with contextlib.suppress(ValueError, KeyError, SyntaxError):
                    self._set(name, _read(entry["value"]))

    def _set(self, name: str, value: Any) -> None:
        if self._values is None:
            self._values = _declared_params()
        self._values[name] = value


class Checkpoint:
    """Saving what a step needs to go on, and loading it: ``checkpoint(x=x, i=i)``, ``checkpoint.load()``."""

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
        write_atomic(home / "current.json", json.dumps({"number": number, "at": _iso(time.time())}).encode(), is_durable=True)
        for old in home.iterdir():
            if old.is_dir() and old.name != str(number):
                shutil.rmtree(old, ignore_errors=True)

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


def time_left() -> float | None:
    """Return the seconds until the step's walltime ends; None where it has none, and outside a step.

    A loop that calls this saves what it needs to go on before it is ended: ``if time_left() is not None and
    time_left() < 120: checkpoint(i=i, x=x)``.
    """
    ends_at = os.environ.get("KALE_ENDS_AT", "")
    return float(ends_at) - time.time() if ends_at else None


params = Params()
checkpoint = Checkpoint()


def change(values: Mapping[str, Any], by: str = "") -> dict[str, Any]:
    """Change parameters of this process's step; return the old values. Writes who, when and what into the events.

    Called in the step's kernel by a visit; what Python literals can say also reaches the step's other processes.
    """
    old = {name: params.get(name) for name in values}
    for name, value in values.items():
        params._set(name, value)
    if step_folder():
        record_change(step_folder(), {name: (old[name], value) for name, value in values.items()}, by)
        params._read_changes(os.path.join(step_folder(), PARAMS))
    return old


def record_change(folder: str, changes: Mapping[str, tuple[Any, Any]], by: str = "") -> None:
    """Write changed parameters, name -> (old, new), where the processes of a step look, and into its events."""
    path = os.path.join(folder, PARAMS)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    try:
        with open(path, encoding="utf-8") as stream:
            entries = json.load(stream)
    except (OSError, ValueError):
        entries = {}
    who, at = by or f"{getpass.getuser()}@{socket.gethostname()}", _iso(time.time())
    for name, (_, new) in changes.items():
        entries[name] = {"value": repr(new), "by": who, "at": at}
    from kale_proxy.values import write_atomic

    write_atomic(Path(path), json.dumps(entries, indent=1).encode())
    said = {name: [_short(old), _short(new)] for name, (old, new) in changes.items()}
    record_event(folder, "params", by=who, changes=said)


def record_event(folder: str, event: str, **data: Any) -> None:
    """Append a line to the step's ``events.jsonl``."""
    line = {"at": _iso(time.time()), "attempt": int(os.environ.get("KALE_ATTEMPT", "0")), "event": event, **data}
    _append(os.path.join(folder, "events.jsonl"), json.dumps(line) + "\n")


def _declared_params() -> dict[str, Any]:
    try:
        with open(os.path.join(step_folder() or os.devnull, "job.json"), encoding="utf-8") as stream:
            return {name: _read(text) for name, text in json.load(stream)["params"].items()}
    except (OSError, ValueError, KeyError):
        return {}


def _homes(*folders: str) -> list[Path]:
    """Return where checkpoints may be: of a step's folder its own, then those of its earlier attempts, newest first."""
    found = []
    for folder in filter(None, folders):
        earlier = [path for path in (Path(folder) / "attempts").glob("[0-9]*") if path.name.isdigit()]
        found += [Path(folder), *sorted(earlier, key=lambda path: -int(path.name))]
    return [path / CHECKPOINT for path in found]


def _current(home: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((home / "current.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def _read(text: str) -> Any:
    named = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
    return named[text] if text in named else ast.literal_eval(text)


def _plain(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    try:
        value = value.item() if hasattr(value, "item") else float(value)
    except Exception:  # whatever a user's object raises: a metric must not end the step
        return str(value)[:_TEXT_MAX]
    return value if type(value) in _PLAIN else str(value)[:_TEXT_MAX]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}..."


def _line(at: float, line: dict[str, Any]) -> str:
    try:
        return json.dumps({"at": _iso(at), **line}, allow_nan=False) + "\n"
    except ValueError:  # JSON has no nan
        kept = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in line.items()}
        return json.dumps({"at": _iso(at), **kept}) + "\n"


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d}Z"


def _append(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


_MODULES = (("kale_proxy", "values"), ("kale_proxy", "pack"), ("kale_proxy", "look"), ("kale_proxy", "inside"))

# Only where they can't be imported: the environment may have a Kale of its own.
_LOADER = """
import importlib, sys, types
try:
    importlib.import_module("kale_magic.inside")
except ImportError:
    for package, name, source in sources:
        parent = sys.modules.setdefault(package, types.ModuleType(package))
        parent.__path__ = getattr(parent, "__path__", [])
        module = types.ModuleType(package + "." + name)
        module.__package__ = package
        sys.modules[module.__name__] = module
        setattr(parent, name, module)
        exec(compile(source, "<" + module.__name__ + ">", "exec"), module.__dict__)
    parent = sys.modules.setdefault("kale_magic", types.ModuleType("kale_magic"))
    parent.__path__ = getattr(parent, "__path__", [])
    parent.inside = sys.modules["kale_magic.inside"] = sys.modules["kale_proxy.inside"]
"""


def bootstrap_source() -> str:
    """Return a line of Python that makes ``kale_magic.inside`` importable in a kernel whose environment has no Kale."""
    here = Path(__file__).parent
    sources = [(package, name, (here / f"{name}.py").read_text(encoding="utf-8")) for package, name in _MODULES]
    return f"exec({_LOADER!r}, {{'sources': {sources!r}}})"
