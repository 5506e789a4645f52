"""One job as the adapter knows it, and what is concluded from Slurm's word and the job's own files. Pure.

Sources: JOB STATE CODES of squeue(1); the behaviour of Slurm 22.05 in ``tests/cluster/test_slurm_facts.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from kale_magic.executors import slurm_text
from kale_magic.model.run import Report, ReportKind
from kale_proxy.guard import walltime_words
from kale_proxy.record import ENDED_BY_SIGTERM

if TYPE_CHECKING:
    from kale_magic.abc import Ticket
    from kale_magic.executors._slurm_batch import Batch
    from kale_magic.executors._slurm_look import Look
    from kale_magic.executors.slurm_text import Line

HELD = "held by you; %kale_release lets it go on"
_SETTLE_S = 10.0  # so long may a network disk take to show the result of a job that has ended
_MOST_TRIES = 3
_ENDED = frozenset({"CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED", "RERUN"})


class Stage(StrEnum):
    """How far a job is: with us, chosen to be submitted, or on its way to Slurm and there."""

    WAITING = "waiting"
    TAKEN = "taken"
    SENT = "sent"


@dataclass(slots=True)
class Job:
    """A job; ``line`` is Slurm's newest word on it, ``offset`` how far its events have been read."""

    ticket: Ticket
    stage: Stage = Stage.WAITING
    batch: Batch | None = None
    task: int | None = None
    system: str = "Slurm"  # for messages
    line: Line | None = None
    is_cancelled: bool = False
    is_held: bool = False
    wants_hold: bool = False  # asked for while sbatch was on its way
    is_running: bool = False
    has_kernel: bool = False
    offset: int = 0
    tries: int = 0
    missed: int = 0
    missing_since: float | None = None
    ended_since: float | None = None
    cancel_sent_at: float | None = None
    is_looked_up: bool = False  # in the accounting, after it was gone from the queue

    @property
    def native_id(self) -> str:
        """Slurm's name of it; empty while it has none."""
        return self.batch.id_of(self.task) if self.batch is not None and self.batch.native_id else ""

    @property
    def is_pending(self) -> bool:
        """Whether Slurm has it, and it has not started."""
        return self.line is not None and self.line.state in slurm_text.PENDING

    def word(self) -> str:
        """Return its state in the queue."""
        if self.is_running:
            return "running"
        return "held" if self.is_held or (self.line is not None and self.line.is_held) else "queued"


@dataclass(frozen=True, slots=True)
class Again:
    """The job never began and Slurm does not have it: it is to be submitted once more, as the same attempt."""

    why: str


def note(job: Job, line: Line | None, now: float) -> None:
    """Take down what a successful squeue says of a job, None: nothing."""
    job.line = line
    if line is None:
        job.missed += 1
        job.missing_since = now if job.missing_since is None else job.missing_since
        return
    job.missed, job.missing_since = 0, None
    if line.state in _ENDED:
        job.ended_since = now if job.ended_since is None else job.ended_since
    else:
        job.ended_since = None


def is_gone(job: Job, now: float, grace_s: float) -> bool:
    """Whether it is missing from the queue for good."""
    return job.line is None and job.missed >= 2 and now - (now if job.missing_since is None else job.missing_since) >= grace_s


def decide(job: Job, found: Look, now: float, *, grace_s: float, is_waiting: bool) -> Report | Again | None:
    """Return what a job has come to, None while that is not certain.

    Parameters
    ----------
    job : Job
        After :func:`note`.
    found : Look
        What its files say; thorough when Slurm says that it has ended, or nothing.
    now : float
        By the monotonic clock.
    grace_s : float
        So long must it be missing from successful queries to count as gone.
    is_waiting : bool
        Whether jobs that it depends on have yet to complete, as far as we know.
    """
    state = job.line.state if job.line is not None else ""
    if found.result is not None:
        return _by_result(job, found.result, state)
    if job.line is not None and state not in _ENDED:
        return None
    if job.line is None and not is_gone(job, now, grace_s):
        return None
    if job.is_cancelled and not found.is_claimed:
        return _cancelled(job, "cancelled by you before it began")
    if job.line is not None and not job.is_looked_up and now - (job.ended_since or now) < min(_SETTLE_S, grace_s):
        return None
    return _without_result(job, found, state, is_waiting=is_waiting)


def _by_result(job: Job, result: dict[str, Any], state: str) -> Report | None:
    data = {**result, "native_id": job.native_id}
    if result.get("reason") != ENDED_BY_SIGTERM:
        return Report(ReportKind.ENDED, job.ticket.uuid, data)
    if job.is_cancelled:
        return Report(ReportKind.ENDED, job.ticket.uuid, {**data, "reason": "cancelled by you"})
    if state not in _ENDED and not (state == "" and job.is_looked_up):
        return None  # Slurm, or the accounting of the site, has yet to say why
    return _ended_by_slurm(job, state) or _cancelled(job, _outside(job))


def _without_result(job: Job, found: Look, state: str, *, is_waiting: bool) -> Report | Again | None:
    if (report := _ended_by_slurm(job, state)) is not None:
        return report
    if job.is_cancelled:
        return _cancelled(job, "cancelled by you")
    if state == "CANCELLED" and found.is_claimed:
        return _cancelled(job, _outside(job))
    if found.is_claimed:
        what = f"{job.system} says {state}" if state else f"{job.system} no longer knows it"
        return _lost(job, f"{what}, and it left no result")
    by_dependency = job.line is not None and job.line.reason.startswith("Dependency")
    if found.refusal or not state or (state == "CANCELLED" and by_dependency):
        if is_waiting:
            return None  # what it waits for is being tried again, or has failed: we are told
        why = found.refusal or (f"{job.system} forgot it" if not state else f"{job.system} cancelled it for what it waited for")
        return Again(why) if job.tries < _MOST_TRIES else _lost(job, f"it never began: {why}")
    if state == "CANCELLED":
        return _cancelled(job, _outside(job))
    if job.line is not None and job.line.reason and not job.line.node and not found.log and state == "FAILED":  # it was never given a node
        return _failed(job, f"{job.system} refused it: {job.line.reason}")
    said = found.log or "it said nothing"
    return _failed(job, f"its job script ended before the step began: {said}")


def _ended_by_slurm(job: Job, state: str) -> Report | None:
    if words := slurm_text.lost_words(state):
        return _lost(job, words)
    limit = job.ticket.resources.walltime_s
    if state in {"TIMEOUT", "DEADLINE"}:
        report = _failed(job, walltime_words(limit) if limit else "the time limit of its partition was reached: ask for more by --walltime")
        return replace(report, data={**report.data, "is_timeout": True})
    if state == "OUT_OF_MEMORY":
        return _failed(job, f"{job.system} ended it: it used more memory than it asked for (--memory)")
    return None


def _outside(job: Job) -> str:
    return f"cancelled in {job.system}'s queue, not by Kale (by hand, or by an administrator)"


def _lost(job: Job, reason: str) -> Report:
    return Report(ReportKind.LOST, job.ticket.uuid, {"reason": reason})


def _failed(job: Job, reason: str) -> Report:
    return Report(ReportKind.ENDED, job.ticket.uuid, {"state": "failed", "reason": reason, "native_id": job.native_id})


def _cancelled(job: Job, reason: str) -> Report:
    return Report(ReportKind.ENDED, job.ticket.uuid, {"state": "cancelled", "reason": reason, "native_id": job.native_id})
