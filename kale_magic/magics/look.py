"""``%%kale_attach``, ``%kale_open``, ``%kale_pull``, ``%kale_vars``, ``%kale_resources``: a look inside a step."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.api.find import one_job, refuse_without_kernel, where_in
from kale_magic.errors import UsageError
from kale_magic.magics.mistakes import named
from kale_magic.magics.replay import Inline

if TYPE_CHECKING:
    from types import SimpleNamespace

    from kale_magic.api.find import Target
    from kale_magic.magics.door import Request
    from kale_magic.magics.session import KaleMagics

_OWN_NAMES_S = 10.0  # a step that has just begun is given so long to make what the visitor wants to see


def attach(session: KaleMagics, request: Request) -> None:
    """Run the cell in the step's kernel and show all that it shows."""
    args = request.args
    visits = session.visits_on(args.host)
    target = session.find(args.step, is_acting=True, visits=visits)
    if target.live is None:
        target = one_job(visits.client, target)
    inline = Inline(session)
    timeout = session.attach_timeout if args.timeout is None else args.timeout
    target = visits.wait_for_kernel(target, timeout, on_wait=inline.waiting)
    if args.rank:
        target = visits.wait_for_kernel(where_in(visits.client, target.run, target.step, target.point, args.rank), timeout)
    common, own = _names_to_come(session, target, request.body)
    for names, longest in ((common, timeout), (own, min(timeout, _OWN_NAMES_S))):
        visits.wait_for_names(target, names, longest, on_wait=partial(inline.waiting_for_names, target))
    inline.done_waiting()
    mode = "main" if args.main else "write" if args.write else "visit"
    try:
        reply = visits.execute(
            target,
            request.body,
            mode=mode,
            on_message=inline.message,
            on_input=ask_here if session.can_ask else None,
            on_note=inline.note,
        )
    except KeyboardInterrupt:
        raise named("KeyboardInterrupt", f"The visit was interrupted; {target} goes on.") from None
    if reply.get("status") != "ok":
        raise named(str(reply.get("ename") or "Aborted"), str(reply.get("evalue") or ""), inline.traceback)


def _names_to_come(session: KaleMagics, target: Target, body: str) -> tuple[set[str], set[str]]:
    """Return which names of a visitor's cell the common code, and which the step's own, is going to make."""
    workflow = session.submitted.get(target.run)
    if target.kind != "python" or workflow is None or target.step not in workflow.steps:
        return set(), set()
    from kale_magic.errors import StepSyntaxError
    from kale_magic.model.names import assigned_names, free_names  # loaded already where the run was submitted here

    try:
        used = set(free_names(body))
    except StepSyntaxError:  # the kernel says it better
        return set(), set()
    common = used & assigned_names(workflow.common_code())
    return common, (used & assigned_names(workflow.steps[target.step].code)) - common


def make_kernel(session: KaleMagics, request: Request) -> None:
    """Make the kernelspec of a step, and say how to open a notebook or console on it."""
    from kale_magic.kernels import specs

    args = request.args
    mode = _mode(args)
    visits = session.visits_on(args.host)
    target = one_job(visits.client, session.find(args.step, is_acting=True, visits=visits))
    refuse_without_kernel(target)
    spec = specs.install(visits.client, target, mode=mode)
    print(f"Notebook: choose the kernel {spec.display_name!r}; closing or restarting it leaves the step alone.")
    print(f"Terminal: jupyter console --kernel {spec.name}")


def open_notebook(session: KaleMagics, request: Request) -> None:
    """Make the notebook of a step, and show a link to it."""
    from kale_magic.kernels import notebook

    args = request.args
    visits = session.visits_on(args.host)
    target = one_job(visits.client, session.find(args.step, is_acting=True, visits=visits))
    refuse_without_kernel(target)
    opened = notebook.open_notebook(
        visits.client,
        target,
        folder=session.folder,
        file=None if args.o is None else Path(os.path.expanduser(args.o)),
        template=notebook.template_file(args.template),
        mode=_mode(args),
    )
    session.show(notebook.link(opened, Path.cwd()))


def _mode(args: SimpleNamespace) -> str:
    if args.write and args.main:
        raise UsageError("--write and --main exclude each other.", "What queues behind the step's code writes its names.")
    return "main" if args.main else "write" if args.write else "visit"


def pull(session: KaleMagics, request: Request) -> None:
    """Bring values of a step into the notebook's namespace."""
    from kale_magic.api import handover  # not for visits, which are to begin soon

    args = request.args
    names: tuple[str, ...] = args.x
    own: tuple[str, ...] = args.as_ or names
    if len(own) != len(names):
        raise UsageError(f"--as has {len(own)} names for {len(names)} values.", "Give one for each, in order.")
    if bad := [name for name in own if not name.isidentifier()]:
        raise UsageError(f"{bad[0]!r} is no name for a variable.")
    target = session.find(args.step)
    if target.live is None and not target.is_final:
        target = one_job(session.client, target)
    values = handover.pull(session.visits, target, names)
    session.shell.push(dict(zip(own, values, strict=True)))
    moment = f"{target.state}, as of now" if target.live is not None else target.state
    what = ", ".join(f"{name} ({_kind(value)})" for name, value in zip(own, values, strict=True))
    print(f"{what}: from {target} ({moment})")


def variables(session: KaleMagics, request: Request) -> None:
    """List a step's variables."""
    from kale_magic.api import handover
    from kale_magic.render.tables import table
    from kale_magic.render.text import format_bytes

    target = one_job(session.client, session.find(request.args.step))
    found = handover.variables(session.visits, target)
    title = f"{target} ({target.state})"
    if not found:
        print(f"{title}: no variables." if target.live else f"{title}: it has left no values.")
        return
    rows = [
        [item["name"], item.get("type", ""), _shape(item), item.get("dtype", ""), format_bytes(item.get("bytes", 0))]
        for item in found
    ]
    session.show(table(["name", "type", "shape", "dtype", "bytes"], rows, title=title))


def resources(session: KaleMagics, request: Request) -> None:
    """Show what a step uses."""
    from kale_magic.api import files
    from kale_magic.magics.usage import usage_bundle

    target = one_job(session.client, session.find(request.args.step))
    samples = files.samples(target.files)
    if not samples:
        print(f"{target} {target.doing}: there are no samples.")
        return
    session.show(usage_bundle(samples, f"{target} ({target.state})"))


def ask_here(prompt: str, is_password: bool) -> str | None:
    """Ask under the cell what a step's code asks; None at the end of input."""
    if is_password:
        import getpass

        return getpass.getpass(prompt)
    try:
        return input(prompt)
    except EOFError:
        return None


def _kind(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"{type(value).__name__} {'x'.join(map(str, shape)) or 'scalar'}"
    if isinstance(value, (list, tuple, dict, set, str, bytes)):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _shape(item: dict[str, Any]) -> str:
    return " x ".join(map(str, item["shape"])) if item.get("shape") else ""
