"""The commands of the kernel ``kale``: their words, their help, and Tab after them. Pure.

They are tables of :mod:`kale_magic.dsl.options`, kept apart from those of the extension: ``%kale_attach`` and
``%kale_status`` mean something else there.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from kale_magic.dsl.options import SPECS, Kind, Option, Positional, Spec, help_of, read
from kale_magic.errors import UsageError
from kale_magic.kernels.front_cell import read_command

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import SimpleNamespace

    from kale_magic.kernels.front_cell import Command

_MODES = (
    Option("write", Kind.FLAG, "names that a cell assigns become the step's"),
    Option("main", Kind.FLAG, "queue behind the step's code instead of running beside it"),
)
_HOST = Option("host", Kind.TEXT, "the step is of the manager there: a Host of your ssh configuration", "H")
_STEP = Positional("STEP", "fit, fit[2], fit[metal=Al] or RUN/fit")

COMMANDS: dict[str, Spec] = {
    "tasks": Spec("List the steps of live runs: what can be attached, and what waits.", (), (_HOST,)),
    "attach": Spec(
        "Attach to a step: from now on, cells run in its kernel, beside its code.",
        (_STEP,),
        (*_MODES, Option("timeout", Kind.SECONDS, "longest wait for the step to start, in seconds (600)", "S"), _HOST),
    ),
    "detach": Spec(
        "Leave the step that is attached; it goes on.",
        (Positional("STEP", "a step that %%kale_on has visited; * is all", is_required=False),),
    ),
    "continue": Spec(
        "Let a step go on that waits for a person: at a --gate, or where its code asks input().",
        (Positional("STEP", "a step that waits; the one that is attached if left out", is_required=False),),
        (
            Option("set", Kind.PAIRS, "what was decided: variables that the step's code finds", "x=3"),
            Option("answer", Kind.TEXT, "what input() in the step returns", "TEXT"),
            _HOST,
        ),
    ),
    "status": Spec("Show what is attached, by which way and since when, or why it is out of reach."),
    "on": Spec(
        "Run this cell in a step's kernel, whatever is attached; * is every running step, RUN/* those of a run.",
        (Positional("STEP", "fit, fit[2], fit[metal=Al], RUN/fit, * or RUN/*"),),
        (*_MODES, Option("timeout", Kind.SECONDS, "end the cell after so many seconds (with *: 60)", "S"), _HOST),
        sign="%%",
    ),
}
NAMES = frozenset(COMMANDS)
_TOKEN = re.compile(r"\S*$")


def written(name: str) -> str:
    """Return a command as it is written."""
    return f"{COMMANDS[name].sign}kale_{name}"


def overview() -> str:
    """Return what ``%kale`` prints."""
    rows = [(written(name), spec.does) for name, spec in COMMANDS.items()]
    lines = [f"  {left:<14}{does}" for left, does in rows]
    return "\n".join(["This kernel attaches to steps that run. Its commands (-h after one says more):", "", *lines])


def is_kernels_own(command: Command) -> bool:
    """Whether a line may be meant for a kernel in which Kale's extension is loaded."""
    return command.name in SPECS and command.name not in NAMES and not command.is_question


def name_of(command: Command) -> str:
    """Return which of :data:`COMMANDS` a line means.

    Raises
    ------
    UsageError
        None of them.
    """
    name = "on" if command.is_cell and command.name == "attach" else command.name  # as the extension has it
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.6)
        if name in SPECS:
            hint = "It works in a Python notebook, after %load_ext kale_magic; %kale lists what works here."
        else:
            hint = f"Did you mean {written(close[0])}?" if close else "%kale lists what there is."
        raise UsageError(f"{command.text} is no command of this kernel.", hint)
    if command.sign != COMMANDS[name].sign and not command.is_question:
        raise UsageError(f"{command.text} is written {written(name)}.", f"{written(name)} -h says what it takes.")
    return name


def parse(command: Command) -> SimpleNamespace:
    """Return the values of a command's line; raises as :func:`kale_magic.dsl.options.read`."""
    name = name_of(command)
    found = read(written(name), COMMANDS[name], command.line)
    if getattr(found, "write", False) and found.main:
        raise UsageError(f"{written(name)}: --write and --main exclude each other.", "Leave one out.")
    return found


def help_on(command: Command) -> str:
    """Return the help for a line."""
    if not command.name:
        return overview()
    name = name_of(command)
    return help_of(written(name), COMMANDS[name])


def wants_step(typed: str) -> bool:
    """Whether a step may stand at the end of what is typed."""
    command = read_command(_TOKEN.sub("", typed))
    return command is not None and command.name in {"attach", "detach", "on"}


def complete(typed: str, steps: Iterable[str]) -> tuple[list[str], int]:
    """Return what can stand at the end of a line of Kale's, and how many of its last letters that replaces.

    Parameters
    ----------
    typed : str
        The line up to the cursor.
    steps : iterable of str
        Names of steps that can be attached.
    """
    found = _TOKEN.search(typed)
    token = found[0] if found else ""
    before = typed[: len(typed) - len(token)]
    if not before.strip():  # the command itself is being typed
        marks = token[: len(token) - len(token.lstrip("?"))]
        return _starting([f"{marks}{written(name)}" for name in COMMANDS], token), len(token)
    command = read_command(before)
    if command is None:
        return [], len(token)
    if not command.name:
        return _starting(COMMANDS, token), len(token)
    try:
        spec = COMMANDS[name_of(command)]
    except (UsageError, KeyError):
        return [], len(token)
    words = command.line.split()
    flags = [option.flag for option in spec.options if option.flag not in words]
    if token.startswith("-"):
        return _starting(flags, token), len(token)
    if words and any(option.flag == words[-1] and option.kind is not Kind.FLAG for option in spec.options):
        return [], len(token)
    has_step = any(not word.startswith("-") for word in words)
    known = list(steps) if spec.positionals and not has_step else []
    return _starting([*known, *([] if token else flags)], token), len(token)


def _starting(words: Iterable[str], token: str) -> list[str]:
    return [word for word in words if word.startswith(token)]
