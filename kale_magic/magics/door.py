"""From a magic's line to its command: registers the magics, parses, calls, and turns mistakes into one red line."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from IPython.core.magic import no_var_expand

from kale_magic.errors import KaleError, UsageError
from kale_magic.magics.commands import BY_NAME, Command, one_screen
from kale_magic.magics.mistakes import mistake, named

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

    from kale_magic.magics.session import KaleMagics



class Request(NamedTuple):
    """What a person asked: the line as parsed and as written, and the cell below it."""

    args: SimpleNamespace
    line: str
    body: str


def bind(session: KaleMagics, command: Command) -> None:
    """Register ``%kale_NAME`` and ``%%kale_NAME`` in the session's shell, and once ``%kale`` and ``%%kale``."""
    manager = session.shell.magics_manager
    for kind, handler in (("line", command.line), ("cell", command.cell)):
        if handler:
            manager.register_function(_magic(session, command, kind), kind, f"kale_{command.name}")
    if "kale" not in manager.magics["line"]:
        manager.register_function(_door(session, "line"), "line", "kale")
        manager.register_function(_door(session, "cell"), "cell", "kale")


def run_command(session: KaleMagics, command: Command, line: str, body: str | None = None) -> object:
    """Parse ``line`` and run a command; what a person did wrong comes out as one red line.

    Raises
    ------
    Mistake
        The line, the step or the job is at fault; it ends the cell.
    """
    from kale_magic.dsl.options import HelpRequested, parse

    handler = command.line if body is None else command.cell
    try:
        if not handler:
            raise _other_kind(command, is_cell=body is not None)
        request = Request(parse(command.name, line, is_cell=body is not None), line, body or "")
        module, _, function = handler.partition(":")
        answer: Callable[[KaleMagics, Request], object] = getattr(import_module(f"kale_magic.magics.{module}"), function)
        return answer(session, request)
    except HelpRequested as request:
        print(request)
    except KaleError as exc:
        raise mistake(exc) from None
    except TimeoutError as exc:
        raise named("TimeoutError", str(exc)) from None
    except KeyboardInterrupt:
        raise named("KeyboardInterrupt", "Interrupted. What was submitted goes on.") from None
    return None


def _magic(session: KaleMagics, command: Command, kind: str) -> Callable[..., object]:
    @no_var_expand  # type: ignore[untyped-decorator] # IPython is not typed
    def line_magic(line: str) -> object:
        return run_command(session, command, line)

    @no_var_expand  # type: ignore[untyped-decorator]
    def cell_magic(line: str, cell: str) -> object:
        return run_command(session, command, line, cell)

    function: Callable[..., object] = line_magic if kind == "line" else cell_magic
    sign = "%" if kind == "line" else "%%"
    function.__doc__ = f"{command.usage}: {command.does}.\n\nAll options: {sign}kale_{command.name} -h"
    return function


def _door(session: KaleMagics, kind: str) -> Callable[..., object]:
    @no_var_expand  # type: ignore[untyped-decorator]
    def line_door(line: str) -> object:
        return _through(session, line, None)

    @no_var_expand  # type: ignore[untyped-decorator]
    def cell_door(line: str, cell: str) -> object:
        return _through(session, line, cell)

    function: Callable[..., object] = line_door if kind == "line" else cell_door
    function.__doc__ = one_screen()
    return function


def _through(session: KaleMagics, line: str, body: str | None) -> object:
    word, _, rest = line.strip().partition(" ")
    if body is None and word in {"", "-h", "--help", "help"}:
        print(one_screen())
        return None
    command = BY_NAME.get(word)
    if command is None:
        close = difflib.get_close_matches(word, BY_NAME, 1, 0.6)
        hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(BY_NAME)}."
        sign = "%" if body is None else "%%"
        raise mistake(UsageError(f"{sign}kale: no command {word!r}.", hint)) from None
    return run_command(session, command, rest, body)


def _other_kind(command: Command, *, is_cell: bool) -> UsageError:
    if is_cell:
        return UsageError(f"%%kale_{command.name} takes no cell.", f"Write %kale_{command.name} on a line of its own.")
    return UsageError(f"%kale_{command.name} needs a cell.", f"Write %%kale_{command.name} at the top of the cell.")


