"""Files of the manager's host as a client elsewhere is told of them: sizes and digests, so that it fetches what it lacks.

Whole files never pass through the manager; they go by sftp. What is looked at while it grows, the ends of logs and the like, does. Runs in threads.
"""

from __future__ import annotations

import hashlib
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.errors import UsageError
from kale_proxy.pieces import find, grown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MOST_FILES = 20_000
MOST_READ = 16 << 20  # bytes of an answer


def listing(folder: str, patterns: Iterable[str], *, makes: bool, has_digests: bool = True) -> dict[str, dict[str, Any]]:
    """Return the regular files below a folder that match, by path relative to it.

    Parameters
    ----------
    folder : str
        Absolute.
    patterns : iterable of str
        As of :meth:`pathlib.Path.glob`; none of them leads out of the folder.
    makes : bool
        Whether to make the folder, for this user alone, when it is missing.
    has_digests : bool
        Whether to read them all; if not, ``digest`` is empty.

    Returns
    -------
    dict
        Of each: ``size`` in bytes, ``digest`` (SHA-256, hexadecimal), ``is_own``: whether nobody else could have written it.

    Raises
    ------
    UsageError
        The folder is not absolute or can't be made, a pattern leads out of it, or there are too many files.
    """
    base = Path(folder)
    if not base.is_absolute():
        raise UsageError(f"files: {folder!r} is no absolute path.")
    if makes:
        try:
            base.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise UsageError(f"The folder {folder} can't be made on this host: {exc.strerror}.") from exc
    found: dict[str, dict[str, Any]] = {}
    for pattern in patterns:
        if os.path.isabs(pattern) or ".." in Path(pattern).parts:
            raise UsageError(f"files: {pattern!r} leads out of the folder.")
        for path in sorted(base.glob(pattern)):
            info = path.lstat()
            if stat.S_ISREG(info.st_mode):
                is_own = info.st_uid == os.getuid() and not info.st_mode & 0o022
                digest = _digest(str(path), info.st_size, info.st_mtime_ns) if has_digests else ""
                found[str(path.relative_to(base))] = {"size": info.st_size, "digest": digest, "is_own": is_own}
            if len(found) > MOST_FILES:
                raise UsageError(f"More than {MOST_FILES} files in {folder} match: too many to bring over.", "Name fewer.")
    return found


def reading(folder: str, wanted: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what a client lacks of text files below a folder, see :func:`kale_proxy.pieces.grown`; at most some 16 MB.

    Parameters
    ----------
    folder : str
        Absolute.
    wanted : iterable of mapping
        ``name``, a path relative to the folder; ``at``, ``mark``, ``most`` and ``end`` as there.

    Raises
    ------
    UsageError
        A name leads out of the folder, or the folder is not absolute.
    """
    found: dict[str, dict[str, Any]] = {}
    room = MOST_READ
    for item in wanted:
        name, end = str(item.get("name")), item.get("end")
        part = grown(
            _inside(folder, name) / name, _count(item, "at"), str(item.get("mark") or ""), min(_count(item, "most"), room), None if end is None else _count(item, "end")
        )  # fmt: skip
        if part is not None:
            found[name] = part
            room -= len(part["data"]) * 3 // 4
        if room <= 0:
            break
    return found


def searching(folder: str, name: str, word: str, at: int, *, is_backward: bool) -> int | None:
    """Return where a word stands next in a text file below a folder, see :func:`kale_proxy.pieces.find`; raises as :func:`reading`."""
    path = _inside(folder, name) / name
    try:
        return find(path, word, path.stat().st_size if at < 0 else at, is_backward=is_backward)
    except OSError:
        return None


def _inside(folder: str, name: str) -> Path:
    base = Path(folder)
    if not base.is_absolute():
        raise UsageError(f"files: {folder!r} is no absolute path.")
    if os.path.isabs(name) or ".." in Path(name).parts:
        raise UsageError(f"files: {name!r} leads out of the folder.")
    return base


def _count(item: Mapping[str, Any], key: str) -> int:
    value = item.get(key) or 0
    return max(0, value) if isinstance(value, int) else 0


@lru_cache(maxsize=4096)
def _digest(path: str, size: int, changed_ns: int) -> str:  # noqa: ARG001 - by which a changed file is told
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""  # it has gone, or can't be read: then nobody gets it
