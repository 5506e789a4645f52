"""Parts of the sentences about names: lists with lines, and what was probably meant. Used by dataflow and dsl."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kale_magic.model.names import CellNames


def never_assigned(step: str, output: str, names: CellNames) -> tuple[str, str]:
    """Return message and hint for a declared output that the cell never makes."""
    hint = did_you_mean(output, names.assigned) or f"Assign `{output}`, or take it out of --outputs."
    return f"Step {step} has --outputs {output}, but its code never assigns `{output}`.", hint


def listed(names: Mapping[str, int], first_line: int) -> str:
    """Return ```np` (line 3) and `plt` (line 5)``, five at most, with the lines of the cell."""
    parts = [f"`{name}` (line {line + first_line - 1})" for name, line in list(names.items())[:5]]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question with the closest known name, or nothing."""
    names = list(known)
    same = [other for other in names if other.lower() == name.lower()]
    close = same or difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return f"Did you mean {close[0]}?" if close else ""
