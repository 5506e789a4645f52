"""A job's folder before it starts: ``job.json``, ``job.sh``, and an earlier attempt's files put aside."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from kale_magic.executors._environment import shell_lines

if TYPE_CHECKING:
    from kale_magic.abc import Environment
    from kale_proxy.spec import JobSpec

_STAYS = "attempts"


def prepare_folder(spec: JobSpec, text: str, environment: Environment) -> None:
    """Make the folder and write what a job starts from; doing it again changes nothing.

    Parameters
    ----------
    spec : JobSpec
        What is to run.
    text : str
        It as JSON.
    environment : Environment
        For ``job.sh``, by which a person can run the job again.

    Raises
    ------
    OSError
        The folder can't be written.
    """
    folder = spec.folder
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if spec.attempt > 1:
        put_aside(Path(folder), spec.attempt)
    if spec.lane is not None and os.path.exists(f"{folder}/job.json"):
        return  # the kernels of a sweep have one script, the first one's
    write_private(f"{folder}/job.sh", job_script(spec, environment), 0o700)
    write_private(f"{folder}/job.json", text, 0o600)


def put_aside(folder: Path, attempt: int) -> None:
    """Move the files of the attempt before into ``attempts/N/``; ``job.json`` goes last, so that it says whether it was done."""
    try:
        if json.loads((folder / "job.json").read_text())["attempt"] >= attempt:
            return
    except (OSError, ValueError, KeyError, TypeError):
        pass
    target = folder / _STAYS / str(attempt - 1)
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = sorted(os.listdir(folder), key=lambda name: name == "job.json")
    for name in names:
        if name != _STAYS and not name.endswith(".claim"):
            os.replace(folder / name, target / name)


def job_script(spec: JobSpec, environment: Environment) -> str:
    """Return ``job.sh``."""
    point = "" if spec.point is None else f"[{spec.point}]"
    added = [f"export {name}={shlex.quote(value)}" for name, value in spec.env.items()]
    about = [
        f"# Step {spec.step}{point} of run {spec.run}, attempt {spec.attempt}. Kale ran it in a process that was warm already;",
        "# this script does the same by hand: bash job.sh",
    ]
    if spec.lane is not None:
        about = [
            f"# A kernel for the points of step {spec.step} of run {spec.run}; Kale handed them to it, and to others like it, while it ran.",
            "# This script runs those that it began with.",
        ]
    return "\n".join([
        "#!/bin/bash",
        *about,
        f"cd {shlex.quote(spec.cwd)} || exit 1",
        *shell_lines(environment),
        *added,
        f"exec {shlex.quote(environment.python)} -m kale_proxy run {shlex.quote(spec.folder)}/job.json",
        "",
    ])  # fmt: skip


def write_private(path: str, text: str, mode: int) -> None:
    """Write a file of the given mode."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "w", encoding="utf-8") as file:
        file.write(text)
