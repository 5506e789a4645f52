"""That there is one manager per user and state folder, also where the folder is on a network disk.

The lock is the file ``manager.lock.N`` with the highest N. It is made by a hard link to a finished file, which
is atomic on NFS (link(2)); N is a fencing number that only grows, so of several that find a dead holder one
wins. ``flock`` is held too: it sees what process ids can't (containers of one host name), where it works.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

from kale_magic._batchjob import BatchJob, is_over
from kale_magic.errors import ManagerUnavailable, StoreError
from kale_proxy.claim import boot_id, is_alive, pid_start

if TYPE_CHECKING:
    from pathlib import Path

_TRIES = 50


class ManagerLock:
    """The right to be the manager of a state folder.

    Parameters
    ----------
    folder : Path
        The state folder.
    job : BatchJob, optional
        The batch job that this process is in: when that is over, so is the manager, and another host's may take the lock.
    """

    def __init__(self, folder: Path, job: BatchJob | None = None) -> None:
        self._folder = folder
        self._flock: int | None = None
        self._held: Path | None = None
        self.owner: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pid_start": pid_start(os.getpid()),
            "boot": boot_id(),
            **({"job": job.to_words()} if job is not None else {}),
        }

    def acquire(self) -> None:
        """Take the lock, also from a holder that is dead.

        Raises
        ------
        ManagerUnavailable
            Another manager is alive, here or on another host, which the message names.
        StoreError
            The folder can't be written.
        """
        try:
            self._acquire_flock()
            for _ in range(_TRIES):
                if self._try_link():
                    return
        except OSError as exc:
            self.release()
            raise StoreError(f"The manager's folder {self._folder} can't be written: {exc.strerror or exc}.") from exc
        except BaseException:
            self.release()
            raise
        self.release()
        raise ManagerUnavailable(f"The lock in {self._folder} changes hands all the time.")

    def release(self) -> None:
        """Give the lock back; the number stays used."""
        if self._held is not None:
            with contextlib.suppress(OSError):
                self._publish(self._held, {"is_released": True})
            self._held = None
        if self._flock is not None:
            os.close(self._flock)
            self._flock = None

    def call_holder(self) -> None:
        """Send SIGHUP to the manager that is alive here, so that it looks whether its socket is still in place."""
        _, holder = self._newest()
        pid = holder.get("pid")
        if (
            isinstance(pid, int)
            and pid != os.getpid()
            and holder.get("host") == self.owner["host"]
            and is_alive(holder)
        ):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGHUP)

    def _acquire_flock(self) -> None:
        self._flock = os.open(self._folder / "manager.flock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._flock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                holder = self._newest()[1]
                raise ManagerUnavailable(f"A manager runs already ({_words(holder)}).") from exc
            # a file system without flock: the hard link alone decides

    def _try_link(self) -> bool:
        number, holder = self._newest()
        if not holder.get("is_released", False) and holder:
            if holder.get("host") != self.owner["host"] and not is_over(BatchJob.from_words(holder.get("job"))):
                raise ManagerUnavailable(
                    f"Your manager runs on {holder.get('host')} (pid {holder.get('pid')}), not on {self.owner['host']}.",
                    f"If that host is gone for good, remove {self._folder}/manager.json and manager.lock.*",
                    transient=False,
                )
            if holder.get("host") == self.owner["host"] and is_alive(holder) and holder.get("pid") != os.getpid():
                raise ManagerUnavailable(f"A manager runs already ({_words(holder)}).")
        mine = self._folder / f"manager.lock.{number + 1}"
        fresh = self._folder / f".lock-{self.owner['host']}-{os.getpid()}"
        self._publish(fresh, self.owner)
        try:
            os.link(fresh, mine)
        except FileExistsError:
            return False
        finally:
            fresh.unlink(missing_ok=True)
        if self._newest()[0] != number + 1:  # somebody was further: ours counts for nothing
            mine.unlink(missing_ok=True)
            return False
        self._held = mine
        for path, old in self._locks():
            if old <= number:
                path.unlink(missing_ok=True)
        return True

    def _locks(self) -> list[tuple[Path, int]]:
        found = [(path, path.name.removeprefix("manager.lock.")) for path in self._folder.glob("manager.lock.*")]
        return [(path, int(number)) for path, number in found if number.isdigit()]

    def _newest(self) -> tuple[int, dict[str, Any]]:
        """Return number and content of the lock that counts; 0 and nothing if there is none."""
        locks = self._locks()
        if not locks:
            return 0, {}
        path, number = max(locks, key=lambda item: item[1])
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError):
            content = {}
        return number, content if isinstance(content, dict) else {}

    def _publish(self, path: Path, content: dict[str, Any]) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with open(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w", encoding="utf-8"
        ) as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def _words(holder: dict[str, Any]) -> str:
    return f"pid {holder.get('pid')} on {holder.get('host')}" if holder.get("pid") else "its lock file says nothing yet"
