"""The entry point of ``jupyter kale``: reads the words, calls the command, turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from kale_magic.cli.arguments import parse
from kale_magic.cli.console import Console
from kale_magic.cli.exits import Exit, code_of, sentence
from kale_magic.errors import KaleError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The words after ``jupyter kale``; those of this process by default.
    """
    try:
        arguments = parse(argv)
    except SystemExit as end:  # argparse has said what was wrong, or printed the help
        return int(end.code or 0)
    console = Console(is_json=arguments.json)
    module, _, name = arguments.handler.partition(":")
    try:
        call: Callable[[argparse.Namespace, Console], int] = getattr(import_module(f"kale_magic.cli.{module}"), name)
        if getattr(arguments, "host", "") and sys.stdin.isatty():
            _let_logins_ask()
        return int(call(arguments, console))
    except BrokenPipeError:  # `| head`: what is left must not fail again when Python flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.BROKEN_PIPE)
    except (KaleError, OSError) as exc:
        console.note(f"kale: {sentence(exc)}")
        return int(code_of(exc))
    except KeyboardInterrupt:
        return int(Exit.INTERRUPTED)


def _let_logins_ask() -> None:
    import getpass

    from kale_proxy.tunnel.dialer import ask_by

    ask_by(lambda prompt, is_shown: input(prompt) if is_shown else getpass.getpass(prompt), is_terminal=True)


if __name__ == "__main__":
    sys.exit(main())
