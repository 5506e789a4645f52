"""What a step's code may call: ``metric``, ``progress``, ``checkpoint``, ``params``.

Owns the lines of ``metrics.jsonl`` and the live parameters (``checkpoint`` is of :mod:`kale_proxy.checkpoints`); starts nothing until
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
import socket
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_proxy.checkpoints import Checkpoint, append, before_end, iso, record_event, step_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["checkpoint", "metric", "params", "progress", "time_left"]

METRICS = "metrics.jsonl"
PARAMS = "params.json"
_FLUSH_S = 0.2
_LOOK_S = 0.02  # between looks at the file of changed parameters
_MAX_WAITING = 100_000
_TEXT_MAX = 200
_PLAIN = frozenset({int, float, bool, str, type(None)})


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
                append(os.path.join(self.folder, METRICS), "".join(_line(at, {**self.mark, **line}) for at, line in lines))
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
before_end.append(_flush_at_end)


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


def time_left() -> float | None:
    """Return the seconds until the step's walltime ends; None where it has none, and outside a step.

    ``checkpoint.keep(i=i, x=x)`` saves in time by itself.
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
    who, at = by or f"{getpass.getuser()}@{socket.gethostname()}", iso(time.time())
    for name, (_, new) in changes.items():
        entries[name] = {"value": repr(new), "by": who, "at": at}
    from kale_proxy.values import write_atomic

    write_atomic(Path(path), json.dumps(entries, indent=1).encode())
    said = {name: [_short(old), _short(new)] for name, (old, new) in changes.items()}
    record_event(folder, "params", by=who, changes=said)


def _declared_params() -> dict[str, Any]:
    try:
        with open(os.path.join(step_folder() or os.devnull, "job.json"), encoding="utf-8") as stream:
            return {name: _read(text) for name, text in json.load(stream)["params"].items()}
    except (OSError, ValueError, KeyError):
        return {}


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
        return json.dumps({"at": iso(at), **line}, allow_nan=False) + "\n"
    except ValueError:  # JSON has no nan
        kept = {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in line.items()}
        return json.dumps({"at": iso(at), **kept}) + "\n"


_MODULES = (("kale_proxy", "values"), ("kale_proxy", "pack"), ("kale_proxy", "checkpoints"), ("kale_proxy", "look"), ("kale_proxy", "inside"))

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
