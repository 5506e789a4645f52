"""``%kale_submit --dry-run``: what would run and why, what is cached, with what, in which environment; nothing runs."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

from kale_magic.model.codec import workflow_to_dict
from kale_magic.model.environment import clean_environment
from kale_magic.model.literals import to_literal
from kale_magic.model.resources import format_memory, format_walltime
from kale_magic.model.step import StepKind

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import SimpleNamespace

    from kale_magic.magics.session import KaleMagics
    from kale_magic.model.dataflow import Plan
    from kale_magic.model.step import Step
    from kale_magic.model.workflow import Workflow


def dry_run(session: KaleMagics, workflow: Workflow, plan: Plan, chosen: Collection[str], args: SimpleNamespace) -> None:
    """Print it; ``args`` is the submit's line."""
    params: Mapping[str, object] = args.params
    environ, left_out = clean_environment(os.environ)
    fates = session.client.submit(
        workflow_to_dict(workflow),
        folder=os.getcwd(),
        only=args.only,
        from_=args.from_,
        to=args.to,
        params={key: to_literal(value, key) for key, value in params.items()},
        executor=args.executor or workflow.executor or session.executor,
        environ=environ,
        no_cache=args.no_cache,
        dry=True,
        **({"pool": args.pool} if args.pool else {}),
    )["steps"]
    cached = [name for name in plan.order if name in chosen and fates[name]["state"] == "cached"]
    order = [name for name in plan.order if name in chosen and name not in cached]
    jobs = sum((fates[name].get("points") or {}).get("runs", workflow.steps[name].point_count) for name in order)
    print(f"Workflow {workflow.name}: {len(order)} steps, {jobs} jobs, in this order; nothing was submitted.")
    print(f"Folder: {session.folder}")
    print(f"Environment: {len(environ)} variables; left out: {', '.join(left_out) or 'none'}")
    for name in cached:
        print(f"{name}: cached ({fates[name]['why']})")
    for name in order:
        step = workflow.steps[name]
        own = {key: params.get(key, value) for key, value in step.params.items()}
        executor = step.executor or (f"pool:{args.pool}" if args.pool else workflow.executor or session.executor)
        print(f"\n--- {name}: {', '.join(_facts(step, executor))}")
        print(f"runs because: {fates[name]['why']}")
        print(_needs(plan, name, chosen), end="")
        if own:
            print("parameters: " + ", ".join(f"{key}={to_literal(value)}" for key, value in own.items()))
        print(fates[name].get("script") or _script(session, step, own))


def _facts(step: Step, executor: str) -> list[str]:
    asked = step.resources
    amounts = [
        f"{count} {word}{'s' * (count != 1)}"
        for count, word in ((asked.nodes, "node"), (asked.ntasks, "task"), (asked.cpus, "CPU"), (asked.gpus, "GPU"))
        if count
    ]
    memory = [format_memory(asked.memory_bytes)] if asked.memory_bytes else []
    walltime = [f"at most {format_walltime(asked.walltime_s)}"] if asked.walltime_s else []
    points = [f"{step.point_count} points"] if step.is_sweep else []
    return [step.kernel or step.kind.value, f"on {executor}", *points, *amounts, *memory, *walltime]


def _needs(plan: Plan, name: str, chosen: Collection[str]) -> str:
    planned = plan.steps[name]
    lines = []
    if planned.parents:
        waits = [parent for parent in planned.parents if parent in chosen]
        lines.append(f"after: {', '.join(waits)}" if waits else "")
    for binding in planned.bindings:
        where = "" if binding.producer in chosen else " (of an earlier run)"
        lines.append(f"gets {binding.name}: {binding.producer}.{binding.output}{' as a list' * binding.gather}{where}")
    return "".join(f"{line}\n" for line in lines if line)


def _script(session: KaleMagics, step: Step, params: Mapping[str, object]) -> str:
    """Return what the job does, as a script a person can read."""
    asked = step.resources
    lines = ["#!/bin/bash", *asked.native, f"cd {shlex.quote(str(session.folder))}"]
    lines += [f"module load {module}" for module in asked.modules]
    lines += asked.setup
    lines += [f"export {key}={shlex.quote(value)}" for key, value in asked.env]
    if step.kind in {StepKind.SHELL, StepKind.SCRIPT}:
        lines += [f"export {key}={shlex.quote(str(value))}" for key, value in params.items()]
        return "\n".join([*(lines[2:] if step.kind is StepKind.SCRIPT else lines), step.code.rstrip("\n")])
    job = f".kale/runs/RUN/steps/{step.name}{'/N' * step.is_sweep}/job.json"
    return "\n".join([*lines, f"exec {shlex.quote(sys.executable)} -m kale_proxy run {job}"])
