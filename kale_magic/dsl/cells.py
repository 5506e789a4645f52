"""A cell's text to what it says: its Kale magic, and the description that leads its code.

Owns where a magic may stand and how lines are counted; knows nothing of workflows. Called by the notebook
reader, and by :mod:`kale_magic.dsl.build`.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kale_magic.model.names import parse_cell
from kale_magic.model.step import clean_code

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC = re.compile(r"(?P<sign>%%?)kale(?:_(?P<name>\w+)|[^\S\n]+(?P<word>\w+)|(?=\s|$))(?P<line>[^\n]*)")
_DIRECTIVES = re.compile(r"(?:\s*(?:#(?!SBATCH\b|PBS\b)[^\n]*)?\n)*#(?:SBATCH|PBS)[^\S\n]+\S")
_LEADING_TEXT = re.compile(r"\s*(?P<quote>'''|\"\"\")(?P<text>.*?)(?P=quote)[^\S\n]*;?[^\S\n]*(?:\n|\Z)", re.DOTALL)
_LITERAL = re.compile(r"(?P<prefix>[rRuU]?)(?P<quote>'''|\"\"\"|'|\")(?P<text>.*)(?P=quote)", re.DOTALL)


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
    """Whether a cell has ``#SBATCH`` or ``#PBS`` lines before its first command."""
    return _DIRECTIVES.match(body) is not None


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
    description, rest = _split_python(body) if is_python else _split_text(body)
    code = clean_code(rest)
    skipped = (body[: len(body) - len(rest)] + rest[: len(rest) - len(_leading_lines_off(rest))]).count("\n")
    return Narrated(clean_description(description), code, skipped)


def clean_description(text: str) -> str:
    """Return a description in the form in which it is kept: indentation of a docstring and outer blank space off."""
    return inspect.cleandoc(text).strip()


def _leading_lines_off(text: str) -> str:
    return re.sub(r"\A(?:[^\S\n]*\n)+", "", text)


def _split_text(body: str) -> tuple[str, str]:
    match = _LEADING_TEXT.match(body)
    return (_unescaped(match["text"], match["quote"]), body[match.end() :]) if match else ("", body)


def _split_python(body: str) -> tuple[str, str]:
    tree, _ = parse_cell(body)
    first = tree.body[0] if tree.body else None
    if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Constant) or not isinstance(first.value.value, str):
        return "", body
    lines = body.split("\n")
    end = (first.end_lineno or 1) - 1
    after = lines[end].encode()[first.end_col_offset or 0 :].decode()
    rest = "\n".join([re.sub(r"^\s*;?\s*(?:#.*)?", "", after), *lines[end + 1 :]])
    source = ast.get_source_segment(body, first.value) or ""
    return _written(source, first.value.value), rest


def _written(source: str, value: str) -> str:
    match = _LITERAL.fullmatch(source)
    if match is None or not _is_one_literal(source):
        return value
    return match["text"] if match["prefix"] in {"r", "R"} else _unescaped(match["text"], match["quote"])


def _is_one_literal(source: str) -> bool:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    try:
        return sum(token.type == tokenize.STRING for token in tokens) == 1
    except (tokenize.TokenError, SyntaxError):
        return False


def _unescaped(text: str, quote: str) -> str:
    text = text if len(quote) == 3 else text.replace("\\\n", "")
    return re.sub(r"\\([\\'\"])", r"\1", text)
