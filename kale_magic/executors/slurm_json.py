"""What is said to ``slurmrestd`` and what it says, as pure functions: directives as properties of a job, jobs as squeue's lines.

Source: the OpenAPI description v0.0.38 of Slurm 22.05. ``slurmrestd`` does not read ``#SBATCH`` lines, so they are translated.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from kale_magic.errors import SubmitError, UsageError
from kale_magic.executors.slurm_text import Line, own_directives, read_tasks
from kale_magic.model.resources import format_walltime, parse_memory, parse_walltime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_SHORT = {
    "A": "account", "C": "constraint", "D": "chdir", "J": "job-name", "L": "licenses", "N": "nodes", "a": "array", "c": "cpus-per-task",
    "d": "dependency", "e": "error", "i": "input", "n": "ntasks", "o": "output", "p": "partition", "q": "qos", "t": "time",
}  # fmt: skip


def _minutes(text: str) -> int:
    return -(-parse_walltime(text) // 60)


def _megabytes(text: str) -> int:
    return -(-parse_memory(text if re.search(r"[A-Za-z]$", text) else f"{text}M") // (1 << 20))


def _nodes(text: str) -> str:
    """Return a count of nodes as it stands: of the two numbers that the description wants, slurmrestd 22.05 loses the first."""
    if not re.fullmatch(r"\d+(-\d+)?", text):
        raise ValueError(text)
    return text


_PROPERTIES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "account": ("account", str),
    "array": ("array", str),
    "chdir": ("current_working_directory", str),
    "comment": ("comment", str),
    "constraint": ("constraints", str),
    "cpus-per-task": ("cpus_per_task", int),
    "dependency": ("dependency", str),
    "error": ("standard_error", str),
    "gpus": ("gpus", str),
    "gpus-per-node": ("gpus_per_node", str),
    "gres": ("gres", str),
    "input": ("standard_input", str),
    "job-name": ("name", str),
    "licenses": ("licenses", str),
    "mail-type": ("mail_type", str),
    "mail-user": ("mail_user", str),
    "mem": ("memory_per_node", _megabytes),
    "mem-per-cpu": ("memory_per_cpu", _megabytes),
    "nice": ("nice", str),
    "nodes": ("nodes", _nodes),
    "ntasks": ("tasks", int),
    "ntasks-per-node": ("tasks_per_node", int),
    "output": ("standard_output", str),
    "partition": ("partition", str),
    "qos": ("qos", str),
    "reservation": ("reservation", str),
    "signal": ("signal", str),
    "time": ("time_limit", _minutes),
    "wckey": ("wckey", str),
}
_FLAGS = {"no-requeue": ("requeue", False), "requeue": ("requeue", True), "hold": ("hold", True)}


def properties(script: str) -> dict[str, Any]:
    """Return the properties of a job for what the ``#SBATCH`` lines of its script ask; of two of a kind the last one counts.

    Raises
    ------
    SubmitError
        One of them can't be asked by REST, or has another form.
    """
    found: dict[str, Any] = {}
    for name, value in (pair for line in own_directives(script) for pair in _pairs(line)):
        if name in _FLAGS and value is None:
            key, flag = _FLAGS[name]
            found[key] = flag
        elif name == "signal" and (value or "").startswith("B:USR1@"):
            continue  # slurmrestd 22.05 does not know B:, though its description has it; the worker looks at --walltime itself
        elif name in _PROPERTIES and value:
            key, read = _PROPERTIES[name]
            try:
                found[key] = read(value)
            except (ValueError, UsageError):
                raise SubmitError(f"#SBATCH --{name}={value} is not understood.") from None
        else:
            raise SubmitError(f"#SBATCH --{name} can't be asked through slurmrestd.", "Leave it out, or submit by --executor slurm on the cluster.")
    if "nodes" in found and "tasks" not in found:  # one a node, or as many as are asked for: sbatch does the same
        found["tasks"] = int(found["nodes"].partition("-")[0]) * found.get("tasks_per_node", 1)
    return found


def _pairs(line: str) -> Iterator[tuple[str, str | None]]:
    words = shlex.split(line.removeprefix("#SBATCH"), comments=True)
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            if not sign and name not in _FLAGS and words and not words[0].startswith("-"):
                sign, value = "=", words.pop(0)
            yield name, value if sign else None
        else:
            name = _SHORT.get(word[1:2], word.lstrip("-"))
            yield name, word[2:].removeprefix("=") or (words.pop(0) if words else None)


def line_of(job: Mapping[str, Any], now: float) -> Line:
    """Return a job as one line of squeue; ``now`` is in seconds since the epoch."""
    array, task, waiting = job.get("array_job_id") or 0, job.get("array_task_id"), str(job.get("array_task_string") or "")
    tasks = (int(task),) if task is not None and array else read_tasks(waiting) if waiting else None
    state, end = str(job.get("job_state") or "UNKNOWN"), job.get("end_time") or 0
    left = format_walltime(max(0, int(end - now))) if state == "RUNNING" and end else ""
    return Line(
        str(array or job.get("job_id")), tasks, str(job.get("name") or ""), state, str(job.get("state_reason") or ""),
        float(job["start_time"]) if job.get("start_time") else None, str(job.get("nodes") or ""), str(job.get("user_name") or ""),
        str(job.get("partition") or ""), str(job.get("node_count") or ""), left,
    )  # fmt: skip


def time_limits(partitions: list[Mapping[str, Any]]) -> dict[str, int | None]:
    """Return the longest walltime in seconds of each partition (None: no limit); the default's is under "" too."""
    found: dict[str, int | None] = {}
    for partition in partitions:
        minutes = partition.get("max_time_limit")
        limit = int(minutes) * 60 if isinstance(minutes, int | float) and minutes >= 0 else None
        found[str(partition.get("name"))] = limit
        if "default" in (partition.get("flags") or ()):
            found[""] = limit
    return found
