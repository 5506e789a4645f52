"""Read the workflow out of a notebook file, as running its cells in order would declare it. Runs nothing of it.

Cell magics that declare (``%%kale_step``, ``%%kale_common``, ``%%kale_markdown``, ``%%kale_submit``) and the line
magic ``%kale_workflow`` count; all else is passed over, ``%kale_import`` included. Called by the command line.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import TYPE_CHECKING, Any

from kale_magic.dsl.cells import split_cell
from kale_magic.dsl.options import SPECS, HelpRequested
from kale_magic.dsl.session import DECLARING, Declarations
from kale_magic.errors import FormatError, KaleError, UnknownRunError, UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from kale_magic.model.workflow import Workflow

_MAX_BYTES = 512 << 20


def read_notebook(path: str | os.PathLike[str], *, workflow: str | None = None) -> Workflow:
    """Return the workflow of a notebook file: the one it works on at its end, or the one named.

    Parameters
    ----------
    path : path
        An ``.ipynb`` file of format 4; without a ``%kale_workflow`` its name is the workflow's.
    workflow : str or None
        Which workflow, where the notebook has several.

    Raises
    ------
    FormatError
        The file can't be read as a notebook.
    KaleError
        What the cell's magic would have raised; the message begins with the file's and the cell's number.
    """
    from pathlib import Path

    file = Path(path)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise FormatError(f"{file} is larger than {_MAX_BYTES >> 20} MB.")
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as exc:
        raise FormatError(f"{file} can't be read: {exc.strerror or exc}.") from exc
    except (ValueError, RecursionError) as exc:
        raise FormatError(f"{file} is no notebook: {exc}.") from exc
    declared = declarations_of(data, name=name_from(file.stem), source=file.name)
    if workflow is None:
        return declared.workflow
    if workflow not in declared.workflows:
        raise UnknownRunError(f"{file.name} has no workflow {workflow!r}.", f"It has: {', '.join(declared.workflows)}.")
    return declared.workflows[workflow]


def declarations_of(notebook: Any, *, name: str = "workflow", source: str = "notebook") -> Declarations:
    """Return what a notebook (its JSON as Python values) declares; raises as :func:`read_notebook`."""
    declared = Declarations(name)
    for number, text in _code_cells(notebook, source):
        for magic in split_cell(text):
            try:
                if magic.name in DECLARING and (magic.body is not None) == (magic.name != "workflow"):
                    declared.apply(magic.name, magic.line, magic.body, first_line=magic.first_line)
                elif magic.name and magic.name not in SPECS:
                    close = difflib.get_close_matches(magic.name, SPECS, n=1)
                    sign = "%" if magic.body is None else "%%"
                    raise UsageError(f"there is no {sign}kale_{magic.name}.", f"Did you mean {close[0]}?" if close else "")
            except HelpRequested:
                continue
            except KaleError as exc:
                exc.message = f"{source}, cell {number}: {exc.message}"
                exc.args = (exc.message,)
                raise
    return declared


def name_from(stem: str) -> str:
    """Return a workflow's name made from a file's."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:64]
    return name if name[:1].isalpha() else f"workflow_{name}"[:64].rstrip("_")


def _code_cells(notebook: Any, source: str) -> Iterable[tuple[int, str]]:
    """Give the code cells with their numbers, counted from 1 over all cells as a person sees them."""
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        hint = "Convert it: jupyter nbconvert --to notebook --nbformat 4." if isinstance(notebook, dict) and "worksheets" in notebook else ""
        raise FormatError(f"{source} is no notebook of format 4.", hint)
    for number, cell in enumerate(cells, start=1):
        if not isinstance(cell, dict):
            raise FormatError(f"{source}, cell {number}: no cell.")
        if cell.get("cell_type") == "code":
            text = cell.get("source", "")
            yield number, "".join(map(str, text)) if isinstance(text, list) else str(text)
