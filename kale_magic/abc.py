"""The seams: what the manager asks of a clock, a store and an executor. They read as specifications.

Implementations: :mod:`kale_magic.manager.store`, :mod:`kale_magic.executors`; the tests have fakes. Each is
held to the same contract tests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from kale_magic.errors import ExecutorError
from kale_magic.model.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from kale_magic.model.events import Event
    from kale_magic.model.run import Demand, Job, Report, RunRecord
    from kale_magic.model.step import Step
    from kale_proxy.spec import JobSpec


class Clock(Protocol):
    """The time; a test has one that it moves itself."""

    def now(self) -> float:
        """Return seconds since the epoch, for what people read."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, for deadlines."""
        ...


@dataclass(slots=True)
class Batch:
    """Everything that one turn of the manager changed: written together or not at all.

    ``is_intent`` says that a deed follows which must not be done twice: the batch is then on the disk, not
    merely with the system, before :meth:`Store.write` returns.
    """

    new_runs: list[RunRecord] = field(default_factory=list)
    runs: list[RunRecord] = field(default_factory=list)
    jobs: list[tuple[RunRecord, Job]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    is_intent: bool = False


class Store(ABC):
    """The durable truth of one manager. Only one process may have it open; every method may be slow by one disk write.

    Every method raises :class:`kale_magic.errors.StoreError` when the disk is full or the file damaged; what was
    to be written is then not written at all.
    """

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Write a batch as one transaction; gives new runs their ``number``, which grows with each."""

    @abstractmethod
    def live_runs(self) -> list[RunRecord]:
        """Return the runs that have not ended, oldest first."""

    @abstractmethod
    def run(self, run: str | None) -> RunRecord | None:
        """Return a run by its id, None: the newest; None if there is none."""

    @abstractmethod
    def run_of_token(self, token: str) -> RunRecord | None:
        """Return the run that was submitted with this token."""

    @abstractmethod
    def earlier_runs(self, workflow: str, workflow_folder: str, limit: int) -> list[RunRecord]:
        """Return runs of a workflow in a folder, newest first."""

    @abstractmethod
    def runs_with(
        self, step: str, workflow: str | None, folder: str | None, *, is_below: bool, limit: int
    ) -> list[str]:
        """Return the ids of runs that have a step, newest first; of a workflow and in (or below) a folder, where given."""

    @abstractmethod
    def jobs(self, record: RunRecord) -> list[Job]:
        """Return the jobs of a run in their order."""

    @abstractmethod
    def list_runs(self, workflow_folder: str | None, limit: int) -> list[RunRecord]:
        """Return runs, newest first, without their bodies; ``counts`` is right for those that have ended."""

    @abstractmethod
    def events(self, since: int, run: str | None, limit: int) -> list[Event]:
        """Return up to ``limit`` events after number ``since``, in order, of one run or all."""

    @abstractmethod
    def last_seq(self) -> int:
        """Return the number of the newest event ever written, 0 if none."""

    @abstractmethod
    def first_seq(self) -> int:
        """Return the number of the oldest event that is still kept, ``last_seq() + 1`` if none."""

    @abstractmethod
    def save_environment(self, environ: Mapping[str, str]) -> str:
        """Keep an environment and return its key; the same environment has the same key."""

    @abstractmethod
    def environment(self, key: str) -> dict[str, str]:
        """Return a kept environment."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a step's code runs: the interpreter, the submitter's cleaned variables, and what the step adds.

    Two jobs with equal environments may share a warm process.
    """

    python: str
    environ: tuple[tuple[str, str], ...]
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Ticket:
    """A job as its executor sees it. ``number`` orders jobs: the lower one was submitted first.

    ``after`` are the uuids of jobs that must have completed before it may start; only an executor that keeps
    order is given such jobs. Points of one sweep have equal ``run`` and ``step``, and a ``point``.
    """

    uuid: str
    run: str
    address: str  # fit or fit[2], for messages
    number: tuple[int, int]
    demand: Demand
    spec: Callable[[], JobSpec]  # built when it is needed: the text of 10,000 points is not kept
    environment: Callable[[], Environment]
    step: str = ""
    point: int | None = None
    attempt: int = 1
    resources: Resources = field(default_factory=Resources)
    after: tuple[str, ...] = ()
    shares_kernel: bool = False  # a point of a sweep whose points run one after another in warm kernels


@dataclass(frozen=True, slots=True)
class QueueLine:
    """One line of the executor's queue. ``starts_at`` is when it is expected to start, as ISO 8601 in UTC, if that is known."""

    uuid: str
    state: str  # queued, held or running
    reason: str
    demand: Demand
    native_id: str = ""
    node: str = ""
    starts_at: str = ""


class Executor(ABC):
    """Where jobs run. All methods are called in the manager's event loop and return within about a millisecond.

    What an executor learns it tells by ``sink``, at any time, also repeatedly: the machine passes over what it
    knows. Its order of duty: :meth:`enqueue` a job, let :meth:`take` choose it, let the manager store that it
    is about to be started, then :meth:`start` it. A job's life does not depend on the manager's: after a crash,
    :meth:`recover` is asked about every job that may have been started.

    ``outlives_host`` says whether jobs go on when this machine loses power, as those of a batch system do. Then
    an intent must be on the disk, not merely with the operating system, before the job is started.

    ``keeps_order`` says whether it takes jobs before what they need has completed, and starts them after that by
    itself, so that a workflow goes on while no manager runs. It then answers a start with ``placed``.

    A third party's executor is an entry point of the group ``kale_magic.executors``: a function of
    (:class:`kale_magic.config.Settings`, :class:`Clock`) that returns one of these.
    """

    outlives_host: bool = True
    keeps_order: bool = False
    shares_kernels: bool = False  # whether it can run many points of a sweep in one kernel (``Ticket.shares_kernel``)
    can_freeze: bool = False  # whether :meth:`freeze` stops all processes of a job

    wake: Callable[[], object] = staticmethod(lambda: None)  # the manager's: asks soon what starts now; called where no report makes it ask

    @abstractmethod
    async def open(self, sink: Callable[[Report], None]) -> None:
        """Begin; what is learnt goes to ``sink``, never from within a call of the manager's that can raise."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of everything; jobs go on."""

    @abstractmethod
    async def check(self, step: Step) -> Demand:
        """Return what each job of a step takes.

        Raises
        ------
        SubmitError
            It can never run here; the message names the step, what it asks for and what there is.
        """

    @abstractmethod
    def enqueue(self, ticket: Ticket) -> None:
        """Take a job into the queue; nothing runs yet."""

    @abstractmethod
    def withdraw(self, uuid: str) -> None:
        """Take a job out of the queue; nothing happens if it is not there."""

    @abstractmethod
    def take(self) -> list[str]:
        """Return the uuids of jobs to be started now; what they need is theirs from here on until they end."""

    @abstractmethod
    def start(self, uuid: str) -> None:
        """Start a taken job; idempotent by uuid. A failure is reported, not raised."""

    @abstractmethod
    def drop(self, uuid: str) -> None:
        """Give up a taken job that is not to be started after all."""

    @abstractmethod
    def recover(self, tickets: Iterable[Ticket]) -> None:
        """Find out about jobs that may have been started in an earlier life, and report.

        Those known where jobs run are taken up; a result that is there is reported; one that was never begun
        is started under the same uuid; one that was begun and is gone is reported lost.
        """

    @abstractmethod
    def cancel(self, uuid: str) -> None:
        """End a started job with all its processes."""

    @abstractmethod
    def interrupt(self, uuid: str) -> None:
        """Interrupt a started job's code; its kernel stays for a look."""

    @abstractmethod
    def release(self, uuid: str) -> None:
        """End the look at an interrupted job, or the hold of one in the queue."""

    def hold(self, uuid: str) -> None:  # noqa: B027 - a queue need not know holds
        """Keep a job in the queue from starting, if the queue can."""

    def script(self, ticket: Ticket) -> str:  # noqa: ARG002
        """Return what would be submitted for a job, for a person to read; empty if there is nothing of the kind."""
        return ""

    async def survey(self, *, is_all: bool) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return the batch system's own queue: this user's jobs, or everyone's.

        Each a dict of ``native_id name user state reason partition nodes node time_left starts_at``, all text but
        the numbers; what is not known is missing. Empty where there is no such system.

        Raises
        ------
        ExecutorError
            The batch system does not answer.
        """
        return []

    async def end(self, native_id: str) -> None:
        """End a job of this user's that :meth:`survey` has shown; raises ExecutorError if that can't be done."""
        raise ExecutorError(f"A job ({native_id}) of this executor is ended by its run and step.")

    def freeze(self, uuid: str, *, is_on: bool) -> None:  # noqa: B027 - only where ``can_freeze`` says so
        """Stop all processes of a started job where they are, or let them go on; its state is reported."""

    def kernel_of(self, uuid: str) -> str:
        """Return the uuid of the job in whose kernel a job's code runs: another one where points share a kernel."""
        return uuid

    @abstractmethod
    def reason(self, uuid: str) -> str:
        """Return why a queued job waits, in a few words; empty when it is not queued here."""

    @abstractmethod
    def queue(self) -> list[QueueLine]:
        """Return what runs and what waits, in the order in which it will start."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what there is and how much of it is in use, for ``manager status``."""
