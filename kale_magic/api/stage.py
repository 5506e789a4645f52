"""What a workflow needs of this machine when it is submitted on another: the files of ``--files-in``, and notebooks that are steps."""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING

from kale_magic.api.mirror import upload
from kale_magic.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from kale_magic.client import Client
    from kale_magic.model.workflow import Workflow


def stage(client: Client, workflow: Workflow, folder: Path) -> int:
    """Make the workflow's folder on the host and bring its steps' files there; return how many bytes had to go.

    A pattern that matches nothing here is left alone: another step may make the file there, and if none does the step
    that needs it says so.

    Raises
    ------
    UsageError
        A file can't be brought there, or is not below the workflow's folder.
    """
    files: dict[str, Path] = {}
    for step in workflow.steps.values():
        for pattern in (*step.files_in, *([glob.escape(step.notebook)] if step.notebook else [])):
            for name in sorted(glob.glob(pattern, root_dir=folder, recursive=True)):
                relative = os.path.normpath(name)
                if os.path.isabs(relative) or relative.startswith(".."):
                    raise UsageError(
                        f"Step {step.name}: {name} is not below the workflow's folder {folder}, so it has no place on {client.host}.",
                        "Copy or link it into the folder.",
                    )
                if (folder / relative).is_file():
                    files[relative] = folder / relative
    there = client.folder_there(folder)
    if workflow.directory:
        there = os.path.normpath(os.path.join(there, workflow.directory))
    if not files:
        client.files(there, [], makes=True)
        return 0
    return upload(client, there, files)
