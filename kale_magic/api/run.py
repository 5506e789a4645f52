"""Views of a run and of its steps: what they do now, what they left, and how to end them.

Views hold names, never a state of their own: each call asks the manager or reads the run's folder.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.api import files, handover
from kale_magic.api.find import Scope, Target, find_step, one_job, where_in
from kale_magic.api.visits import Visits
from kale_magic.api.waiting import WaitsForRun, WaitsForStep
from kale_magic.errors import UsageError
from kale_magic.model.states import RunState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from kale_magic.api.push import Pushed
    from kale_magic.api.visits import Execution
    from kale_magic.client import Client

_MOST_ROWS = 60  # of a table that is kept in a notebook
_MOST_TRACEBACKS = 3
_URGENT = frozenset({"failed", "lost", "running", "paused", "gated"})


class Run(WaitsForRun):
    """One execution of a workflow. ``run["fit"]``, ``run["fit[2]"]``, ``run["fit[metal=Al]"]`` are its steps.

    Parameters
    ----------
    name : str
        The run's id.
    client : Client
        The manager.
    visits : Visits, optional
        Shared with others who visit steps from this process.
    """

    def __init__(self, name: str, client: Client, visits: Visits | None = None) -> None:
        self.name = name
        self._client = client
        self._visits = visits or Visits(client)

    def __repr__(self) -> str:
        from kale_magic.render.text import run_line

        return run_line(self.status())

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return bundle_of(self.status(), now=datetime.now(UTC))

    def __getitem__(self, step: str) -> Step:
        """Return the view of a step, or of one point of a sweep; raises UnknownStepError."""
        text = step if "/" in step else f"{self.name}/{step}"
        return Step(find_step(self._client, text, Scope()), self._client, self._visits)

    def __iter__(self) -> Iterator[str]:
        return iter(self.status()["steps"])

    def __contains__(self, step: object) -> bool:
        return step in self.status()["steps"]

    def __len__(self) -> int:
        return len(self.status()["steps"])

    @property
    def state(self) -> str:
        """``running``, ``completed``, ``failed`` or ``cancelled``."""
        return str(self.status()["state"])

    @property
    def folder(self) -> Path:
        """Where the run keeps its files."""
        return Path(self.status()["folder"])

    def status(self) -> dict[str, Any]:
        """Return everything the manager knows of the run, in the form of ``jupyter kale status --json``."""
        return self._client.status(self.name)

    def states(self) -> dict[str, str]:
        """Return the state of each step."""
        return {name: str(step["state"]) for name, step in self.status()["steps"].items()}

    def wait(self, timeout: float | None = None) -> str:
        """Wait until the run has ended and return its state.

        Parameters
        ----------
        timeout : float or None
            Longest wait in seconds; None waits for as long as it takes.

        Raises
        ------
        TimeoutError
            It has not ended by then; it goes on.
        """
        return str(self._client.wait(self.name, timeout=timeout)["state"])

    def cancel(self) -> list[str]:
        """Cancel whatever of the run is not over; returns the names of those steps."""
        return self._client.cancel(self.name)

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return RunState(self.state).is_final


class Step(WaitsForStep):
    """A step of a run, or one point of a sweep, as it is now."""

    def __init__(self, target: Target, client: Client, visits: Visits) -> None:
        self.run = target.run
        self.name = target.step
        self.point = target.point
        self.folder = target.folder
        self._client = client
        self._visits = visits

    def __repr__(self) -> str:
        target = self.target()
        return f"{target} {target.doing}"

    def target(self) -> Target:
        """Return where the step is and what it does, asked anew."""
        return where_in(self._client, self.run, self.name, self.point)

    def status(self) -> dict[str, Any]:
        """Return what the manager knows of the step."""
        step: dict[str, Any] = self._client.status(self.run)["steps"][self.name]
        if self.point is not None:
            step = step["points"][str(self.point)]
        return step

    @property
    def state(self) -> str:
        """The step's state, one word."""
        return self.target().state

    @property
    def reason(self) -> str:
        """Why it is in that state, a sentence; may be empty."""
        return self.target().reason

    @property
    def outputs(self) -> list[str]:
        """Names of the values it has left."""
        return list(files.saved(one_job(self._client, self.target()).files))

    def logs(self, *, is_stderr: bool = False, tail: int | None = None) -> str:
        """Return what the step printed, so far or in all.

        Parameters
        ----------
        is_stderr : bool
            Whether to return stderr instead of stdout.
        tail : int or None
            Only so many lines from the end.
        """
        target = one_job(self._client, self.target())
        return files.log(target.files, "stderr.log" if is_stderr else "stdout.log", tail)

    def script(self) -> str:
        """Return the job script."""
        return files.log(one_job(self._client, self.target()).files, "job.sh", None)

    def resources(self) -> list[dict[str, Any]]:
        """Return the samples of what the step used, oldest first."""
        return files.samples(one_job(self._client, self.target()).files)

    def metrics(self) -> list[dict[str, Any]]:
        """Return what the step has recorded by ``metric``, oldest first: ``at``, ``step`` if given, and its values."""
        return files.metrics(one_job(self._client, self.target()).files)

    def progress(self) -> dict[str, Any] | None:
        """Return what the step said last by ``progress(i, n)``: ``progress`` and ``of``; None if it said nothing."""
        return files.progress(one_job(self._client, self.target()).files)

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict for each point (of any step, one): parameters, state, seconds, last metrics, outputs that are scalars."""
        from kale_magic.api.tabulate import rows

        return rows(self._client, self.target())

    def table(self) -> Any:
        """Return :meth:`rows` as a pandas DataFrame; raises UsageError if pandas is not installed."""
        from kale_magic.api.tabulate import frame

        return frame(self._client, self.target())

    def push(self, **values: object) -> Pushed:
        """Give the step values: a running one as its variables and live parameters, a completed one as edited outputs.

        Raises
        ------
        UsageError
            A value can't be handed over, or the step is in no state to take it.
        """
        from kale_magic.api.push import push

        return push(self._visits, one_job(self._client, self.target()), values)

    def push_files(self, files: Mapping[str, str | Path]) -> Pushed:
        """Put files in the place of those that the completed step made: name -> the file to put there; the old ones are kept.

        Raises
        ------
        UsageError
            It made no such file, or one can't be read or written.
        """
        from kale_magic.api.push import push

        return push(self._visits, one_job(self._client, self.target()), {}, files)

    def pull(self, *names: str) -> Any:
        """Return values of the step: of a running one from its kernel, of a finished one from its outputs.

        One name gives the value, several give a tuple. A finished sweep gives a list in point order.

        Raises
        ------
        UsageError
            The step has no such value, or nothing to pull from yet.
        """
        if not names:
            raise UsageError(f"{self.name}: no name to pull.", "Give one or more, for instance pull('x').")
        values = handover.pull(self._visits, self.target(), names)
        return values[0] if len(names) == 1 else tuple(values)

    def variables(self) -> list[dict[str, Any]]:
        """Return name, type, shape and bytes of each variable of the running step, or of each output it left."""
        return handover.variables(self._visits, one_job(self._client, self.target()))

    def execute(self, code: str, *, timeout: float = 600.0) -> Execution:
        """Run code in the step's own kernel while the step computes, without disturbing it.

        Parameters
        ----------
        code : str
            A cell of the kernel's language.
        timeout : float
            Longest wait for the step to start, and for the code to end, in seconds each.

        Raises
        ------
        StepFailed
            The code raised.
        UsageError
            The step is over, or has no kernel.
        TimeoutError
            It did not start or end in time.
        """
        target = self._visits.wait_for_kernel(one_job(self._client, self.target()), timeout)
        return self._visits.run(target, code, timeout=timeout)

    def connection_file(self, *, mode: str = "visit", timeout: float = 600.0) -> Path:
        """Return an ordinary Jupyter connection file, with which any client visits the running step.

        A relay that belongs to this process serves it until the process ends, or a client sends shutdown. The
        step is not disturbed by either.

        Parameters
        ----------
        mode : str
            ``visit``; ``write``: names that are assigned become the step's; ``main``: queue behind its code.
        timeout : float
            Longest wait for the step to start, in seconds.

        Raises
        ------
        UsageError
            The step is over, or has no kernel.
        TimeoutError
            It did not start in time.
        """
        from kale_magic.api.relays import connection_file

        if mode not in {"visit", "write", "main"}:
            raise UsageError(f"There is no mode {mode!r}.", "There are: visit, write, main.")
        target = self._visits.wait_for_kernel(one_job(self._client, self.target()), timeout)
        return connection_file(str(target), mode, self._client.host)

    def pause(self, *, lease_s: float | None = None, freeze: bool = False) -> str:
        """Hold the step's code still between two lines, its kernel open to visitors; say where, in the end of a sentence.

        Parameters
        ----------
        lease_s : float, optional
            It goes on by itself after so many seconds; seven days if none are given.
        freeze : bool
            Stop all its processes instead (SIGSTOP); then no visitor is answered.

        Raises
        ------
        UsageError
            It does not run, or can't be held this way.
        """
        from kale_magic.api.pause import LONGEST_S, pause

        target = one_job(self._client, self.target())
        return pause(self._visits, target, lease_s=LONGEST_S if lease_s is None else lease_s, is_freezing=freeze)

    def proceed(self, *, answer: str | None = None, **values: object) -> str:
        """Let the step go on that waits for a person, with variables at a gate, or the answer to its ``input()``.

        Raises
        ------
        UsageError
            It waits for nobody, or for something else.
        """
        from kale_magic.api.gate import go_on

        return go_on(self._visits, one_job(self._client, self.target()), values, answer=answer)

    def resume(self) -> str:
        """Let a paused step go on, or end the look at one that was stopped or has failed; raises UsageError if it is neither."""
        from kale_magic.api.pause import resume

        return resume(self._visits, one_job(self._client, self.target()))

    def stop(self) -> None:
        """Interrupt the step's code; its kernel stays for a look."""
        target = one_job(self._client, self.target())
        self._client.stop(target.run, target.step, target.point)

    def rerun(
        self, params: Mapping[str, object] | None = None, *, downstream: bool = False, checkpoint: bool = True,
        executor: str | None = None, pool: str | None = None,
    ) -> Run:  # fmt: skip
        """Run the step again, with other parameters if given, as a new run that uses what this one has computed.

        Parameters
        ----------
        params : mapping, optional
            Other values for its parameters; of one point also for what is swept.
        downstream : bool
            Also run what depends on it.
        checkpoint : bool
            Whether ``checkpoint.load()`` in it finds what it saved in this run.
        executor, pool : str, optional
            Where it runs; where it ran in this run if neither is given.

        Raises
        ------
        UsageError
            A parameter is none of the step's.
        PoolError
            The pool is not open.
        """
        from kale_magic.api.rerun import rerun

        run, _ = rerun(
            self._client, self.target(), params or {}, is_downstream=downstream, has_checkpoint=checkpoint, executor=executor, pool=pool,
        )  # fmt: skip
        return run

    def cancel(self) -> list[str]:
        """Cancel the step, or all points of a sweep that are not over."""
        return self._client.cancel(self.run, self.name, self.point)


def bundle_of(
    status: dict[str, Any], edges: Iterable[tuple[str, str]] = (), *, now: datetime | None = None, note: str = ""
) -> dict[str, str]:
    """Return a run as a mime bundle: one line per step and the tracebacks as text, picture and table as HTML.

    Parameters
    ----------
    status : dict
        The manager's answer.
    edges : iterable of (producer, consumer)
        The picture's arrows, where the status does not have them.
    now : datetime, optional
        For the elapsed time of what still runs.
    note : str
        A sentence to go with it.
    """
    from kale_magic.render.html import run_html
    from kale_magic.render.text import run_line, status_table
    from kale_magic.render.view import tracebacks

    shown, left_out = _short(status)
    parts = [status_table(shown, now=now).replace(run_line(shown, now=now), run_line(status, now=now), 1) + left_out]
    parts += [f"{label}:\n{text}" for label, text in tracebacks(status)[:_MOST_TRACEBACKS]]
    if note:
        parts.append(note)
    return {"text/plain": "\n\n".join(parts), "text/html": run_html(status, edges, now=now, note=note)}


def _short(status: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return a status with the steps that a table shows, those that need a person first, and a line on the others."""
    steps: dict[str, dict[str, Any]] = status["steps"]
    if len(steps) <= _MOST_ROWS:
        return status, ""
    urgent = [name for name, step in steps.items() if step["state"] in _URGENT]
    chosen = set(list(dict.fromkeys([*urgent, *steps]))[:_MOST_ROWS])
    kept = {name: step for name, step in steps.items() if name in chosen}
    return {**status, "steps": kept}, f"\n... and {len(steps) - len(kept)} more steps"
