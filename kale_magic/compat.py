"""The names of the Kale of 2017-18 on this engine: workflows written against them run, and export, as they stand.

``Workflow.add_task(task, dependencies)`` with ``CommandLineTask``, ``BatchTask``, ``NotebookTask`` and ``PythonFunctionTask``, and
``WorkerPool.fw_run(workflow)``. Each task becomes a step when the workflow is run or exported; README.rst maps old to new.
"""

from __future__ import annotations

import contextlib
import os
import textwrap
import time
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic._compat_tasks import (
    BatchTask,
    CommandLineTask,
    Future,
    NotebookTask,
    PythonFunctionTask,
    Task,
    step_name_of,
)
from kale_magic.api.pools import open_pool
from kale_magic.api.workflow import Workflow as Builder
from kale_magic.errors import KaleError, UsageError, WorkflowError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kale_magic.api.run import Run
    from kale_magic.client import Client

_CLOSES_WITHIN_S = 10.0  # an idle pool; one that still runs steps is waited for no longer

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

    def submit(self, *, client: Client | None = None, pool: str | None = None, least_cpus: int = 1) -> Run:
        """Run it and return the run at once; what :meth:`build` and :meth:`kale_magic.Workflow.submit` raise."""
        run = self.build(least_cpus).submit(client=client, pool=pool)
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
        return self.build().to_yaml(Path(cwl_file), format="cwl")


class WorkerPool:
    """Where workflows run: a pool of ``num_workers`` that are kept open, and so many tasks at once.

    It is opened when the first workflow is run, and closed by :meth:`close`, or when nobody has it any more, once what was submitted
    has ended. A pool of its name that is open already is used, and left open. ``fwconfig`` and ``wf_executor`` are taken
    as they were; today's engine runs in their place.

    Parameters
    ----------
    name : str
        Its name; signs that no pool's name has become ``_``.
    num_workers : int
        How many tasks run at once. A worker has as many cores as the largest task of the first workflow.
    location : str
        This machine; a pool elsewhere is opened with ``executor``.
    executor : str
        ``local``, or ``slurm``: the workers are then one job.
    **asked
        What else the pool asks for: ``walltime``, ``queue``, ``memory`` and so on, as :meth:`kale_magic.connect().open_pool` takes it.
    """

    def __init__(
        self, name: str, num_workers: int, fwconfig: str | None = None, location: str = "localhost", wf_executor: str = "fireworks",
        *, executor: str = "local", **asked: Any,
    ) -> None:  # fmt: skip
        if num_workers < 1:
            raise UsageError(f"Pool {name} needs at least one worker, not {num_workers}.")
        if location not in {"localhost", "local"}:
            way_out = "executor='slurm' asks this machine's queue; Workflow(name, host=...) runs on another host."
            raise UsageError(f"Pool {name} is on {location!r}, which WorkerPool can't reach.", way_out)
        self.name = name
        self.num_workers = num_workers
        self.fwconfig = fwconfig
        self.location = location
        self.wf_executor = wf_executor
        self.executor = executor
        self.futures: list[Run] = []
        self._asked = asked
        self._cores = 1
        self._end: weakref.finalize[[Client, str], WorkerPool] | None = None

    def fw_run(self, workflow: Workflow) -> Run:
        """Run a workflow and wait until it has ended; raises WorkflowError naming what failed."""
        run = self.parsl_run(workflow)
        if run.wait() != "completed":
            ended = [f"{name} {state}" for name, state in run.states().items() if state in {"failed", "cancelled"}]
            raise WorkflowError(f"Run {run.name} {run.state}: {', '.join(ended)}.", f"See jupyter kale logs {run.name}/STEP --stderr.")
        return run

    def parsl_run(self, workflow: Workflow) -> Run:
        """Run a workflow and return at once; ``workflow.get_future(n).result()`` waits for a value."""
        from kale_magic.client import Client

        client = Client.connect()
        pool = self._open(client, max((task.num_cores for task in workflow.index_dict.values()), default=1))
        run = workflow.submit(client=client, pool=pool, least_cpus=self._cores)
        self.futures.append(run)
        return run

    def close(self) -> None:
        """Close the pool, once what was submitted to it has ended; the next workflow opens it again."""
        if self._end is not None:
            self._end()
            self._end = None

    def _open(self, client: Client, cores: int) -> str:
        """Open the pool if it is not; return its name."""
        from kale_magic import config
        from kale_magic.client import Client

        name = step_name_of(self.name)
        until = time.monotonic() + _CLOSES_WITHIN_S
        while (there := next((pool for pool in client.pools() if pool["name"] == name), None)) and there["state"] == "draining":
            if time.monotonic() > until:
                raise UsageError(f"Pool {name} is closing: what was submitted to it has not ended yet.", "Give this one another name.")
            time.sleep(0.1)
        if there is None or there["state"] in {"ended", "failed"}:
            self._cores = cores
            wanted = self.num_workers * cores
            # more workers than this machine has cores wait for each other
            most = max(cores, len(os.sched_getaffinity(0))) if self.executor == "local" else wanted
            open_pool(client, name, self.executor, cpus=min(wanted, most), **self._asked)
            # the program's end is no time to start a manager
            self._end = weakref.finalize(self, _close, Client(config.load(), start=False), name)
        return name


def _close(client: Client, name: str) -> None:
    """Close a pool that nobody has any more; at the program's end the manager may be gone."""
    with contextlib.suppress(KaleError):
        client.close_pool(name)
