"""The supervisor's watch over running jobs: walltime, memory limits, and samples of what they use."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

from kale_proxy import procs
from kale_proxy.gpus import GpuWatch
from kale_proxy.record import write_sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from kale_proxy.job import Job

SAMPLE_S = 1.0
SLOW_SAMPLE_S = 5.0  # for jobs that run longer than a minute


class Guard:
    """Looks at the jobs at each tick; the supervisor owns the dict and the killing.

    Parameters
    ----------
    jobs : dict of str to Job
        Running jobs by uuid, shared with the supervisor.
    """

    def __init__(self, jobs: dict[str, Job]) -> None:
        self._jobs = jobs
        self._checked = 0.0
        self._sampled: dict[str, float] = {}
        self._allowed = procs.cgroup_limits()
        self._gpus = GpuWatch()

    def tick(self, kill: Callable[..., None], warn: Callable[[Job, str], None]) -> None:
        """Enforce limits and sample; called after every turn of the loop, does little when called often."""
        moment = time.monotonic()
        if not self._jobs or moment - self._checked < 0.2:
            return
        self._checked = moment
        for job in list(self._jobs.values()):
            self._end_in_time(job, moment, kill)
            self._warn_in_time(job, moment, warn)
        old = [job for job in self._jobs.values() if moment - job.started > 0.5 and not job.is_finishing]
        due = [job for job in old if moment - self._sampled.get(job.spec.uuid, 0.0) >= self._interval(job, moment)]
        limited = [job for job in old if job.spec.limits.memory_bytes is not None]
        if due or limited:
            self._look(due, limited, moment, kill)
        for uuid in self._sampled.keys() - self._jobs.keys():
            del self._sampled[uuid]

    def _end_in_time(self, job: Job, moment: float, kill: Callable[..., None]) -> None:
        limit = job.spec.limits.walltime_s
        if job.kill_at is not None and moment >= job.kill_at and not job.is_finishing:
            procs.send(procs.tree(job.leader, job.spec.uuid), signal.SIGKILL)
        elif limit is not None and moment - job.started > limit and job.kill_reason is None:
            kill(job, walltime_words(limit))

    def _warn_in_time(self, job: Job, moment: float, warn: Callable[[Job, str], None]) -> None:
        limit = job.spec.limits.walltime_s
        if limit is None or job.is_warned or job.kill_reason is not None or job.is_finishing:
            return
        left = limit - (moment - job.started)
        if left <= job.spec.warn_before_s():
            warn(job, f"its walltime of {_clock(limit)} ends in {max(0.0, left):.0f} s")

    def _interval(self, job: Job, moment: float) -> float:
        return SAMPLE_S if moment - job.started < 60 else SLOW_SAMPLE_S

    def _look(self, due: list[Job], limited: list[Job], moment: float, kill: Callable[..., None]) -> None:
        wanted = {job.leader: job for job in [*due, *limited]}
        groups = procs.members(wanted, procs.snapshot())
        node = procs.node_sample() if due else {}
        if due and self._allowed:  # a container or a batch job may use less than the node has
            node["limits"] = self._allowed
        if due and (gpus := self._gpus.look()):
            node["gpus"] = gpus
        for leader, job in wanted.items():
            group = groups[leader]
            job.had_children = job.had_children or len(group) > 1
            job.peak_bytes = max(job.peak_bytes, sum(process.rss_bytes for process in group))
            self._keep_memory(job, group, kill)
        for job in due:
            self._sampled[job.spec.uuid] = moment
            self._write(job, groups[job.leader], node)

    def _keep_memory(self, job: Job, group: list[procs.Process], kill: Callable[..., None]) -> None:
        limit = job.spec.limits.memory_bytes
        if limit is None or job.kill_reason is not None or sum(process.rss_bytes for process in group) <= limit:
            return
        used = procs.proportional_bytes(process.pid for process in group)  # forks share pages: count them once
        if used > limit:
            kill(job, f"it used {used / 2**20:.0f} MB of memory, more than the {limit / 2**20:.0f} MB of --memory", grace_s=0.0)

    def _write(self, job: Job, group: list[procs.Process], node: dict[str, Any]) -> None:
        read, written = procs.io_bytes(process.pid for process in group)
        write_sample(
            job.spec, round(sum(process.cpu_s for process in group), 2), sum(process.rss_bytes for process in group),
            processes=len(group), read_bytes=read, written_bytes=written, node=node,
        )


def walltime_words(limit: int) -> str:
    """Return why a job ended whose time was over."""
    return f"its walltime of {_clock(limit)} was reached (--walltime)"


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
