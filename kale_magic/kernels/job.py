"""The kernel of a notebook as a job: submits it, tells the relay where it is, ends it when the notebook is shut down.

The job is a run of one step, ``notebook-DATE-xxxx/kernel``, whose kernel stays open. Knows executors by name only.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.api.find import where_in
from kale_magic.client import Client
from kale_magic.errors import (
    ConfigError,
    KaleError,
    ManagerUnavailable,
    SubmitError,
    UnknownExecutorError,
    UnknownRunError,
    UsageError,
    WorkflowError,
)
from kale_magic.kernels.request import kernel_workflow
from kale_proxy.places import private_dir, socket_dir
from kale_proxy.relay_line import Place

if TYPE_CHECKING:
    from kale_magic.api.find import Target

STEP = "kernel"
_NOTES = "j"
_NOTE_KEPT_S = 30 * 86400
_RELEASE_S = 1.5  # a front end gives a kernel 2.5 s to end
_INTERRUPT_S = 0.3
_POLL_S = 0.05
_AFRESH_S = 15.0
_FINAL = (ConfigError, SubmitError, UnknownExecutorError, UsageError, WorkflowError)


class KernelJob:
    """The job of one front end's kernel.

    Parameters
    ----------
    executor : str
        Where it runs.
    file : Path
        The connection file: a launcher that is started again on it (after a restart or a kill) takes up the job that is there.
    """

    def __init__(self, executor: str, file: Path) -> None:
        self.run: str | None = None
        self._executor = executor
        self._file = file
        self._token = os.urandom(16).hex()
        self._note = private_dir(socket_dir() / _NOTES) / _mark_of(file)
        self._client: Client | None = None
        self._target: Target | None = None
        self._is_taken_up = False
        self._left: Path | None = None  # the folder of a kernel that is being started afresh
        self._left_until = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kale-job")

    async def __call__(self) -> Place:
        """Return where the kernel is now; the first call submits the job."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._find)

    @property
    def is_waiting(self) -> bool:
        """Whether the job is in the queue."""
        return self._target is not None and self._target.live is None and not self._target.is_final

    def hand_over(self) -> None:
        """Leave the job to the launcher that is started next on this connection file; its kernel is being started afresh."""
        live = "" if self._target is None or self._target.live is None else str(self._target.live)
        with contextlib.suppress(OSError):
            self._note.write_text(f"{self.run}\n{live}", "utf-8")
        self.close()

    def end(self) -> None:
        """End the job: release its kernel, and cancel it if it has not ended then."""
        self._thread.submit(self._end).result()
        self.close()

    def close(self) -> None:
        """Hang up; the job goes on."""
        self._thread.submit(self._hang_up).result()
        self._thread.shutdown()

    # -- in the thread, to which the client belongs

    def _find(self) -> Place:
        try:
            return self._place()
        except _FINAL as exc:
            return Place(advice=f"This kernel's job can't be submitted: {exc}" if self.run is None else str(exc))
        except UnknownRunError:
            return Place(advice=f"The job of this kernel, {self.run}, is no longer known. {_AGAIN}")
        except (KaleError, OSError) as exc:
            self._hang_up()
            if isinstance(exc, ManagerUnavailable) and self._target is not None and self._target.kernel is not None:
                return Place(where=self._target.kernel)  # the job goes on without a manager
            return Place(doing=f"can't be {'submitted' if self.run is None else 'looked up'}: {exc}")

    def _place(self) -> Place:
        client = self._connected()
        if self.run is None and not self._take_up(client):
            self._submit(client)
        assert self.run is not None
        target = self._target = where_in(client, self.run, STEP)
        if target.is_final:
            return Place(advice=f"The job of this kernel, {self.run}, {_ended(target)}. {_AGAIN}")
        live = target.kernel
        if live is not None and live == self._left and time.monotonic() < self._left_until:
            return Place(doing=f"({self.run}) is being started afresh")
        return Place(where=live, doing=f"({self.run}) {target.doing}")

    def _connected(self) -> Client:
        if self._client is None:
            self._client = Client.connect()
        return self._client

    def _hang_up(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _take_up(self, client: Client) -> bool:
        """Go on with the job of a launcher that was killed, if there is one."""
        if self._is_taken_up:
            return False
        self._is_taken_up = True
        with contextlib.suppress(OSError, UnicodeDecodeError, KaleError):
            run, _, left = self._note.read_text("utf-8").partition("\n")
            self._left = Path(left) if left else None
            self._left_until = time.monotonic() + _AFRESH_S
            if not where_in(client, run, STEP).is_final:
                self.run = run
                return True
        return False

    def _submit(self, client: Client) -> None:
        workflow = kernel_workflow(self._executor, kernel_name_of(self._file), os.environ)
        answer = client.submit(workflow, folder=os.getcwd(), executor=self._executor, python=sys.executable, token=self._token)
        self.run = str(answer["run"])
        with contextlib.suppress(OSError):
            self._note.write_text(self.run, "utf-8")
            _sweep(self._note.parent)

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            self._note.unlink(missing_ok=True)
        if self.run is None:
            return
        try:
            if not self._has_let_go(client := self._connected()):
                client.cancel(self.run)
        except (KaleError, OSError) as exc:
            sys.stderr.write(f"kale: the job {self.run} could not be ended: {exc} End it: jupyter kale cancel {self.run}\n")


    def _has_let_go(self, client: Client) -> bool:
        """Release the kernel, interrupt what it still does, and return whether the job has ended in the time there is."""
        assert self.run is not None
        deadlines = [time.monotonic() + after for after in (_RELEASE_S, _INTERRUPT_S)]
        is_released = False
        while not (target := where_in(client, self.run, STEP)).is_final:
            if target.live is None or time.monotonic() > deadlines[0]:
                return False
            with contextlib.suppress(UsageError):  # it has ended by itself meanwhile
                if not is_released:
                    client.release(self.run, STEP)
                    is_released = True
                if len(deadlines) > 1 and time.monotonic() > deadlines[1]:
                    deadlines.pop()
                    client.stop(self.run, STEP)
            time.sleep(_POLL_S)
        return True


_AGAIN = "Restart the kernel for a new one."


def kernel_name_of(file: Path) -> str:
    """Return the kernelspec that a connection file was written for; empty if it does not say."""
    try:
        return str(json.loads(file.read_bytes()).get("kernel_name") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def _ended(target: Target) -> str:
    """Return how the job ended, as a sentence goes on."""
    if target.state == "completed":
        return f"has ended ({target.reason})" if target.reason else "has ended"
    return target.doing


def _mark_of(file: Path) -> str:
    """Return what no other front end's connection file has: the hash of its path and key."""
    try:
        info: Any = json.loads(file.read_bytes())
        key = str(info.get("key", ""))
    except (OSError, ValueError, AttributeError):
        key = ""
    return hashlib.sha256(f"{os.path.abspath(file)} {key}".encode()).hexdigest()[:32]


def _sweep(folder: Path) -> None:
    for note in folder.iterdir():
        if note.stat().st_mtime < time.time() - _NOTE_KEPT_S:
            note.unlink(missing_ok=True)
