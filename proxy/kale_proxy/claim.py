"""Who runs an attempt: an exclusive file in the step's folder, so that two submissions run once.

Created with O_EXCL (atomic on NFS v3 and later, open(2)) by the process that is about to run the step;
a second copy finds it and ends. The content lets a new manager tell a live job from a dead one.
"""

from __future__ import annotations

import json
import os
import socket
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_proxy.pack import points_file
from kale_proxy.values import write_atomic

if TYPE_CHECKING:
    from kale_proxy.spec import JobSpec


class ClaimTaken(Exception):  # noqa: N818 - an outcome, not a fault
    """Another copy of this attempt has begun; the message says where."""


def take(spec: JobSpec) -> None:
    """Claim the attempt for this process.

    Raises
    ------
    ClaimTaken
        Another copy has it.
    OSError
        The folder can't be made or written.
    """
    folder = Path(spec.folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = path_of(spec)
    owner = {"uuid": spec.uuid, "pid": os.getpid(), "pid_start": pid_start(os.getpid()), "boot": boot_id(), "host": socket.gethostname()}
    if spec.restart and (read(folder, spec.attempt) or {}).get("uuid") == spec.uuid:  # the process before it was of this very job
        write_atomic(path, json.dumps(owner).encode())
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as exc:
        raise ClaimTaken(f"attempt {spec.attempt} was begun before, see {path}") from exc
    with open(fd, "w", encoding="utf-8") as stream:
        stream.write(json.dumps(owner) if spec.lane is None else json.dumps({"claim": owner}) + "\n")


def path_of(spec: JobSpec) -> Path:
    """Return the file of a job's claim."""
    return Path(spec.folder, f"attempt-{spec.attempt}.claim") if spec.lane is None else Path(points_file(spec.folder, spec.lane))


def owner_of(spec: JobSpec) -> dict[str, Any] | None:
    """Return a job's claim as :func:`read` does."""
    if spec.lane is None:
        return read(Path(spec.folder), spec.attempt)
    try:
        with path_of(spec).open(encoding="utf-8") as stream:
            data: dict[str, Any] = json.loads(stream.readline())["claim"]
    except OSError:
        return None
    except (ValueError, KeyError):
        return {}
    return data


def read(folder: Path, attempt: int) -> dict[str, Any] | None:
    """Return the claim of an attempt, None when nobody has begun it; a half-written one is ``{}``."""
    try:
        data: dict[str, Any] = json.loads((folder / f"attempt-{attempt}.claim").read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError:
        return {}
    return data


def is_alive(owner: dict[str, Any]) -> bool:
    """Whether the claiming process still runs on this host (its pid has the same start time and boot)."""
    pid = owner.get("pid")
    return isinstance(pid, int) and owner.get("boot") == boot_id() and pid_start(pid) == owner.get("pid_start") is not None


def pid_start(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot (proc(5), field 22); None when it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])


@cache
def boot_id() -> str:
    """Return this boot's id, so that a pid of before a reboot is not taken for one of now."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
