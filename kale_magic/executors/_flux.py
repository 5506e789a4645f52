"""Flux: what is said to it and what it prints. Pure.

Sources: flux-batch(1), flux-jobs(1), flux-cancel(1), flux-job(1), flux-urgency of flux-core; RFC 21 (job states).
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from kale_magic.executors._dialect import Dialect
from kale_magic.executors.slurm_text import Line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kale_magic.model.resources import Resources

_FORMAT = "{id.f58}|{name}|{state}|{result}|{urgency}|{nodelist}|{username}|{queue}|{nnodes}|{exception.note}"
_FIELDS = 10
_END_S = 3  # before its time is over a job is told to end: what Flux does then (SIGALRM to its broker) reaches no process of the step
_STATES = {"NEW": "PENDING", "DEPEND": "PENDING", "PRIORITY": "PENDING", "SCHED": "PENDING", "RUN": "RUNNING", "CLEANUP": "COMPLETING"}
_RESULTS = {"COMPLETED": "COMPLETED", "FAILED": "FAILED", "CANCELED": "CANCELLED", "TIMEOUT": "TIMEOUT"}
_HELD = "0"  # the urgency of a job that is held


class Flux(Dialect):
    """See the module; a step runs in an instance of its own, as ``flux batch`` makes it, so that its code may call ``flux run``."""

    system, program, mark = "Flux", "flux", "# flux:"
    unsure = ("unable to connect", "no such file or directory: unable", "connection refused", "timed out", "broken pipe", "flux_open", "no flux instance")
    full = ("max jobs", "job limit", "queue is disabled", "submission is disabled")
    over = ("inactive", "unknown job", "no such process", "not found", "job is not running", "cannot be changed once")
    carried = ("FLUX_URI", "FLUX_HANDLE_RETRY")

    def lack(self, asked: Resources) -> str:
        """Return what can't be said: Flux gives out nodes, cores and GPUs."""
        for option, value in (("--memory", asked.memory_bytes), ("--qos", asked.qos), ("--reservation", asked.reservation)):
            if value:
                return f"{option}, which Flux does not give out: leave it out, or write --native '# flux: ...' as the site says"
        if asked.gpus and (asked.gpus * (asked.nodes or 1)) % (asked.ntasks or asked.nodes or 1):
            return "--gpus that don't share out evenly among its tasks: ask for as many, or a multiple"
        return ""

    def directives(self, asked: Resources, name: str, log: str) -> list[str]:
        """Return the ``# flux:`` lines, which it splits as a shell does."""
        nodes, slots = asked.nodes, asked.ntasks or asked.nodes or 1
        words = [f"--job-name={name}", f"--output={log}", "--error=" + log, f"--nslots={slots}", f"--cores-per-slot={asked.cpus or 1}"]
        if nodes:
            words.append(f"--nodes={nodes}")
        if asked.gpus:
            words.append(f"--gpus-per-slot={asked.gpus * (nodes or 1) // slots}")
        if asked.walltime_s:
            words += [f"--time-limit={asked.walltime_s}s", f"--signal=SIGTERM@{_END_S}s"]
        pairs = (("--queue", asked.queue), ("--bank", asked.account), ("--requires", asked.constraint))
        words += [f"{option}={value}" for option, value in pairs if value]
        return [f"# flux: {shlex.quote(word)}" for word in words]

    def submit(self, path: str) -> tuple[list[str], bool]:
        """Return ``flux batch``."""
        return ["flux", "batch", path], False

    def read_id(self, out: str) -> str:
        """Return the job's name, such as ``ƒ2WnV3``, in Flux's own alphabet or in ASCII."""
        lines = out.strip().splitlines()
        found = re.fullmatch("[ƒf][1-9A-HJ-NP-Za-km-z]+", lines[-1].strip()) if lines else None
        return found[0] if found else ""

    def show(self, ids: Sequence[str], user: str) -> list[str]:
        """Return ``flux jobs``."""
        return ["flux", "jobs", "-a", "--count=0", "--no-header", f"--format={_FORMAT}", *([f"--user={user}"] if user else ["-A"]), *ids]

    def read_jobs(self, out: str) -> list[Line]:
        """Read lines of our format; a name may have bars in it, and so may the note of an exception, which says why a job can't be run."""
        found = []
        for text in out.splitlines():
            if not text.strip():
                continue
            words = text.strip(" ").split("|")
            extra = next((at for at in range(len(words) - _FIELDS + 1) if words[2 + at] in {*_STATES, "INACTIVE"}), None)  # bars in the name
            if extra is None:
                raise ValueError(text)
            state, result, urgency, nodes, user, queue, count, *note = words[2 + extra :]
            known = _RESULTS.get(result, "UNKNOWN") if state == "INACTIVE" else _STATES.get(state, "UNKNOWN")
            reason = "JobHeldUser" if known == "PENDING" and urgency == _HELD else "|".join(note).strip() if known == "FAILED" else ""
            found.append(Line(words[0], None, "|".join(words[1 : 2 + extra]), known, reason, None, _first(nodes), user, queue, count))
        return found

    def cancel(self, native_id: str) -> list[str]:
        """Return ``flux cancel``."""
        return ["flux", "cancel", native_id]

    def hold(self, native_id: str, *, is_held: bool) -> list[str]:
        """Return ``flux job urgency``."""
        return ["flux", "job", "urgency", native_id, "hold" if is_held else "default"]

    def signal(self, native_id: str, name: str) -> list[str]:
        """Return ``flux job kill``."""
        return ["flux", "job", "kill", f"--signal=SIG{name}", native_id]


def _first(nodes: str) -> str:
    """Return the first of ``tioga[12-13,20]`` or ``a,b``."""
    found = re.match(r"([^\[,]*)(?:\[(\d+))?", nodes)
    return f"{found[1]}{found[2] or ''}" if found else ""
