"""What this machine lets us use: cores, memory, gpus. Read from the system once, limits of containers respected."""

from __future__ import annotations

import os
import subprocess
from functools import cache

from kale_proxy.procs import cgroup_limits

_NVIDIA_S = 10.0


def cores() -> int:
    """Return how many cores our processes may run on: affinity, or the quota of the control group if that is less."""
    available = len(os.sched_getaffinity(0))
    quota = cgroup_limits().get("cpus")
    return max(1, min(available, round(quota)) if quota else available)


def memory_bytes() -> int:
    """Return the memory of the machine, or the limit of the control group if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = cgroup_limits().get("memory_bytes")
    return int(min(total, limit)) if limit else total


@cache
def gpus() -> tuple[str, ...]:
    """Return what goes into CUDA_VISIBLE_DEVICES for each gpu; may take seconds the first time.

    By that variable of our own if it is set, else by ``nvidia-smi -L``; no gpu is ever touched.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(part.strip() for part in visible.split(",") if part.strip() not in {"", "-1", "NoDevFiles"})
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=_NVIDIA_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(
        str(number) for number, line in enumerate(line for line in done.stdout.splitlines() if line.startswith("GPU "))
    )
