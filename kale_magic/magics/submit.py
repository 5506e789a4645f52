"""``%kale_submit``, ``%%kale_submit``, ``%kale_rerun`` and ``%%kale_step --run``: from what is declared to a run that is shown live."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.api import workflow as api
from kale_magic.errors import UsageError
from kale_magic.magics.live import LiveView
from kale_magic.magics.waiting import wait_for_run
from kale_magic.model import dataflow
from kale_magic.model.environment import clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kale_magic.api.run import Run
    from kale_magic.magics.door import Request
    from kale_magic.magics.session import KaleMagics
    from kale_magic.model.workflow import Workflow

_SHOWN_NAMES = 4
_OF_THE_TERMINAL = frozenset({
    "_", "SHLVL", "PWD", "OLDPWD", "TERM", "COLORTERM", "COLUMNS", "LINES", "LS_COLORS", "PS1", "CLICOLOR",
    "CLICOLOR_FORCE", "FORCE_COLOR", "PAGER", "GIT_PAGER", "GIT_EDITOR",
})  # fmt: skip


def submit(session: KaleMagics, request: Request) -> object:
    """Submit the workflow; returns its run, which is also shown live."""
    args = request.args
    declared = session.declarations.workflow
    if not declared.steps:
        raise UsageError(f"Workflow {declared.name} has no steps.", "Declare one with %%kale_step NAME.")
    wanted = dataflow.wanted_by(args.only, args.from_, args.to)
    plan = dataflow.resolve(declared, notebook_names=session.names_here(), wanted=wanted)
    where = api.place(args.executor, args.pool)
    if args.dry_run:
        from kale_magic.magics.dryrun import dry_run

        api.check_params(declared, args.params)
        chosen = dataflow.select(plan, args.only, args.from_, args.to, made=frozenset(declared.steps))
        dry_run(session, declared, plan, chosen, args)
        return None
    run = _start(
        session,
        declared,
        plan,
        only=args.only,
        from_=args.from_,
        to=args.to,
        params=args.params,
        name=args.name,
        no_cache=args.no_cache,
        **where,
    )
    if args.wait:
        wait_for_run(session, run.name)
    return session.keep_quiet(run)


def submit_cell(session: KaleMagics, request: Request) -> object:
    """Declare the cell and submit it alone."""
    name = request.args.name
    where = api.place(request.args.executor, request.args.pool)
    print(session.declarations.apply("submit", request.line, request.body, first_line=session.lines_above + 2))
    declared = session.declarations.workflow
    plan = dataflow.resolve(declared, notebook_names=session.names_here(), wanted=[name])
    return session.keep_quiet(_start(session, declared, plan, only=[name], fresh=[name], **where))


def rerun(session: KaleMagics, request: Request) -> object:
    """Run a step of an earlier run again; returns the new run, which is also shown live."""
    from kale_magic.api import rerun as again
    from kale_magic.formats.notebook import step_cell

    args = request.args
    target = session.find(args.step)
    if args.edit:
        status = session.client.status(target.run)
        step = again.changed(session.client, target, again.workflow_of(session.client, status).steps[target.step], args.params)
        session.shell.set_next_input(step_cell(step))
        print(f"The cell of {target} is below: change it, run it, and submit: %kale_submit --from {step.name}")
        return None
    environ, left_out = clean_environment(os.environ)
    run, workflow = again.rerun(
        session.client,
        target,
        args.params,
        is_downstream=args.downstream,
        has_checkpoint=not args.from_start,
        environ=environ,
        executor=args.executor,
        pool=args.pool,
    )
    session.submitted[run.name] = workflow
    plan = dataflow.resolve(workflow, wanted=list(run.status()["steps"]))
    note = f"{target} again. {_note(session, left_out)}"
    session.show_live(LiveView(session, run.name, edges=edges_of(plan), note=note))
    if args.wait:
        wait_for_run(session, run.name)
    return session.keep_quiet(run)


def run_step(session: KaleMagics, name: str) -> object:
    """Run a declared step now with whatever it needs, show what it showed, and return its run."""
    from kale_magic.magics.replay import show_outputs

    declared = session.declarations.workflow
    plan = dataflow.resolve(declared, notebook_names=session.names_here(), wanted=[name])
    run = _start(session, declared, plan, only=[name, *_upstream(plan, name)], fresh=[name])
    try:
        wait_for_run(session, run.name)
    finally:
        show_outputs(session, run[name])
    return session.keep_quiet(run)


def _start(
    session: KaleMagics,
    declared: Workflow,
    plan: dataflow.Plan,
    *,
    only: Iterable[str] = (),
    from_: Iterable[str] = (),
    to: Iterable[str] = (),
    params: Mapping[str, object] | None = None,
    executor: str | None = None,
    name: str | None = None,
    **more: Any,
) -> Run:
    environ, left_out = clean_environment(os.environ)
    run = api.submit(
        declared,
        client=session.client,
        folder=Path.cwd(),
        name=name,
        only=only,
        from_=from_,
        to=to,
        params=params,
        executor=executor or declared.executor or session.executor,
        environ=environ,
        **more,
    )
    session.submitted[run.name] = declared
    session.show_live(LiveView(session, run.name, edges=edges_of(plan), note=_note(session, left_out)))
    return run


def edges_of(plan: dataflow.Plan) -> list[tuple[str, str]]:
    """Return the edges of a plan as pairs, producer first."""
    return [(parent, name) for name, step in plan.steps.items() for parent in step.parents]


def _note(session: KaleMagics, left_out: Iterable[str]) -> str:
    host = session.declarations.host
    return f"Steps run on {host}, with the Python and the environment of the manager there." if host else environment_note(left_out)


def environment_note(left_out: Iterable[str]) -> str:
    """Return the sentence that says in which environment steps run, and what of the notebook's they don't get."""
    names = [name for name in left_out if name not in _OF_THE_TERMINAL]
    shown = ", ".join(names[:_SHOWN_NAMES]) + (f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else "")
    return f"Steps run with {sys.executable} and this notebook's environment" + (f", without {shown}." if names else ".")


def _upstream(plan: dataflow.Plan, name: str) -> set[str]:
    found, stack = set[str](), [name]
    while stack:
        new = [parent for parent in plan.steps[stack.pop()].parents if parent not in found]
        found.update(new)
        stack += new
    return found
