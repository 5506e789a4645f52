"""Python values as CWL's: the type that holds a value exactly, or the text of its literal where none does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kale_magic.model.literals import to_literal

if TYPE_CHECKING:
    from collections.abc import Sequence

_INT, _LONG = 1 << 31, 1 << 63


def typed(value: object) -> tuple[str, object]:
    """Return the CWL type of a parameter, and its value there: as it is, or the text of its Python literal."""
    if isinstance(value, list) and value and (kind := _scalar_type(value)):
        return array(kind), value
    kind = _scalar_type([value])
    return (kind, value) if kind else ("string", to_literal(value))


def typed_column(values: Sequence[object]) -> tuple[str, list[object]]:
    """Return the one CWL type of a sweep's values, and the values there."""
    kind = _scalar_type(values)
    return (kind, list(values)) if kind else ("string", [to_literal(value) for value in values])


def is_literal(value: object) -> bool:
    """Whether a parameter goes as the text of its literal."""
    return typed(value)[0] == "string" and not isinstance(value, str)


def is_literal_column(values: Sequence[object]) -> bool:
    """Whether a sweep's values go as the texts of their literals."""
    return not _scalar_type(values)


def array(kind: str) -> str:
    """Return the type of a list."""
    return f"{kind}[]"


def _scalar_type(values: Sequence[object]) -> str:
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return "boolean"
    if kinds == {str}:
        return "string"
    if kinds == {int}:
        largest = max(abs(value) for value in values if isinstance(value, int))
        return "int" if largest < _INT else "long" if largest < _LONG else ""
    if kinds == {float} and all(isinstance(value, float) and math.isfinite(value) for value in values):
        return "double"
    return ""
