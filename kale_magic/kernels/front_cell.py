"""What a cell of the kernel ``kale`` says to Kale, and what is for the attached kernel. Pure: no sockets, no manager.

Kale's lines stand at the top: ``%kale_...`` lines, then ``%%kale_on STEP`` if the rest of the cell is for another step.
Comments and blank lines may stand between and above. Everything after them is the kernel's, whatever language it speaks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(
    r"\s*(?P<asks>\?{0,2})(?P<sign>%%?)kale(?:_(?P<name>\w*)|[^\S\n]+(?P<word>\w+)|(?=[\s?]|$))(?P<line>.*?)(?P<asked>\?{0,2})\s*"
)
_BEGUN = ("%kale", "%%kale")


@dataclass(frozen=True, slots=True)
class Command:
    """One of Kale's lines: ``name`` without ``kale_``, empty for ``%kale`` alone; ``line`` is what stands after it."""

    sign: str
    name: str
    line: str
    is_question: bool
    number: int

    @property
    def is_cell(self) -> bool:
        """Whether the rest of the cell is its own."""
        return self.sign == "%%"

    @property
    def text(self) -> str:
        """The command as it is written."""
        return f"{self.sign}kale_{self.name}" if self.name else f"{self.sign}kale"


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell's commands in order, and what is left: with empty lines in their place, so that lines keep their numbers."""

    commands: tuple[Command, ...]
    rest: str

    @property
    def takes_all(self) -> bool:
        """Whether the rest of the cell is the last command's own."""
        return bool(self.commands) and self.commands[-1].is_cell and not self.commands[-1].is_question

    @property
    def has_rest(self) -> bool:
        """Whether there is anything for the attached kernel."""
        return bool(self.rest.strip()) and not self.takes_all


def read_command(line: str, number: int = 0) -> Command | None:
    """Return what a line of a cell says to Kale; None if it is none of its lines."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    name = match["name"] or match["word"] or ""
    is_question = bool(match["asks"] or match["asked"])
    return Command(match["sign"], name, match["line"].strip(), is_question, number)


def read_cell(code: str) -> Cell:
    """Divide a cell."""
    lines = code.split("\n")
    commands = []
    for number, line in enumerate(lines):
        command = read_command(line, number)
        if command is not None:
            commands.append(command)
            if command.is_cell and not command.is_question:
                break
        elif line.strip() and not line.lstrip().startswith("#"):
            break
    if not commands:
        return Cell((), code)
    last = commands[-1].number
    return Cell(tuple(commands), "\n".join([""] * (last + 1) + lines[last + 1 :]))


def stray(rest: str, names: frozenset[str]) -> Command | None:
    """Return the first of Kale's lines, by these names, that does not stand at the top and so is not Kale's."""
    found = (read_command(line, number) for number, line in enumerate(rest.split("\n")) if line.startswith("%kale_"))
    return next((command for command in found if command is not None and command.name in names), None)


def line_at(code: str, cursor: int, *, is_attached: bool) -> tuple[str, int] | None:
    """Return the part of one of Kale's lines that is before the cursor, and where the line begins; None: it is the kernel's.

    ``%`` alone may begin a magic of the attached kernel.
    """
    start = code.rfind("\n", 0, cursor) + 1
    end = code.find("\n", cursor)
    line, typed = code[start : end if end >= 0 else None], code[start:cursor]
    word = typed.strip().lstrip("?")
    if not word or not _is_top(code[:start]) or (is_attached and word in {"%", "%%"}):
        return None
    is_begun = any(begun.startswith(word) for begun in _BEGUN)
    return (typed, start) if is_begun or read_command(line) is not None else None


def _is_top(above: str) -> bool:
    for line in above.split("\n"):
        command = read_command(line)
        if command is None and line.strip() and not line.lstrip().startswith("#"):
            return False
        if command is not None and command.is_cell and not command.is_question:
            return False
    return True


def without_commands(code: str) -> str:
    """Return a cell with spaces in place of Kale's lines: every position in the rest stays what it was."""
    cell = read_cell(code)
    lines = code.split("\n")
    last = cell.commands[-1].number if cell.commands else -1
    return "\n".join([" " * len(line) for line in lines[: last + 1]] + lines[last + 1 :])
