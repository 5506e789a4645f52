"""Running a step of an earlier run again, with other parameters if wanted; what it needs is that run's.

The new run keeps its own code, parameters and surroundings, and says which run it is of; the step finds the checkpoint
of the earlier one. Called by the Python API, the magics and the command line.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kale_magic.api import mirror
from kale_magic.api.find import points_of
from kale_magic.api.workflow import place, submit
from kale_magic.errors import UsageError
from kale_magic.model.literals import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kale_magic.api.find import Asks, Target
    from kale_magic.api.run import Run
    from kale_magic.client import Client
    from kale_magic.model.step import Step
    from kale_magic.model.workflow import Workflow


def rerun(
    client: Client,
    target: Target,
    params: Mapping[str, object],
    *,
    is_downstream: bool = False,
    has_checkpoint: bool = True,
    environ: Mapping[str, str] | None = None,
    executor: str | None = None,
    pool: str | None = None,
) -> tuple[Run, Workflow]:
    """Submit a step, or one point of a sweep, again; return the new run and the workflow as it was submitted.

    Parameters
    ----------
    client : Client
        The manager.
    target : Target
        What to run again.
    params : mapping of str to object
        Other values for parameters of the step; of a point also for what is swept.
    is_downstream : bool
        Also run what depends on it.
    has_checkpoint : bool
        Whether its code may go on from where the earlier run saved a checkpoint.
    environ : mapping, optional
        Environment of the steps, cleaned; this process's if not given.
    executor, pool : str, optional
        Where it runs; where the earlier run did if neither is given.

    Raises
    ------
    UsageError
        A parameter is none of the step's, or a single point is to have what depends on it run.
    PoolError
        The pool, in which the earlier run may have been, is not open.
    WorkflowError
        It needs values that the earlier run does not have.
    """
    status = client.status(target.run)
    workflow = workflow_of(client, status)
    step = changed(client, target, workflow.steps[target.step], params)
    if target.point is not None and is_downstream:
        raise UsageError(f"{target.label} is one point: what depends on {target.step} needs all of them.", "Rerun the whole sweep.")
    workflow = workflow.with_step(step)
    where = place(executor, pool)
    run = submit(
        workflow,
        client=client,
        folder=status["workflow_folder"],
        only=[] if is_downstream else [step.name],
        from_=[step.name] if is_downstream else [],
        executor=where.pop("executor", None) or (None if where else status["executor"]),
        environ=environ,
        fresh=[step.name],
        of_run=target.run,
        home=status["workflow_folder"],
        checkpoints={step.name: str(target.folder)} if has_checkpoint else {},
        **where,
    )
    return run, workflow


def changed(client: Client, target: Target, step: Step, params: Mapping[str, object]) -> Step:
    """Return the step with other parameters; one point of a sweep becomes a step with the point's values as parameters."""
    known = dict(step.params)
    if target.point is not None:
        known |= points_of(client, target.run, target.step)[target.point]
        step = replace(step, each=(), is_zipped=False, reuse_kernel=False)
    for name in params:
        if name not in known:
            is_swept = any(axis.name == name for axis in step.each)
            hint = f"Name a point: {step.name}[{name}=...]." if is_swept else f"It has: {', '.join(known)}." if known else "It has none."
            raise UsageError(f"Step {step.name} has no parameter {name!r}.", hint)
    return replace(step, params={**known, **{name: plain(value, f"{name} of step {step.name}") for name, value in params.items()}})


def workflow_of(client: Asks, status: Mapping[str, Any]) -> Workflow:
    """Return the workflow of a run from its folder, which may be on a login host; raises UsageError if it is gone."""
    from kale_magic.formats import native

    path = mirror.run_folder(client, str(status["folder"]), "workflow.yaml") / "workflow.yaml"
    try:
        return native.load(path.read_text(encoding="utf-8"), source=str(path))
    except OSError as exc:
        raise UsageError(f"{path} can't be read: {exc.strerror or exc}.", "Was the run's folder removed?") from exc
