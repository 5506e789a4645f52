"""IBM Spectrum LSF: what is said to it and what it prints. Pure.

Sources: bsub(1), bjobs(1), bkill(1), bstop(1) of LSF 10.1, and its "Customize job information fields in bjobs".
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from kale_magic.executors._dialect import Dialect, megabytes, shares
from kale_magic.executors.slurm_text import Line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kale_magic.model.resources import Resources

_FIELDS = "jobid stat job_name user queue exec_host nexec_host exit_reason pend_reason"
_STATES = {
    "PEND": "PENDING", "PSUSP": "PENDING", "WAIT": "PENDING", "PROV": "CONFIGURING", "RUN": "RUNNING", "USUSP": "SUSPENDED", "SSUSP": "SUSPENDED",
    "DONE": "COMPLETED",
}  # fmt: skip
_ENDS = (  # the first word of EXIT_REASON
    ("TERM_RUNLIMIT", "TIMEOUT"), ("TERM_DEADLINE", "DEADLINE"), ("TERM_MEMLIMIT", "OUT_OF_MEMORY"), ("TERM_SWAP", "OUT_OF_MEMORY"),
    ("TERM_PREEMPT", "PREEMPTED"), ("TERM_OWNER", "CANCELLED"), ("TERM_FORCE_OWNER", "CANCELLED"), ("TERM_ADMIN", "CANCELLED"), ("TERM_FORCE_ADMIN", "CANCELLED"),
    ("TERM_REMOVE_HUNG_JOB", "NODE_FAIL"), ("TERM_ZOMBIE", "NODE_FAIL"),
)  # fmt: skip


class Lsf(Dialect):
    """See the module."""

    system, program, mark = "LSF", "bsub", "#BSUB"
    array = r"#?(?:BSUB)?\s*-J\s*\S*\["
    unsure = ("lsf is down", "please wait", "not responding", "cannot connect", "connection refused", "timed out", "lsf library call", "not ready", "communication time out", "query limit")
    full = ("job limit", "pending job threshold", "too many jobs", "job slot limit")
    none = ("no job found", "no unfinished job found", "no matching job found")
    over = ("already finished", "no matching job", "is not found", "has already")
    carried = ("LSF_ENVDIR", "LSF_SERVERDIR", "LSF_LIBDIR", "LSF_BINDIR")
    workdir = "LS_SUBCWD"

    def lack(self, asked: Resources) -> str:
        """Return what can't be said."""
        return "--qos, which LSF has not: write --native '#BSUB -sla ...' as the site says" if asked.qos else ""

    def directives(self, asked: Resources, name: str, log: str) -> list[str]:
        """Return the ``#BSUB`` lines."""
        nodes, tasks, cpus = shares(asked)
        lines = [f"-J {name}", f'-o "{log}"', "-rn", f"-n {nodes * tasks * cpus}"]
        lines.append('-R "span[hosts=1]"' if nodes == 1 else f'-R "span[ptile={tasks * cpus}]"')
        if asked.gpus:
            lines.append(f'-gpu "num={asked.gpus}"')
        if asked.memory_bytes:
            amount = megabytes(asked.memory_bytes)
            lines += [f"-M {amount}MB", f'-R "rusage[mem={amount}MB]"']
        if asked.constraint:
            lines.append(f'-R "select[{asked.constraint}]"')
        if asked.walltime_s:
            minutes = -(-asked.walltime_s // 60)
            lines.append(f"-W {minutes // 60}:{minutes % 60:02d}")
        pairs = (("-q", asked.queue), ("-P", asked.account), ("-U", asked.reservation))
        lines += [f'{option} "{value}"' for option, value in pairs if value]
        return [f"#BSUB {line}" for line in lines]

    def submit(self, path: str) -> tuple[list[str], bool]:  # noqa: ARG002 - it is read
        """Return ``bsub``, which reads directives of a script that it is given as its input, and of no other."""
        return ["bsub"], True

    def read_id(self, out: str) -> str:
        """Return the number in ``Job <123> is submitted to queue <normal>.``."""
        found = re.search(r"Job <(\d+)> is submitted", out)
        return found[1] if found else ""

    def show(self, ids: Sequence[str], user: str) -> list[str]:
        """Return ``bjobs``."""
        return ["bjobs", "-a", "-json", "-o", _FIELDS, "-u", user or "all", *ids]

    def read_jobs(self, out: str) -> list[Line]:
        """Read bjobs' JSON; a record that is an error names a job that it has forgotten."""
        try:
            records = json.loads(out)["RECORDS"]
            return [self._job(record) for record in records if "ERROR" not in record]
        except (ValueError, KeyError, TypeError) as exc:
            raise ValueError(out.strip()[:200]) from exc

    def _job(self, record: dict[str, str]) -> Line:
        stat, why = record["STAT"], record.get("EXIT_REASON", "")
        state = _STATES.get(stat, "UNKNOWN")
        if stat == "EXIT":
            state = next((end for word, end in _ENDS if why.startswith(word)), "FAILED")
        reason = "JobHeldUser" if stat == "PSUSP" else record.get("PEND_REASON", "").strip().rstrip(";") if state == "PENDING" else ""
        node = re.sub(r"^\d+\*", "", record.get("EXEC_HOST", "").partition(":")[0])
        return Line(record["JOBID"], None, record.get("JOB_NAME", ""), state, reason, None, node, record.get("USER", ""), record.get("QUEUE", ""), record.get("NEXEC_HOST", ""))

    def cancel(self, native_id: str) -> list[str]:
        """Return ``bkill``: SIGINT, SIGTERM, and SIGKILL after ``JOB_TERMINATE_INTERVAL``."""
        return ["bkill", native_id]

    def hold(self, native_id: str, *, is_held: bool) -> list[str]:
        """Return ``bstop`` or ``bresume``."""
        return ["bstop" if is_held else "bresume", native_id]

    def signal(self, native_id: str, name: str) -> list[str]:
        """Return ``bkill -s``."""
        return ["bkill", "-s", name, native_id]
