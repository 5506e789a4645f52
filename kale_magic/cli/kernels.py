"""``kernels list|install|remove``: the kernelspecs of steps (the general ones are listed too); ``open``: a notebook on one; and ``attach --console``, which uses one."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kale_magic.cli.exits import Exit
from kale_magic.cli.scope import here
from kale_magic.client import Client
from kale_magic.errors import UsageError
from kale_magic.kernels import specs

if TYPE_CHECKING:
    import argparse

    from kale_magic.api.find import Target
    from kale_magic.cli.console import Console


def list_(arguments: argparse.Namespace, console: Console) -> int:
    """List the general kernelspecs, with what they are, and those of steps."""
    from kale_magic.kernels import general

    others = general.installed(_prefix(arguments))
    found = specs.installed(_prefix(arguments))
    if console.is_json:
        rows = [{"name": other.name, "path": str(other.path), "step": None, "does": other.does} for other in others]
        rows += [{"name": spec.name, "path": str(spec.path), "step": spec.step, "does": f"visits {spec.step}"} for spec in found]
        console.data(rows)
    width = max([len(other.name) for other in others] + [len(spec.name) for spec in found], default=0) + 2
    for other in others:
        console.say(f"{other.name:<{width}}{other.path}: {other.does}")
    for spec in found:
        console.say(f"{spec.name:<{width}}{spec.path}")
    if not found:
        console.say("No step has a kernel for notebooks. Make one: jupyter kale kernels install STEP")
    return Exit.OK


def install(arguments: argparse.Namespace, console: Console) -> int:
    """Make the kernelspec of a step."""
    from kale_magic.api.find import find_step, one_job, refuse_without_kernel

    with Client.connect(host=arguments.host) as client:
        target = one_job(client, find_step(client, arguments.step, here(client), is_acting=True))
        refuse_without_kernel(target)
        spec = specs.install(client, target, mode=_mode(arguments), prefix=_prefix(arguments))
    if console.is_json:
        console.data({"name": spec.name, "path": str(spec.path)})
    console.say(f"{spec.name}: {spec.path}")
    return Exit.OK


def open_(arguments: argparse.Namespace, console: Console) -> int:
    """Make the notebook of a step."""
    from kale_magic.api.find import find_step, one_job, refuse_without_kernel
    from kale_magic.kernels import notebook

    here_now = Path.cwd()
    with Client.connect(host=arguments.host) as client:
        target = one_job(client, find_step(client, arguments.step, here(client), is_acting=True))
        refuse_without_kernel(target)
        opened = notebook.open_notebook(
            client,
            target,
            folder=here_now,
            file=None if arguments.file is None else Path(arguments.file),
            template=notebook.template_file(arguments.template),
            mode=_mode(arguments),
        )
    if console.is_json:
        console.data({"name": opened.spec.name, "path": str(here_now / opened.path)})
    console.say(notebook.link(opened, here_now)["text/plain"])
    return Exit.OK


def remove(arguments: argparse.Namespace, console: Console) -> int:
    """Remove one kernelspec, or those whose run is over."""
    if bool(arguments.name) == arguments.stale:
        raise UsageError("kernels remove takes a name, or --stale.", "See them: jupyter kale kernels list")
    if arguments.name:
        gone = [specs.remove(arguments.name, _prefix(arguments))]
    else:
        with Client.connect() as client:
            gone = specs.remove_stale(client, _prefix(arguments))
    for spec in gone:
        console.say(f"{spec.name} removed")
    if not gone:
        console.say("Nothing to remove.")
    return Exit.OK


def open_console(client: Client, target: Target) -> int:
    """Run Jupyter's console on a step, and return when the person leaves it; the step goes on.

    Raises
    ------
    UsageError
        It is not installed.
    """
    if importlib.util.find_spec("jupyter_console") is None:
        raise UsageError(f"Jupyter's console is not installed for {sys.executable}.", "Install it: pip install jupyter-console")
    spec = specs.install(client, target)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the console, which ends its own cell
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "jupyter_console", "--kernel", spec.name],
            preexec_fn=_take_interrupts,  # noqa: PLW1509 - one call, in a process without threads
        ) as process:
            return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def _take_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _mode(arguments: argparse.Namespace) -> str:
    return "main" if arguments.main else "write" if arguments.write else "visit"


def _prefix(arguments: argparse.Namespace) -> str | None:
    prefix: str | None = sys.prefix if arguments.sys_prefix else arguments.prefix
    return prefix
