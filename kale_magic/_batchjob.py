"""The batch job that this process is part of, if it is: a notebook of batchspawner or OnDemand, an interactive allocation.

A manager that is started in one ends with it. Used by the client, which says so, and by the manager and its lock.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLES = (
    ("slurm", "SLURM_JOB_ID", "SLURM_JOB_NAME"), ("pbs", "PBS_JOBID", "PBS_JOBNAME"), ("lsf", "LSB_JOBID", "LSB_JOBNAME"),
    ("flux", "FLUX_JOB_ID", ""), ("flux", "FLUX_ENCLOSING_ID", ""),  # a task of a job; the script of an instance that is one
)  # fmt: skip
_SLURM_CGROUP = re.compile(r"slurm.*/job_(\d+)(?:/|$)", re.MULTILINE)
LOOKS_EACH_S = 10.0  # so often does a manager in a batch job ask whether that is over
_ASK_S = 15.0
_PBS_OVER = ("Unknown Job Id", "Job has finished")
_OVER = frozenset({"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"})


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A job: the batch ``system``, its ``id`` there, and its ``name``, empty if that is not known."""

    system: str
    id: str
    name: str = ""

    @classmethod
    def from_words(cls, found: object) -> BatchJob | None:
        """Read what :meth:`to_words` gave; None for anything else."""
        if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ("system", "id", "name")):
            return None
        return cls(found["system"], found["id"], found["name"])

    def to_words(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    def __str__(self) -> str:
        """Return it for a sentence."""
        return f"{self.system.capitalize() if self.system in {'slurm', 'flux'} else self.system.upper()} job {self.id}"


def current(environ: Mapping[str, str], cgroup: Path = Path("/proc/self/cgroup")) -> BatchJob | None:
    """Return the job that a process with this environment is in; None if it is in none.

    ``cgroup`` tells it where the variables were taken away (cgroups(7), Slurm's proctrack/cgroup).
    """
    for system, number, name in _VARIABLES:
        if environ.get(number):
            return BatchJob(system, environ[number], environ.get(name, ""))
    try:
        found = _SLURM_CGROUP.search(cgroup.read_text())
    except OSError:
        return None
    return BatchJob("slurm", found[1]) if found else None


def is_over(job: BatchJob | None, environ: Mapping[str, str] | None = None) -> bool:
    """Whether a job has certainly ended: its batch system knows no such job, or says so. Blocks for up to 15 s.

    False also when the batch system can't be asked, and for those that we don't know how to ask.
    """
    environ = os.environ if environ is None else environ
    if job is not None and job.system == "pbs":
        done = _ask(["qstat", job.id], environ)
        return done is not None and done.returncode != 0 and any(words in done.stderr for words in _PBS_OVER)
    if job is None or job.system != "slurm" or not job.id.isdigit():
        return False
    kept = {key: value for key, value in environ.items() if key == "SLURM_CONF" or not key.startswith(("SLURM_", "SQUEUE_"))}
    done = _ask(["squeue", "--noheader", f"--jobs={job.id}", "--format=%T|%j"], kept)
    if done is None:
        return False
    if done.returncode != 0:
        return "Invalid job id" in done.stderr
    return all(_is_past(line, job) for line in done.stdout.splitlines() if line.strip())


def _ask(command: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str] | None:
    """Run a program of the batch system; None if it is not there, or does not answer in time."""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=_ASK_S, env={**environ, "LC_ALL": "C"}, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _is_past(line: str, job: BatchJob) -> bool:
    """Whether a line of squeue tells of an end, or of another job to which Slurm gave the number."""
    state, _, name = line.partition("|")
    return state in _OVER or (bool(job.name) and name.strip() != job.name)
