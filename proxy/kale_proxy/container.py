"""A step's program in a container: which runtime, and the command that starts it there. Nothing goes through a shell.

Runtimes: Apptainer and Singularity (SIF files, folders, squashfs files, and addresses such as ``docker://...``), and
Charliecloud's ``ch-run`` (folders and squashfs files). The container sees the folders that the step works with under
their own names, and what the site's configuration adds. Sources: apptainer-exec(1), ch-run(1) of Charliecloud 0.31.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kale_proxy.spec import JobSpec

RUNTIMES = ("apptainer", "singularity", "ch-run")
_SIF_AT, _SIF, _SQUASHFS = 32, b"SIF_MAGIC", b"hsqs"  # SIF: image format specification, "global header"
_FITS = {"sif": RUNTIMES[:2], "address": RUNTIMES[:2], "folder": RUNTIMES, "squashfs": RUNTIMES}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HOSTS_OWN = ("PYTHON", "CONDA", "VIRTUAL_ENV", "JUPYTER_", "IPYTHONDIR", "LD_", "MPLBACKEND", "R_LIBS")
_IMAGES_TMP = "/tmp"  # noqa: S108 - the node's own, which every runtime shows by default


class ContainerError(Exception):
    """The container can't be started; the message says why, in one sentence."""


def wrap(spec: JobSpec, live: Path, argv: Sequence[str], environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs ``argv`` in the step's container, and the environment for it.

    Parameters
    ----------
    spec : JobSpec
        With a container.
    live : Path
        The step's live folder, whose sockets the container must see.
    argv : sequence of str
        A program of the image and its arguments.
    environ : mapping of str to str
        The step's environment on the host; what belongs to the host's Python and libraries is left out.

    Raises
    ------
    ContainerError
        There is no such image, no runtime for it, or a folder has a name that the runtime can't be given.
    """
    assert spec.container is not None
    image = os.path.expanduser(os.path.expandvars(spec.container.image))
    image = image if "://" in image else os.path.join(spec.cwd, image)
    runtime = _runtime(image, spec.container.runtime, environ.get("PATH", ""))
    shown = _outermost([spec.cwd, spec.folder, str(live), environ.get("KALE_CHECKPOINT", ""), *_inputs(spec), *spec.container.binds])
    bad = next((folder for folder in shown if set(folder) & set(",:\\")), None)
    if bad is not None:
        raise ContainerError(f"the folder {bad} can't be shown to a container: its name has a comma, a colon or a backslash")
    kept = {name: value for name, value in environ.items() if not name.startswith(_HOSTS_OWN)}
    kept["PYTHONNOUSERSITE"] = "1"  # packages in the home are for the host's Python
    if os.path.basename(runtime) == "ch-run":
        kept |= {"PATH": _PATH, "USER": pwd.getpwuid(os.getuid()).pw_name}
        return [*_charliecloud(runtime, image, shown, spec.cwd), "--", *argv], kept
    gpus = ["--nv"] if os.path.exists("/dev/nvidiactl") else []
    binds = [word for folder in shown for word in ("--bind", folder)]
    return [runtime, "exec", *gpus, *binds, "--pwd", spec.cwd, image, *argv], kept


def _runtime(image: str, wanted: str, path: str) -> str:
    """Return the program to run an image with."""
    fitting = [name for name in _FITS[_kind(image)] if wanted in {"", name}]
    found = next(filter(None, (shutil.which(name, path=path) for name in fitting)), None)
    if found is not None:
        return found
    node = socket.gethostname()
    if not fitting:
        raise ContainerError(f"{wanted} (the runtime in [container] of config.toml) can't run {image}: {' or '.join(_FITS[_kind(image)])} can")
    what = fitting[0] if len(fitting) == 1 else f"{', '.join(fitting[:-1])} or {fitting[-1]}"
    raise ContainerError(f"there is no {what} on {node}, which {image} needs (perhaps a module: --modules apptainer)")


def _kind(image: str) -> str:
    if "://" in image:
        return "address"
    if os.path.isdir(image):
        return "folder"
    try:
        with open(image, "rb") as stream:
            head = stream.read(64)
    except FileNotFoundError:
        raise ContainerError(f"there is no container image {image} on {socket.gethostname()}") from None
    except OSError as exc:
        raise ContainerError(f"the container image {image} can't be read: {exc.strerror}") from exc
    if head[_SIF_AT:].startswith(_SIF):
        return "sif"
    if head.startswith(_SQUASHFS):
        return "squashfs"
    raise ContainerError(f"{image} is no container image: neither a SIF file nor a squashfs file nor a folder")


def _charliecloud(runtime: str, image: str, shown: Sequence[str], cwd: str) -> list[str]:
    """Return the command up to the program. A folder can be shown where the image has one of that name; one is made, if it may be."""
    options = [f"--cd={cwd}"]
    for folder in shown:
        if _is_below(folder, _IMAGES_TMP):
            continue
        if os.path.isdir(image):
            _make_place(Path(image), folder)
        options.append(f"--bind={folder}")
    if os.path.isfile(os.path.join(image, "ch", "environment")):
        options.append("--set-env")
    return [runtime, *options, image]


def _make_place(image: Path, folder: str) -> None:
    """Make an empty folder in an image, never by a link that may lead out of it."""
    place = image
    for part in Path(folder).parts[1:]:
        place /= part
        if place.is_symlink():
            return
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ContainerError(f"the image {image} has no folder {folder}, and none can be made there ({exc.strerror})") from exc


def _inputs(spec: JobSpec) -> Iterable[str]:
    return (folder for item in spec.inputs for folder in item.folders)


def _outermost(folders: Iterable[str]) -> list[str]:
    """Return folders without those that are in another one of them."""
    wanted = sorted({os.path.normpath(folder) for folder in folders if folder}, key=len)
    found: list[str] = []
    for folder in wanted:
        if not any(_is_below(folder, other) for other in found):
            found.append(folder)
    return found


def _is_below(folder: str, other: str) -> bool:
    with contextlib.suppress(ValueError):
        return os.path.commonpath([folder, other]) == other
    return False


def why_gone(spec: JobSpec, said: Sequence[str]) -> str:
    """Return why the kernel in a container ended before it answered, from what it said."""
    assert spec.container is not None
    image, text = spec.container.image, "\n".join(said)
    if "No module named" in text and "ipykernel" in text:
        return f"the image {image} has no ipykernel: install it there (python3 -m pip install ipykernel), or run a --shell step in it"
    if "python3" in text and ("No such file" in text or "not found" in text):
        return f"the image {image} has no python3: a Python step needs it there, with ipykernel; a --shell step does not"
    return f"the container {image} ended before its kernel answered" + (f": {said[-1]}" if said else "")
