"""Where Kale keeps state and sockets on this machine, and the checks that make those folders safe.

State (the manager's store) is in the Jupyter data folder; sockets are on the host itself, because
home folders are network disks where sockets do not cross hosts and paths pass the 107 bytes of
``sun_path`` (unix(7)). ``KALE_HOME`` moves both: two values are two managers that share nothing.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

SUN_PATH_BYTES = 107


class PlaceError(OSError):
    """A folder of ours is unusable; the message names it and says what to mend."""


def state_dir() -> Path:
    """Return the folder of the manager's store, made 0700 when missing.

    Raises
    ------
    PlaceError
        It can't be made, or belongs to another user.
    """
    home = os.environ.get("KALE_HOME")
    return private_dir(Path(home) if home else jupyter_data_dir() / "kale")


def runtime_dir() -> Path:
    """Return the folder on the shared disk for keys, made 0700 when missing; raises PlaceError as :func:`state_dir`."""
    home, given = os.environ.get("KALE_HOME"), os.environ.get("JUPYTER_RUNTIME_DIR")
    if home:
        return private_dir(Path(home) / "runtime")
    return private_dir((Path(given) if given else jupyter_data_dir() / "runtime") / "kale")


def socket_dir() -> Path:
    """Return the node-local folder of sockets, made 0700 when missing; raises PlaceError as :func:`state_dir`."""
    home = os.environ.get("KALE_HOME")
    name = f"kale-{os.getuid()}"
    if home:
        import hashlib  # slow to load

        name += "-" + hashlib.sha256(os.path.realpath(home).encode()).hexdigest()[:8]
    return private_dir(_local_tmp() / name)


def pilot_folder(base: str | Path, node: str) -> Path:
    """Return the folder of a pool's pilot on a node: hosts may share a disk; of a fixed length, as sockets are in it."""
    import hashlib

    return Path(f"{base}-{hashlib.sha256(node.encode()).hexdigest()[:6]}")


def private_dir(path: Path) -> Path:
    """Make ``path`` with mode 0700 if it is missing, and check that it is a folder of this user's alone.

    Another user could have made a folder of that name in ``/tmp`` before us; then nothing is put there.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
    except OSError as exc:
        message = f"the folder {path} can't be made: {exc.strerror or exc}"
        raise PlaceError(message) from exc
    if stat.S_ISLNK(info.st_mode):  # a home may be a link to a disk; then the target is what counts
        info = path.stat()
        if path.parent == _local_tmp():
            message = f"{path} is a symbolic link, which anybody could have put there: remove it"
            raise PlaceError(message)
    if info.st_uid != os.getuid():
        message = f"{path} belongs to uid {info.st_uid}, not to you: remove it or set KALE_HOME to a folder of yours"
        raise PlaceError(message)
    if info.st_mode & stat.S_ISVTX:  # as root we could close /tmp itself
        message = f"{path} is a folder that everybody uses: set KALE_HOME to one of yours"
        raise PlaceError(message)
    if info.st_mode & 0o077:
        path.chmod(0o700)
    return path


def remove_tree(path: Path | str) -> None:
    """Remove a folder with all that is in it, as far as that can be done; shutil takes longer to load than most such folders to go."""
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)
        os.rmdir(path)
    except OSError:
        return


def _local_tmp() -> Path:
    """Return ``/tmp``: TMPDIR may be private to a job or too long for a socket."""
    tmp = Path("/tmp")  # noqa: S108 - the folders made in it are 0700 and their owner is checked
    if tmp.is_dir():
        return tmp
    import tempfile

    return Path(tempfile.gettempdir())


def jupyter_data_dir() -> Path:
    """Return Jupyter's data folder by the rules of jupyter_core.paths, without importing it."""
    if given := os.environ.get("JUPYTER_DATA_DIR"):
        return Path(given)
    if given := os.environ.get("XDG_DATA_HOME"):
        return Path(given) / "jupyter"
    home = Path.home()
    mac = home / "Library" / "Jupyter"
    return mac if os.uname().sysname == "Darwin" else home / ".local" / "share" / "jupyter"
