"""A client of a manager on a host that is this machine: answers as one does, and counts what comes."""

from __future__ import annotations

import base64
from typing import Any

from kale_magic.manager.listing import listing, reading, searching


class FarHost:
    """As much of a client as copies and reports need."""

    host = "login"

    def __init__(self) -> None:
        self.came = 0
        self.is_closed = False

    def read(self, folder: str, wanted: Any) -> dict[str, dict[str, Any]]:
        found = reading(folder, wanted)
        self.came += sum(len(base64.b64decode(part["data"])) for part in found.values())
        return found

    def files(self, folder: str, patterns: Any, *, has_digests: bool) -> dict[str, dict[str, Any]]:
        return listing(folder, patterns, makes=False, has_digests=has_digests)

    def search(self, folder: str, name: str, word: str, at: int, *, is_backward: bool) -> int | None:
        return searching(folder, name, word, at, is_backward=is_backward)

    def close(self) -> None:
        self.is_closed = True
