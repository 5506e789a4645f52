"""Which names a Python cell uses and makes, without running it.

Owns the rules of scope and order: what a cell assigns before it uses is its own; what it uses first must
come from elsewhere. IPython's magics, ``!`` lines and ``?`` are tolerated. Used by dataflow (edges) and dsl (checks).
"""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from kale_magic.errors import StepSyntaxError
from kale_magic.model._scopes import Scan

if TYPE_CHECKING:
    from collections.abc import Mapping

_KNOWN = frozenset(dir(builtins)) | {
    "__file__", "__builtin__", "__builtins__", "__annotations__", "__path__", "__cached__",
    "display", "get_ipython", "exit", "quit", "open", "In", "Out", "_", "__", "___", "_ih", "_oh", "_dh", "_exit_code",
}  # fmt: skip
_HISTORY = re.compile(r"_\d+|_i{1,3}\d*")

_IPYTHON_LINE = re.compile(r"(?P<indent>\s*)(?P<target>[\w.,\[\]'\" ()*]+?\s*=\s*)?(?P<rest>(?:%%?\w|!).*|\?.+)")
_HELP_LINE = re.compile(r"(?P<indent>\s*)%{0,2}[\w.*\[\]]+\?{1,2}\s*")
_TIMED = re.compile(r"%%?(?:time|timeit|prun|capture)\b(?:\s+-\S+(?:\s+\d+)?)*\s*(?P<code>.*)")
# Line magics that bind no names; after any other, no one can know what the cell makes.
_HARMLESS = frozenset({
    "time", "timeit", "prun", "capture", "matplotlib", "config", "cd", "pwd", "ls", "env", "set_env", "who", "whos",
    "precision", "autoreload", "load_ext", "reload_ext", "pip", "conda", "mkdir", "cat", "history", "memit", "mprun",
    "xmode", "pprint", "lsmagic", "magic", "pinfo", "pinfo2", "psource", "pdoc", "system", "sx", "notebook",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class CellNames:
    """What a cell uses and makes; lines are 1-based.

    Attributes
    ----------
    free : mapping of str to int
        Names the cell uses before it assigns them, with the line of the first use.
    assigned : frozenset of str
        Names bound at the cell's top level, conditional ones included.
    is_open : bool
        Whether the cell may make names that can't be seen: ``import *``, ``exec``, ``globals()``, a magic.
    """

    free: Mapping[str, int]
    assigned: frozenset[str]
    is_open: bool


def free_names(code: str) -> Mapping[str, int]:
    """Return the names that ``code`` uses but does not make first, with the line of their first use."""
    return analyse(code).free


def assigned_names(code: str) -> frozenset[str]:
    """Return the names that ``code`` binds at its top level."""
    return analyse(code).assigned


@lru_cache(maxsize=8192)
def analyse(code: str) -> CellNames:
    """Return what a cell uses and makes; builtins and IPython's own names are left out.

    Raises
    ------
    StepSyntaxError
        The cell is no Python; ``line`` and ``column`` are those in ``code``.
    """
    tree, is_open = parse_cell(code)
    scan = Scan()
    scan.run(tree)
    free = {name: line for name, line in scan.free.items() if not is_known(name)}
    return CellNames(free, frozenset(scan.assigned), is_open or scan.is_open)


def is_known(name: str) -> bool:
    """Whether every kernel has the name from the start."""
    return name in _KNOWN or _HISTORY.fullmatch(name) is not None


def parse_cell(code: str) -> tuple[ast.Module, bool]:
    """Return the tree of a cell, and whether something in it may make names that can't be seen.

    Lines that only IPython understands are taken as such where Python can't read them.

    Raises
    ------
    StepSyntaxError
        The cell is no Python, even so.
    """
    first = re.match(r"\s*%%(\w+).*", code)
    if first and first[1] not in {"time", "timeit", "prun", "capture"}:
        return ast.Module([], []), True
    lines = code.split("\n")
    is_open = False
    while True:
        try:
            return _parse("\n".join(lines)), is_open
        except SyntaxError as error:
            replaced = _replace_ipython(lines, (error.lineno or 0) - 1)
            if replaced is None:
                raise _syntax_error(error) from None
            is_open |= replaced


def _parse(text: str) -> ast.Module:
    if "\0" in text:
        before = text[: text.index("\0")]
        place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise SyntaxError("a null character stands in the cell", ("<cell>", *place, None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an invalid escape is the user's business, not an error here
        try:
            # top-level await is allowed in IPython
            tree = compile(text, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        except (ValueError, MemoryError, RecursionError) as exc:
            raise SyntaxError(str(exc) or "the cell is nested too deep", ("<cell>", 1, 1, None)) from exc
    if not isinstance(tree, ast.Module):  # pragma: no cover - compile with ONLY_AST gives a Module
        raise TypeError(type(tree))
    return tree


def _replace_ipython(lines: list[str], at: int) -> bool | None:
    """Replace the line at fault by Python of the same names; return whether it may bind others, None if it is no such line."""
    candidates = [at] if 0 <= at < len(lines) and _is_ipython(lines[at]) else []
    if not candidates:
        # Python reports an unclosed quote or bracket of a `!` line further down, so the first one is tried
        candidates = [n for n, line in enumerate(lines) if _is_ipython(line)][:1]
    for number in candidates:
        line = lines[number]
        match = _HELP_LINE.fullmatch(line) or _IPYTHON_LINE.fullmatch(line)
        groups = match.groupdict() if match else {}
        rest, target = groups.get("rest") or "", groups.get("target") or ""
        timed = _TIMED.fullmatch(rest)
        body = timed["code"] if timed and _is_python(timed["code"]) else "None"
        lines[number] = f"{groups.get('indent', '')}{target}{body}"
        while line.endswith("\\") and number + 1 < len(lines):
            number += 1  # noqa: PLW2901 - a continued line is one line
            line, lines[number] = lines[number], ""
        magic = re.match(r"%%?(\w+)", rest)
        return bool(magic and magic[1] not in _HARMLESS)
    return None


def _is_ipython(line: str) -> bool:
    return bool(_IPYTHON_LINE.fullmatch(line) or _HELP_LINE.fullmatch(line))


def _is_python(text: str) -> bool:
    try:
        return bool(_parse(text).body)
    except SyntaxError:
        return False


def _syntax_error(error: SyntaxError) -> StepSyntaxError:
    source = (error.text or "").strip()
    shown = f": {source[:80]}" if source else ""
    return StepSyntaxError(f"{error.msg}{shown}", line=error.lineno or 0, column=error.offset or 0)
