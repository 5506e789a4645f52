"""The worker of one batch job: runs one attempt in the foreground, and obeys the signals a batch system sends.

Started by a job's ``job.sh``, also by a person. It ends with 0 when the step completed, 1 when it did not, 96 when
it was not to begin.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_proxy import claim, places
from kale_proxy.attempt import REFUSED
from kale_proxy.guard import walltime_words
from kale_proxy.job import Job
from kale_proxy.lanerecord import stop_mark
from kale_proxy.record import (
    ENDED_BY_SIGTERM,
    cells_of,
    new_result,
    notebook_metadata,
    now,
    published,
    read_result,
    write_event,
    write_result,
)
from kale_proxy.spec import JobSpec
from kale_proxy.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable


_NEAR_THE_END_S = 120.0  # Slurm looks at time limits once a minute at most
_GRACE_S = 25.0  # for what a step still saves; Slurm itself gives 30 s (KillWait), or a preempted job the partition's GraceTime
_SAID_MAX = 500


def run(job: Path, *, is_ranked: bool = False) -> int:
    """Run one job in the foreground, as its ``job.sh`` does; return the exit code.

    The attempt must not have been begun before: remove its ``attempt-N.claim`` to run it again by hand. ``is_ranked``:
    a launcher (srun) started as many of us as the job has tasks; each runs the cell, the first is the step.
    """
    os.umask(0o077)
    try:
        spec = JobSpec.from_json(job.read_bytes())
    except ValueError as exc:
        return _misfit(job, f"{exc}.")
    if is_ranked:
        spec = of_rank(spec, int(os.environ.get("SLURM_PROCID", "0")))
    folder = places.private_dir(places.socket_dir() / "j" / f"{os.getpid()}")
    app = None
    if spec.is_warm:
        from kale_proxy.serve import prepare

        app = prepare(folder)
    return _attend(Supervisor(folder, app, idle_s=0.0, spares=0), spec, lambda supervisor: supervisor.begin(spec))


def take_over(text: str, *, folder: str, live: str, pid: int, link: int, started: float) -> int:
    """Go on with a job whose step :mod:`kale_proxy.brief` has begun; return the exit code.

    Parameters
    ----------
    text : str
        Of ``job.json``.
    folder, live : str
        Of the job on this host.
    pid, link : int
        The step's process, a child of this one that was not waited for, and a socket whose other end it has.
    started : float
        When it was forked, by ``time.monotonic``.
    """
    spec = JobSpec.from_json(text)

    def adopt(supervisor: Supervisor) -> None:
        job = Job(spec, pid, Path(live), socket.socket(fileno=link), None)
        job.started = started
        supervisor.adopt(job)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*supervisor.obeyed, signal.SIGCHLD])

    return _attend(Supervisor(Path(folder), None, idle_s=0.0, spares=0), spec, adopt)


def _attend(supervisor: Supervisor, spec: JobSpec, begin: Callable[[Supervisor], None]) -> int:
    """See a job to its end; return the exit code."""
    ended: list[dict[str, Any]] = []
    supervisor.on_tell = lambda message: ended.append(message) if message["ev"] in {"ended", "refused"} else None
    obey_signals(supervisor)
    begin(supervisor)
    supervisor.serve()
    places.remove_tree(supervisor.folder)
    if spec.keys:
        published(spec).unlink(missing_ok=True)
    outcome: dict[str, Any] = ended[-1] if ended else {"reason": "it could not be started"}
    if "result" not in outcome:
        reason = str(outcome.get("reason", ""))
        write_event(spec, "refused", uuid=spec.uuid, reason=reason)
        print(f"{spec.step}: refused {reason} (an attempt begins once: remove its .claim file to run it again by hand)")
        return REFUSED
    result: dict[str, Any] = outcome["result"]
    print(f"{spec.step}: {result['state']} {result['reason']}".rstrip())
    return 0 if result["state"] == "completed" and not result["exit_code"] else 1


def of_rank(spec: JobSpec, rank: int) -> JobSpec:
    """Return what a rank of an MPI step runs: the first is the step itself, another keeps its record below ``ranks/N``."""
    if rank == 0:
        return spec
    folder = f"{spec.folder}/ranks/{rank}"
    return replace(spec, uuid=f"{spec.uuid}.{rank}", folder=folder, outputs=(), files_out=())


def refuse(job: Path, line: str, log: Path) -> int:
    """Record that a job's environment could not be made: ``line`` of its script failed, and ``log`` has what it said."""
    from kale_proxy.recorder import Recorder

    os.umask(0o077)
    spec = JobSpec.from_json(job.read_bytes())
    claim.take(spec)
    said = " ".join(log.read_text(encoding="utf-8", errors="replace").split())[-_SAID_MAX:] if log.exists() else ""
    reason = f"`{line}` failed{': ' + said.rstrip('.') if said else ''}."
    recorder = Recorder(Path(spec.folder), cells_of(spec), notebook_metadata(spec))
    recorder.error_output("SetupFailed", reason, [reason])
    recorder.save(is_durable=True)
    recorder.close()
    error = {"ename": "SetupFailed", "evalue": reason, "traceback": []}
    write_event(spec, "ended", state="failed", reason=reason)
    write_result(spec, new_result(spec, "failed", now(), exit_code=1, reason=reason, error=error))
    print(f"{spec.step}: failed {reason}")
    return 1


def _misfit(job: Path, reason: str) -> int:
    """Record that a manager of another version wrote a job that is not understood; return the exit code."""
    print(reason)
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        spec = JobSpec.outline(json.loads(job.read_bytes()))
        if read_result(spec) is None:
            write_event(spec, "ended", state="failed", reason=reason)
            write_result(spec, new_result(spec, "failed", now(), exit_code=1, reason=reason))
    return 1


def obey_signals(supervisor: Supervisor) -> None:
    """Let a batch system speak by signals: TERM and HUP (unless nohup is before us) end the jobs, URG (or a person's Ctrl-C) interrupts their code, WINCH ends the look after that, USR1 says that time is nearly over.

    URG and WINCH do nothing to a program that has not asked for them: Slurm sends what it is told to send to the ranks of a
    job to every process in it, and only we are meant. TERM reaches the step too, which may end first. TSTP stops all their processes, as it is sent before a batch system suspends a job, and CONT lets them go on. USR1 goes to us alone.
    """
    deeds = {
        signal.SIGTERM: lambda job: _end(supervisor, job),
        signal.SIGHUP: lambda job: _end(supervisor, job),  # how an instance of Flux ends what runs in it
        signal.SIGURG: lambda job: job.interrupt(stop_mark(job.spec)),
        signal.SIGINT: lambda job: job.interrupt(stop_mark(job.spec)),
        signal.SIGUSR1: lambda job: supervisor.warn(job, "the batch system says that its time is nearly over"),
        signal.SIGWINCH: lambda job: job.release(),
        signal.SIGTSTP: supervisor.freeze,
        signal.SIGCONT: supervisor.thaw,
    }
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        del deeds[signal.SIGHUP]
    for signum, deed in deeds.items():
        signal.signal(signum, lambda *_, deed=deed: [deed(job) for job in list(supervisor.jobs.values())])
    supervisor.obeyed = tuple(deeds)
    supervisor.end_words = _end_words


def end_by_sigterm(supervisor: Supervisor) -> None:
    """Let SIGTERM end a supervisor with its jobs, whoever is connected to it."""

    def end(*_: object) -> None:
        supervisor.is_ending = True
        for job in list(supervisor.jobs.values()):
            _end(supervisor, job)

    signal.signal(signal.SIGTERM, end)
    supervisor.obeyed = (signal.SIGTERM,)
    supervisor.end_words = _end_words


def _end(supervisor: Supervisor, job: Job) -> None:
    reason, state = _end_words(job)
    supervisor.warn(job, "the batch system ends it (SIGTERM)")
    supervisor.kill(job, reason, state=state, grace_s=_GRACE_S)


def _end_words(job: Job) -> tuple[str, str]:
    """Return the reason and the state of a job that the batch system ends; a kernel of many points has a walltime for each, so what it means is left to the manager."""
    limit = job.spec.limits.walltime_s
    if job.spec.lane is None and limit is not None and time.monotonic() - job.started > limit - _NEAR_THE_END_S:
        return walltime_words(limit), "failed"
    return ENDED_BY_SIGTERM, "cancelled"
