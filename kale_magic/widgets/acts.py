"""What a click does: submit, stop, cancel, open a notebook. Each answers with one sentence for the person.

Called by the widgets in the thread that the front end's message came in; raises KaleError for a mistake.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.api.find import one_job, refuse_without_kernel, where_in
from kale_magic.errors import UsageError
from kale_magic.model.literals import to_literal
from kale_magic.widgets import gates
from kale_magic.widgets.viewmodel import actions
from kale_magic.widgets.viewmodel.step import LIVE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kale_magic.api.find import Target
    from kale_magic.widgets.desk import Desk


def act(desk: Desk, name: str, steps: Sequence[str], params: Mapping[str, object] | None = None) -> str:
    """Do what a button says, to these steps (none: all), and return what came of it.

    Raises
    ------
    UsageError
        There is no such action, or nothing it could be done to.
    KaleError
        As the client's methods.
    """
    if name in {"run", "from", "again"}:
        return _submit(desk, name, steps, params or {})
    run = desk.seen.run
    if not run:
        raise UsageError("Nothing runs yet.", "Submit the workflow first.")
    if name == "cancel":
        return _cancel(desk, run, steps)
    if name == "stop":
        targets = [_target(desk, run, step) for step in steps if desk.seen.states.get(step) == "running"]
        for target in targets:
            desk.book.client.stop(target.run, target.step, target.point)
        return f"{', '.join(target.label for target in targets)}: asked to stop; the kernel stays for a look."
    if name == "continue":
        return gates.go_on(desk, steps or list(desk.seen.states))
    if name == "push":
        return _push(desk, run, steps, params or {})
    if name in {"pause", "resume"}:
        return _hold(desk, run, steps, is_pause=name == "pause")
    if name == "open" and len(steps) == 1:
        return _open(desk, _target(desk, run, steps[0]))
    raise UsageError(f"There is no action {name!r} for this.")


def _submit(desk: Desk, name: str, steps: Sequence[str], params: Mapping[str, object]) -> str:
    from kale_magic.api.workflow import submit

    seen = desk.seen
    declared = desk.book.declared()
    workflow = declared if declared is not None and (seen.workflow is None or declared.name == seen.workflow.name) else seen.workflow
    if workflow is None:
        raise UsageError("The workflow of this run is not known here.", "Declare it, or import its file: %kale_import FILE.")
    start = actions.failed(seen.states, steps) if name == "again" else list(steps)
    chosen: dict[str, Any] = {"only" if name == "run" else "from_": start} if start else {}
    folder = Path.cwd()
    if workflow is not declared and seen.status:  # that of a run: its folder is known, with its own --dir
        folder, workflow = Path(seen.status["workflow_folder"]), replace(workflow, directory=None)
        if desk.book.client.host:  # the folder is there, with what the run made: nothing is sent
            chosen |= {"home": str(folder), "executor": seen.status["executor"]}
    run = submit(workflow, client=desk.book.client, folder=folder, params=dict(params), **chosen)
    desk.book.submitted[run.name] = workflow
    desk.follow_newest()
    return f"Submitted {run.name}."


def _cancel(desk: Desk, run: str, steps: Sequence[str]) -> str:
    client = desk.book.client
    gone: list[str] = []
    if not steps:
        gone = client.cancel(run)
    for step in steps:
        gone += client.cancel(run, step, desk.point if len(steps) == 1 else None)
    desk.refresh()
    return f"Cancelled {', '.join(gone[:8])}{' ...' if len(gone) > 8 else ''}." if gone else "Nothing to cancel: it is over."


def _hold(desk: Desk, run: str, steps: Sequence[str], *, is_pause: bool) -> str:
    from kale_magic.api import pause
    from kale_magic.api.visits import Visits

    wanted = "running" if is_pause else "paused"
    said = []
    with contextlib.closing(Visits(desk.book.client)) as visits:
        for step in steps:
            if desk.seen.states.get(step) == wanted:
                target = _target(desk, run, step)
                said.append(f"{target.label} {(pause.pause if is_pause else pause.resume)(visits, target)}")
    desk.refresh()
    return f"{'; '.join(said)}." if said else f"None of these is {wanted}."


def _push(desk: Desk, run: str, steps: Sequence[str], params: Mapping[str, object]) -> str:
    """Change parameters of a running step, for its next look at them."""
    from kale_magic.api.push import push
    from kale_magic.api.visits import Visits

    if len(steps) != 1 or not params:
        raise UsageError("Nothing is changed yet.", "Write another value into one of the fields first.")
    target = _target(desk, run, steps[0])
    if target.state not in LIVE:
        raise UsageError(f"{target} {target.doing}: only what runs can be changed.", "Run it again with these values.")
    with contextlib.closing(Visits(desk.book.client)) as visits:
        push(visits, target, params)
    desk.refresh()
    return f"{target.label}: {', '.join(f'{name} is {to_literal(value)}' for name, value in params.items())} from its next look at it on."


def _target(desk: Desk, run: str, step: str) -> Target:
    return one_job(desk.book.client, where_in(desk.book.client, run, step, desk.point))


def _open(desk: Desk, target: Target) -> str:
    from kale_magic.kernels import notebook

    refuse_without_kernel(target)
    opened = notebook.open_notebook(desk.book.client, target, folder=desk.book.folder)
    shown = os.path.relpath(opened.path, Path.cwd())
    return f"{shown} {'is made' if opened.is_new else 'was there and is kept'}: open it in the file browser; its kernel is that of {target}."
