"""Giving values to a step from outside: into a running one, or in the place of what a finished one left.

The old output is kept beside the new one, which is marked as edited; what depends on it is named, so that it can
be run again. Called by the Python API, the magics and the command line.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kale_magic.api import handover
from kale_magic.api.edits import BEFORE, replace_files
from kale_magic.api.files import require_own
from kale_magic.api.push_there import push_there
from kale_magic.errors import UsageError
from kale_magic.model.literals import from_literal
from kale_proxy import checkpoints, inside, pack, values
from kale_proxy.record import now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kale_magic.api.find import Target
    from kale_magic.api.visits import Visits

NO_KERNEL = frozenset({"shell", "script"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """What a push did: ``is_edit`` says that outputs were replaced, ``stale`` which steps used the old ones."""

    names: tuple[str, ...]
    is_edit: bool
    stale: tuple[str, ...] = ()


def push(visits: Visits, target: Target, given: Mapping[str, object], files: Mapping[str, str | Path] | None = None, by: str = "") -> Pushed:
    """Give values, or files, to one job.

    Parameters
    ----------
    visits : Visits
        The way into a running step.
    target : Target
        One job.
    given : mapping of str to object
        Names and values.
    files : mapping of str to path, optional
        Of a completed step: name of a file that it made -> the file to put in its place.
    by : str, optional
        Who does it; this person on this host if it is empty.

    Raises
    ------
    UsageError
        A name is none, a value can't be handed over, or the step is in no state to take it.
    """
    by = by or who()
    for name in given:
        if not name.isidentifier():
            raise UsageError(f"{name!r} is no name of a variable.", "Write NAME, or NAME=VALUE; of a file that the step made, NAME=FILE.")
    is_open = target.live is not None and target.kind not in NO_KERNEL
    if target.client is not None and (files or not is_open):  # its files are there, and what is here is a copy
        found = push_there(visits.client, target, given, files or {}, by)  # type: ignore[arg-type]
        return Pushed(names=tuple(found["pushed"]), is_edit=bool(found["edited"]), stale=tuple(found["stale"]))
    if files:
        if target.state not in {"completed", "cached"}:
            raise UsageError(f"{target} {target.doing}: only files of a completed step are replaced.")
        replace_files(target, Path(str(visits.client.status(target.run)["workflow_folder"])), files, by)
        if not given:
            return Pushed(names=tuple(files), is_edit=True, stale=_dependants(visits, target))
    if is_open:
        handover.push(visits, target, given, by)
        return Pushed(names=tuple(given), is_edit=False)
    if target.live is not None or target.state in {"running", "paused"}:
        _change_params(target, given, by)
        return Pushed(names=tuple(given), is_edit=False)
    if not target.is_final or target.state in {"failed", "cancelled"}:
        raise UsageError(f"{target} {target.doing}: there is nothing to push into.", "Push to a running or a completed step.")
    _replace_outputs(target, given, by)
    return Pushed(names=(*given, *(files or ())), is_edit=True, stale=_dependants(visits, target))


def is_file_name(name: str) -> bool:
    """Whether what a person pushes is a file that the step made, not a variable: it has a dot or a slash."""
    return not name.isidentifier() and any(sign in name for sign in "./")


def who() -> str:
    """Return this person's name and host, for the record."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _change_params(target: Target, given: Mapping[str, object], by: str) -> None:
    """Change parameters of a step without a kernel, whose programs may read them by ``kale_magic.inside``."""
    try:
        declared = json.loads((target.files / "job.json").read_text(encoding="utf-8"))["params"]
    except (OSError, ValueError, KeyError) as exc:
        raise UsageError(f"{target} {target.doing}: its parameters can't be read.") from exc
    for name in given:
        if name not in declared:
            known = f"It has: {', '.join(declared)}." if declared else "It has none."
            raise UsageError(f"{target} is a {target.kind} step, which takes its parameters only; {name} is none.", known)
    changes = {name: (from_literal(declared[name]), value) for name, value in given.items()}
    inside.record_change(str(target.files), changes, by)


def _replace_outputs(target: Target, given: Mapping[str, object], by: str) -> None:
    folder = target.files / "outputs"
    pack.unpack(target.files)
    require_own(folder)
    index = values.read_index(folder)
    for name in given:
        if name not in index:
            raise UsageError(f"{target} has left no value `{name}`.", f"It has: {', '.join(index)}." if index else "")
    for name, value in given.items():
        try:
            info = values.save(name, value, _new_folder(folder, "new"))
        except values.ValueFileError as exc:
            raise UsageError(f"{target}: {exc}.") from exc
        old = values.find(folder, name)
        kept = _new_folder(folder, BEFORE) / f"{len(list((folder / BEFORE).iterdir())) + 1}-{old.name}"
        os.replace(old, kept)
        os.replace(folder / "new" / info["file"], folder / info["file"])
        index[name] = {**info, "edited": {"by": by, "at": now(), "old": f"{BEFORE}/{kept.name}"}}
        values.write_atomic(folder / values.INDEX, json.dumps(index, indent=1).encode(), is_durable=True)
    (folder / "new").rmdir()
    checkpoints.record_event(str(target.files), "edited", by=by, names=list(given))


def _new_folder(folder: Path, name: str) -> Path:
    (folder / name).mkdir(mode=0o700, exist_ok=True)
    return folder / name


def _dependants(visits: Visits, target: Target) -> tuple[str, ...]:
    """Return the steps of the run that used what the step left, in order."""
    from kale_magic.formats import native
    from kale_magic.model.dataflow import resolve, select

    status = visits.client.status(target.run)
    path = os.path.join(status["folder"], "workflow.yaml")
    with open(path, encoding="utf-8") as stream:
        plan = resolve(native.load(stream.read(), source=path), wanted=list(status["steps"]))
    after = select(plan, from_=[target.step], made=plan.steps)
    return tuple(name for name in plan.order if name in after and name != target.step and name in status["steps"])
