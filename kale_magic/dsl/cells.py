"""A cell's text to what it says: its Kale magic, and the description that leads its code.

Owns where a magic may stand and how lines are counted; knows nothing of workflows. Called by the notebook
reader, and by :mod:`kale_magic.dsl.build`.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kale_magic.model.names import parse_cell
from kale_magic.model.step import clean_code

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC = re.compile(r"(?P<sign>%%?)kale(?:_(?P<name>\w+)|[^\S\n]+(?P<word>\w+)|(?=\s|$))(?P<line>[^\n]*)")
_DIRECTIVES = re.compile(r"(?:\s*(?:#(?!SBATCH\b|PBS\b|BSUB\b|[ ]?flux:)[^\n]*)?\n)*#(?:SBATCH|PBS|BSUB|[ ]?flux:)[^\S\n]+\S")
# A statement that is one string literal: nothing but a `;` or a comment may follow it on its line.
_TRIPLE = r"""(?P<quote>\'\'\'|\"\"\")(?P<text>(?:\\.|(?!(?P=quote))[^\\])*)(?P=quote)"""
_SINGLE = r"""(?P<mark>['"])(?P<line>(?:\\[^\n]|(?!(?P=mark))[^\\\n])*)(?P=mark)"""
_END = r"[^\S\n]*(?:;[^\S\n]*|(?:#[^\n]*)?(?:\n|\Z))"
_AFTER = re.compile(r"[^\S\n]*\)*" + _END)
_EMPTY_LINES = re.compile(r"(?:[^\S\n]*\n)+")
_LEADING_TEXT = re.compile(rf"\s*{_TRIPLE}{_END}", re.DOTALL)
_LEADING_LITERAL = re.compile(rf"(?P<above>(?:\s*#[^\n]*\n)*)\s*(?P<prefix>[rRuU]?)(?:{_TRIPLE}|{_SINGLE}){_END}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CellMagic:
    """A Kale magic in a cell: ``name`` without ``kale_``; ``body`` is None for a line magic.

    ``first_line`` is the line of the cell at which the body begins, 1-based.
    """

    name: str
    line: str
    body: str | None
    first_line: int


def split_cell(text: str) -> Iterator[CellMagic]:
    """Return the Kale magics of a cell, in order: one cell magic with the rest of the cell, or line magics.

    Comments and blank lines may stand above a cell magic, as in the live notebook. ``%%kale step fit`` is
    ``%%kale_step fit``.
    """
    lines = _unindent(text.replace("\r\n", "\n").split("\n"))
    for number, line in enumerate(lines):
        match = _MAGIC.fullmatch(line)
        if match and match["sign"] == "%%":
            yield CellMagic(*_name_and_line(match), "\n".join(lines[number + 1 :]), number + 2)
            return
        if line.strip() and not line.lstrip().startswith("#"):
            break
    if any(line.startswith("%%") for line in lines if line.strip()):
        return
    for number, line in enumerate(lines):
        match = _MAGIC.fullmatch(line.strip())
        if match and match["sign"] == "%":
            yield CellMagic(*_name_and_line(match), None, number + 2)


def _name_and_line(match: re.Match[str]) -> tuple[str, str]:
    return match["name"] or match["word"] or "", match["line"].strip()


def _unindent(lines: list[str]) -> list[str]:
    # IPython takes the indentation of the first line off a whole cell
    first = next((line for line in lines if line.strip()), "")
    indent = first[: len(first) - len(first.lstrip())]
    return [line.removeprefix(indent) for line in lines] if indent else lines


def is_batch_script(body: str) -> bool:
    """Whether a cell has ``#SBATCH``, ``#PBS``, ``#BSUB`` or ``# flux:`` lines before its first command; its description may stand above."""
    text = _LEADING_TEXT.match(body)
    return _DIRECTIVES.match(body, text.end() if text else 0) is not None


@dataclass(frozen=True, slots=True)
class Narrated:
    """A cell's description and the code after it; ``skipped`` is the number of lines before the code."""

    description: str
    code: str
    skipped: int


def narrated(body: str, *, is_python: bool) -> Narrated:
    r"""Take the leading string literal off a cell: the step's Markdown.

    In a cell that is not Python the literal has triple quotes, since a bash command may begin with a quote.
    Backslashes are kept as LaTeX needs them, so ``'''$\nu$'''`` is what it looks like.

    Raises
    ------
    StepSyntaxError
        A Python cell can't be read; its line is that in ``body``.
    """
    match = (_LEADING_LITERAL if is_python else _LEADING_TEXT).match(body)
    if match:
        parts = match.groupdict()
        is_long = parts["text"] is not None
        text = parts["text"] if is_long else parts["line"]
        is_raw = (parts.get("prefix") or "") in {"r", "R"}
        description, above, end = text if is_raw else _unescaped(text, is_long=is_long), parts.get("above") or "", match.end()
    else:
        (description, end), above = _joined_literals(body) if is_python else ("", 0), ""
    # comments above the text stay, and so does the number of lines down to the code
    kept = above + "\n" * (body[:end].count("\n") - above.count("\n")) if above.strip() else ""
    rest = kept + body[end:]
    skipped = 0 if kept else body[:end].count("\n")
    empty = _EMPTY_LINES.match(rest)
    return Narrated(clean_description(description), clean_code(rest), skipped + (empty[0].count("\n") if empty else 0))


def clean_description(text: str) -> str:
    """Return a description in the form in which it is kept: indentation of a docstring and outer blank space off."""
    return inspect.cleandoc(text).strip()


def _joined_literals(body: str) -> tuple[str, int]:
    """Return the text of a first statement such as ``("one" "two")``, and where the next one begins."""
    tree, _ = parse_cell(body)
    first = tree.body[0] if tree.body else None
    if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Constant) or not isinstance(first.value.value, str):
        return "", 0
    lines = body.split("\n")
    last = (first.end_lineno or 1) - 1
    column = len(lines[last].encode()[: first.end_col_offset].decode())
    start = sum(len(line) + 1 for line in lines[:last]) + column
    end = _AFTER.match(body, start)
    return (first.value.value, end.end()) if end else ("", 0)


def _unescaped(text: str, *, is_long: bool) -> str:
    text = text if is_long else text.replace("\\\n", "")
    return re.sub(r"\\([\\'\"])", r"\1", text)
