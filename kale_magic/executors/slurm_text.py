"""What is said to Slurm and what it says, as pure functions: job scripts, squeue's lines, refusals, states.

Sources: the man pages sbatch(1), squeue(1), scancel(1) and scontrol(1) of Slurm 22.05 and 23.11.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from kale_magic.executors._environment import FIND_MODULE, export_line
from kale_magic.model.resources import format_walltime

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kale_magic.abc import Environment
    from kale_magic.model.resources import Resources
    from kale_proxy.spec import JobSpec

SQUEUE_FORMAT = "%F|%K|%j|%T|%r|%S|%N|%u|%P|%D|%L"
SACCT_FORMAT = "JobID,JobName%100,State,NodeList"
PENDING = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT"})
ALIVE = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"})
_LOST = {
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node could not be started",
    "PREEMPTED": "it was preempted by a job of higher priority",
    "REVOKED": "it was revoked by another cluster",
    "RERUN": "it was put back into the queue, by a preemption, a failed node or an administrator",  # no word of Slurm's
}
_UNSURE = (  # the job may or may not have been taken; ask for its name before trying again
    "unable to contact", "timed out", "connection refused", "not responding", "temporarily unable", "temporarily unavailable",
    "zero bytes were transmitted", "communication", "connection failure", "connection reset", "broken pipe", "dbd", "munge",
    "protocol authentication error", "server too busy", "i/o error", "configuring", "no route to host", "in standby mode",
)  # fmt: skip
_FULL = ("maxsubmitjob", "maxjobcount", "job submit limit", "maxarraysize", "maxsubmitjobs")
_GLOSSES = {
    "Resources": "waits for nodes to become free",
    "Priority": "jobs of higher priority are before it",
    "Dependency": "waits for the steps before it",
    "DependencyNeverSatisfied": "what it waits for did not complete",
    "JobHeldUser": "held by you; %kale_release lets it go on",
    "JobHeldAdmin": "held by an administrator",
    "PartitionTimeLimit": "asks for more time than its partition allows (--walltime)",
    "PartitionNodeLimit": "asks for more nodes than its partition allows (--nodes)",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is inactive",
    "ReqNodeNotAvail": "nodes that it asks for are not available now",
    "Reservation": "waits for its reservation to begin",
    "BeginTime": "its begin time has not come",
    "Licenses": "waits for licences",
    "NodeDown": "a node that it needs is down",
    "QOSMaxJobsPerUserLimit": "you have as many jobs running as the QOS allows",
    "AssocMaxJobsLimit": "the account has as many jobs running as it may",
    "AssocGrpCpuLimit": "the account uses all the CPUs that it may",
    "QOSMaxCpuPerUserLimit": "you use all the CPUs that the QOS allows",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of squeue: a job, or several points of an array that are in the same state.

    ``tasks`` are the points' numbers in the array, None for a job that is no array. ``starts_at`` is in seconds
    since the epoch, None when Slurm does not know.
    """

    job_id: str
    tasks: tuple[int, ...] | None
    name: str
    state: str
    reason: str
    starts_at: float | None
    node: str
    user: str = ""
    partition: str = ""
    nodes: str = ""
    time_left: str = ""

    @property
    def is_held(self) -> bool:
        """Whether it stays in the queue until somebody releases it."""
        return self.state in PENDING and self.reason in {"JobHeldUser", "JobHeldAdmin"}


def read_squeue(text: str) -> list[Line]:
    """Read what ``squeue --noheader --format=SQUEUE_FORMAT`` prints, times in seconds (SLURM_TIME_FORMAT=%s).

    Raises
    ------
    ValueError
        A line has another form.
    """
    return [_line(line) for line in text.splitlines() if line.strip()]


def _line(text: str) -> Line:
    words = [word.strip() for word in text.split("|")]
    extra = len(words) - SQUEUE_FORMAT.count("|") - 1
    if extra < 0:
        raise ValueError(text)
    job_id, tasks = words[:2]
    name = "|".join(words[2 : 3 + extra])  # a name is the one thing in which people write what they like
    state, reason, starts, node, user, partition, nodes, left = words[3 + extra :]
    at = float(starts) if re.fullmatch(r"\d+", starts) else None
    return Line(job_id, None if tasks in {"N/A", ""} else read_tasks(tasks), name, state, reason, at, node, user, partition, nodes, left)


def read_sacct(text: str) -> list[Line]:
    """Read what ``sacct --noheader --parsable2 --allocations --format=SACCT_FORMAT`` prints; what is no line of a job is passed over.

    A state is its first word: ``CANCELLED by 1000`` says who did it. A job that was requeued has a line for each time, the newest last.
    """
    found = []
    for line in text.splitlines():
        words = line.strip().split("|")
        match = re.fullmatch(r"(\d+)(?:_(\d+))?", words[0])
        if match is None or len(words) < 4:
            continue
        tasks = None if match[2] is None else (int(match[2]),)
        found.append(Line(match[1], tasks, "|".join(words[1:-2]), words[-2].partition(" ")[0], "", None, words[-1]))
    return found


def read_tasks(text: str) -> tuple[int, ...]:
    """Return the numbers of ``0-3,7``, ``0-9%4`` or ``0-8:2`` (sbatch(1), --array)."""
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        if first.isdigit():
            found += range(int(first), int(last or first) + 1, int(step or 1))
    return tuple(found)


def write_tasks(tasks: Iterable[int]) -> str:
    """Return the shortest form of numbers that :func:`read_tasks` reads."""
    spans: list[list[int]] = []
    for number in sorted(tasks):
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def gloss(line: Line, when: str = "", system: str = "Slurm") -> str:
    """Return the reason for waiting, in Slurm's own word and in ours; ``when`` is when it may start."""
    word = line.reason.partition(",")[0]
    text = f"{line.reason}: {_GLOSSES[word]}" if word in _GLOSSES else line.reason
    if word in {"None", ""}:
        text = f"is in {system}'s queue, which has not looked at it yet"
    return text + (f"; may start {when}" if when else "")


def clock(at: float | None) -> str:
    """Return a moment, in seconds since 1970, as words that go with :func:`gloss`; empty if it is not known."""
    return "" if at is None else datetime.fromtimestamp(at).astimezone().strftime("at %H:%M on %d %b")


def lost_words(state: str) -> str:
    """Return why a job in this state is to be tried again; empty if it is not."""
    return _LOST.get(state, "")


def said(err: str) -> str:
    """Return what a command said, without its name and on one line."""
    lines = [re.sub(r"^(?:sbatch|squeue|scancel|scontrol|slurm_\w+)?:? ?(?:error: |fatal: )?", "", line).strip() for line in err.splitlines()]
    return "; ".join(dict.fromkeys(line.rstrip(".") for line in lines if line and not line.startswith("Try ")))


def is_unsure(err: str) -> bool:
    """Whether it is not known from what sbatch said if the job was taken."""
    low = err.lower()
    return not low.strip() or any(word in low for word in _UNSURE)


def is_full(err: str) -> bool:
    """Whether sbatch refused because there are too many jobs now."""
    low = err.lower()
    return any(word in low for word in _FULL)


def read_sbatch(out: str) -> str:
    """Return the number of a job from what ``sbatch --parsable`` printed; empty if there is none."""
    lines = out.strip().splitlines()
    found = re.fullmatch(r"(\d+)(?:;[\w.-]+)?", lines[-1].strip()) if lines else None
    return found[1] if found else ""


def read_time_limits(text: str) -> dict[str, int | None]:
    """Return the longest walltime in seconds of each partition (None: no limit) of ``sinfo -h -o '%P|%l'``; the default's is under "" too."""
    found: dict[str, int | None] = {}
    for line in text.splitlines():
        name, _, limit = line.strip().partition("|")
        seconds = read_time(limit)
        found[name.rstrip("*")] = seconds
        if name.endswith("*"):
            found[""] = seconds
    return found


def read_time(text: str) -> int | None:
    """Return the seconds of ``[D-][H:]M:S``; None for what is no time, such as UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def directives(asked: Resources, code: str = "") -> list[str]:
    """Return the ``#SBATCH`` lines for what a step asks; ``code`` is a batch script whose own lines come after those."""
    pairs = [
        ("nodes", asked.nodes),
        ("ntasks", asked.ntasks),
        ("cpus-per-task", asked.cpus),
        ("gres", f"gpu:{asked.gpus}" if asked.gpus else None),  # per node, as --gpus of a step
        ("mem", f"{-(-asked.memory_bytes // (1 << 20))}M" if asked.memory_bytes else None),
        ("time", format_walltime(asked.walltime_s) if asked.walltime_s else None),
        ("partition", asked.queue),
        ("account", asked.account),
        ("qos", asked.qos),
        ("constraint", asked.constraint),
        ("reservation", asked.reservation),
    ]
    lines = [f"#SBATCH --{name}={_quoted(str(value))}" for name, value in pairs if value is not None]
    lines += [line if line.startswith("#") else f"#SBATCH {line}" for line in asked.native]
    return [*lines, *own_directives(code)]


def own_directives(code: str) -> list[str]:
    """Return the ``#SBATCH`` lines of a batch script, which stand before its first command (sbatch(1))."""
    found = []
    for line in code.splitlines():
        if line.startswith("#SBATCH"):
            found.append(line.rstrip())
        elif line.strip() and not line.startswith("#"):
            break
    return found


def asks_for_an_array(lines: Iterable[str]) -> bool:
    """Whether one of the directives does."""
    return any(re.match(r"#?(?:SBATCH)?\s*(?:--array\b|-a\b)", line) for line in lines)


@dataclass(frozen=True, slots=True)
class ScriptParts:
    """What a job script is made of: one job, or points of a sweep, of which all are like ``spec``.

    ``tasks`` are the numbers of the array, None for one job; the folder of a point is ``base`` and the number plus ``first``.
    """

    name: str
    spec: JobSpec
    environment: Environment
    resources: Resources
    tasks: tuple[int, ...] | None = None
    base: str = ""
    first: int = 0


def script(parts: ScriptParts) -> str:
    """Return the job script: readable, and good for sbatch by hand."""
    spec = parts.spec
    step, folder = spec.step, parts.base if parts.tasks is not None else spec.folder
    numbers = f"[{write_tasks(task + parts.first for task in parts.tasks)}]" if parts.tasks is not None else ""
    point = numbers or ("" if spec.point is None else f"[{spec.point}]")
    output = "/dev/null" if parts.tasks is not None else f"{folder.replace('%', '%%')}/{file_name(spec, 'slurm.log')}"
    own = spec.code if spec.kind == "script" else ""
    what = f"Step {step}{point} of run {spec.run}, attempt {spec.attempt}" if spec.lane is None else lane_words(spec)
    head = [
        "#!/bin/bash",
        f"# {what}; written by Kale, to be submitted by: sbatch {file_name(spec, 'job.sh')}",
        *directives(parts.resources, own),
        "# Kale knows its jobs by their names, and tries again itself",
        f"#SBATCH --job-name={parts.name}",
        f"#SBATCH --comment={_quoted(f'kale {spec.run}/{step}')}",
        f"#SBATCH --output={_quoted(output)}",
        f"#SBATCH --chdir={_quoted(spec.cwd)}",
        "#SBATCH --no-requeue",
        *_warning(parts, own),
    ]
    if parts.tasks is None:
        head += ["", f"folder={shlex.quote(folder)}"]
    else:
        number = f"$((SLURM_ARRAY_TASK_ID + {parts.first}))" if parts.first else "$SLURM_ARRAY_TASK_ID"
        head += [f"#SBATCH --array={write_tasks(parts.tasks)}", "", "# each point of the sweep has a folder of its own"]
        head += [f'folder={shlex.quote(folder)}/"{number}"', 'exec >>"$folder/slurm.log" 2>&1']
    return "\n".join([*head, *body(parts), ""])


def _warning(parts: ScriptParts, code: str) -> Iterator[str]:
    """Have Slurm tell the worker (``B:`` is the batch shell, which becomes it) some time before the end, unless the step says how itself."""
    given = [*parts.resources.native, *own_directives(code)]
    if not has_ranks(parts.resources, parts.spec.kind) and not any("--signal" in line for line in given):
        yield f"#SBATCH --signal=B:USR1@{max(1, round(parts.spec.warn_before_s()))}"


def body(parts: ScriptParts) -> Iterator[str]:
    """Return the lines of a job script after its directives: the environment, then the worker."""
    environment, python = parts.environment, shlex.quote(parts.environment.python)
    job = f'"$folder/{file_name(parts.spec, "job.json")}"'
    lines = [f"module load {shlex.quote(name)}" for name in environment.modules] + list(environment.setup)
    if lines:
        yield "\n# what the step's environment is made of; a line that fails ends the step, with what the line said"
        yield f'log="$folder/{file_name(parts.spec, "setup.log")}"'
        yield "trap '' USR1  # the warning that time is nearly over is for the worker"
        if environment.modules:
            yield FIND_MODULE.rstrip()
        for line in lines:
            quoted = shlex.quote(line)
            yield f'eval {quoted} >>"$log" 2>&1 || exec {python} -m kale_proxy refuse {job} --log "$log" --line {quoted}'
    if environment.env:
        yield ""
    for name, value in environment.env:
        yield export_line(name, value)
    is_light = parts.spec.kind in {"shell", "script"}
    what = "runs the step and records it" if is_light else "runs the step in a kernel, records it, lets visitors in"
    yield f"\n# the worker: {what}"
    asked = parts.resources
    if has_ranks(asked, parts.spec.kind):
        cpus = f" --cpus-per-task={asked.cpus}" if asked.cpus else ""  # srun no longer takes it from sbatch (22.05)
        yield f"exec srun --kill-on-bad-exit=1 --unbuffered{cpus} {python} -m kale_proxy run --ranks {job}"
    elif is_light:  # as below, without what -m loads
        yield f"exec {python} -c 'from kale_proxy.brief import main; main()' {job}"
    else:
        yield f"exec {python} -m kale_proxy run {job}"


def file_name(spec: JobSpec, name: str) -> str:
    """Return the name of a job's own file; those of the jobs of a ``--reuse-kernel`` sweep lie side by side: ``job-2.sh``."""
    stem, _, suffix = name.partition(".")
    return name if spec.lane is None else f"{stem}-{spec.lane}.{suffix}"


def lane_words(spec: JobSpec) -> str:
    """Return what such a job is."""
    return f"Job {spec.lane} of those that run the points of step {spec.step} of run {spec.run} in warm kernels"


def has_ranks(asked: Resources, kind: str) -> bool:
    """Whether a step runs as the ranks of an MPI program."""
    return kind == "python" and (asked.ntasks or 1) > 1


def _quoted(text: str) -> str:
    """Return a value of a directive, quoted where Slurm would cut it."""
    if re.fullmatch(r"[\w@%+=:,./&|*!\[\]()-]*", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def probe_script(asked: Resources, code: str, cwd: str = "/") -> str:
    """Return a script that asks for the same and does nothing, for ``sbatch --test-only``."""
    return "\n".join(["#!/bin/bash", *directives(asked, code), f"#SBATCH --chdir={_quoted(cwd)}", "true", ""])
