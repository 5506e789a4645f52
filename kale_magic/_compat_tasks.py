"""The tasks of :mod:`kale_magic.compat`: what each one becomes as a step. Called by its Workflow only."""

from __future__ import annotations

import inspect
import os
import re
import textwrap
import time
from typing import TYPE_CHECKING, Any

from kale_magic.errors import UsageError
from kale_magic.model.literals import to_literal
from kale_magic.model.step import leaves_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from kale_magic.api.run import Run
    from kale_magic.compat import Workflow

_GLOB = frozenset("*?[")


class Task:
    """One step of a workflow. Alone it does nothing; its subclasses do.

    Parameters
    ----------
    name : str
        Unique in its workflow.
    input_files, output_files : list of str
        What must be there before, and what is there after. Those inside the workflow's folder are checked.
    log_path : str
        Kept for reading; what a step prints is in its run's folder.
    params : dict
        Put where ``{NAME}`` stands in the name, readme, command, script, tags and files.
    num_cores : int
        Cores the task takes.
    task_type : str
        Its kind, for people.
    readme : str
        Markdown or HTML about it.
    tags : list of str
        Words to find it by.
    notebook : str, optional
        A notebook that goes with it.
    """

    _substituted: tuple[str, ...] = ("name", "task_type", "log_path", "readme")
    _substituted_lists = ("input_files", "output_files", "tags")

    def __init__(
        self, name: str, input_files: Iterable[str] = (), output_files: Iterable[str] = (), log_path: str = "",
        params: Mapping[str, Any] | None = None, num_cores: int = 1, task_type: str = "", readme: str = "",
        tags: Iterable[str] = (), notebook: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.task_type = task_type or type(self).__name__
        self.readme = readme
        self.tags = list(tags)
        self.notebook = None if notebook is None else os.fspath(notebook)
        self.input_files = list(input_files)
        self.output_files = list(output_files)
        self.log_path = log_path
        self.num_cores = num_cores
        self.params = dict(params or {})
        self.index: dict[Workflow, int] = {}
        self.dependencies: dict[Workflow, list[Task]] = {}
        self.children: dict[Workflow, list[Task]] = {}
        self.run: Run | None = None
        self._substitute()

    def get_user_dict(self) -> dict[str, Any]:
        """Return what of the task is for people."""
        return {key: getattr(self, key) for key in ("name", "task_type", "tags", "input_files", "output_files", "num_cores")}

    @property
    def step_name(self) -> str:
        """The name of its step: the task's, with ``_`` for signs that no step's name has."""
        return step_name_of(self.name)

    def options(self, workflow: Workflow) -> dict[str, Any]:
        """Return the step's source and options, as :meth:`kale_magic.Workflow.step` takes them."""
        return {"source": "pass\n", **self._common_options(workflow)}

    def _common_options(self, workflow: Workflow) -> dict[str, Any]:
        made = [path for path in self.output_files if _is_inside(path)]
        needed = [path for path in self.input_files if _is_inside(path)]
        return {
            "after": [task.step_name for task in self.dependencies[workflow]],
            "files_in": list(dict.fromkeys(needed)),
            "files_out": list(dict.fromkeys(made)),
            "cpus": self.num_cores,
            "tags": list(dict.fromkeys(self.tags)),
        }

    def _substitute(self) -> None:
        try:
            for field in self._substituted:
                setattr(self, field, getattr(self, field).format(**self.params))
            for field in self._substituted_lists:
                setattr(self, field, [text.format(**self.params) for text in getattr(self, field)])
        except (KeyError, IndexError, ValueError) as exc:
            raise UsageError(
                f"Task {self.name}: {field} has braces that params don't fill: {exc}.",
                "Give the name by params, or write {{ and }} for braces that stay.",
            ) from exc

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


class CommandLineTask(Task):
    """A command, run by bash.

    ``node_property`` is a constraint of the batch queue; ``nodes_cores`` and ``poll_interval`` are taken and not needed.
    """

    _substituted = (*Task._substituted, "command")

    def __init__(
        self, name: str, command: str, nodes_cores: int = 1, node_property: str | None = None, poll_interval: float = 60, **options: Any
    ) -> None:
        self.command = command
        self.node_property = node_property
        self.nodes_cores = nodes_cores
        self.poll_interval = poll_interval
        super().__init__(name, **options)

    def options(self, workflow: Workflow) -> dict[str, Any]:
        """Return a shell step."""
        return {"source": self.command, "shell": True, "constraint": self.node_property, **self._common_options(workflow)}


class BatchTask(Task):
    """A batch script, run as it stands; ``batch_script`` is its file, in which ``$NAME`` of the environment may stand."""

    _substituted = (*Task._substituted, "batch_script")

    def __init__(
        self, name: str, batch_script: str, node_property: str | None = None, poll_interval: float = 60, **options: Any
    ) -> None:
        self.batch_script = batch_script
        self.node_property = node_property
        self.poll_interval = poll_interval
        super().__init__(name, **options)

    def options(self, workflow: Workflow) -> dict[str, Any]:
        """Return a step that is the script; one without ``#SBATCH`` lines is run by bash."""
        path = workflow.folder / os.path.expanduser(os.path.expandvars(self.batch_script))
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise UsageError(f"Task {self.name}: its batch script {path} can't be read: {exc}.") from exc
        is_batch = re.search(r"^#(?:SBATCH|PBS)\s", text, re.MULTILINE) is not None
        kind = {} if is_batch else {"shell": True}
        return {"source": text, "constraint": self.node_property, **kind, **self._common_options(workflow)}


class NotebookTask(Task):
    """A notebook as a step. ``interactive`` (the default): a gate, which waits until :meth:`continue_workflow` is called.

    With ``interactive=False`` the step is the ``notebook`` itself, run from its first cell to its last in the kernel that it names.
    """

    def __init__(self, name: str, interactive: bool = True, **options: Any) -> None:
        self.interactive = interactive
        super().__init__(name, **options)

    def options(self, workflow: Workflow) -> dict[str, Any]:
        """Return a gate, or a step that is the notebook."""
        common = self._common_options(workflow)
        if self.interactive:
            where = f" The notebook to work in is {self.notebook}." if self.notebook else ""
            return {"source": "pass\n", "gate": True, "description": f"Waits for a person.{where}", **common}
        if self.notebook is None:
            return {"source": "pass\n", **common}
        path = workflow.folder / self.notebook
        if not path.is_file():
            raise UsageError(f"Task {self.name}: its notebook {path} can't be read: it is no file.")
        return {"source": "", "notebook": os.path.relpath(path, workflow.folder), **common}

    def continue_workflow(self, **values: Any) -> None:
        """Let the workflow go on from here; ``values`` are what was decided, variables of the step.

        Raises
        ------
        UsageError
            Its workflow was not run, or the step waits for nobody.
        """
        if self.run is None:
            raise UsageError(f"Task {self.name} is in no workflow that was run.", "Run its workflow: pool.parsl_run(workflow).")
        self.run[self.step_name].proceed(**values)

    _continue_workflow = continue_workflow


class PythonFunctionTask(Task):
    """A function with its arguments, which are literals or other tasks (for what their functions return)."""

    def __init__(
        self, name: str, func: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        self.func = func
        self.args = list(args)
        self.kwargs = dict(kwargs or {})
        self.future = Future(self)
        super().__init__(name, **options)

    @property
    def result_name(self) -> str:
        """The name under which its step hands on what the function returns."""
        return f"{re.sub(r'[^A-Za-z0-9_]', '_', self.step_name)}_result"

    def options(self, workflow: Workflow) -> dict[str, Any]:
        """Return a step that defines the function and calls it."""
        try:
            source = textwrap.dedent(inspect.getsource(self.func))
        except (OSError, TypeError) as exc:
            raise UsageError(f"Task {self.name}: the source of {self.func!r} can't be found.") from exc
        name = self.func.__name__
        if name == "<lambda>":
            raise UsageError(f"Task {self.name}: a lambda has no name to call it by.", "Write it as a def.")
        givers: list[PythonFunctionTask] = []
        words = [self._word(value, givers) for value in self.args]
        words += [f"{key}={self._word(value, givers)}" for key, value in self.kwargs.items()]
        common = self._common_options(workflow)
        common["after"] = list(dict.fromkeys([*common["after"], *(task.step_name for task in givers)]))
        return {
            "source": f"{source}\n{self.result_name} = {name}({', '.join(words)})\n",
            "inputs": list(dict.fromkeys(f"{task.step_name}.{task.result_name}" for task in givers)),
            "outputs": [self.result_name],
            **common,
        }

    def _word(self, value: Any, givers: list[PythonFunctionTask]) -> str:
        if isinstance(value, PythonFunctionTask):
            givers.append(value)
            return value.result_name
        return to_literal(value, f"an argument of task {self.name}")


class Future:
    """What a function's task will return, as ``concurrent.futures`` tells it."""

    def __init__(self, task: PythonFunctionTask) -> None:
        self._task = task

    def done(self) -> bool:
        """Whether the step has ended."""
        run = self._task.run
        return run is not None and run[self._task.step_name].state in {"completed", "cached", "failed", "cancelled"}

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the step and return the value; TimeoutError if it has not ended by then."""
        if self._task.run is None:
            raise UsageError(f"Task {self._task.name} has not been run.", "Run its workflow: pool.fw_run(workflow).")
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.done():
            if deadline is not None and time.monotonic() > deadline:
                message = f"task {self._task.name} has not ended within {timeout:g} s"
                raise TimeoutError(message)
            time.sleep(0.05)
        return self._task.run[self._task.step_name].pull(self._task.result_name)


def step_name_of(text: str) -> str:
    """Return a step's name like a task's."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:64]
    return name if name[:1].isalpha() else f"t_{name}"[:64]


def _is_inside(path: str) -> bool:
    return bool(path) and not leaves_folder(path) and not _GLOB & set(path) and "$" not in path
