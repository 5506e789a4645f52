"""The names of the Kale of 2017-18 on this engine: workflows written against them run, and export, as they stand.

``Workflow.add_task(task, dependencies)`` with ``CommandLineTask``, ``BatchTask``, ``NotebookTask`` and ``PythonFunctionTask``, and
``WorkerPool.fw_run(workflow)``. Each task becomes a step when the workflow is run or exported; README.rst maps old to new.
"""

from __future__ import annotations

import math
import os
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kale_magic._compat_tasks import (
    GATES,
    BatchTask,
    CommandLineTask,
    Future,
    NotebookTask,
    PythonFunctionTask,
    Task,
    step_name_of,
)
from kale_magic.api.workflow import Workflow as Builder
from kale_magic.errors import UsageError, WorkflowError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kale_magic.api.run import Run
    from kale_magic.client import Client

__all__ = ["BatchTask", "CommandLineTask", "NotebookTask", "PythonFunctionTask", "Task", "WorkerPool", "Workflow"]


class Workflow:
    """Tasks and what they wait for.

    Parameters
    ----------
    name : str
        Its name; signs that no workflow's name has become ``_`` in its runs.
    folder : path, optional
        Where its commands run; the current folder if none is given.
    """

    def __init__(self, name: str, folder: str | Path = ".") -> None:
        self.name = name
        self.folder = Path(folder).absolute()
        self.readme = ""
        self.index_dict: dict[int, Task] = {}
        self.tag_dict: dict[str, list[Task]] = {}

    def add_task(self, task: Task, dependencies: Iterable[Task] | None = None) -> None:
        """Add a task that waits for ``dependencies``, which were added before.

        Raises
        ------
        ValueError
            It, or another of its name, is there already; or a dependency is not.
        """
        tasks = list(self.index_dict.values())
        if task in tasks:
            raise ValueError(f"{task!r} is already in workflow {self.name}; a copy with another name can be added.")
        if any(other.step_name.lower() == task.step_name.lower() for other in tasks):
            raise ValueError(f"Workflow {self.name} has a task {task.name!r} already; names are unique.")
        before = list(dependencies or ())
        if missing := [other for other in before if other not in tasks]:
            raise ValueError(f"{missing[0]!r} is not in workflow {self.name}; add it before {task.name}.")
        task.index[self] = len(tasks)
        self.index_dict[len(tasks)] = task
        task.dependencies[self] = before
        task.children[self] = []
        for other in before:
            other.children[self].append(task)
        for tag in task.tags:
            self.tag_dict.setdefault(tag, []).append(task)

    def get_task_by_name(self, name: str) -> Task | None:
        """Return the task of a name, None if there is none."""
        return next((task for task in self.index_dict.values() if task.name == name), None)

    def get_future(self, index: int) -> Future:
        """Return what the function of the task at ``index`` will give."""
        task = self.index_dict[index]
        if not isinstance(task, PythonFunctionTask):
            raise UsageError(f"{task!r} is no PythonFunctionTask, so it gives no value.")
        return task.future

    def build(self, least_cpus: int = 1) -> Builder:
        """Return it as a workflow of today's API; ``least_cpus`` cores at least for each step.

        Raises
        ------
        UsageError, WorkflowError
            A script or notebook can't be read, or a function can't be a step.
        """
        builder = Builder(step_name_of(self.name), folder=self.folder)
        markdown = {"": self.readme} if self.readme.strip() else {}
        for task in self.index_dict.values():
            options = task.options(self)
            options["cpus"] = max(int(options["cpus"]), least_cpus)
            builder.step(task.step_name, options.pop("source"), **{key: value for key, value in options.items() if value})
            if task.readme.strip():
                markdown[task.step_name] = textwrap.dedent(task.readme).strip() + "\n"
        return Builder.from_model(replace(builder.model, markdown=markdown), self.folder)

    def submit(self, *, client: Client | None = None, least_cpus: int = 1) -> Run:
        """Run it and return the run at once; what :meth:`build` and :meth:`kale_magic.Workflow.submit` raise."""
        for task in self.index_dict.values():
            if isinstance(task, NotebookTask) and task.interactive:
                (self.folder / GATES / task.step_name).unlink(missing_ok=True)
        run = self.build(least_cpus).submit(client=client)
        for task in self.index_dict.values():
            task.run = run
        return run

    def draw_dag(self) -> Builder:
        """Return what a notebook shows as the graph."""
        return self.build()

    def _repr_mimebundle_(self, **options: object) -> dict[str, str]:
        return self.build()._repr_mimebundle_(**options)

    def export_cwl(self, cwl_file: str | os.PathLike[str]) -> list[str]:
        """Write it as CWL, one file or a folder; returns what CWL can't hold."""
        waiting = [task.name for task in self.index_dict.values() if isinstance(task, NotebookTask) and task.interactive]
        said = [f"CWL can't wait for a person (task {name}): it goes on" for name in waiting]
        return [*self.build().to_yaml(Path(cwl_file), format="cwl"), *said]


class WorkerPool:
    """Where workflows run: at most ``num_workers`` tasks at once on this machine.

    ``fwconfig``, ``location`` and ``wf_executor`` are taken as they were; today's engine runs in their place.
    """

    def __init__(
        self, name: str, num_workers: int, fwconfig: str | None = None, location: str = "localhost", wf_executor: str = "fireworks"
    ) -> None:
        if num_workers < 1:
            raise UsageError(f"Pool {name} needs at least one worker, not {num_workers}.")
        if location not in {"localhost", "local"}:
            raise UsageError(f"Pool {name} is on {location!r}, which WorkerPool can't reach.", "Use Workflow(...).build() with executor=.")
        self.name = name
        self.num_workers = num_workers
        self.fwconfig = fwconfig
        self.location = location
        self.wf_executor = wf_executor
        self.futures: list[Run] = []

    def fw_run(self, workflow: Workflow) -> Run:
        """Run a workflow and wait until it has ended; raises WorkflowError naming what failed."""
        run = self.parsl_run(workflow)
        if run.wait() != "completed":
            ended = [f"{name} {state}" for name, state in run.states().items() if state in {"failed", "cancelled"}]
            raise WorkflowError(f"Run {run.name} {run.state}: {', '.join(ended)}.", f"See jupyter kale logs {run.name}/STEP --stderr.")
        return run

    def parsl_run(self, workflow: Workflow) -> Run:
        """Run a workflow and return at once; ``workflow.get_future(n).result()`` waits for a value."""
        cores = len(os.sched_getaffinity(0))
        run = workflow.submit(least_cpus=math.ceil(cores / min(self.num_workers, cores)))
        self.futures.append(run)
        return run
