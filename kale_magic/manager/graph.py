"""The static side of a run: its steps, who waits for whom, and the jobs they expand into. Pure.

Used by the machine alone (and by the service, which makes the :class:`StepPlan` of a submitted workflow).
"""

from __future__ import annotations

import uuid as uuids
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kale_magic.model.run import Job
from kale_magic.model.states import StepState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# what is most alive in a sweep is its state; once all is over, the worst
_PRECEDENCE = (
    StepState.RUNNING, StepState.GATED, StepState.PAUSED, StepState.LOST, StepState.QUEUED, StepState.HELD,
    StepState.WAITING, StepState.FAILED, StepState.CANCELLED, StepState.COMPLETED, StepState.CACHED,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What the machine knows of a step: who must be done before it, its points, how often it may be tried again.

    ``point_count`` is None for a step that is no sweep. ``source`` is the folder of an earlier run's step
    whose outputs are used instead of running it. ``is_early`` says that its executor keeps order, and its parents'
    is the same: its jobs are handed over before the parents have completed.
    """

    name: str
    parents: tuple[str, ...] = ()
    point_count: int | None = None
    retries: int = 0
    executor: str = "local"
    source: str | None = None
    is_early: bool = False
    is_gate_before: bool = False  # it is queued only once a person has let it go on
    made: Mapping[int, str] = field(default_factory=dict)  # points that an earlier run has computed -> folders
    note: str = ""  # in what it has changed since an earlier run whose outputs are used


@dataclass(slots=True)
class Node:
    """A step of a run with its jobs, how many of them are in which state, and what hangs on it."""

    plan: StepPlan
    jobs: list[Job]
    children: list[Node] = field(default_factory=list)
    counts: Counter[StepState] = field(default_factory=Counter)
    waits_for: int = 0  # parents that are not yet done
    shown: StepState = StepState.WAITING

    @property
    def is_done(self) -> bool:
        """Whether every job has ended well, so that what needs the step may run."""
        return self.counts[StepState.COMPLETED] + self.counts[StepState.CACHED] == len(self.jobs)

    def aggregate(self) -> StepState:
        """Return the state of the step as a whole; a sweep without points is completed."""
        return next((state for state in _PRECEDENCE if self.counts[state]), StepState.COMPLETED)


def expand(plans: Iterable[StepPlan]) -> Iterator[Job]:
    """Return the jobs of a new run: one per step, or one per point of a sweep."""
    index = 0
    for plan in plans:
        for point in [None] if plan.point_count is None else range(plan.point_count):
            source = plan.source or (plan.made.get(point) if point is not None else None)
            state = StepState.WAITING if source is None else StepState.CACHED
            reason = "" if source is None else f"its outputs are those of {run_of(source)}" + (f", but since then: {plan.note}" if plan.note else "")
            yield Job(index, plan.name, point, state, reason=reason, source=source)
            index += 1


def run_of(source: str) -> str:
    """Return the run that a step's folder, ``.../RUN/steps/STEP`` or that with ``/N``, is of."""
    before, _, after = source.rpartition("/steps/")
    return before.rsplit("/", 1)[-1] if after and before else "an earlier run"


def attempt_uuid(seed: str, job: Job) -> str:
    """Return the uuid of a job's attempt; always the same one, so that a manager that forgot can't make another."""
    return uuids.uuid5(uuids.UUID(seed), f"{job.step}/{job.point}/{job.attempt}").hex


def some(names: Iterable[str], limit: int = 8) -> str:
    """Return the first names of many, for a message."""
    known = list(names)
    return ", ".join(known[:limit]) + (f" and {len(known) - limit} more" if len(known) > limit else "")
