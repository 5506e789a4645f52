"""Read YAML into plain data, and remember where each value stands.

Works on the events of PyYAML's C parser. Refuses aliases and anchors (ten lines can mean gigabytes), tags
(which make objects), keys that stand twice, several documents, and nesting without end.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from kale_magic.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_CHARS = 32 << 20
_MAX_DEPTH = 50
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# YAML 1.2's core schema, without octal: 10:30:00 is text, and so are `yes` and 2026-11-22
_CONSTANTS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"(?P<sign>[-+]?)\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

Place = tuple[int, int]


class Document:
    """One YAML document: ``data``, and the place of everything in it.

    Parameters
    ----------
    text : str
        The document.
    source : str
        The file's name, for messages.

    Raises
    ------
    FormatError
        The text is no YAML, or has what is refused; the message names line and column.
    """

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self._places: dict[tuple[int, str | int], Place] = {}
        if len(text) > MAX_CHARS:
            raise FormatError(f"{source} is larger than {MAX_CHARS >> 20} MB.")
        self._events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
        try:
            self.data = self._document()
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            why = ", ".join(filter(None, (exc.problem, exc.context)))
            place = (mark.line, mark.column) if mark else None
            hint = "YAML is indented by spaces, not by tabs." if place and _sign_at(text, place) == "\t" else ""
            raise self.error(f"this is no YAML: {why}.", place, hint) from exc
        except (yaml.YAMLError, UnicodeError) as exc:
            raise self.error(f"this is no YAML text: {' '.join(str(exc).split())}.") from exc

    def error(self, message: str, place: Place | None = None, hint: str = "") -> FormatError:
        """Return the error that says where in the file something is wrong."""
        where = f", line {place[0] + 1}, column {place[1] + 1}" if place else ""
        return FormatError(f"{self.source}{where}: {message}", hint)

    def place(self, path: Sequence[str | int]) -> Place:
        """Return line and column (from 0) of what stands at a path, or of the nearest thing around it."""
        at: Any = self.data
        found = (0, 0)
        for key in path:
            found = self._places.get((id(at), key), found)
            try:
                at = at[key]
            except (KeyError, IndexError, TypeError):
                break
        return found

    def _document(self) -> Any:
        data: Any = None
        seen = False
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    raise self.error("a second document begins here; a file holds one workflow.", _place(event))
                seen = True
                data = self._value(next(self._events), 0)
        return data

    def _value(self, event: Any, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self.error("anchors and aliases (& and *) are not allowed; write the value out.", _place(event))
        if event.tag is not None and event.tag != "!":
            raise self.error(f"tags such as {event.tag} are not allowed; only plain data is.", _place(event))
        if isinstance(event, yaml.ScalarEvent):
            return event.value if event.style or event.tag else self._scalar(event)
        if depth >= _MAX_DEPTH:
            raise self.error(f"nested more than {_MAX_DEPTH} deep.", _place(event))
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(depth)
        return self._mapping(depth)

    def _sequence(self, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            self._places[id(items), len(items)] = _place(event)
            items.append(self._value(event, depth + 1))
        return items

    def _mapping(self, depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = event.value if isinstance(event, yaml.ScalarEvent) else None
            self._value(event, _MAX_DEPTH)
            if key is None:
                raise self.error("a key is text.", _place(event))
            if key in items:
                raise self.error(f"the key {key!r} stands there twice.", _place(event))
            self._places[id(items), key] = _place(event)
            items[key] = self._value(next(self._events), depth + 1)
        return items

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INT.fullmatch(text):
            if len(text) > 4000:  # Python refuses longer ones
                raise self.error("a whole number of more than 4000 digits.", _place(event))
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if special := _SPECIAL.fullmatch(text):
            return float(special[0].replace(".", ""))
        return text


def _place(event: Any) -> Place:
    return event.start_mark.line, event.start_mark.column


def _sign_at(text: str, place: Place) -> str:
    lines = text.split("\n")
    return lines[place[0]][place[1] : place[1] + 1] if place[0] < len(lines) else ""
