"""A run as data: its record, the jobs in it, what executors report, and what a job asks for.

Plain records without behaviour that matters: :mod:`kale_magic.manager.machine` alone changes them, the store
writes them down, executors read them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kale_magic.model.states import RunState, StepState


class Phase(StrEnum):
    """How far a job has been handed over; stored *before* the deed, so that a crash can be told apart."""

    NONE = ""  # no executor was asked to start it
    SUBMITTING = "submitting"  # the start was about to be sent: it may or may not have happened
    SUBMITTED = "submitted"  # the executor has said that it runs


@dataclass(frozen=True, slots=True)
class Demand:
    """What one job takes from its executor while it runs; ``memory_bytes`` 0 is "not said"."""

    cpus: int = 1
    memory_bytes: int = 0
    gpus: int = 0


@dataclass(slots=True)
class Job:
    """One step of a run, or one point of a sweep, with its newest attempt.

    Times are ISO 8601 in UTC. ``live`` is the folder of its kernel while it has one. ``source`` is, for a
    cached step, the folder of the earlier run that holds the outputs.
    """

    index: int
    step: str
    point: int | None
    state: StepState = StepState.WAITING
    attempt: int = 1
    uuid: str = ""
    phase: Phase = Phase.NONE
    reason: str = ""
    queued_at: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    native_id: str | None = None
    node: str | None = None
    live: str | None = None
    exit_code: int | None = None
    error: dict[str, Any] | None = None
    outputs: tuple[str, ...] = ()
    failures: int = 0
    losses: int = 0
    is_cancel_asked: bool = False
    source: str | None = None

    @property
    def address(self) -> str:
        """Return ``fit`` or ``fit[2]``."""
        return self.step if self.point is None else f"{self.step}[{self.point}]"


@dataclass(slots=True)
class RunRecord:
    """What is stored of a run beside its jobs. ``body`` is what was submitted: workflow, selection, parameters.

    ``seed`` makes the uuids of its jobs; ``token`` is the client's, so that a submit asked twice happens once;
    ``environment`` is the key under which the steps' environment is stored.
    """

    id: str
    workflow: str
    executor: str
    folder: str
    workflow_folder: str
    python: str
    environment: str
    seed: str
    token: str
    submitted_at: str
    state: RunState = RunState.RUNNING
    ended_at: str | None = None
    is_cancel_asked: bool = False
    number: int = 0
    counts: dict[str, int] = field(default_factory=dict)  # once it has ended: state -> number of steps
    body: dict[str, Any] = field(default_factory=dict)


class ReportKind(StrEnum):
    """What an executor can tell about a job."""

    PLACED = "placed"  # it has its place in the executor's queue, from which it will start by itself
    RUNNING = "running"
    STATE = "state"  # paused, gated, running again; held, queued again
    ENDED = "ended"
    REFUSED = "refused"  # it was not started, and starting it again would not help
    LOST = "lost"  # it is gone without a result


@dataclass(frozen=True, slots=True)
class Report:
    """One thing an executor tells about one attempt, known by its uuid.

    ``data`` is, for ``placed``: ``native_id``; for ``running``: ``at native_id node live``; for ``state``: ``state reason``; for ``ended``: the
    fields of :class:`kale_proxy.spec.JobResult`; for ``refused`` and ``lost``: ``reason``. Fields may be missing.
    """

    kind: ReportKind
    uuid: str
    data: dict[str, Any] = field(default_factory=dict)


class Verb(StrEnum):
    """What the machine asks to be done with a job."""

    ENQUEUE = "enqueue"
    WITHDRAW = "withdraw"  # it must not start any more
    CANCEL = "cancel"
    INTERRUPT = "interrupt"
    RELEASE = "release"  # end the look at an interrupted job, or the hold of one in the queue
    HOLD = "hold"  # it is not to start until released
    FREEZE = "freeze"
    THAW = "thaw"


@dataclass(frozen=True, slots=True)
class Command:
    """A deed for the executor, to be done after the state that calls for it is stored.

    ``uuid`` is that of the attempt meant, which may no longer be the job's newest. ``after``, of an ENQUEUE, are
    the uuids of the jobs that it waits for in the queue.
    """

    verb: Verb
    job: Job
    uuid: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """An event that has no number yet; see :class:`kale_magic.model.events.Event`."""

    step: str | None
    point: int | None
    kind: str
    state: str
    data: dict[str, Any] = field(default_factory=dict)
