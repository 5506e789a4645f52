"""Read a workflow from a file of any format that Kale imports; called by the command line, the magics and the Python API."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from kale_magic.formats import native

_CWL = re.compile(r"^[\s{,]*[\"']?cwlVersion[\"']?\s*:", re.MULTILINE)

if TYPE_CHECKING:
    import os

    from kale_magic.model.workflow import Workflow


def load(path: str | os.PathLike[str], job: str | os.PathLike[str] | None = None) -> Workflow:
    """Return the workflow in a file: Kale's YAML, CWL or WfFormat's JSON, told apart by what is in it.

    ``job`` is a file with values of a CWL workflow's inputs.

    Raises
    ------
    FormatError
        It can't be read or is no workflow; the message names file, line and column.
    """
    text = native.read_text(path)
    name = Path(path).name
    if text.lstrip()[:1] == "{" and '"schemaVersion"' in text:
        from kale_magic.formats import wfformat_read

        return wfformat_read.load(text, name)
    if _CWL.search(text):
        from kale_magic.formats import cwl_read

        return cwl_read.load(text, Path(path), None if job is None else cwl_read.load_job(Path(job), Path(path).parent))
    return native.load(text, name)
