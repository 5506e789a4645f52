"""The folder of a run, made at submit: refused then, with a sentence, rather than failing at every step later."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kale_magic.errors import SubmitError, UsageError
from kale_magic.manager.surroundings import git_state
from kale_magic.version import __version__
from kale_proxy.pack import ELSEWHERE
from kale_proxy.values import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TRIES = 20


def make_run_folder(base: Path, workflow: str, name: str | None, now: float) -> tuple[str, Path]:
    """Make ``.kale/runs/RUN`` under a workflow's folder and return id and path.

    Parameters
    ----------
    base : Path
        The workflow's folder.
    name : str or None
        The id wanted; None makes ``WORKFLOW-YYYYMMDD-xxxx``.

    Raises
    ------
    UsageError
        The wanted id is no name, or taken.
    SubmitError
        The folder can't be made or written.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(f"--name {name!r} can't be the name of a run.", "Use letters, digits, '.', '_' and '-'.")
    runs = base / ".kale" / "runs"
    try:
        runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore = base / ".kale" / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
        day = datetime.fromtimestamp(now, UTC).strftime("%Y%m%d")
        for _ in range(_TRIES):
            run = name or f"{workflow}-{day}-{secrets.token_hex(2)}"
            try:
                (runs / run).mkdir(mode=0o700)
            except FileExistsError:
                if name is not None:
                    raise UsageError(f"There is a run {name} in {runs} already.", "Choose another --name.") from None
                continue
            return run, runs / run
    except OSError as exc:
        raise unwritable(runs, exc) from exc
    raise SubmitError(f"No free name for a run was found in {runs}.", "Give one by --name.")


def fill_run_folder(folder: Path, workflow_yaml: str, lineage: Mapping[str, Any]) -> None:
    """Write ``workflow.yaml`` and ``environment.json``, in what it was computed; raises SubmitError."""
    environment = {"kale_version": __version__, "manager_python_version": sys.version.split()[0], **lineage}
    try:
        (folder / "steps").mkdir(mode=0o700)
        _write(folder / "workflow.yaml", workflow_yaml)
        _write(folder / "environment.json", json.dumps(environment, indent=1) + "\n")
    except OSError as exc:
        raise unwritable(folder, exc) from exc


def link_points(folder: Path, points: Mapping[int, str]) -> None:
    """Let the points of a sweep that earlier runs have computed be found in the folder of the step: raises SubmitError.

    A point with a folder of its own is a symbolic link; those that shared their files are named in one file (:mod:`kale_proxy.pack`).
    """
    if not points:
        return
    shared: dict[str, str] = {}
    try:
        folder.mkdir(mode=0o700)
        for point, target in points.items():
            way = os.path.relpath(target, folder)
            if os.path.isdir(target):
                (folder / str(point)).symlink_to(way)
            else:
                shared[str(point)] = way
        if shared:
            _write(folder / ELSEWHERE, json.dumps(shared))
    except OSError as exc:
        raise unwritable(folder, exc) from exc


def add_git_state(folder: Path, workflow_folder: Path) -> None:
    """Add to a run's ``environment.json`` in which state of its repository the workflow was submitted, if it is in one."""
    found = git_state(workflow_folder)
    if not found:
        return
    path = folder / "environment.json"
    with contextlib.suppress(OSError, ValueError):  # the folder was removed meanwhile, or its disk is full
        known = json.loads(path.read_text(encoding="utf-8"))
        write_atomic(path, (json.dumps({**known, "git": found}, indent=1) + "\n").encode())


def note_decision(folders: Iterable[str], by: str, decision: Mapping[str, str]) -> None:
    """Add who let jobs go on that were at a gate before they were queued, and with what, to the events in their folders.

    As a step does that waits with its inputs loaded; under a word of its own, since nothing runs yet.
    """
    line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"), "event": "continued", "by": by, "set": dict(decision)})
    for folder in folders:
        with contextlib.suppress(OSError):  # it is in the manager's store too
            os.makedirs(folder, mode=0o700, exist_ok=True)
            with open(os.open(f"{folder}/events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8") as file:
                file.write(line + "\n")


def unwritable(folder: Path, exc: OSError) -> SubmitError:
    """Return the sentence for a folder that can't be written."""
    return SubmitError(
        f"The run's folder {folder} can't be written: {exc.strerror or exc}.",
        "Mend that, or choose another folder by %kale_workflow --dir.",
    )


def _write(path: Path, text: str) -> None:
    with open(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
