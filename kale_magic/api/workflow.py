"""Declaring a workflow in Python: steps from text or functions, submitted and kept in files as the magics' are."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from kale_magic.api.run import Run
from kale_magic.api.steps import cell_of, make_step, names_of
from kale_magic.dsl.build import check_name
from kale_magic.errors import UsageError, WorkflowError
from kale_magic.model import dataflow
from kale_magic.model.literals import to_literal
from kale_magic.model.names import analyse
from kale_magic.model.step import Step, clean_code
from kale_magic.model.workflow import Workflow as WorkflowModel

if TYPE_CHECKING:
    from kale_magic.client import Client

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Names = Sequence[str] | str


class Workflow:
    """A workflow that is being declared; nothing runs until :meth:`submit`.

    Parameters
    ----------
    name : str
        Its name; runs are named after it.
    executor : str, optional
        Where jobs run unless a step says otherwise; ``local`` if none is given.
    description : str
        One line for people.
    folder : path, optional
        The steps' working directory, in which ``.kale/runs`` keeps the runs; the current one if none is given.
    """

    def __init__(
        self, name: str, *, executor: str | None = None, description: str = "", folder: str | Path | None = None, host: str = ""
    ) -> None:
        check_name(name, "workflow")
        self._host = host
        self._folder = Path(folder) if folder is not None else Path()
        self._model = WorkflowModel(name=name, executor=executor, description=description)

    @classmethod
    def from_model(cls, model: WorkflowModel, folder: str | Path | None = None) -> Workflow:
        """Return a builder that goes on from a workflow of :mod:`kale_magic.model`."""
        workflow = cls(model.name, folder=folder)
        workflow._model = model
        return workflow

    @classmethod
    def from_yaml(cls, file: str | Path) -> Workflow:
        """Read a workflow from a file: Kale's YAML, or another format that Kale imports.

        Raises
        ------
        FormatError
            It is no workflow; the message names line and column.
        UsageError
            There is no such file.
        """
        from kale_magic.formats.load import load

        if not Path(file).is_file():
            raise UsageError(f"{file} can't be read: it is no file.")
        return cls.from_model(load(file))

    @property
    def model(self) -> WorkflowModel:
        """What has been declared so far."""
        return self._model

    @property
    def name(self) -> str:
        """The workflow's name."""
        return self._model.name

    def __repr__(self) -> str:
        from kale_magic.render import text, view

        return text.graph_text(view.graph_of_plan(self._model, self.plan()))

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return picture(self._model)

    def common(self, source: str, name: str = "common") -> None:
        """Put ``source`` before every Python step; another block of the same name replaces it.

        Raises
        ------
        StepSyntaxError
            It is no Python.
        """
        code = clean_code(textwrap.dedent(source))
        analyse(code)
        self._model = replace(self._model, common={**self._model.common, name: code})

    @overload
    def step(self, name: str, source: str, **options: Any) -> Step: ...
    @overload
    def step(self, name: _Function) -> _Function: ...
    @overload
    def step(self, name: str | None = None, source: None = None, **options: Any) -> Callable[[_Function], _Function]: ...

    def step(self, name: Any = None, source: str | None = None, **options: Any) -> Any:
        """Declare a step from text; without ``source``, a decorator that declares one from a function, also a bare one.

        A function's arguments without default are values of other steps, those with one are parameters; if it
        returns, the result is the step's outputs, in order, else its body is the cell and its variables are.

        Parameters
        ----------
        name : str
            The step's name; a decorator takes the function's if none is given.
        source : str
            The cell.
        **options
            As on the line of ``%%kale_step``, with ``_`` for ``-``: ``after``, ``inputs``, ``outputs``, ``params``
            (a dict), ``each`` (a dict of lists, or of texts such as ``"range(3)"``), ``zip``, ``files_in``,
            ``files_out``, ``formats`` (a dict), ``kernel``, ``shell``, ``cpus``, ``memory`` (``"4GB"``), ``walltime`` (``"00:10:00"``),
            ``retries``, ``hold``, ``hold_on_failure`` and ``warn`` (``"30m"``), ``no_cache``, ``reuse_kernel``, ``gate``, ``gate_release``, ``notebook`` (a file, instead of ``source``), ``tags``, ``description`` and the other resources.

        Raises
        ------
        StepSyntaxError
            The cell is no Python; UsageError: an option is unknown or has a wrong value.
        """
        if source is not None or "notebook" in options:
            if name is None:
                raise UsageError("A step needs a name.")
            return self._declare(name, source or "", options)

        if callable(name):  # @wf.step
            self._declare(name.__name__, *cell_of(name, options))
            return name

        def decorate(function: _Function) -> _Function:
            self._declare(name or function.__name__, *cell_of(function, options))
            return function

        return decorate

    def markdown(self, text: str, step: str = "") -> None:
        """Keep Markdown for a step, or for the workflow; it goes to the dashboard, the files and the report."""
        self._model = replace(self._model, markdown={**self._model.markdown, step: clean_code(textwrap.dedent(text))})

    def plan(self) -> dataflow.Plan:
        """Return which step waits for which, and which value comes from where; raises WorkflowError if that fails."""
        return dataflow.resolve(self._model)

    def submit(
        self,
        *,
        name: str | None = None,
        only: _Names = (),
        from_: _Names = (),
        to: _Names = (),
        params: Mapping[str, object] | None = None,
        executor: str | None = None,
        pool: str | None = None,
        cache: bool = True,
        client: Client | None = None,
    ) -> Run:
        """Run the workflow and return its run at once.

        Parameters
        ----------
        name : str, optional
            Id of the run.
        only, from_, to : list of str
            These steps alone; from these downstream; what leads up to these.
        params : dict, optional
            Other values for parameters of the steps.
        executor : str, optional
            Where jobs run.
        pool : str, optional
            The open pool into which steps go that name no executor of their own.
        cache : bool
            Whether steps that an earlier run computed the same are ``cached`` instead of run.
        client : Client, optional
            The manager; reached, and started if none runs, if not given.

        Raises
        ------
        WorkflowError
            The steps don't fit together; nothing was submitted.
        ManagerUnavailable
            No manager could be reached or started.
        """
        self.plan()
        more = place(executor, pool)
        if client is None and self._host:
            from kale_magic.client import Client as RealClient

            client = RealClient.connect(host=self._host)
        return submit(
            self._model,
            client=client,
            folder=self._folder,
            name=name,
            only=names_of(only),
            from_=names_of(from_),
            to=names_of(to),
            params=params,
            no_cache=not cache,
            **more,
        )

    def to_yaml(self, file: str | Path, format: str = "kale") -> list[str]:  # noqa: A002 - the interface's word
        """Write the workflow to a file, or to a folder where the format takes several files.

        Parameters
        ----------
        file : path
            The file or folder; relative paths begin in the current folder.
        format : str
            ``kale``, ``cwl`` (one file if it ends in ``.cwl``, else a folder), ``snakemake``, ``fireworks`` (folders)
            or ``wfformat``.

        Returns
        -------
        list of str
            What the format can't hold, a sentence each.

        Raises
        ------
        UsageError
            There is no such format, or the file can't be written.
        WorkflowError
            The steps don't fit together; ``kale`` takes them all the same.
        """
        from kale_magic.formats.export import export

        return export(self._model, file, format, self._folder / (self._model.directory or "."))

    def _declare(self, name: str, source: str, options: dict[str, Any]) -> Step:
        step = make_step(name, source, options, self._common_names())
        same = [other for other in self._model.steps if other != name and other.casefold() == name.casefold()]
        if same:
            raise WorkflowError(f"Step {name} differs from step {same[0]} only in case.", "Rename one of them.")
        self._model = self._model.with_step(step)
        return step

    def _common_names(self) -> set[str] | None:
        blocks = [analyse(block) for block in self._model.common.values()]
        return None if any(names.is_open for names in blocks) else set[str]().union(*(names.assigned for names in blocks))


def submit(
    workflow: WorkflowModel,
    *,
    client: Client | None = None,
    folder: str | Path = ".",
    name: str | None = None,
    only: Iterable[str] = (),
    from_: Iterable[str] = (),
    to: Iterable[str] = (),
    params: Mapping[str, object] | None = None,
    executor: str | None = None,
    environ: Mapping[str, str] | None = None,
    **more: Any,
) -> Run:
    """Hand a resolved workflow to the manager and return its run; the magics and :class:`Workflow` share it.

    ``folder`` is where the workflow's own folder (``--dir``) begins; ``more`` as for the client.

    Raises
    ------
    UsageError
        A parameter is none of any step's.
    WorkflowError, SubmitError, ManagerUnavailable
        As :meth:`kale_magic.client.Client.submit`.
    """
    from kale_magic.client import Client as RealClient
    from kale_magic.model.codec import workflow_to_dict

    check_params(workflow, params or {})
    client = client or RealClient.connect()
    if client.host and "home" not in more:  # the folder of an earlier run is there
        from kale_magic.api.stage import stage

        stage(client, workflow, Path(folder))
    answer = client.submit(
        workflow_to_dict(workflow),
        folder=folder,
        name=name,
        only=only,
        from_=from_,
        to=to,
        params={key: to_literal(value, key) for key, value in (params or {}).items()},
        executor=executor or workflow.executor,
        environ=environ,
        **more,
    )
    return Run(str(answer["run"]), client)


def place(executor: str | None, pool: str | None) -> dict[str, Any]:
    """Return what a submit is told of where steps run that name no executor; raises UsageError for both at once."""
    if pool and executor:
        raise UsageError("A pool and an executor exclude each other.", f"The executor of pool {pool} was chosen when it was opened.")
    return {"pool": pool} if pool else {"executor": executor} if executor else {}


def check_params(workflow: WorkflowModel, params: Mapping[str, object]) -> None:
    """Refuse a parameter that no step has; raises UsageError that lists those there are."""
    known = dict.fromkeys(name for step in workflow.steps.values() for name in step.params)
    for name in params:
        if name not in known:
            there_are = f"There are: {', '.join(known)}." if known else "No step has --params."
            raise UsageError(f"No step has a parameter {name!r}.", there_are)


def picture(workflow: WorkflowModel) -> dict[str, str]:
    """Return a workflow as text and SVG; one that does not fit together is drawn by its ``--after`` and says why."""
    from kale_magic.render import svg, text, view

    problem = ""
    try:
        graph = view.graph_of_plan(workflow, dataflow.resolve(workflow))
    except WorkflowError as exc:
        problem = str(exc)
        steps = workflow.steps
        edges = [(parent, name) for name, step in steps.items() for parent in step.after if parent in steps]
        graph = replace(view.graph_of_plan(workflow, dataflow.Plan({}, ())), edges=tuple(edges))
    plain_text = text.graph_text(graph)
    drawing = svg.graph_svg(graph)
    if problem:
        from kale_magic.render.words import escape

        plain_text += f"\n{problem}"
        drawing = f"<div>{drawing}<div>{escape(problem)}</div></div>"
    return {"text/plain": plain_text, "text/html": drawing}
