"""Write a workflow in any of the formats that leave Kale; called by the magics, the command line and the Python API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kale_magic.errors import UsageError
from kale_magic.formats import cwl, native, snakemake
from kale_magic.formats.files import write_whole
from kale_magic.formats.project import project_of, write_folder
from kale_magic.model.formats import FORMATS

if TYPE_CHECKING:
    import os

    from kale_magic.model.workflow import Workflow

_ONE_FILE = frozenset({".cwl", ".yaml", ".yml", ".json"})


def export(workflow: Workflow, target: str | os.PathLike[str], format: str = "kale", folder: str | Path = ".") -> list[str]:  # noqa: A002 - the interface's word
    """Write a workflow to a file or folder and return what the format can't hold, a sentence each.

    Parameters
    ----------
    workflow : Workflow
        As declared.
    target : path
        ``kale``: a file. ``cwl``: a file if it ends in .cwl, .yaml, .yml or .json, else a folder. ``snakemake``: a folder.
    format : str
        One of :data:`kale_magic.model.formats.FORMATS`.
    folder : path
        The workflow's own folder, from which the files of ``--files-in`` and modules beside the notebook go along.

    Raises
    ------
    UsageError
        There is no such format, or the target can't be written.
    WorkflowError
        The steps don't fit together.
    """
    path = Path(target)
    if format == "kale":
        write_whole(path, native.dump(workflow))
        return []
    if format not in FORMATS:
        raise UsageError(f"There is no format {format!r}.", f"There are: {', '.join(FORMATS)}.")
    project = project_of(workflow, Path(folder))
    copies = {name: project.folder / name for name in project.copies()}
    if format == "snakemake":
        write_folder(path, snakemake.folder_files(project), copies)
        return snakemake.warnings(project)
    if path.suffix in _ONE_FILE and not path.is_dir():
        write_whole(path, cwl.one_file(project, path))
        return cwl.warnings(project, is_folder=False)
    write_folder(path, cwl.folder_files(project), copies)
    return cwl.warnings(project, is_folder=True)
