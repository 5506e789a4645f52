"""A growing text file, by pieces: the end of it, what came since, what stands before, where a word is; and what a copy elsewhere lacks.

Owns the reading of a file of any size without loading it: at most 64 kB at a time for a look, and 256 kB for
what came since the last one. Refuses to know ANSI and carriage returns: the page draws them. Called by the ``Logs`` widget,
and by the manager for a client on another host. Standard library only.
"""

from __future__ import annotations

import base64
import codecs
import os
import stat
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

WINDOW = 64 << 10
MOST_NEW = 256 << 10
_BLOCK = 1 << 20


class Piece(NamedTuple):
    """Text of a log: where it begins, and how much before it was left out; ``is_new`` when what is shown is to go."""

    text: str
    start: int
    skipped: int = 0
    is_new: bool = False


class Tail:
    """Follows one file from its end on; another file of that name (a new attempt) begins anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._id: tuple[int, int] | None = None
        self._at = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> Piece | None:
        """Return what is new since the last call, the first time the end of the file; None if nothing is."""
        try:
            with self.path.open("rb") as stream:
                return self._read(stream)
        except FileNotFoundError:
            return None

    def _read(self, stream: IO[bytes]) -> Piece | None:
        info = os.fstat(stream.fileno())
        is_new = self._id != (info.st_dev, info.st_ino) or info.st_size < self._at
        room = WINDOW if is_new else MOST_NEW
        if is_new:
            self._id, self._at = (info.st_dev, info.st_ino), 0
            self._decoder.reset()
        if info.st_size == self._at and not is_new:
            return None
        start = self._at
        if info.st_size - start > room:
            start = _line_after(stream, info.st_size - room, info.st_size)
            self._decoder.reset()
        skipped = 0 if is_new else start - self._at
        stream.seek(start)
        data = stream.read(info.st_size - start)
        self._at = start + len(data)
        return Piece(self._decoder.decode(data), start, skipped, is_new)


def grown(path: Path, at: int, mark: str, most: int, end: int | None = None) -> dict[str, Any] | None:
    """Return what a copy of a file lacks, for the wire; None if that is nothing, or there is no file.

    Parameters
    ----------
    path : Path
        The file.
    at : int
        How many bytes of it the copy has; 0 for the whole.
    mark : str
        What this function said of the file the last time; empty the first time.
    most : int
        So many bytes at most; of what is more, the end, from the beginning of a line.
    end : int, optional
        Where to stop, for a stretch that was left out; then the mark does not count.

    Returns
    -------
    dict
        ``mark``; ``size`` of the file; ``at``, where ``data`` (base64) stands in it; ``is_new``, whether what the copy has is of another file.
    """
    try:
        with path.open("rb") as stream:
            info = os.fstat(stream.fileno())
            found = f"{info.st_dev}-{info.st_ino}-{info.st_size}-{info.st_mtime_ns}"
            if not stat.S_ISREG(info.st_mode) or (found == mark and end is None):
                return None
            is_same = found.split("-")[:2] == mark.split("-")[:2] and at <= info.st_size
            start = at if is_same or end is not None else 0
            stop = info.st_size if end is None else min(end, info.st_size)
            if stop - start > most:
                start = _line_after(stream, stop - most, stop)
            stream.seek(start)
            data = stream.read(max(0, stop - start))
    except OSError:
        return None
    return {"mark": found, "size": info.st_size, "at": start, "is_new": not is_same, "data": base64.b64encode(data).decode()}


def before(path: Path, end: int) -> Piece:
    """Return the lines that stand before a position."""
    with path.open("rb") as stream:
        end = min(end, _size(stream))
        start = _line_after(stream, end - WINDOW, end) if end > WINDOW else 0
        stream.seek(start)
        return Piece(stream.read(end - start).decode("utf-8", "replace"), start)


def find(path: Path, word: str, at: int, *, is_backward: bool = False) -> int | None:
    """Return where ``word`` stands next after (or before) a position, without regard to ASCII case; None if nowhere."""
    needle = word.lower().encode()
    if not needle:
        return None
    with path.open("rb") as stream:
        return _find_back(stream, needle, at) if is_backward else _find_on(stream, needle, at)


def around(path: Path, at: int) -> tuple[Piece, int]:
    """Return the lines around a position, and the number of the one that has it."""
    with path.open("rb") as stream:
        size = _size(stream)
        low = max(0, at - WINDOW // 2)
        start = _line_after(stream, low, at) if low else 0
        stream.seek(start)
        data = stream.read(min(size, at + WINDOW // 2) - start)
        return Piece(data.decode("utf-8", "replace"), start), data[: at - start].count(b"\n")


def _find_on(stream: IO[bytes], needle: bytes, at: int) -> int | None:
    kept = b""
    stream.seek(at)
    while block := stream.read(_BLOCK):
        text = kept + block.lower()
        if (place := text.find(needle)) >= 0:
            return at - len(kept) + place
        at += len(block)
        kept = text[-(len(needle) - 1) :] if len(needle) > 1 else b""
    return None


def _find_back(stream: IO[bytes], needle: bytes, at: int) -> int | None:
    end = min(at, _size(stream))
    kept = b""
    while end > 0:
        start = max(0, end - _BLOCK)
        stream.seek(start)
        block = stream.read(end - start).lower()
        if (place := (block + kept).rfind(needle)) >= 0:
            return start + place
        kept = block[: len(needle) - 1]
        end = start
    return None


def _line_after(stream: IO[bytes], position: int, end: int) -> int:
    """Return the start of the first line after a position, or the position itself if no line begins before ``end``."""
    stream.seek(position)
    place = stream.read(min(WINDOW, end - position)).find(b"\n")
    return position + place + 1 if place >= 0 and position + place + 1 < end else position


def _size(stream: IO[bytes]) -> int:
    return os.fstat(stream.fileno()).st_size
