"""Starting the manager as a program of its own, so that of many clients that find none, one starts one.

Called by the client alone. The manager outlives whoever starts it: its own session, no terminal, its words
in ``manager.log``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import kale_proxy
from kale_magic._batchjob import LOOKS_EACH_S, current
from kale_magic._sibling import elsewhere, ended_with_a_job
from kale_magic.config import VARIABLES
from kale_magic.errors import ManagerUnavailable
from kale_magic.model.environment import OF_BATCH_SYSTEMS, clean_environment
from kale_proxy.claim import pid_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kale_magic.config import Settings

T = TypeVar("T")
_RETRY_S = 0.01
_OF_THE_HOST = OF_BATCH_SYSTEMS | {"CUDA_VISIBLE_DEVICES"}  # of a job's node, which is the manager's too; not for its steps


def start_manager(settings: Settings, connect: Callable[[float], T], *, timeout: float) -> T:
    """Start a manager and return ``connect(seconds)`` as soon as that succeeds.

    Raises
    ------
    ManagerUnavailable
        It ended at once, or does not answer within ``timeout`` seconds; the message has the end of its log.
    """
    left = ended_with_a_job(settings)
    deadline = time.monotonic() + timeout + (LOOKS_EACH_S if left else 0.0)
    with _one_at_a_time(settings.socket_dir / "start.lock", deadline):
        with contextlib.suppress(ManagerUnavailable, EOFError):  # somebody else's may be up by now
            return connect(max(deadline - time.monotonic(), _RETRY_S))
        mark = settings.log_file.stat().st_size if settings.log_file.exists() else 0
        pid = None
        while time.monotonic() < deadline and "gives up:" not in _tail(settings, mark):
            if pid is None or pid_start(pid) is None:  # another was quicker, or it was killed
                pid = _launch(settings, deadline)
            with contextlib.suppress(ManagerUnavailable, EOFError):
                return connect(max(deadline - time.monotonic(), _RETRY_S))
            time.sleep(_RETRY_S)
            if (record := elsewhere(settings)) is not None:  # another host's was quicker
                raise ManagerUnavailable(f"Your manager has just been started on {record['host']}.", "Ask again.")
    said = _last_line(settings, mark)
    if left is not None and settings.manager_file.exists():
        raise ManagerUnavailable(f"The manager that was started in {left}, which is over, has not ended yet.", "Ask again in half a minute.")
    raise ManagerUnavailable(
        f"The manager could not be started{': ' + said if said else f' within {timeout:g} s'}.",
        f"Its log is {settings.log_file}.",
    )


def _launch(settings: Settings, deadline: float) -> int:
    """Run the daemon, which detaches at once and says its pid; raises ManagerUnavailable."""
    environ, _ = clean_environment(os.environ)
    environ |= {name: value for name, value in os.environ.items() if name in VARIABLES or name in _OF_THE_HOST}
    if extra := _import_folders():
        environ["PYTHONPATH"] = os.pathsep.join([*filter(None, [environ.get("PYTHONPATH")]), *extra])
    command = [sys.executable, "-m", "kale_magic.manager.daemon", "--detach"]
    if (job := current(os.environ)) is not None:
        command += ["--job", json.dumps(job.to_words())]
    log = os.open(settings.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        done = subprocess.run(
            command,
            env=environ,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
            check=True,
            timeout=max(deadline - time.monotonic(), 1.0),
        )
        return int(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as exc:
        raise ManagerUnavailable(
            f"The manager could not be started ({' '.join(command)}): {_last_line(settings, 0) or exc}",
            f"Its log is {settings.log_file}.",
        ) from exc
    finally:
        os.close(log)


def _import_folders() -> list[str]:
    """Folders from which the two packages come, where a plain start of this Python would not find them."""
    folders = (Path(__file__).resolve().parents[1], Path(kale_proxy.__file__).resolve().parents[1])
    return [str(folder) for folder in dict.fromkeys(folders) if folder.name not in {"site-packages", "dist-packages"}]


@contextlib.contextmanager
def _one_at_a_time(path: Path, deadline: float) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise ManagerUnavailable(
                        "Another program has been starting the manager for too long.", f"Look at {path}."
                    ) from None
                time.sleep(_RETRY_S)
        yield
    finally:
        os.close(descriptor)


def _last_line(settings: Settings, mark: int) -> str:
    lines = _tail(settings, mark).strip().splitlines()
    return lines[-1].rpartition("gives up:")[2].strip() if lines else ""


def _tail(settings: Settings, mark: int) -> str:
    try:
        with settings.log_file.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(min(mark, end), end - 4096))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
