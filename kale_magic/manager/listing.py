"""Files of the manager's host as a client elsewhere is told of them: sizes and digests, so that it fetches what it lacks.

The files themselves never pass through the manager; they go by sftp. Runs in a thread.
"""

from __future__ import annotations

import hashlib
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST_FILES = 20_000


def listing(folder: str, patterns: Iterable[str], *, makes: bool) -> dict[str, dict[str, Any]]:
    """Return the regular files below a folder that match, by path relative to it.

    Parameters
    ----------
    folder : str
        Absolute.
    patterns : iterable of str
        As of :meth:`pathlib.Path.glob`; none of them leads out of the folder.
    makes : bool
        Whether to make the folder, for this user alone, when it is missing.

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
                digest = _digest(str(path), info.st_size, info.st_mtime_ns)
                found[str(path.relative_to(base))] = {"size": info.st_size, "digest": digest, "is_own": is_own}
            if len(found) > MOST_FILES:
                raise UsageError(f"More than {MOST_FILES} files in {folder} match: too many to bring over.", "Name fewer.")
    return found


@lru_cache(maxsize=4096)
def _digest(path: str, size: int, changed_ns: int) -> str:  # noqa: ARG001 - by which a changed file is told
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""  # it has gone, or can't be read: then nobody gets it
