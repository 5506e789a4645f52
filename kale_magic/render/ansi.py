"""Terminal colours as HTML: a traceback with ANSI sequences becomes escaped text in spans.

The class names are those of JupyterLab and nbconvert (``ansi-red-fg``), so that a page's own theme applies.
Codes: ECMA-48, 8.3.117 (SGR).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kale_magic.render.words import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

_SEQUENCE = re.compile(r"\x1b\[([0-?]*)[ -/]*([@-~])|\x1b(?:\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])?")
_NAMES = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
_CUBE = (0, 95, 135, 175, 215, 255)
# Each has a contrast of at least 4.5 on a light page's tinted block, and on a dark one's
_DAY = ("#3e424d", "#b3261e", "#006b2d", "#705200", "#0b5cc4", "#93298a", "#0b6363", "#5a5e68")
_NIGHT = ("#a3a9b6", "#ff8a85", "#4ad17f", "#e0b23c", "#6fb4ff", "#e58ad9", "#56cfcf", "#d4d7de")
_GROUNDS = ("#3e424d", "#e75c58", "#00a250", "#ddb62b", "#208ffb", "#d160c4", "#60c6c8", "#c5c1b4")
_DARK = "body[data-jp-theme-light=false] ", ".vscode-dark "


def _rules(colours: tuple[str, ...], *pages: str) -> str:
    return "".join(
        f"{','.join(f'{page}.ansi-{name}{more}-fg' for page in pages for more in ('', '-intense'))}{{color:{value}}}"
        for name, value in zip(_NAMES, colours, strict=True)
    )


ANSI_STYLE = (
    _rules(_DAY, "")
    + _rules(_NIGHT, *_DARK)
    + "".join(f".ansi-{name}-bg,.ansi-{name}-intense-bg{{background-color:{value}}}" for name, value in zip(_NAMES, _GROUNDS, strict=True))
)
ANSI_NIGHT = _rules(_NIGHT, "")  # for a page that is dark by itself


class _Pen:
    """What the codes so far ask for."""

    def __init__(self) -> None:
        self.fg = self.bg = ""
        self.styles: set[str] = set()

    def apply(self, codes: list[int]) -> None:
        rest = iter(codes)
        for code in rest:
            if code == 0:
                self.fg = self.bg = ""
                self.styles.clear()
            elif code in {1, 3, 4}:
                self.styles.add({1: "bold", 3: "italic", 4: "underline"}[code])
            elif code in {22, 23, 24}:
                self.styles.discard({22: "bold", 23: "italic", 24: "underline"}[code])
            elif code in {38, 48}:
                found = _extended(rest)
                self.fg, self.bg = (found, self.bg) if code == 38 else (self.fg, found)
            elif code in {39, 49}:
                self.fg, self.bg = ("", self.bg) if code == 39 else (self.fg, "")
            elif name := _named(code % 10, is_bright=code >= 90) if code // 10 in {3, 4, 9, 10} else "":
                self.fg, self.bg = (name, self.bg) if code // 10 in {3, 9} else (self.fg, name)

    def wrap(self, text: str) -> str:
        """Return escaped text in the span that the codes ask for."""
        if not text:
            return ""
        classes = [f"ansi-{style}" for style in sorted(self.styles)]
        css = ["font-weight:bold"] if "bold" in self.styles else []
        for value, what, rule in ((self.fg, "fg", "color"), (self.bg, "bg", "background-color")):
            if value.startswith("#"):
                css.append(f"{rule}:color-mix(in srgb,{value} 70%,currentColor)" if what == "fg" else f"{rule}:{value}")  # readable on any page
            elif value:
                classes.append(f"ansi-{value}-{what}")
        if not classes and not css:
            return escape(text)
        style = f' style="{";".join(css)}"' if css else ""
        names = f' class="{" ".join(classes)}"' if classes else ""
        return f"<span{names}{style}>{escape(text)}</span>"


def ansi_to_html(text: str) -> str:
    """Return text as HTML for a ``<pre>``: colours and bold as spans, all else escaped, other sequences dropped."""
    pen = _Pen()
    parts: list[str] = []
    at = 0
    for match in _SEQUENCE.finditer(text):
        parts.append(pen.wrap(text[at : match.start()]))
        at = match.end()
        if match[2] == "m":
            pen.apply([int(code) if code.isdecimal() else 0 for code in re.split("[;:]", match[1])])
    parts.append(pen.wrap(text[at:]))
    return "".join(parts)


def _named(number: int, *, is_bright: bool) -> str:
    if number >= len(_NAMES):
        return ""
    return f"{_NAMES[number]}-intense" if is_bright else _NAMES[number]


def _extended(codes: Iterator[int]) -> str:
    """Return the colour of ``5;N`` (256 colours) or ``2;R;G;B`` that follows 38 or 48."""
    kind = next(codes, 0)
    if kind == 2:
        red, green, blue = (min(255, next(codes, 0)) for _ in range(3))
        return f"#{red:02x}{green:02x}{blue:02x}"
    if kind != 5:
        return ""
    number = min(255, next(codes, 0))
    if number < 16:
        return _named(number % 8, is_bright=number >= 8)
    if number >= 232:
        level = 8 + 10 * (number - 232)
        return f"#{level:02x}{level:02x}{level:02x}"
    number -= 16
    return f"#{_CUBE[number // 36]:02x}{_CUBE[number // 6 % 6]:02x}{_CUBE[number % 6]:02x}"
