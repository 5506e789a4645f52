"""The blocking client of the manager: one method per request, a deadline on every wait.

Standard library only, and no import of the manager: it is reached by its socket, and started as a program
when none runs. A client may be used from several threads (each gets a connection of its own) and survives
a manager that was killed: reading requests are asked again, a submit carries a token so that it happens
once, and :meth:`Client.events` goes on after the last event it has seen.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from kale_magic import config, protocol
from kale_magic._open import open_connection
from kale_magic.errors import ManagerError, ManagerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from kale_magic._connection import Connection
    from kale_magic._events import EventStream
    from kale_magic.model.events import Event

_FINAL_RUN_STATES = frozenset({"completed", "failed", "cancelled"})


class Client:
    """The manager of this user, as magics, widgets, the command line and the Python API see it.

    Parameters
    ----------
    settings : Settings
        Where the manager is.
    start : bool
        Whether to start a manager when none runs, now and after a later loss.
    timeout : float
        Longest wait for one answer, in seconds.
    """

    def __init__(self, settings: config.Settings, *, start: bool = True, timeout: float = 30.0) -> None:
        self._settings = settings
        self._start = start
        self._timeout = timeout
        self._local = threading.local()
        self._home_there: str | None = None

    @classmethod
    def connect(cls, *, host: str = "", start: bool = True, timeout: float = 30.0) -> Self:
        """Return a client that has reached its manager.

        Parameters
        ----------
        host : str
            A Host of the user's ssh whose manager is meant; empty: this machine's.
        start : bool
            Whether to start a manager when none runs.
        timeout : float
            Longest wait for one answer, in seconds.

        Raises
        ------
        ManagerUnavailable
            None runs (and ``start`` is False), or it runs on another host, or it could not be started.
        ProtocolVersionError
            The running one is of another version.
        """
        client = cls(replace(config.load(), host=host), start=start, timeout=timeout)
        client._connection()
        return client

    @property
    def host(self) -> str:
        """The login host whose manager this is; empty for this machine's."""
        return self._settings.host

    @property
    def login(self) -> str:
        """The name by which ssh reaches the manager's host; empty if that is this one."""
        return self.host or self._connection().login

    @property
    def _far(self) -> dict[str, Any]:
        return {"reach": True} if self.login else {}

    def _with_login(self, found: dict[str, Any]) -> dict[str, Any]:
        return found | {"login": self.login} if self.login else found

    def close(self) -> None:
        """Close this thread's connection; the next call opens another."""
        connection: Connection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def hello(self) -> protocol.Hello:
        """What the manager said of itself when this thread connected."""
        return self._connection().hello

    def submit(
        self,
        workflow: dict[str, Any],
        *,
        folder: str | Path,
        name: str | None = None,
        only: Iterable[str] = (),
        from_: Iterable[str] = (),
        to: Iterable[str] = (),
        params: Mapping[str, str] | None = None,
        executor: str | None = None,
        python: str | None = None,
        environ: Mapping[str, str] | None = None,
        token: str | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Hand over a workflow and return ``{"run", "folder", "seq"}`` at once.

        Parameters
        ----------
        workflow : dict
            What ``kale_magic.model.codec.workflow_to_dict`` gives.
        folder : path
            The workflow's folder: the steps' working directory; the run is kept in ``.kale/runs`` there.
        name : str or None
            Id of the run; None makes one.
        only, from_, to : iterable of str
            Steps to run: these alone; from these downstream; what leads up to these.
        params : mapping of str to str
            Parameters to replace, as ``repr``.
        python : str or None
            Interpreter of the steps; None is this process's.
        environ : mapping of str to str
            Environment of the steps, cleaned; None is this process's, cleaned. On a login host it is its manager's.
        token : str or None
            What makes this submit one and the same when it is asked again; None makes one for this call.
        **more
            ``no_cache``: run all. ``fresh``: steps that run whatever was before. ``dry``: return ``{"steps": {NAME: {"state",
            "why"}}}`` instead. ``of_run``: the run whose outputs are used; ``home``: its workflow's folder;
            ``checkpoints``: folders of steps of it, by step, to go on from.

        Raises
        ------
        WorkflowError
            The steps don't fit together, or the selection needs values that are not there.
        SubmitError
            A step asks for more than the executor has, or the run's folder can't be written.
        """
        from kale_magic._packages import installed

        if self.host:
            environ = None
        elif environ is None:
            from kale_magic.model.environment import clean_environment

            environ, _ = clean_environment(os.environ)
        fields = {
            "workflow": workflow,
            "folder": self.folder_there(folder),
            "name": name,
            "only": list(only),
            "from": list(from_),
            "to": list(to),
            "params": dict(params or {}),
            "executor": executor,
            "python": python or ("" if self.host else sys.executable),
            "environ": None if environ is None else dict(environ),
            "packages": installed() if python is None and not self.host else {},
            **more,
            "token": token or os.urandom(16).hex(),  # so that asking again after a lost answer submits nothing twice
        }
        return self._ask_object(protocol.SUBMIT, fields)

    def files(self, folder: str, patterns: Iterable[str], *, makes: bool = False, has_digests: bool = True) -> dict[str, dict[str, Any]]:
        """Return files of the manager's host; see :func:`kale_magic.manager.listing.listing`."""
        found = self._ask_object(protocol.FILES, {"folder": folder, "patterns": list(patterns), "make": makes, "brief": not has_digests})
        return {str(name): dict(item) for name, item in found["files"].items()}

    def read(self, folder: str, wanted: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return what is lacking here of files of the manager's host; see :func:`kale_magic.manager.listing.reading`."""
        found = self._ask_object(protocol.READ, {"folder": folder, "wanted": list(wanted)})
        return {str(name): dict(item) for name, item in found["files"].items()}

    def search(self, folder: str, name: str, word: str, at: int | None, *, is_backward: bool = False) -> int | None:
        """Return where a word stands next in a file of the manager's host, from its beginning or end if ``at`` is None."""
        found = self._ask_object(protocol.SEARCH, {"folder": folder, "name": name, "word": word, "at": at, "back": is_backward})["at"]
        return None if found is None else int(found)

    def folder_there(self, folder: str | Path) -> str:
        """Return the workflow folder that the manager knows for one of ours: itself, or on a login host its counterpart.

        That is ``NAME-XXXXXXXX`` in ``[hosts.H] folder`` of the configuration, ``~/kale`` if that says nothing; the
        letters are of this machine's name and the path here.
        """
        path = os.path.abspath(folder)
        if not self.host:
            return path
        if self._home_there is None:
            self._home_there = str(self.manager()["home"])
        known = self._settings.hosts.get(self.host)
        base = (known.folder if known is not None else "") or "~/kale"
        mark = hashlib.sha256(f"{os.uname().nodename}:{path}".encode()).hexdigest()[:8]
        name = re.sub(r"[^\w.-]", "_", os.path.basename(path)) or "root"
        return os.path.normpath(os.path.join(self._home_there, re.sub(r"^~(?=/|$)", self._home_there, base), f"{name}-{mark}"))

    def run_there(self, words: Iterable[str]) -> str:
        """Return what ``jupyter kale WORDS`` prints on the login host whose manager this is; raises ManagerUnavailable if it fails."""
        from kale_magic import _remote

        return _remote.run_there(self._settings, list(words))

    @property
    def state_dir(self) -> Path:
        """The state folder of this machine."""
        return self._settings.state_dir

    def status(self, run: str | None = None, *, brief: bool = False) -> dict[str, Any]:
        """Return state and steps of a run (None: the newest) in the form of ``status --json``; raises UnknownRunError.

        ``brief``: of a long sweep only those points that a person wants to see; its ``counts`` are of all.
        """
        return self._ask_object(protocol.STATUS, {"run": run, "brief": brief})

    def runs(self, folder: str | Path | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Return the runs of a workflow folder, or all, newest first."""
        fields = {"folder": None if folder is None else self.folder_there(folder), "limit": limit}
        return self._ask_list(protocol.RUNS, fields)

    def where(self, run: str | None, step: str, point: int | None = None, *, rank: int = 0) -> dict[str, Any]:
        """Return a step's state, reason, folder, and its live folder if it has a kernel; raises UnknownStepError.

        ``rank`` is that of an MPI step's kernel; raises UsageError if there is none.
        """
        fields = {"run": run, "step": step, "point": point, "rank": rank, **self._far}
        return self._with_login(self._ask_object(protocol.WHERE, fields))

    def find(
        self, step: str, workflow: str | None = None, folder: str | Path | None = None, *, is_below: bool = False
    ) -> list[dict[str, Any]]:
        """Return where a step is (as :meth:`where`) in each live run that has it and in the newest ended one, newest first."""
        fields = {"step": step, "workflow": workflow, "folder": None if folder is None else self.folder_there(folder)}
        found = self._ask_list(protocol.FIND, {**fields, "below": is_below, **self._far})
        return [self._with_login(item) for item in found]

    def cancel(self, run: str, step: str | None = None, point: int | None = None) -> list[str]:
        """Cancel a run, a step or a point, whatever it does; returns the names of what was not yet over."""
        found = self._ask_object(protocol.CANCEL, {"run": run, "step": step, "point": point})
        return [str(name) for name in found.get("cancelled", [])]

    def stop(self, run: str, step: str, point: int | None = None) -> dict[str, Any]:
        """Interrupt a running step's code; its kernel stays for a look."""
        return self._ask_object(protocol.STOP, {"run": run, "step": step, "point": point})

    def release(self, run: str, step: str, point: int | None = None) -> dict[str, Any]:
        """End the look at a stopped step, or the hold of one in the queue."""
        return self._ask_object(protocol.RELEASE, {"run": run, "step": step, "point": point})

    def hold(self, run: str, step: str, point: int | None = None) -> dict[str, Any]:
        """Keep a step that is in the queue from starting, until it is released."""
        return self._ask_object(protocol.HOLD, {"run": run, "step": step, "point": point})

    def proceed(
        self, run: str, step: str, point: int | None = None, *, decision: Mapping[str, str], by: str = ""
    ) -> dict[str, Any]:
        """Queue a step that waits for a person before it is queued, with what was decided: name -> literal."""
        fields = {"run": run, "step": step, "point": point, "set": dict(decision), "by": by}
        return self._ask_object(protocol.CONTINUE, fields)

    def freeze(self, run: str, step: str, point: int | None = None, *, is_on: bool) -> dict[str, Any]:
        """Stop all processes of a running step where they are, or let them go on."""
        return self._ask_object(protocol.FREEZE, {"run": run, "step": step, "point": point, "on": is_on})

    def queue(self) -> list[dict[str, Any]]:
        """Return what runs and what waits of our runs, with the reason for waiting."""
        return self._ask_list(protocol.QUEUE, {})

    def survey(self, executor: str | None = None, *, is_all: bool = False) -> list[dict[str, Any]]:
        """Return the batch system's own queue, this user's jobs or everyone's; see :meth:`kale_magic.abc.Executor.survey`.

        ``executor`` is the one meant; None means all that have jobs of ours, and those whose commands are on the manager's host.
        """
        return self._ask_list(protocol.SURVEY, {"executor": executor, "all": is_all})

    def end_job(self, executor: str, native_id: str) -> None:
        """End a job that :meth:`survey` has shown and that need not be Kale's; raises ExecutorError."""
        self._ask_object(protocol.END, {"executor": executor, "job": native_id})

    def open_pool(self, name: str, executor: str, resources: Mapping[str, Any]) -> dict[str, Any]:
        """Open an allocation into which steps go without queueing; raises PoolError. Returns what :meth:`pools` says of it.

        ``resources`` are fields of :class:`kale_magic.model.resources.Resources`.
        """
        fields: dict[str, Any] = {"name": name, "executor": executor, "resources": dict(resources)}
        if not self.host:  # there, what the manager has itself will do
            from kale_magic.model.environment import clean_environment

            fields |= {"python": sys.executable, "environ": clean_environment(os.environ)[0]}
        return self._ask_object(protocol.POOL_OPEN, fields)

    def pools(self) -> list[dict[str, Any]]:
        """Return every pool: state, reason, nodes, time_left_s, what runs in it."""
        return self._ask_list(protocol.POOL_LIST, {})

    def close_pool(self, name: str, *, is_now: bool = False) -> dict[str, Any]:
        """Close a pool when what was submitted to it has ended, or cancel that now; raises PoolError."""
        return self._ask_object(protocol.POOL_CLOSE, {"name": name, "now": is_now})

    def rest(self, action: str = "look", *, url: str = "", user: str = "", token: str = "") -> dict[str, Any]:
        """Begin (``log_in``), look at or ``forget`` the login to Slurm's REST service.

        Returns url, user, until, is_over, answers and version of it; nothing if there is none. Raises UsageError and ExecutorError.
        """
        secret = {"url": url, "user": user, "token": token} if action == "log_in" else {}
        return self._ask_object(protocol.REST, {"action": action, **secret})

    def manager(self) -> dict[str, Any]:
        """Return pid, host, version, address, started_at, runs (live ones) and rss_bytes of the manager."""
        return self._ask_object(protocol.MANAGER, {})

    def shutdown(self) -> None:
        """End the manager and wait until it is gone; jobs go on, and the next manager takes them up."""
        connection = self._connection()
        deadline = time.monotonic() + self._timeout
        try:
            connection.ask(protocol.SHUTDOWN, {}, self._timeout)
            while True:
                connection.read(deadline - time.monotonic())
        except (EOFError, ConnectionError):
            pass  # it closed: that is the end we wait for
        except TimeoutError as exc:
            raise ManagerError(
                f"The manager (pid {connection.hello.pid}) did not end within {self._timeout:g} s."
            ) from exc
        finally:
            self.close()

    def wait(
        self, run: str, *, timeout: float | None = None, on_event: Callable[[Event], None] | None = None
    ) -> dict[str, Any]:
        """Return the run's status as soon as it has ended; raises TimeoutError after ``timeout`` seconds.

        ``on_event`` gets every change meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        status = self.status(run)
        with self.events(since=status["seq"], run=run) as stream:
            while status["state"] not in _FINAL_RUN_STATES:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"run {run} has not ended within {timeout:g} s")
                event = stream.next(left)
                if event is not None and on_event is not None:
                    on_event(event)
                if event is not None and event.kind in {"run", "gap"}:
                    status = self.status(run)
        return status

    def events(self, since: int = 0, run: str | None = None) -> EventStream:
        """Return the changes after number ``since``, of one run or all, on a connection of their own."""
        from kale_magic import _events  # few clients listen

        return _events.EventStream(self._settings, since=since, run=run, start=self._start, timeout=self._timeout)

    def _connection(self) -> Connection:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is not None and self._local.pid == os.getpid():  # a fork must not share the parent's stream
            return connection
        connection = open_connection(self._settings, start=self._start, timeout=self._timeout)
        self._local.connection, self._local.pid = connection, os.getpid()
        return connection

    def _ask(self, op: str, fields: dict[str, Any]) -> Any:
        for is_last in (False, True):
            connection = self._connection()
            try:
                return connection.ask(op, fields, self._timeout)
            except TimeoutError as exc:
                self.close()  # the answer may still come: this stream is of no more use
                raise ManagerUnavailable(
                    f"The manager (pid {connection.hello.pid}) has not answered {op!r} within {self._timeout:g} s.",
                    f"Its log is {self._settings.log_file}.",
                ) from exc
            except (OSError, EOFError) as exc:
                self.close()
                if is_last:
                    raise ManagerUnavailable(
                        f"The manager hung up during {op!r}.", f"Its log is {self._settings.log_file}."
                    ) from exc
            except BaseException as exc:
                if isinstance(exc, KeyboardInterrupt):
                    self.close()
                raise
        raise AssertionError(op)  # not reached: the loop returns or raises

    def _ask_object(self, op: str, fields: dict[str, Any]) -> dict[str, Any]:
        result = self._ask(op, fields)
        if not isinstance(result, dict):
            raise ManagerError(f"The manager answered {op!r} with {type(result).__name__} instead of an object.")
        return result

    def _ask_list(self, op: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
        result = self._ask(op, fields)
        if not isinstance(result, list):
            raise ManagerError(f"The manager answered {op!r} with {type(result).__name__} instead of a list.")
        return result
