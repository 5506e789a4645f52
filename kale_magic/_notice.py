"""What a person must know once, and nobody asked: a sentence on stderr, which a notebook shows under the cell."""

from __future__ import annotations

import sys

_told: set[str] = set()


def tell_once(text: str) -> None:
    """Write a sentence, unless this process has written it already."""
    if text not in _told:
        _told.add(text)
        sys.stderr.write(f"Kale: {text}\n")
        sys.stderr.flush()
