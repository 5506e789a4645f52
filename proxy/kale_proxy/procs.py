"""The processes of a step: finding all of them, ending them, and what they use.

A step is a session of its own (setsid(2)); its processes are those of that session, their
descendants, and those that carry its ``KALE_JOB`` in their environment (a daemon that made a session
of its own). Read from ``/proc`` (proc(5)) in one pass for all steps.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of ``/proc/PID/stat``: times in seconds, memory in bytes."""

    pid: int
    ppid: int
    session: int
    cpu_s: float
    rss_bytes: int


def snapshot() -> dict[int, Process]:
    """Return all processes of this host that can be read, by pid, zombies left out."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stream:
                fields = stream.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if fields[0] in {b"Z", b"X"}:
            continue
        cpu = (int(fields[11]) + int(fields[12])) / _TICK
        found[int(name)] = Process(int(name), int(fields[1]), int(fields[3]), cpu, int(fields[21]) * _PAGE)
    return found


def members(roots: Iterable[int], processes: dict[int, Process]) -> dict[int, list[Process]]:
    """Return, for each root (the leader of a step's session), its processes: same session, and descendants of those."""
    owner: dict[int, int | None] = {}
    wanted = set(roots)

    def find(pid: int) -> int | None:
        if pid in owner:
            return owner[pid]
        process = processes.get(pid)
        if process is None or pid <= 1:
            return None
        owner[pid] = None  # a loop can't be, but a race while reading could make one
        found = process.session if process.session in wanted else find(process.ppid)
        owner[pid] = pid if pid in wanted else found
        return owner[pid]

    groups: dict[int, list[Process]] = {root: [] for root in wanted}
    for pid, process in processes.items():
        root = find(pid)
        if root is not None:
            groups[root].append(process)
    return groups


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that live."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as stream:
            return [int(word) for word in stream.read().split()]
    except OSError:
        return []


def name(pid: int) -> str:
    """Return a process's name, empty when it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def catches(pid: int, signum: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal, as bash for a ``trap``."""
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as stream:
        for line in stream:
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signum - 1) & 1)
    return False


def marked(uuid: str, processes: Iterable[int]) -> list[int]:
    """Return those processes of this user whose environment has ``KALE_JOB=uuid``."""
    mark = f"KALE_JOB={uuid}".encode()
    found = []
    for pid in processes:
        try:
            with open(f"/proc/{pid}/environ", "rb") as stream:
                if mark in stream.read().split(b"\0"):
                    found.append(pid)
        except OSError:
            continue
    return found


def tree(root: int, uuid: str) -> list[int]:
    """Return every process of a step, the root last, found by session, descent and mark."""
    processes = snapshot()
    pids = {process.pid for process in members([root], processes)[root]} | set(marked(uuid, processes))
    pids.discard(os.getpid())
    return sorted(pids, key=lambda pid: pid == root)


def send(pids: Iterable[int], signum: signal.Signals) -> None:
    """Send a signal to each process that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)


def proportional_bytes(pids: Iterable[int]) -> int:
    """Return the memory of processes with shared pages counted once (Pss of smaps_rollup, proc(5))."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as stream:
            total += next((int(line.split()[1]) * 1024 for line in stream if line.startswith(b"Pss:")), 0)
    return total


def io_bytes(pids: Iterable[int]) -> tuple[int, int]:
    """Return bytes read from and written to disks by processes that are alive (proc(5), io)."""
    read = written = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/io", "rb") as stream:
            values = dict(line.split(b":") for line in stream.read().splitlines())
            read += int(values[b"read_bytes"])
            written += int(values[b"write_bytes"])
    return read, written


def node_sample() -> dict[str, Any]:
    """Return what the node uses as a whole: CPU seconds, memory, disk and network bytes since boot, load."""
    sample: dict[str, Any] = {"load": round(os.getloadavg()[0], 2), "cpus": os.cpu_count()}
    with open("/proc/stat", "rb") as stream:
        fields = [int(field) / _TICK for field in stream.readline().split()[1:]]
    sample["cpu_busy_s"] = round(sum(fields[:8]) - fields[3] - fields[4], 2)
    with open("/proc/meminfo", "rb") as stream:
        memory = {line.split(b":")[0]: int(line.split()[1]) * 1024 for line in stream if line.startswith(b"Mem")}
    sample["memory_total_bytes"] = memory[b"MemTotal"]
    sample["memory_used_bytes"] = memory[b"MemTotal"] - memory.get(b"MemAvailable", 0)
    with contextlib.suppress(OSError), open("/proc/net/dev", "rb") as stream:
        lines = [line.split() for line in stream.read().replace(b":", b" ").splitlines()[2:]]
        lines = [line for line in lines if line[0] != b"lo"]
        sample["net_received_bytes"] = sum(int(line[1]) for line in lines)
        sample["net_sent_bytes"] = sum(int(line[9]) for line in lines)
    with contextlib.suppress(OSError), open("/proc/diskstats", "rb") as stream:
        disks = [line.split() for line in stream]
        whole = [line for line in disks if os.path.exists(f"/sys/block/{line[2].decode()}")]
        sample["disk_read_bytes"] = sum(int(line[5]) * 512 for line in whole)
        sample["disk_written_bytes"] = sum(int(line[9]) * 512 for line in whole)
    return sample


def cgroup_limits() -> dict[str, float]:
    """Return the limits that this process's control group sets: ``memory_bytes``, ``cpus``; empty when there are none."""
    found: dict[str, float] = {}
    try:
        with open("/proc/self/cgroup", encoding="ascii") as stream:
            lines = [line.rstrip("\n").split(":", 2) for line in stream]
    except OSError:
        return found
    for _, controllers, path in lines:
        if controllers == "":
            _read_limit(found, "memory_bytes", f"/sys/fs/cgroup{path}/memory.max", 1)
            _read_quota(found, f"/sys/fs/cgroup{path}/cpu.max")
        elif "memory" in controllers.split(","):
            _read_limit(found, "memory_bytes", f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes", 1)
    if found.get("memory_bytes", 0) >= 1 << 60:  # version 1 writes "no limit" as a number
        del found["memory_bytes"]
    return found


def oom_kills() -> int:
    """Return how many processes the kernel's out-of-memory killer has ended in our control group or on this host."""
    try:
        with open("/proc/vmstat", encoding="ascii") as stream:
            return next((int(line.split()[1]) for line in stream if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def _read_limit(found: dict[str, float], name: str, path: str, factor: float) -> None:
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as stream:
        found[name] = int(stream.read()) * factor


def _read_quota(found: dict[str, float], path: str) -> None:
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as stream:
        quota, period = stream.read().split()
        found["cpus"] = int(quota) / int(period)
