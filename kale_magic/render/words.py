"""Text of users made safe and fit: escaped for HTML, without control characters, measured and cut by columns."""

from __future__ import annotations

import re
import unicodedata

_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def escape(text: object) -> str:
    """Return text fit for HTML and SVG, in elements and in quoted attributes."""
    return _CONTROL.sub("", str(text)).translate(_ENTITIES)


def plain(text: object) -> str:
    """Return text without ANSI sequences and control characters, lines kept."""
    return _CONTROL.sub("", _ANSI.sub("", str(text)).replace("\r\n", "\n"))


def one_line(text: object) -> str:
    """Return text as one line without ANSI sequences and control characters."""
    return " ".join(plain(text).split())


def columns(text: str) -> int:
    """Return how many columns a terminal gives to text: 2 for a wide character, 0 for a combining one."""
    if text.isascii():
        return len(text)
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in {"Mn", "Me", "Cf"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def clip(text: str, width: int, *, is_ascii: bool = False) -> str:
    """Return text cut to ``width`` columns, an ellipsis at the cut."""
    if columns(text) <= width:
        return text
    sign = "." if is_ascii else "…"
    kept, used = "", columns(sign)
    for char in text:
        used += _columns(char)
        if used > width:
            break
        kept += char
    return kept + sign if width > 0 else ""


def pad(text: str, width: int, *, is_right: bool = False) -> str:
    """Return text filled with spaces to ``width`` columns, at its right end, or at its left for numbers."""
    fill = " " * max(0, width - columns(text))
    return fill + text if is_right else text + fill
