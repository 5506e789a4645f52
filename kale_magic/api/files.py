"""What a step leaves in its folder, read back: logs, samples, values.

Owns the reading; refuses values that another user owns or could have written.
"""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any

from kale_magic.errors import UsageError
from kale_proxy import pack, values

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK = 1 << 16


def log(folder: Path, name: str, tail: int | None) -> str:
    """Return a text file of a step, or its last ``tail`` lines; empty while there is none.

    The script of a point that was submitted in an array is that of the array.
    """
    if name == "job.sh" and folder.name.isdigit() and not (folder / name).exists():
        folder, name = folder.parent, _array_script(folder)
    try:
        with (folder / name).open("rb") as stream:
            data = stream.read() if tail is None else _last_lines(stream, tail)
    except (FileNotFoundError, NotADirectoryError):
        text = pack.log(folder, name) or ""
        return text if tail is None else "".join(text.splitlines(keepends=True)[-tail:] if tail else ())
    return data.decode("utf-8", "replace")


def since(folder: Path, name: str, at: int) -> tuple[str, int]:
    """Return what a text file of a step has from byte ``at`` on, and how far that is; a shorter file is that of a new attempt."""
    try:
        with (folder / name).open("rb") as stream:
            at = at if at <= os.fstat(stream.fileno()).st_size else 0
            stream.seek(at)
            data = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        whole = (pack.log(folder, name) or "").encode()
        at = at if at <= len(whole) else 0
        data = whole[at:]
    return data.decode("utf-8", "replace"), at + len(data)


def points_with(folder: Path, name: str) -> list[int] | None:
    """Return which points of a sweep that keeps all its files together have something in a log; None: it keeps them apart."""
    found = pack.of_step(folder)
    stream = name.partition(".")[0]
    return None if found is None else [point for point in found.points() if found.text(point, stream)]


def _array_script(folder: Path) -> str:
    """Return the name of the array's script for the folder of a point: ``job.sh``, or ``job-N.sh`` from point N on."""
    firsts = [int(path.stem.partition("-")[2]) for path in folder.parent.glob("job-*.sh")]
    first = max((number for number in firsts if number <= int(folder.name)), default=0)
    return f"job-{first}.sh" if first else "job.sh"


def samples(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of ``resources.jsonl``, oldest first."""
    return lines_of(log(folder, "resources.jsonl", None))


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return what a step recorded by ``metric``, oldest first: ``at``, ``step`` if it was given, and the values."""
    return [item for item in lines_of(log(folder, "metrics.jsonl", None)) if "progress" not in item]


def progress(folder: Path) -> dict[str, Any] | None:
    """Return what a step said last by ``progress``: ``progress``, ``of``, ``text`` if any; None if it said nothing."""
    said = [item for item in lines_of(log(folder, "metrics.jsonl", 200)) if "progress" in item]
    return said[-1] if said else None


def lines_of(text: str) -> list[dict[str, Any]]:
    """Return the JSON objects of a text, one a line; a line that is being written is left out."""
    found = []
    for line in text.splitlines():
        try:
            item = json.loads(line)
        except ValueError:
            continue
        if isinstance(item, dict):
            found.append(item)
    return found


def saved(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the index of the values a step left: name -> file, type, shape, dtype, bytes."""
    return values.read_index(folder / "outputs")


def load(folder: Path, name: str, *, where: str) -> object:
    """Return the value ``name`` out of a folder of values.

    Parameters
    ----------
    folder : Path
        The folder that holds the values.
    name : str
        The value's name.
    where : str
        The step, for the message.

    Raises
    ------
    UsageError
        There is no such value, it can't be read, or the files are not this user's alone.
    """
    try:
        _require_own_values(folder)
        if name not in (known := values.read_index(folder)):
            raise UsageError(f"{where} has no value `{name}`.", f"It has: {', '.join(known)}." if known else "")
        return values.load(folder, name)
    except FileNotFoundError as exc:
        raise UsageError(f"{where} has left no values.", "A step hands on what its --outputs name.") from exc
    except values.ValueFileError as exc:
        way_out = "Run the cell that defines it here too." if "Can't get attribute" in str(exc) else ""
        raise UsageError(f"{where}: {exc}.", way_out) from exc


def require_own(folder: Path) -> None:
    """Refuse a folder that is not this user's alone; raises UsageError, or FileNotFoundError if there is none."""
    info = folder.stat()
    if info.st_uid != os.getuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(
            f"{folder} belongs to, or can be written by, another user: nothing is loaded from it.",
            "Make it yours alone (chmod go-w), or copy the values in a way you trust.",
        )


def _require_own_values(folder: Path) -> None:
    """Refuse values that are not this user's alone; of a point without a folder of its own, that of the step which ran it counts."""
    packed = None if folder.exists() else pack.of(folder.parent)
    require_own(folder if packed is None else packed[0].folder)


def _last_lines(stream: Any, count: int) -> bytes:
    end = stream.seek(0, os.SEEK_END)
    data = b""
    while end > 0 and data.count(b"\n") <= count:
        start = max(0, end - _BLOCK)
        stream.seek(start)
        data = stream.read(end - start) + data
        end = start
    return b"".join(data.splitlines(keepends=True)[-count:]) if count > 0 else b""
