"""Files of a finished step that a person puts another in the place of; and what of a step was edited so, files and values."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.errors import UsageError
from kale_proxy import checkpoints, pack, values
from kale_proxy.attempt import FILES_EDITED
from kale_proxy.record import RESULT, now

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kale_magic.api.find import Target

BEFORE = "before"  # the folder, beside an output, of what was there before it was edited


def replace_files(target: Target, home: Path, given: Mapping[str, str | Path], by: str) -> None:
    """Put files in the place of those that a step made; the old ones are kept in its folder, and it is noted who did it.

    Parameters
    ----------
    target : Target
        One finished job.
    home : Path
        The workflow's folder, which the names are relative to.
    given : mapping of str to path
        Name of a file that the step made -> the file to put there.
    by : str
        Who does it.

    Raises
    ------
    UsageError
        The step made no such file, or one can't be read or written.
    """
    folder = target.files
    made = _made(folder)
    sources = {name: Path(source).expanduser() for name, source in given.items()}
    for name, source in sources.items():
        if name not in made:
            raise UsageError(f"{target} made no file {name}.", f"It made: {', '.join(made)}." if made else "Files that a step makes are named by --files-out.")
        if not source.is_file():
            raise UsageError(f"There is no file {source}.")
    edited = edited_files(folder)
    for name, source in sources.items():
        place = home / name
        try:
            kept = folder / "outputs" / BEFORE
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            old = kept / f"{len(list(kept.iterdir())) + 1}-{place.name}"
            part = place.with_name(f".{place.name}.{os.getpid()}")
            shutil.copyfile(source, part)
            if place.exists():
                shutil.copy2(place, old)
            os.replace(part, place)
            edited[name] = {"by": by, "at": now(), "old": f"outputs/{BEFORE}/{old.name}", "digest": digest(place)}
            values.write_atomic(folder / FILES_EDITED, json.dumps(edited, indent=1).encode(), is_durable=True)
        except OSError as exc:
            raise UsageError(f"{place} can't be replaced: {exc.strerror or exc}.") from exc
    checkpoints.record_event(str(folder), "edited", by=by, names=list(given))


def edited_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return which files of a step were replaced: name -> by, at, old (its path in the step's folder), digest of the new one."""
    try:
        found: dict[str, dict[str, Any]] = json.loads((folder / FILES_EDITED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def told(folder: Path) -> list[str]:
    """Return a sentence for each value and file of a job that a person has edited."""
    try:
        index = values.read_index(folder / "outputs")
    except (OSError, ValueError):
        index = {}
    marks = {f"output {name}": info["edited"] for name, info in index.items() if info.get("edited")}
    marks |= {f"file {name}": info for name, info in edited_files(folder).items()}
    return [f"{what} was edited by {mark['by']}, {mark['at']}" for what, mark in marks.items()]


def digest(path: Path) -> str:
    """Return the digest of a file as the cache has it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:32]


def _made(folder: Path) -> list[str]:
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result = pack.result(folder) or {}
    return [str(name) for name in result.get("files") or ()]
