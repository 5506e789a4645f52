"""Which packages this interpreter has: names and versions from the names of folders, so that it takes a moment only.

Kept with each run, and part of what the cache compares. Used by the client before a submit.
"""

from __future__ import annotations

import os
import re
import sys

_FOLDER = re.compile(r"(?P<name>[^-]+(?:-[^\d-][^-]*)*)-(?P<version>\d[^-]*)(?:-.*)?\.(?:dist|egg)-info")
_seen: dict[str, tuple[int, dict[str, str]]] = {}


def installed() -> dict[str, str]:
    """Return name -> version of every distribution on ``sys.path``; the first one of a name counts."""
    found: dict[str, str] = {}
    for folder in sys.path:
        for name, version in _in_folder(folder).items():
            found.setdefault(name, version)
    return found


def _in_folder(folder: str) -> dict[str, str]:
    try:
        stamp = os.stat(folder).st_mtime_ns
        known = _seen.get(folder)
        if known is not None and known[0] == stamp:
            return known[1]
        names = os.listdir(folder)
    except OSError:  # a zip file, or nothing at all
        return {}
    found = {match["name"]: match["version"] for name in names if (match := _FOLDER.fullmatch(name))}
    _seen[folder] = stamp, found
    return found
