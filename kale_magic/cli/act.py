"""``cancel``, ``stop`` and ``attach``: commands that act on something live."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from kale_magic.cli.console import Console, write
from kale_magic.cli.exits import Exit
from kale_magic.cli.look import is_run
from kale_magic.cli.scope import here
from kale_magic.client import Client

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from kale_magic.api.find import Target


def cancel(arguments: argparse.Namespace, console: Console) -> int:
    """End a run or a step, whatever it does."""
    from kale_magic.api.find import find_run, find_step

    with Client.connect(host=arguments.host) as client:
        if is_run(client, arguments.what):
            label = find_run(client, arguments.what, here(client))
            found = client.cancel(label)
        else:
            target = find_step(client, arguments.what, here(client), is_acting=True)
            label = f"{target.run}/{target.label}"
            found = client.cancel(target.run, target.step, target.point)
    if console.is_json:
        console.data({"cancelled": found})
    else:
        console.say(f"{label}: cancelled {', '.join(found)}" if found else f"{label}: nothing to cancel, it had ended")
    return Exit.OK


def stop(arguments: argparse.Namespace, console: Console) -> int:
    """Interrupt a step's code; its kernel stays for a look."""
    from kale_magic.api.find import find_step, one_job

    with Client.connect(host=arguments.host) as client:
        target = one_job(client, find_step(client, arguments.step, here(client), is_acting=True))
        client.stop(target.run, target.step, target.point)
    console.say(
        f"{target.run}/{target.label}: its code is being interrupted; look inside with: jupyter kale attach {target.run}/{target.label}"
    )
    return Exit.OK


def hold(arguments: argparse.Namespace, console: Console) -> int:
    """Keep a step in the queue from starting."""
    from kale_magic.api.hold import hold as hold_step

    target = _in_queue(arguments, hold_step)
    console.say(f"{target} is held; let it go on with: jupyter kale release {target}")
    return Exit.OK


def release(arguments: argparse.Namespace, console: Console) -> int:
    """Let a held step go on."""
    from kale_magic.api.hold import release as release_step

    console.say(f"{_in_queue(arguments, release_step)} is released")
    return Exit.OK


def _in_queue(arguments: argparse.Namespace, deed: Callable[[Client, Target], None]) -> Target:
    """Do something with a step in the queue, and return it."""
    from kale_magic.api.find import find_step

    with Client.connect(host=arguments.host) as client:
        target = find_step(client, arguments.step, here(client), is_acting=True)
        deed(client, target)
    return target


def attach(arguments: argparse.Namespace, console: Console) -> int:
    """Run code in the kernel of a running step and print what it prints, or open a console on it."""
    from kale_magic.api.find import find_step, one_job, where_in
    from kale_magic.api.visits import Visits

    def tell(target: Target) -> None:
        console.note(
            f"kale: {target.run}/{target.label} is {target.state}" + (f" ({target.reason})" if target.reason else "")
        )

    code = sys.stdin.read() if arguments.code == "-" else arguments.code
    deadline = time.monotonic() + arguments.timeout
    with Client.connect(host=arguments.host) as client, contextlib.closing(Visits(client)) as visits:
        target = one_job(client, find_step(client, arguments.step, here(client), is_acting=True))
        target = visits.wait_for_kernel(target, arguments.timeout, tell)
        if arguments.rank:
            target = visits.wait_for_kernel(where_in(client, target.run, target.step, target.point, arguments.rank), arguments.timeout)
        if arguments.console:
            from kale_magic.cli.kernels import open_console

            return Exit.OK if open_console(client, target) == 0 else Exit.FAILED
        reply = visits.execute(
            target,
            code,
            on_message=_print,
            on_input=ask_here if sys.stdin.isatty() else None,
            on_note=lambda note: console.note(f"kale: {note}"),
            timeout=round(max(1.0, deadline - time.monotonic()), 1),
        )
    return Exit.OK if reply.get("status") == "ok" else Exit.FAILED


def _print(kind: str, content: dict[str, Any], _: dict[str, Any], __: list[bytes]) -> None:
    """Print one thing that the code shows."""
    from kale_magic.render.words import plain

    if kind == "stream":
        write(sys.stderr if content.get("name") == "stderr" else sys.stdout, str(content.get("text", "")))
    elif kind in {"execute_result", "display_data", "update_display_data"}:
        text = (content.get("data") or {}).get("text/plain")
        if text is not None:
            write(sys.stdout, f"{text}\n")
    elif kind == "error":
        text = "\n".join(map(str, content.get("traceback") or [f"{content.get('ename')}: {content.get('evalue')}"]))
        write(sys.stderr, (text if sys.stderr.isatty() else plain(text)) + "\n")


def ask_here(prompt: str, is_password: bool) -> str | None:
    """Ask the person at the terminal what the code asks; None at the end of input."""
    try:
        if is_password:
            import getpass

            return getpass.getpass(prompt)
        return input(prompt)
    except EOFError:
        return None
