"""What the points of a ``--reuse-kernel`` sweep leave together, in the folder of their step: a few files for all of them.

``points-K.jsonl`` is written by the K-th kernel alone: its claim, then lines for the points that it runs (begin, what
they print, end with result and small values), at last how the kernel ended. ``values/K.bin`` holds larger values.
Elsewhere a point has a folder ``steps/STEP/N``; here there is none, and what would be in it is found by that path.
A folder that is there all the same (of an edited output) goes first: its readers come here only if it is not.
Standard library only, for Python 3.8 on: it is sent to the kernels of environments without Kale.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

METRICS = "metrics.jsonl"
ELSEWHERE = "cached.json"  # points that an earlier run has computed -> where they are, relative to the step's folder
_FILE = re.compile(r"points-(\d+)\.jsonl")
_LINE = re.compile(rb'\{"(begin|out|end|over)": (\d+|\{)(?:, "uuid": "([0-9a-f]*)", "attempt": (\d+))?')
_METRIC = re.compile(rb'\{"at": "[^"]*", ("of_point": (\d+)(?:, )?)')
_INLINE_BYTES = 1000
_KEPT = 16  # sweeps whose places are remembered
_packs: dict[str, Pack] = {}
_lock = threading.Lock()
_seen = threading.local()


class Value(NamedTuple):
    """One value as it was written: the suffix of its form, its bytes, and the file that they are in."""

    suffix: str
    data: bytes
    info: os.stat_result
    path: Path


class _Place(NamedTuple):
    path: str
    at: int
    length: int


def points_file(folder: Path | str, lane: int) -> str:
    """Return the file of one kernel of a sweep."""
    return f"{folder}/points-{lane}.jsonl"


def told_file(folder: Path | str, lane: int) -> str:
    """Return the file by which one kernel of a sweep is told something where no connection leads to it: lines of JSON."""
    return f"{folder}/told-{lane}.jsonl"


def values_file(folder: Path | str, lane: int) -> str:
    """Return the file of the values of the points that one kernel ran."""
    return f"{folder}/{_values_name(lane)}"


def _values_name(lane: int) -> str:
    return f"values/{lane}.bin"


class Pack:
    """Where what is in one sweep's files; grows with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, int] = {}
        self._ends: dict[int, tuple[int, _Place]] = {}  # point -> (attempt, place); the newest attempt counts
        self._outs: dict[tuple[int, int], list[_Place]] = {}  # (point, attempt) -> places
        self._begun: dict[int, int] = {}  # point -> newest attempt
        self._begins: dict[int, _Place] = {}
        self._metrics: dict[int, list[_Place]] = {}
        self.elsewhere = elsewhere(folder)

    def refresh(self) -> bool:
        """Take up what was written since; False if there are no such files."""
        try:
            names = [name for name in os.listdir(self.folder) if _FILE.fullmatch(name)]
        except OSError:
            return False
        if not names and not self.elsewhere:
            return False
        for name in (*names, METRICS):
            path = f"{self.folder}/{name}"
            with contextlib.suppress(OSError):
                done = self._read.get(path, 0)
                if os.stat(path).st_size > done:
                    self._take(path, done)
        return True

    def _take(self, path: str, done: int) -> None:
        with open(path, "rb") as stream:
            stream.seek(done)
            data = stream.read()
        whole = data.rfind(b"\n") + 1
        at = done
        for line in data[:whole].splitlines(keepends=True):
            match = _LINE.match(line) if line.endswith(b"}\n") else None  # one that a full disk cut off says nothing
            if match is None:
                if (metric := _METRIC.match(line)) is not None:
                    self._metrics.setdefault(int(metric[2]), []).append(_Place(path, at, len(line)))
            elif match[3] is not None:
                self._note(match[1], int(match[2]), int(match[4]), _Place(path, at, len(line)))
            at += len(line)
        self._read[path] = done + whole

    def _note(self, kind: bytes, point: int, attempt: int, place: _Place) -> None:
        if kind == b"out":
            self._outs.setdefault((point, attempt), []).append(place)
            return
        if kind == b"begin" and attempt >= self._begun.get(point, 0):
            self._begins[point] = place
        self._begun[point] = max(attempt, self._begun.get(point, 0))
        if kind == b"end" and attempt >= self._ends.get(point, (0, place))[0]:
            self._ends[point] = attempt, place

    def points(self) -> list[int]:
        """Return the points that have begun, here or in an earlier run, in order."""
        return sorted({*self._begun, *self.elsewhere})

    def end(self, point: int) -> dict[str, Any] | None:
        """Return the record of how a point's newest attempt ended; None if it has not."""
        attempt, place = self._ends.get(point, (0, None))
        if place is None or attempt < self._begun.get(point, 0):
            return None
        return _line_at(place)

    def metrics(self, point: int) -> str:
        """Return the lines of a point's metrics, as the file of one step has them."""
        data = b"".join(_bytes_at(place) for place in self._metrics.get(point, ()))
        return b"".join(
            line.replace(match[1], b"", 1) for line in data.splitlines(keepends=True) if (match := _METRIC.match(line))
        ).decode("utf-8", "replace")

    def began(self, point: int) -> tuple[str, int]:
        """Return when a point's newest attempt began, and the number of the kernel that it began in."""
        place = self._begins.get(point)
        if place is None:
            return "~", 0
        match = _FILE.fullmatch(os.path.basename(place.path))
        return str(_line_at(place)["at"]), int(match[1]) if match else 0

    def text(self, point: int, name: str) -> str:
        """Return what a point's newest attempt has printed so far, ``stdout`` or ``stderr``."""
        attempt = self._begun.get(point, 0)
        records = [_line_at(place) for place in self._outs.get((point, attempt), ())]
        return "".join(record.get(name, "") for record in [*records, self.end(point) or {}])


def of(folder: Path) -> tuple[Pack, int] | None:
    """Return the pack and the number of the point whose folder this would be; None if it is of no pack."""
    if not folder.name.isdigit():
        return None
    found, point = of_step(folder.parent), int(folder.name)
    if found is None:
        return None
    return (found, point) if point not in found.elsewhere else of(found.elsewhere[point])


def numbers(folder: Path) -> list[int]:
    """Return the points in the folder of a step, those of a pack and those with folders of their own; in order."""
    found = of_step(folder)
    own = [int(name) for name in os.listdir(folder) if name.isdigit()] if os.path.isdir(folder) else []
    return sorted({*own, *(found.points() if found is not None else ())})


def elsewhere(folder: Path) -> dict[int, Path]:
    """Return the points of a step that an earlier run has computed in a pack, and where their folders would be."""
    try:
        data = (folder / ELSEWHERE).read_bytes()
    except OSError:
        return {}
    return {int(point): folder.__class__(os.path.normpath(folder / way)) for point, way in json.loads(data).items()}


@contextlib.contextmanager
def looked_at_once() -> Iterator[None]:
    """Look at the files of each sweep once, however many of its points this thread asks for: for sweeps that have ended."""
    known: dict[str, Pack | None] = {}
    _seen.packs = known
    try:
        yield
    finally:
        _seen.packs = None


def of_step(folder: Path) -> Pack | None:
    """Return the pack in the folder of a step; None if there is none."""
    key = os.fspath(folder)
    seen: dict[str, Pack | None] | None = getattr(_seen, "packs", None)
    if seen is not None and key in seen:
        return seen[key]
    found = _looked_at(key, folder)
    if seen is not None:
        seen[key] = found
    return found


def _looked_at(key: str, folder: Path) -> Pack | None:
    with _lock:
        found = _packs.pop(key, None) or Pack(folder)
        if not found.refresh():
            return None
        _packs[key] = found  # at the end: the oldest in use goes first
        while len(_packs) > _KEPT:
            del _packs[next(iter(_packs))]
    return found


def result(folder: Path) -> dict[str, Any] | None:
    """Return the content of ``result.json`` of a point; None if it has not ended, or is of no pack."""
    record = _end(folder)
    return None if record is None else dict(record["result"])


def metrics(folder: Path) -> dict[str, Any] | None:
    """Return the last value of each metric of a point that has ended; None if it is of no pack."""
    record = _end(folder)
    return None if record is None else dict(record.get("metrics") or {})


def log(folder: Path, name: str) -> str | None:
    """Return what a file of a point would hold: ``stdout.log``, ``stderr.log``, ``metrics.jsonl``; None if it is of no pack."""
    found = of(folder)
    if found is None:
        return None
    pack, point = found
    if name in {"stdout.log", "stderr.log"}:
        return pack.text(point, name.partition(".")[0])
    if name == METRICS:
        return pack.metrics(point)
    if name == "resources.jsonl":
        return _samples(pack, point)
    if name == "events.jsonl":
        return _events(pack.folder / name, point)
    return None


def displayed(folder: Path) -> list[dict[str, Any]]:
    """Return the outputs, as a notebook has them, that a point left beside what it printed."""
    record = _end(folder)
    return [] if record is None else [json.loads(text) for text in record.get("display") or ()]


def index(outputs: Path) -> dict[str, dict[str, Any]] | None:
    """Return the index of the values that a point left; ``outputs`` is the folder they would be in. None: of no pack."""
    record = _end(outputs.parent)
    if record is None:
        return None
    return {name: {key: item for key, item in info.items() if key != "json"} for name, info in record["result"]["outputs"].items()}


def value(outputs: Path, name: str) -> Value | None:
    """Return one value of a point as it was written; None if there is no such value."""
    found = of(outputs.parent)
    record = None if found is None else found[0].end(found[1])
    info = None if record is None else record["result"]["outputs"].get(name)
    if found is None or info is None:
        return None
    path = found[0].folder / info["pack"]
    if "json" in info:
        return Value(".json", info["json"].encode(), os.stat(path), path)
    with path.open("rb") as stream:
        stream.seek(info["at"])
        return Value(os.path.splitext(info["file"])[1], stream.read(info["bytes"]), os.fstat(stream.fileno()), path)


def unpack(folder: Path) -> None:
    """Make the folder of a point with its values in it, as any other step has one, so that they can be edited there."""
    from kale_proxy.values import INDEX, write_atomic

    known = index(folder / "outputs")
    if known is None or (folder / "outputs" / INDEX).exists():
        return
    (folder / "outputs").mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, info in known.items():
        found = value(folder / "outputs", name)
        if found is not None:
            write_atomic(folder / "outputs" / info["file"], found.data)
    plain = {name: {key: item for key, item in info.items() if key not in {"pack", "at"}} for name, info in known.items()}
    write_atomic(folder / "outputs" / INDEX, json.dumps(plain, indent=1).encode())


class Writer:
    """The file of one kernel: the only one that writes there."""

    def __init__(self, folder: Path, lane: int) -> None:
        self.folder, self.lane = folder, lane
        self._fd = os.open(points_file(folder, lane), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._values: Any = None
        with open(points_file(folder, lane), "rb") as stream:
            if stream.seek(0, os.SEEK_END) and stream.seek(-1, os.SEEK_END) is not None and stream.read() != b"\n":
                os.write(self._fd, b"\n")  # a line was cut off, by a full disk

    def begin(self, point: int, uuid: str, attempt: int, at: str) -> None:
        """Tell that a point begins."""
        self._write({"begin": point, "uuid": uuid, "attempt": attempt, "at": at})

    def printed(self, point: int, uuid: str, attempt: int, texts: dict[str, str]) -> None:
        """Tell what a point has printed so far, ahead of its end."""
        self._write({"out": point, "uuid": uuid, "attempt": attempt, **texts})

    def end(self, point: int, uuid: str, attempt: int, record: dict[str, Any]) -> None:
        """Tell how a point ended; from then on it has."""
        self._write({"end": point, "uuid": uuid, "attempt": attempt, **record})

    def over(self, outcome: dict[str, Any]) -> None:
        """Tell how the kernel ended."""
        self._write({"over": outcome})
        self.sync()

    def sync(self) -> None:
        """Make what was written durable."""
        if self._values is not None:
            self._values.flush()
            os.fdatasync(self._values.fileno())
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the files."""
        if self._values is not None:
            self._values.close()
        os.close(self._fd)

    def save(self, name: str, item: object, portable: frozenset[str], form: str = "") -> dict[str, Any]:
        """Write one value and return its description; raises ValueFileError."""
        from kale_proxy import values

        held = bytearray()

        @contextlib.contextmanager
        def opened(suffix: str) -> Iterator[Any]:
            if suffix == ".json":
                yield _Bytes(held)
            else:
                yield self._stream()

        start = self._stream().tell() if self._values is not None else 0
        info, suffix = values.write(name, item, opened, str(self.folder), portable=portable, form=form)
        info["file"] = f"{name}{suffix}"
        if suffix == ".json" and len(held) <= _INLINE_BYTES:
            return {**info, "bytes": len(held), "pack": os.path.basename(points_file("", self.lane)), "json": held.decode()}
        stream = self._stream()
        if suffix == ".json":
            start = stream.tell()
            stream.write(held)
        stream.flush()
        return {**info, "bytes": stream.tell() - start, "pack": _values_name(self.lane), "at": start}

    def _stream(self) -> Any:
        if self._values is None:
            os.makedirs(os.path.dirname(values_file(self.folder, self.lane)), mode=0o700, exist_ok=True)
            fd = os.open(values_file(self.folder, self.lane), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._values = open(fd, "ab")  # noqa: SIM115 - closed by close()
        return self._values

    def _write(self, record: dict[str, Any]) -> None:
        data = json.dumps(record).encode() + b"\n"
        while data:
            data = data[os.write(self._fd, data) :]


class _Bytes:
    """As much of a stream as a text needs."""

    def __init__(self, held: bytearray) -> None:
        self._held = held

    def write(self, data: bytes) -> None:
        self._held += data


def _end(folder: Path) -> dict[str, Any] | None:
    found = of(folder)
    return None if found is None else found[0].end(found[1])


def _samples(pack: Pack, point: int) -> str:
    """Return the samples of the kernel that ran a point, of the time in which it did."""
    began, kernel = pack.began(point)
    ended = (pack.end(point) or {"result": {}})["result"].get("ended_at") or "~"
    found = []
    with contextlib.suppress(OSError), open(f"{pack.folder}/resources.jsonl", encoding="utf-8") as stream:
        for line in stream:
            with contextlib.suppress(ValueError, KeyError, AttributeError):
                sample = json.loads(line)
                if sample["kernel"] == kernel and began <= sample["at"] <= ended:
                    found.append(line)
    return "".join(found)


def _events(path: Path, point: int) -> str:
    mark = f', "point": {point}, '
    try:
        with path.open(encoding="utf-8") as stream:
            return "".join(line for line in stream if mark in line)
    except OSError:
        return ""


def _line_at(place: _Place) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(_bytes_at(place))
    return record


def _bytes_at(place: _Place) -> bytes:
    with open(place.path, "rb") as stream:
        stream.seek(place.at)
        return stream.read(place.length)
