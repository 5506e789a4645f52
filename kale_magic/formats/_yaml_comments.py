"""A person's comments in a YAML file, carried over to a new text of the same document.

A comment belongs to the key that it stands before or beside. What is written is the writer's text with the comments put
back, so the rest keeps its form; a comment whose key is gone goes with it. Called by :mod:`kale_magic.formats.native`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_HEADER = re.compile(r"[|>][-+0-9]*[ \t]+(#.*)")
_BESIDE = re.compile(r"[ \t]+(#.*)")

Path = tuple[str | int, ...]


@dataclass(slots=True)
class Comments:
    """The comments of a document: full lines before a key, one beside it, and those at the end."""

    before: dict[Path, list[str]] = field(default_factory=dict)
    beside: dict[Path, str] = field(default_factory=dict)
    at_end: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.before or self.beside or self.at_end)


def comments_of(text: str) -> Comments:
    """Return the comments of a YAML text; raises yaml.YAMLError if it is none."""
    layout = _Layout(text)
    found, waiting = Comments(), list[str]()
    for number, line in enumerate(layout.lines):
        if number in layout.inside:
            continue
        path = layout.first.get(number)
        if path is not None and waiting:
            found.before[path], waiting = waiting, []
        if line.lstrip().startswith("#"):
            waiting.append(line.strip())
        elif (comment := layout.beside(number, line)) is not None:
            if path is None:  # within a list of several lines
                waiting.append(comment)
            else:
                found.beside[path] = comment
    found.at_end = waiting
    return found


def with_comments(text: str, comments: Comments) -> str:
    """Return a text with comments put back at the keys that it still has."""
    layout = _Layout(text)
    lines: list[str] = []
    for number, line in enumerate(layout.lines):
        path = layout.first.get(number)
        if path is None:
            lines.append(line)
            continue
        indent = line[: len(line) - len(line.lstrip())]
        lines += [f"{indent}{comment}" for comment in comments.before.get(path, ())]
        beside = comments.beside.get(path)
        lines.append(f"{line}  {beside}" if beside else line)
    while lines and not lines[-1] and comments.at_end:
        lines.pop()
    return "\n".join([*lines, *comments.at_end]) + ("\n" if comments.at_end else "")


class _Layout:
    """Which key each line of a text begins with, and which lines are inside a text of several lines."""

    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.first: dict[int, Path] = {}
        self.inside: set[int] = set()
        self._ends: dict[int, int] = {}
        self._headers: dict[int, str] = {}
        events = yaml.parse(text, Loader=_LOADER)
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._value(next(events), events, ())

    def beside(self, number: int, line: str) -> str | None:
        """Return the comment beside what a line says."""
        if number in self._headers:
            return self._headers[number]
        match = _BESIDE.match(line, self._ends.get(number, len(line)))
        return match[1].rstrip() if match else None

    def _value(self, event: Any, events: Any, path: Path) -> None:
        if isinstance(event, yaml.MappingStartEvent):
            while not isinstance(key := next(events), yaml.MappingEndEvent):
                name = key.value if isinstance(key, yaml.ScalarEvent) else ""
                below = (*path, name)
                self.first.setdefault(key.start_mark.line, below)
                self._ends[key.end_mark.line] = key.end_mark.column + 1  # the colon
                self._value(next(events), events, below)
            self._close(key, event)
        elif isinstance(event, yaml.SequenceStartEvent):
            number = 0
            while not isinstance(item := next(events), yaml.SequenceEndEvent):
                if not event.flow_style:
                    self.first.setdefault(item.start_mark.line, (*path, number))
                self._value(item, events, (*path, number))
                number += 1
            self._close(item, event)
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event)

    def _close(self, end: Any, start: Any) -> None:
        if start.flow_style:
            self._ends[end.end_mark.line] = end.end_mark.column

    def _scalar(self, event: Any) -> None:
        start, end = event.start_mark, event.end_mark
        if event.style in {"|", ">"}:
            match = _HEADER.match(self.lines[start.line], start.column)
            self._headers[start.line] = match[1].rstrip() if match else ""
            if not match:
                del self._headers[start.line]
                self._ends[start.line] = len(self.lines[start.line])
            last = end.line if end.column else end.line - 1
            indent = len(self.lines[start.line]) - len(self.lines[start.line].lstrip())
            # the mark is put after comment lines that follow; those are not deeper than the key
            while last > start.line and self.lines[last].strip() and len(self.lines[last]) - len(self.lines[last].lstrip()) <= indent:
                last -= 1
            self.inside.update(range(start.line + 1, last + 1))
            return
        self.inside.update(range(start.line + 1, end.line))
        comma = 1 if self.lines[end.line][end.column : end.column + 1] == "," else 0
        self._ends[end.line] = end.column + comma
