"""Export a run and become the engine that runs it; started by the manager, in the run's own session."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from kale_magic.engines import hook
from kale_magic.errors import KaleError
from kale_magic.formats import cwl, native, snakemake
from kale_magic.formats.project import Project, project_of, write_folder


def main() -> NoReturn:
    """Do it; ends with a sentence if the engine can't be started."""
    parser = argparse.ArgumentParser(prog="python -m kale_magic.engines", description=__doc__)
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("engine", choices=["snakemake", "cwltool"])
    arguments = parser.parse_args()
    os.umask(0o077)
    run: Path = arguments.run.absolute()
    program = shutil.which(arguments.engine)
    if program is None:
        sys.exit(f"{arguments.engine} is not installed where the run was submitted: pip install {arguments.engine}")
    try:
        project = project_of(native.read(run / "workflow.yaml"), Path(os.environ["KALE_WORKFLOW_FOLDER"]))
        words = {"snakemake": _snakemake, "cwltool": _cwltool}[arguments.engine](project, run / "engine")
    except KaleError as exc:
        sys.exit(str(exc))
    os.environ["KALE_HOOK"] = hook.__file__
    os.execv(program, [program, *words])  # noqa: S606 - words of ours, no shell


def _copies(project: Project) -> dict[str, Path]:
    return {name: project.folder / name for name in project.copies()}


def _snakemake(project: Project, folder: Path) -> list[str]:
    write_folder(folder / "project", snakemake.folder_files(project), _copies(project))
    os.chdir(folder / "project")
    return ["--cores", str(_cores()), "--keep-going", "--nocolor", "--rerun-incomplete"]


def _cwltool(project: Project, folder: Path) -> list[str]:
    write_folder(folder / "project", cwl.folder_files(project, keeps_stderr=True), _copies(project))
    os.chdir(folder)
    kept = [word for name in ("KALE_HOOK", "KALE_MIRROR", "KALE_WORKFLOW_FOLDER") for word in ("--preserve-environment", name)]
    # beside the mirror, so that logs can be linked into it
    places = ["--tmpdir-prefix", f"{folder}/temporary/", "--tmp-outdir-prefix", f"{folder}/temporary/", "--outdir", f"{folder}/outputs"]
    return ["--parallel", "--on-error", "continue", "--disable-color", "--relax-path-checks", *kept, *places, "project/workflow.cwl"]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
