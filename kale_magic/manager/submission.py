"""From a submit request to a run that is ready to be stored: checked, selected, with a folder of its own.

Everything that can be wrong with a submit is found here, before anything is stored. Runs in a thread, because
1,000 steps take a few tenths of a second in which the manager must go on answering.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.errors import SubmitError, UsageError, WorkflowError
from kale_magic.executors import registry
from kale_magic.manager.cache import Cache, Wanted
from kale_magic.manager.context import StepBody
from kale_magic.manager.runfolder import fill_run_folder, link_points, make_run_folder
from kale_magic.manager.surroundings import named_files, surroundings
from kale_magic.model.codec import workflow_from_dict, workflow_to_dict
from kale_magic.model.dataflow import resolve, select, wanted_by
from kale_magic.model.environment import clean_environment
from kale_magic.model.events import iso
from kale_magic.model.literals import from_literal
from kale_magic.model.run import Demand, RunRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kale_magic.manager.cache import Decision, Earlier
    from kale_magic.model.dataflow import Plan
    from kale_magic.model.step import Step
    from kale_magic.model.workflow import Workflow


class Submission:
    """A submit request, in the order in which the service takes it through its checks.

    Parameters
    ----------
    fields : dict
        Of the request, see :mod:`kale_magic.protocol`; what it lacks or has too much of is refused by name.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.token = _text(fields, "token") or secrets.token_hex(16)
        self.folder = Path(_text(fields, "folder") or "")
        self.name = _text(fields, "name")
        self.executor = _text(fields, "executor")
        if (pool := _text(fields, "pool")) is not None:
            self.executor = f"pool:{pool}"
        self.python = _text(fields, "python") or sys.executable
        self.params = {str(key): str(value) for key, value in dict(fields.get("params") or {}).items()}
        self.is_dry = bool(fields.get("dry"))
        self.is_cached = not fields.get("no_cache")
        self.fresh = frozenset(map(str, fields.get("fresh") or ()))  # steps that run whatever was before
        self.of_run = _text(fields, "of_run")  # whose outputs are used, where it has them
        self.home = _text(fields, "home")  # the workflow's folder, where that of an earlier run is to be used
        self.checkpoints = {str(key): str(value) for key, value in dict(fields.get("checkpoints") or {}).items()}
        self.packages = {str(key): str(value) for key, value in dict(fields.get("packages") or {}).items()}
        self.decisions: dict[str, Decision] = {}
        self.surroundings: dict[str, Any] = {}
        self.files: dict[str, dict[str, str]] = {}
        self.changed: dict[str, str] = {}  # steps that are not chosen, but used as they were -> in what they have changed since
        self.selection = [tuple(map(str, fields.get(key) or ())) for key in ("only", "from", "to")]
        environ = fields.get("environ")  # None: the client is on another host, whose variables mean nothing here
        given = {str(key): str(value) for key, value in dict(os.environ if environ is None else environ).items()}
        self.environ, self.stripped = clean_environment(given)
        self._data = fields.get("workflow")
        self.workflow: Workflow
        self.plan: Plan
        if not self.folder.is_absolute():
            raise UsageError(f"The workflow's folder {str(self.folder)!r} is no absolute path.")
        if not os.path.isabs(self.python):
            raise UsageError(f"The interpreter {self.python!r} is no absolute path.")

    def resolve(self) -> None:
        """Read and check the workflow."""
        workflow = workflow_from_dict(self._data)
        if workflow.directory:
            self.folder = Path(os.path.normpath(self.folder / os.path.expanduser(workflow.directory)))
        if self.home is not None:
            self.folder = Path(self.home)
        if not workflow.steps:
            raise WorkflowError(f"The workflow {workflow.name} has no steps.", "Declare one with %%kale_step.")
        self.workflow = _with_params(workflow, self.params)
        self.plan = resolve(self.workflow, wanted=wanted_by(*self.selection))
        self.surroundings = surroundings(self.python, self.environ, self.packages)
        common = self.workflow.common_code()
        for name in self.plan.order:
            step = self.workflow.steps[name]
            if step.notebook is not None and not (self.folder / step.notebook).is_file():
                raise SubmitError(f"Step {name}: there is no notebook {self.folder / step.notebook}.")
            self.files[name] = named_files(step, common, self.folder)

    def decide(self, chosen: list[str], earlier: Mapping[str, list[Earlier]], made: Mapping[str, str]) -> None:
        """Find out which of the chosen steps an earlier run has computed the same."""
        common = self.workflow.common_code()
        wanted = [
            Wanted(
                step=self.workflow.steps[name],
                planned=self.plan.steps[name],
                common=common,
                files=self.files[name],
                is_fresh=not self.is_cached or name in self.fresh,
            )
            for name in chosen
        ]
        self.decisions = Cache(self.folder, self.surroundings, earlier, made).decide(wanted)
        for name in chosen:
            used = {binding.producer for binding in self.plan.steps[name].bindings} & self.changed.keys()
            if notes := [f"`{producer}` is used as it was, though its {self.changed[producer]}" for producer in sorted(used)]:
                self.decisions[name] = replace(self.decisions[name], why="; ".join([self.decisions[name].why, *notes]))

    def needed(self) -> set[str]:
        """Return the steps that are not chosen but make values which chosen ones use: earlier runs may have them."""
        if not any(self.selection):
            return set()
        chosen = select(self.plan, *self.selection, made=self.plan.steps.keys())
        return {binding.producer for name in chosen for binding in self.plan.steps[name].bindings} - chosen

    def chosen(self, made: Mapping[str, str]) -> list[str]:
        """Return the steps to run, in order; ``made`` maps steps to the folders of their outputs in an earlier run."""
        found = select(self.plan, *self.selection, made=made.keys())
        return [name for name in self.plan.order if name in found]

    def executor_of(self, step: Step) -> str:
        """Return the executor of a step: its own, the submit's, the workflow's, the default."""
        name = step.executor or self.executor or self.workflow.executor or registry.DEFAULT
        registry.check_name(name)
        return name

    def bodies(self, chosen: list[str], made: Mapping[str, str], demands: Mapping[str, Demand]) -> list[StepBody]:
        """Return the steps of the run: those to run, and before them those whose earlier outputs they use."""
        cached = {name: found.source for name, found in self.decisions.items() if found.is_cached}
        running = set(chosen) - cached.keys()
        present = set(chosen) | {binding.producer for name in chosen for binding in self.plan.steps[name].bindings}
        bodies = []
        for name in self.plan.order:
            if name not in present:
                continue
            step, planned = self.workflow.steps[name], self.plan.steps[name]
            is_run = name in running
            bodies.append(
                StepBody(
                    name,
                    tuple(parent for parent in planned.parents if parent in present) if is_run else (),
                    tuple((b.name, b.producer, b.output, b.gather) for b in planned.bindings) if name in chosen else (),
                    planned.point_count if step.is_sweep else None,
                    self.executor_of(step),
                    demands.get(name, Demand()),
                    None if is_run else cached[name] if name in cached else made[name],
                    name in cached,
                    tuple(sorted(self.files[name].items())) if name in chosen else (),
                    "" if name in chosen else self.changed.get(name, ""),
                    tuple(sorted(self.decisions[name].points.items())) if name in self.decisions else (),
                )
            )
        return bodies

    def record(self, bodies: list[StepBody], now: float) -> RunRecord:
        """Make the run's folder and return its record, complete but for number and environment.

        Raises
        ------
        SubmitError
            The folder can't be written.
        """
        if not os.access(self.python, os.X_OK):
            raise SubmitError(f"The interpreter of the steps, {self.python}, can't be run.")
        from kale_magic.formats.native import dump  # yaml is loaded by the first submit, not by an idle manager

        yaml = dump(self.workflow)
        run, folder = make_run_folder(self.folder, self.workflow.name, self.name, now)
        try:
            fill_run_folder(folder, yaml, self._lineage(bodies))
            for body in bodies:
                link_points(folder / "steps" / body.name, dict(body.points))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return self.draft(bodies, run, str(folder), now)

    def draft(self, bodies: list[StepBody], run: str = "RUN", folder: str = "", now: float = 0.0) -> RunRecord:
        """Return the record of a run that has, or would have, this id and folder; touches no file."""
        executors = {body.executor for body in bodies}
        return RunRecord(
            id=run,
            workflow=self.workflow.name,
            executor=executors.pop()
            if len(executors) == 1
            else self.executor or self.workflow.executor or registry.DEFAULT,
            folder=folder or f"{self.folder}/.kale/runs/{run}",
            workflow_folder=str(self.folder),
            python=self.python,
            environment="",
            seed=secrets.token_hex(16),
            token=self.token,
            submitted_at=iso(now),
            body={
                "workflow": workflow_to_dict(self.workflow),
                "steps": [body.to_json() for body in bodies],
                "surroundings": self.surroundings,
                "checkpoints": self.checkpoints,
            },
        )

    def _lineage(self, bodies: list[StepBody]) -> dict[str, Any]:
        """Return what ``environment.json`` keeps: names of variables, never values; and whose outputs the run uses."""
        return {
            "python": self.python,
            "kept": sorted(self.environ),
            "stripped": sorted(self.stripped),
            "submitted_on": socket.gethostname(),
            "modules": self.environ.get("LOADEDMODULES", "").split(":") if self.environ.get("LOADEDMODULES") else [],
            "packages": dict(sorted(self.packages.items())),
            "sources": {body.name: body.source for body in bodies if body.source is not None},
            **({"sources_of_points": places} if (places := sorted({os.path.dirname(folder) for body in bodies for _, folder in body.points})) else {}),
            **({"rerun_of": self.of_run} if self.of_run else {}),
        }


def _with_params(workflow: Workflow, params: Mapping[str, str]) -> Workflow:
    """Replace parameters in every step that declares them."""
    if not params:
        return workflow
    values = {}
    for name, text in params.items():
        if any(axis.name == name for step in workflow.steps.values() for axis in step.each):
            raise WorkflowError(
                f"--params {name}: `{name}` is swept by --each, so it has no one value.",
                "Change the --each of its step.",
            )
        if not any(name in step.params for step in workflow.steps.values()):
            known = sorted({key for step in workflow.steps.values() for key in step.params})
            raise WorkflowError(
                f"--params {name}: no step has a parameter `{name}`.", f"There is: {', '.join(known)}." if known else ""
            )
        try:
            values[name] = from_literal(text)
        except ValueError as exc:
            raise UsageError(f"--params {name}={text}: not a Python literal.") from exc
    steps = {
        name: replace(step, params={key: values.get(key, value) for key, value in step.params.items()})
        for name, step in workflow.steps.items()
    }
    return replace(workflow, steps=steps)


def _text(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"submit: {key} is text, not {type(value).__name__}.")
    return value or None
