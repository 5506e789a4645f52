"""The journal: every iopub message of a step's kernel, numbered, in node-local files.

The kernel's iopub thread appends a message here *before* it is sent, so the journal, not a
subscription, is the truth about what was printed: a slow or absent reader loses nothing and slows
nothing. The agent reads it for visitors; the supervisor rebuilds the notebook of a crashed step
from it. Records are ``u32 length | u16 parts | (u32 length, bytes) per part``, big endian; a file is
named by the number of its first record.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SEGMENT_BYTES = 64 << 20
KEPT_SEGMENTS = 4
PREFIX = "journal-"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_BLOCK_BYTES = 1 << 20
_PARTS = 2 * KEPT_SEGMENTS  # of the free disk, each a file
_U32 = struct.Struct(">I")
_HEAD = struct.Struct(">IH")


class JournalWriter:
    """Append-only writer; one per step, used from one thread.

    Parameters
    ----------
    folder : Path
        The step's live folder (0700, node-local).
    segment_bytes : int
        A new file is begun past this size, or past a part of what the disk has free, if that is less; ``KEPT_SEGMENTS``
        files are kept.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._most = self._limit = segment_bytes
        self.seq = 0
        self.lost = 0
        self._fd = -1
        self._size = 0
        self._segments: list[str] = []

    def append(self, parts: Sequence[bytes | memoryview]) -> int:
        """Write one message and return its number (1, 2, ...).

        On a full disk the oldest messages make room for the newest; what finds none all the same is counted in ``lost``,
        and its number used. The kernel goes on.
        """
        self.seq += 1
        sizes = [len(part) if isinstance(part, bytes) else part.nbytes for part in parts]
        total = 2 + sum(sizes) + 4 * len(sizes)
        chunks: list[bytes | memoryview] = [_HEAD.pack(total, len(parts))]
        for part, size in zip(parts, sizes, strict=True):
            chunks += (_U32.pack(size), part)
        for has_room in (*[True] * KEPT_SEGMENTS, False):
            try:
                if self._fd < 0 or self._size > self._limit:
                    self._begin()
                self._write(chunks, total + 4)
                break
            except OSError as exc:
                self._cut_back()
                if exc.errno not in _FULL or not has_room or not self._has_made_room():
                    self.lost += 1
                    break
        return self.seq

    def close(self) -> None:
        """Close the current file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, chunks: list[bytes | memoryview], size: int) -> None:
        if size < 1 << 16:
            written = os.write(self._fd, b"".join(chunks))
        else:
            written = sum(os.writev(self._fd, chunks[i : i + 64]) for i in range(0, len(chunks), 64))
        if written != size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += size

    def _begin(self) -> None:
        self.close()
        name = str(self._folder / f"{PREFIX}{self.seq:012d}")
        self._fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._size = 0
        self._segments.append(name)
        disk = os.fstatvfs(self._fd)
        self._limit = min(self._most, disk.f_bavail * disk.f_frsize // _PARTS)
        while len(self._segments) > KEPT_SEGMENTS:
            os.unlink(self._segments.pop(0))

    def _has_made_room(self) -> bool:
        """Remove the oldest file, and give its blocks back though a reader may have it open; False when there is none."""
        if not self._segments:
            return False
        oldest = self._segments.pop(0)
        if not self._segments:
            self.close()
        with contextlib.suppress(OSError):
            os.truncate(oldest, 0)
            os.unlink(oldest)
        return True

    def _cut_back(self) -> None:
        """Take a torn record away; what follows begins a new file so that numbers stay right."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            self._size = self._limit + 1


class JournalReader:
    """Reads a journal, also while it is being written. One cursor each; ``since`` may only grow or restart.

    Parameters
    ----------
    folder : Path
        The step's live folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1
        self._first = 0
        self._next = 1
        self._offset = 0
        self.dropped = 0

    def read(self, since: int, max_bytes: int = 1 << 20) -> list[tuple[int, list[bytes]]]:
        """Return ``(number, parts)`` of records after ``since``, complete ones only.

        At least one record is returned when there is one, else as many as fit ``max_bytes``.
        ``dropped`` counts records that are gone (older than the kept files, or the disk was full).
        """
        if self._next != since + 1 and not self._seek(since + 1):
            return []
        found: list[tuple[int, list[bytes]]] = []
        taken = 0
        while taken < max_bytes:
            record = self._record()
            if record is None:
                if not self._following():
                    break
                continue
            found.append((self._next, record))
            self._next += 1
            taken += sum(map(len, record))
        return found

    def last(self) -> int:
        """Return the number of the newest complete record, 0 if there is none."""
        names = self._names()
        if not names or not self._open(names[-1]):
            return 0 if not names else self.last()
        self._pass(sys.maxsize)
        return self._next - 1

    def close(self) -> None:
        """Close the file that is open for reading."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _names(self) -> list[int]:
        return sorted(int(name[len(PREFIX) :]) for name in os.listdir(self._folder) if name.startswith(PREFIX))

    def _open(self, first: int) -> bool:
        self.close()
        try:
            self._fd = os.open(self._folder / f"{PREFIX}{first:012d}", os.O_RDONLY)
        except FileNotFoundError:
            return False
        self._first, self._next, self._offset = first, first, 0
        return True

    def _seek(self, wanted: int) -> bool:
        names = self._names()
        if not names:
            return False
        start = max((first for first in names if first <= wanted), default=names[0])
        if not self._open(start):
            return self._seek(wanted)
        if start > wanted:
            self.dropped += start - wanted
        while not self._pass(wanted):
            if not self._following():
                return False
        return True

    def _pass(self, wanted: int) -> bool:
        """Go over complete records of this file up to number ``wanted``; tell whether it is reached."""
        end = os.fstat(self._fd).st_size
        while self._next < wanted:
            block = os.pread(self._fd, _BLOCK_BYTES, self._offset)
            at = 0
            while self._next < wanted and at + 4 <= len(block):
                length = 4 + _U32.unpack_from(block, at)[0]
                if self._offset + at + length > end:
                    break
                at += length
                self._next += 1
            if at == 0:
                return False
            self._offset += at
        return True

    def _following(self) -> bool:
        """Go on to the next file if this one is finished; a gap between the two is counted."""
        later = [first for first in self._names() if first > self._first]
        if not later or self._peek() is not None:  # the writer finished a record while we looked
            return False
        self.dropped += max(0, later[0] - self._next)
        return self._open(later[0])

    def _peek(self) -> int | None:
        head = os.pread(self._fd, 4, self._offset) if self._fd >= 0 else b""
        if len(head) < 4:
            return None
        size: int = _U32.unpack(head)[0]
        return size if os.fstat(self._fd).st_size >= self._offset + 4 + size else None

    def _record(self) -> list[bytes] | None:
        size = self._peek()
        if size is None:
            return None
        body = os.pread(self._fd, size, self._offset + 4)
        if len(body) < size:
            return None
        self._offset += 4 + size
        parts, at = [], 2
        for _ in range(struct.unpack_from(">H", body)[0]):
            length = _U32.unpack_from(body, at)[0]
            parts.append(body[at + 4 : at + 4 + length])
            at += 4 + length
        return parts
