"""PBS Professional and OpenPBS: what is said to them and what they print. Pure.

Sources: qsub(1B), qstat(1B), qselect(1B), qsig(1B), pbs_resources(7B), and the PBS Professional Reference Guide (job states; exit codes of
jobs that the server ended).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kale_magic.executors._dialect import Dialect, clock, megabytes, shares
from kale_magic.executors.slurm_text import Line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kale_magic.model.resources import Resources

_STATES = {
    "Q": "PENDING", "H": "PENDING", "W": "PENDING", "T": "PENDING", "M": "PENDING", "B": "RUNNING", "R": "RUNNING", "E": "COMPLETING",
    "S": "SUSPENDED", "U": "SUSPENDED", "X": "COMPLETED",
}  # fmt: skip
_ENDS = {
    -29: "TIMEOUT", -27: "OUT_OF_MEMORY", -26: "OUT_OF_MEMORY", 256 + 9: "CANCELLED", 256 + 15: "CANCELLED",  # 256 and a signal: qdel
    **dict.fromkeys((-3, -4, -5, -6, -11, -14, -16, -18, -20, -30), "NODE_FAIL"),  # the node, its MOM or a hook gave it up: to be run again
}  # fmt: skip


class Pbs(Dialect):
    """See the module; a job is known by the whole of its identifier, ``123.server``."""

    system, program, mark = "PBS", "qsub", "#PBS"
    array = r"#?(?:PBS)?\s*-J\b"
    unsure = ("cannot connect", "connection refused", "end of file", "timed out", "timeout", "invalid credential", "no route to host", "communication", "server shutting down")
    full = ("would exceed", "queue is not enabled", "limit on jobs", "maximum number of jobs", "too many jobs")
    none = ("unknown job id", "job has finished")  # all that were asked for have ended meanwhile
    over = ("unknown job", "has finished", "request invalid for state", "job has already")
    carried = ("PBS_CONF_FILE", "PBS_EXEC", "PBS_DEFAULT", "PBS_SERVER")
    workdir = "PBS_O_WORKDIR"
    waits_s = 0.2  # OpenPBS 23: a qstat within 10 s of this user's last one

    def __init__(self) -> None:
        self._history = ["-x"]  # jobs that have ended too, where the server keeps them

    def lack(self, asked: Resources) -> str:
        """Return what can't be said: PBS has no QOS of its own, and a reservation is a queue."""
        if asked.qos:
            return "--qos, which PBS has not: write --native '#PBS -l ...' as the site says"
        if asked.reservation and asked.queue:
            return "--reservation and --queue, and a reservation of PBS is a queue: leave one out"
        return ""

    def directives(self, asked: Resources, name: str, log: str) -> list[str]:
        """Return the ``#PBS`` lines."""
        nodes, tasks, cpus = shares(asked)
        chunk = [f"{nodes}:ncpus={tasks * cpus}"]
        if asked.ntasks or asked.nodes:
            chunk.append(f"mpiprocs={tasks}")
        if asked.gpus:
            chunk.append(f"ngpus={asked.gpus}")
        if asked.memory_bytes:
            chunk.append(f"mem={megabytes(asked.memory_bytes)}mb")
        if asked.constraint:
            chunk.append(asked.constraint)
        lines = [f"-l select={':'.join(chunk)}"]
        if nodes > 1:
            lines.append("-l place=scatter")
        if asked.walltime_s:
            lines.append(f"-l walltime={clock(asked.walltime_s)}")
        if asked.queue or asked.reservation:
            lines.append(f"-q {asked.queue or asked.reservation}")
        if asked.account:
            lines.append(f"-A {asked.account}")
        lines += [f"-N {name}", "-j oe", f'-o "{log}"', "-r n", "-V", "-S /bin/bash"]
        return [f"#PBS {line}" for line in lines]

    def submit(self, path: str) -> tuple[list[str], bool]:
        """Return ``qsub``."""
        return ["qsub", path], False

    def read_id(self, out: str) -> str:
        """Return the identifier, which qsub prints alone."""
        lines = out.strip().splitlines()
        found = re.fullmatch(r"\d+(?:\.[\w.-]+)?", lines[-1].strip()) if lines else None
        return found[0] if found else ""

    def find(self, user: str) -> list[str]:
        """Return ``qselect``, the user's jobs that have ended included."""
        return ["qselect", *self._history, "-u", user] if user else ["qselect"]

    def learn(self, err: str) -> bool:
        """Do without jobs that have ended where the server keeps no history."""
        is_news = bool(self._history) and "maintain job history" in err.lower()
        self._history = [] if is_news else self._history
        return is_news

    def show(self, ids: Sequence[str], user: str) -> list[str]:  # noqa: ARG002 - see find
        """Return ``qstat``."""
        return ["qstat", *self._history, "-f", *ids]

    def read_jobs(self, out: str) -> list[Line]:
        """Read ``qstat -f``: a block for each job, of lines ``name = value``; long values go on in lines that begin with a tab."""
        found: list[Line] = []
        for block in re.split(r"(?m)^Job Id: ?", out.replace("\n\t", ""))[1:]:
            head, _, rest = block.partition("\n")
            pairs = [line.strip().partition(" = ") for line in rest.splitlines() if " = " in line]
            found.append(self._job(head.strip(), {name: value for name, _, value in pairs}))
        if out.strip() and not found:
            raise ValueError(out.strip()[:200])
        return found

    def _job(self, native_id: str, words: dict[str, str]) -> Line:
        letter = words.get("job_state", "")
        state = _STATES.get(letter, "UNKNOWN")
        if letter == "F":
            code = words.get("Exit_status", "")
            state = _ENDS.get(int(code), "FAILED" if int(code) else "COMPLETED") if re.fullmatch(r"-?\d+", code) else "CANCELLED"
            if state == "FAILED" and re.search(r" and terminated(?: by \S+)?$", words.get("comment", "")):
                state = "CANCELLED"  # qdel, of a script that made an exit code of its own of SIGTERM
            if state in {"FAILED", "CANCELLED"} and words.get("run_count", "1") not in {"0", "1"}:
                state = "RERUN"  # PBS started it again under its number; the attempt had begun, so its worker refused
        reason = words.get("comment", "").removeprefix("Not Running: ") if state == "PENDING" else ""
        if letter == "H":
            reason = "JobHeldUser" if "u" in words.get("Hold_Types", "") else "JobHeldAdmin"
        node = words.get("exec_host", "").partition("/")[0]
        owner = words.get("Job_Owner", "").partition("@")[0]
        return Line(native_id, None, words.get("Job_Name", ""), state, reason, None, node, owner, words.get("queue", ""), words.get("Resource_List.nodect", ""))

    def cancel(self, native_id: str) -> list[str]:
        """Return ``qdel``: SIGTERM, and SIGKILL after the server's ``kill_delay``."""
        return ["qdel", native_id]

    def hold(self, native_id: str, *, is_held: bool) -> list[str]:
        """Return ``qhold`` or ``qrls``."""
        return ["qhold" if is_held else "qrls", native_id]

    def signal(self, native_id: str, name: str) -> list[str]:
        """Return ``qsig``."""
        return ["qsig", "-s", f"SIG{name}", native_id]
