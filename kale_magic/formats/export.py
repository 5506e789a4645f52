"""Write a workflow in any of the formats that leave Kale; called by the magics, the command line and the Python API."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kale_magic.errors import UsageError
from kale_magic.formats import cwl, fireworks, native, snakemake, wfformat
from kale_magic.formats._yaml_read import MAX_CHARS
from kale_magic.formats.files import write_whole
from kale_magic.formats.project import Project, project_of, write_folder
from kale_magic.model.formats import FORMATS

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from kale_magic.model.workflow import Workflow

_ONE_FILE = frozenset({".cwl", ".yaml", ".yml", ".json"})
_FOLDERS: dict[str, tuple[Callable[[Project], dict[str, str]], Callable[[Project], list[str]]]] = {
    "cwl": (cwl.folder_files, cwl.warnings),
    "snakemake": (snakemake.folder_files, snakemake.warnings),
    "fireworks": (fireworks.folder_files, fireworks.warnings),
}


def export(
    workflow: Workflow,
    target: str | os.PathLike[str],
    format: str = "kale",  # noqa: A002 - the interface's word
    folder: str | Path = ".",
    run_folder: str | Path | None = None,
) -> list[str]:
    """Write a workflow to a file or folder and return what the format can't hold, a sentence each.

    Parameters
    ----------
    workflow : Workflow
        As declared.
    target : path
        ``kale``, ``wfformat``: a file. ``cwl``: a file if it ends in .cwl, .yaml, .yml or .json, else a folder.
        ``snakemake``, ``fireworks``: a folder.
    format : str
        One of :data:`kale_magic.model.formats.FORMATS`.
    folder : path
        The workflow's own folder, from which the files of ``--files-in`` and modules beside the notebook go along.
    run_folder : path, optional
        A run's folder, whose times and sizes ``wfformat`` takes along.

    Raises
    ------
    UsageError
        There is no such format, or the target can't be written.
    WorkflowError
        The steps don't fit together.
    """
    path = Path(target)
    if format not in FORMATS:
        raise UsageError(f"There is no format {format!r}.", f"There are: {', '.join(FORMATS)}.")
    if format == "kale":
        write_whole(path, native.dump_over(workflow, _text_of(path)))
        return []
    if format == "wfformat":
        write_whole(path, wfformat.dump(workflow, None if run_folder is None else Path(run_folder)))
        return wfformat.warnings(workflow)
    project = project_of(workflow, Path(folder))
    if format == "cwl" and path.suffix in _ONE_FILE and not path.is_dir():
        write_whole(path, cwl.one_file(project, path))
        return cwl.warnings(project, is_folder=False)
    files, warnings = _FOLDERS[format]
    write_folder(path, files(project), {name: project.folder / name for name in project.copies()})
    return warnings(project)


def _text_of(path: Path) -> str:
    """Return the text of the file that is written over, empty if there is none: its comments are kept."""
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size <= MAX_CHARS else ""
    except (OSError, UnicodeDecodeError):
        return ""
