"""What an attempt of any kind of step needs, in words and variables; light, so that a shell step starts in no time."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kale_proxy.values import ValueFileError, write_atomic

if TYPE_CHECKING:
    from kale_proxy.spec import JobSpec

REFUSED = 96  # exit code: another copy of this attempt has begun
UNWRITABLE = 95  # exit code: the step's folder can't be written
BROKEN = 98  # exit code: a fault of ours, its traceback is in raw.log
HELD = "held"  # in the live folder while the step is held, see :mod:`kale_proxy.pause`, whose constant this is
VISITED = "visited"  # in the live folder while somebody is connected to a kernel that stays open, see :mod:`kale_proxy.stayopen`
RESTART = "restart"  # in the live folder when its notebook wants a fresh kernel
FILES_EDITED = "files_edited.json"  # path -> who put another file in the place of one that the step made, and its digest
FILES_READ = "files_in.json"  # path -> digest of each file of --files-in, as the step found it
STOPPED = "stopped by the user"


def hold_words(hold_s: float, failure: str = "") -> str:
    """Return the reason of a step whose kernel is kept for a look after it was stopped, or has failed."""
    what = f"failed ({failure})" if failure else "stopped"
    return f"{what}; its kernel stays open for {hold_s:g} s"


def state_line(state: str, reason: str) -> bytes:
    """Return the line by which a step tells its supervisor its state."""
    return json.dumps({"state": state, "reason": reason}).encode() + b"\n"


def job_environment(spec: JobSpec) -> dict[str, str]:
    """Return the variables by which the step's code, and cancel, know the job."""
    found = {"KALE_RUN": spec.run, "KALE_STEP": spec.step, "KALE_ATTEMPT": str(spec.attempt), "KALE_JOB": spec.uuid, "KALE_STEP_FOLDER": spec.folder}
    if spec.point is not None:
        found["KALE_POINT"] = str(spec.point)
    if "OMP_NUM_THREADS" not in os.environ and "OMP_NUM_THREADS" not in spec.env:
        found["OMP_NUM_THREADS"] = str(spec.limits.cpus)
    if spec.limits.walltime_s is not None:
        found["KALE_ENDS_AT"] = f"{time.time() + spec.limits.walltime_s:.0f}"
    if spec.limits.gpus:
        found["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, spec.limits.gpus))
    return found


def require_files(spec: JobSpec) -> None:
    """Refuse to begin without the files of ``--files-in``; raises ValueFileError naming the pattern.

    Their digests are kept, so that the next submit can tell whether they are the same.
    """
    if not spec.files_in:
        return
    import glob
    import hashlib

    found: dict[str, str] = {}
    for pattern in spec.files_in:
        matches = sorted(glob.iglob(pattern, root_dir=spec.cwd, recursive=True))
        if not matches:
            raise ValueFileError(f"no file in {spec.cwd} matches --files-in {pattern}")
        for name in matches:
            with contextlib.suppress(OSError), (Path(spec.cwd) / name).open("rb") as stream:  # a folder has no content
                found[name] = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
    if found:
        write_atomic(Path(spec.folder) / FILES_READ, json.dumps(found, indent=1).encode())


def check_files(spec: JobSpec) -> list[str]:
    """Return the files that match ``files_out``, relative to the working folder; a pattern without any is an error."""
    import glob

    found: list[str] = []
    for pattern in spec.files_out:
        matches = sorted(glob.glob(pattern, root_dir=spec.cwd, recursive=True))
        if not matches:
            raise ValueFileError(f"it made no file that matches --files-out {pattern}")
        found += matches
    return found
