"""A notebook file as the cells of a step's record: read, and its parameters injected by papermill's convention.

Pure but for the reading; starts nothing. Used by :mod:`kale_proxy.notebookrun`, and where a record is rebuilt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_proxy.recorder import CELL_PREFIX, Cell

if TYPE_CHECKING:
    from kale_proxy.spec import JobSpec

SOURCE = "notebook.ipynb"  # in the step's folder: the notebook as it was
INJECTED = "injected-parameters"
PARAMETERS = "parameters"
RAISES = "raises-exception"
SKIPPED = "skip-execution"


class NotebookError(Exception):
    """The notebook can't be read; the message says why."""


def read(path: Path) -> dict[str, Any]:
    """Return a notebook of format 4.

    Raises
    ------
    NotebookError
        The file can't be read, or is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise NotebookError(f"the notebook {path} can't be read: {exc.strerror or exc}") from exc
    except ValueError as exc:
        raise NotebookError(f"{path} is no notebook: {exc}") from exc
    if not isinstance(data, dict) or data.get("nbformat") != 4 or not isinstance(data.get("cells"), list):
        raise NotebookError(f"{path} is no notebook of format 4; convert it: jupyter nbconvert --to notebook --nbformat 4")
    return data


def cells(spec: JobSpec, data: dict[str, Any]) -> list[Cell]:
    """Return the cells of the record, with the injected one if there are parameters."""
    found: list[Cell] = []
    for number, item in enumerate(data["cells"]):
        source = item.get("source", "")
        metadata = dict(item.get("metadata") or {})
        tags = tuple(map(str, metadata.pop("tags", None) or ()))
        if INJECTED in tags:  # of an earlier run by papermill
            continue
        kind = str(item.get("cell_type", "code"))
        msg_id = f"{CELL_PREFIX}{number}-{spec.uuid}" if kind == "code" else ""
        text = source if isinstance(source, str) else "".join(source)
        found.append(Cell(kind, text, tags=tags, msg_id=msg_id, metadata=metadata, attachments=item.get("attachments")))
    if spec.params:
        at = next((number + 1 for number, cell in enumerate(found) if PARAMETERS in cell.tags), 0)
        source = "\n".join(["# Parameters", *(f"{name} = {text}" for name, text in spec.params.items())])
        found.insert(at, Cell("code", source, tags=(INJECTED,), msg_id=f"{CELL_PREFIX}injected-{spec.uuid}"))
    if not any(cell.kind == "code" for cell in found):
        found.append(Cell("code", "", msg_id=f"{CELL_PREFIX}none-{spec.uuid}"))
    return found


def recorded_cells(spec: JobSpec) -> list[Cell]:
    """Return the cells of the record of a notebook that began, from the copy in the step's folder."""
    try:
        return cells(spec, read(Path(spec.folder) / SOURCE))
    except NotebookError:
        return [Cell("code", "", msg_id=f"{CELL_PREFIX}none-{spec.uuid}")]
