"""The supervisor: the warm process that forks a kernel for each step and watches over them.

One per allocation and exact environment. It has one thread and no zmq context, so that it can fork;
it is the parent of every step (so it alone learns how one ended), keeps walltime and memory limits,
samples what steps use, and forks an agent when somebody connects to a step's socket. It outlives
managers: its socket takes any number of them, one after another or at once, and the steps' folders
hold the truth. Protocol: JSON lines, see ``proxy/README.rst``.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kale_proxy import children, procs
from kale_proxy.guard import Guard
from kale_proxy.job import Job
from kale_proxy.managers import Managers
from kale_proxy.places import remove_tree
from kale_proxy.record import now, read_result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kale_proxy.spec import JobSpec
    from kale_proxy.stepkernel import StepApp

IDLE_S = 60.0
TICK_S = 0.25
FROZEN = "frozen: every process of it is stopped; resume lets it go on"


class Supervisor:
    """The loop of one warm process.

    Parameters
    ----------
    folder : Path
        Its own folder (0700, node-local): the socket ``s`` and the live folders ``p/N`` are in it.
    app : StepApp or None
        The prepared kernel application; None where no step of kind ``python`` will be run.
    idle_s : float
        It ends after so many seconds without jobs and connections.
    """

    def __init__(self, folder: Path, app: StepApp | None, idle_s: float = IDLE_S, spares: int | None = None) -> None:
        self.folder = folder
        self.app = app
        self.idle_s = idle_s
        self.spare_count = min(2, os.cpu_count() or 1) if spares is None else spares
        self.jobs: dict[str, Job] = {}
        self.by_pid: dict[int, Job] = {}
        self.by_agent: dict[int, Path] = {}  # agents that outlive their step while they drain
        self.spares: list[children.Spare] = []
        self.managers = Managers(self)
        self.selector = selectors.DefaultSelector()
        self.guard = Guard(self.jobs)
        self.idle_since = time.monotonic()
        self._looked = 0.0
        self.serial = 0
        self.wakeup = os.pipe()
        self.on_tell: Callable[[dict[str, Any]], object] = lambda _: None
        self.is_ending = False  # it is to end with its last job
        self.end_words: Callable[[Job], tuple[str, str]] | None = None  # of one that SIGTERM ended before we heard of that
        self.obeyed: tuple[signal.Signals, ...] = ()  # that have handlers here, and must not have them in a fork

    # -- life ----------------------------------------------------------------------------------
    def serve(self) -> None:
        """Listen and work until idle."""
        self._succeed()
        self.managers.listen(self.folder / "s")
        for fd in self.wakeup:
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.wakeup[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(self.wakeup[0], selectors.EVENT_READ, self._reap)
        self._reap()  # one that was begun before may have ended already
        while not self._is_over():
            timeout = 0.0 if len(self.spares) < self._wanted_spares() else self._patience()
            ready = self.selector.select(timeout)
            for key, _ in ready:
                if self.selector.get_map().get(key.fd) is key:  # an earlier one of this round may have closed it
                    key.data()
            if not ready and len(self.spares) < self._wanted_spares():
                self._fork_spare()
            self.guard.tick(self.kill, self.warn)
            self._look_for_pauses()
        self.close()

    def _succeed(self) -> None:
        """Take the place of one that was killed: its socket goes, the folders of steps that it left running stay."""
        path = self.folder / "s"
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(FileNotFoundError):
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
        self.serial = max((int(live.name) for live in (self.folder / "p").glob("[0-9]*")), default=0)

    def close(self) -> None:
        """Let the spares end and take the socket away."""
        for spare in self.spares:
            spare.link.close()
        with contextlib.suppress(OSError):
            (self.folder / "s").unlink()
        remove_tree(self.folder / "p")

    def _is_over(self) -> bool:
        if self.is_ending and not self.jobs:
            return True
        if self.jobs or self.managers.are_there:
            self.idle_since = time.monotonic()
            return False
        return time.monotonic() - self.idle_since >= self.idle_s

    def _patience(self) -> float:
        return TICK_S if self.jobs else 5.0

    def _wanted_spares(self) -> int:
        return self.spare_count if (self.managers.are_there or self.jobs) and not self.is_ending else 0

    def watch(self, source: socket.socket, handler: Callable[[], None]) -> None:
        """Call ``handler`` whenever a socket can be read."""
        self.selector.register(source, selectors.EVENT_READ, handler)

    def forget(self, source: socket.socket) -> None:
        """Close a socket that was watched."""
        with contextlib.suppress(KeyError, ValueError):
            self.selector.unregister(source)
        source.close()

    def tell(self, message: dict[str, Any]) -> None:
        """Tell all managers something."""
        self.on_tell(message)
        self.managers.tell(message)

    # -- jobs ----------------------------------------------------------------------------------
    def begin(self, spec: JobSpec) -> None:
        """Run one attempt: hand it to a spare, or fork a process for it."""
        if spec.is_warm and self.spares:
            spare = self.spares.pop(0)
            spare.give(spec)
            job = Job(spec, spare.pid, spare.live, spare.link, spare.agent_listener)
        else:
            job = self._fork_job(spec)
        self._add(job)

    def adopt(self, job: Job) -> None:
        """Take over a step whose process another part of this process has forked."""
        self._add(job)

    def _add(self, job: Job) -> None:
        job.at = now()
        self.jobs[job.spec.uuid] = self.by_pid[job.pid] = job
        if job.spec.listens and job.agent_listener is not None:
            job.door_pid = self._fork(lambda: children.run_door(job.live))
        self.watch(job.link, lambda: self._heard(job))
        if job.agent_listener is not None:
            self.watch(job.agent_listener, lambda: self._visited(job))
        self.tell({"ev": "running", **job.describe(), "at": job.at})

    def _fork_job(self, spec: JobSpec) -> Job:
        live = self._live_folder()
        ours, theirs = socket.socketpair()
        listener = None if spec.kind in {"shell", "script"} else children.listen(live / "a")
        pid = self._fork(lambda: children.run_job(self.app, spec, live, theirs), drop=(ours, listener))
        theirs.close()
        return Job(spec, pid, live, ours, listener)

    def _fork_spare(self) -> None:
        app = self.app
        assert app is not None, "spares are for python steps"
        live = self._live_folder()
        ours, theirs = socket.socketpair()
        listener = children.listen(live / "a")
        pid = self._fork(lambda: children.wait_as_spare(app, live, theirs), drop=(ours, listener))
        theirs.close()
        self.spares.append(children.Spare(pid, live, ours, listener))

    def _live_folder(self) -> Path:
        self.serial += 1
        live = self.folder / "p" / str(self.serial)
        live.mkdir(mode=0o700, parents=True)
        return live

    def _fork(self, body: Callable[[], int], *, keep: tuple[socket.socket, ...] = (), drop: tuple[socket.socket | None, ...] = ()) -> int:
        """Fork; the child leaves everything of ours and ``drop`` behind, runs ``body`` and exits with what it returns."""
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for signum in (signal.SIGCHLD, *self.obeyed):
                signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
            self._leave(keep, drop)
            code = body()
        except BaseException:  # the edge of a process: say why in its log, never run the parent's loop
            import traceback

            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)

    def _leave(self, keep: tuple[socket.socket, ...], drop: tuple[socket.socket | None, ...]) -> None:
        mine = [*self.managers.sockets(), *drop]
        mine += [end for spare in self.spares for end in (spare.link, spare.agent_listener)]
        mine += [end for job in self.jobs.values() for end in (job.link, job.agent_listener)]
        for source in mine:
            if source is not None and source not in keep:
                source.close()
        self.selector.close()
        for fd in self.wakeup:
            os.close(fd)

    # -- what steps and visitors do ------------------------------------------------------------
    def _heard(self, job: Job) -> None:
        try:
            data = job.link.recv(4096)
        except OSError:
            data = b""
        if not data:
            with contextlib.suppress(KeyError, ValueError):
                self.selector.unregister(job.link)
            return
        *lines, job.heard = (job.heard + data).split(b"\n")
        for line in lines:
            said = json.loads(line)  # the step has written it into its events
            if "point" in said:  # one of many begins: the walltime is that of each
                job.begin_point()
                continue
            job.state, job.reason = said["state"], said.get("reason", "")
            self.tell({"ev": "state", "uuid": job.spec.uuid, "state": job.state, "reason": job.reason})

    def freeze(self, job: Job) -> None:
        """Stop all processes of a job where they are."""
        if not job.is_frozen:
            job.freeze()
            self._moved(job, "paused", FROZEN)

    def thaw(self, job: Job) -> None:
        """Let them go on."""
        if job.is_frozen:
            job.thaw()
            held = job.held_at()
            self._moved(job, "running" if held is None else "paused", held or "")

    def _moved(self, job: Job, state: str, reason: str) -> None:
        job.move(state, reason)
        self.tell({"ev": "state", "uuid": job.spec.uuid, "state": state, "reason": reason})

    def warn(self, job: Job, words: str) -> None:
        """Tell a step, once, that its end is near."""
        if not job.is_warned and not job.is_finishing:
            job.warn(words)
            if job.state == "running":
                job.reason = words
                self.tell({"ev": "state", "uuid": job.spec.uuid, "state": job.state, "reason": words})

    def _look_for_pauses(self) -> None:
        """See which steps a visitor holds still, and which go on; a step that is kept for a look, or frozen, says so itself."""
        moment = time.monotonic()
        if moment - self._looked < TICK_S:
            return
        self._looked = moment
        for job in self.jobs.values():
            where = job.held_at()
            if where is not None and job.state == "running":
                self._moved(job, "paused", where)
            elif where is None and job.state == "paused" and job.reason.startswith("held at "):
                self._moved(job, "running", "")

    def _visited(self, job: Job) -> None:
        """Somebody connects to a step: an agent is forked, which takes the connection and all later ones."""
        listener = job.agent_listener
        assert listener is not None
        self.selector.unregister(listener)
        kernel_pid = job.kernel_pid()
        job.note_visited(is_visited=True)
        job.agent_pid = self._fork(lambda: children.run_agent(listener, job.live, kernel_pid), keep=(listener,))

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.wakeup[0], 4096)
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            job = self.by_pid.pop(pid, None)
            if job is not None:
                self._ended(job, status, usage)
            else:
                self._other_ended(pid)

    def _ended(self, job: Job, status: int, usage: Any) -> None:
        leftovers = procs.tree(job.pid, job.spec.uuid) if job.may_have_leftovers() else []
        procs.send(leftovers, signal.SIGKILL)
        if job.is_finishing or read_result(job.spec) is not None:
            self._finished(job)
        elif job.was_refused(status):
            self.tell({"ev": "refused", "uuid": job.spec.uuid, "reason": job.refusal(status)})
            self._remove(job)
        elif job.wants_restart():
            self._remove(job)
            self.begin(replace(job.spec, restart=job.spec.restart + 1))
            self.jobs[job.spec.uuid].started = job.started  # its walltime goes on
        else:  # it crashed or was killed: rebuild its record in a process of its own, which may take a while
            job.is_finishing = True
            is_term = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM
            if is_term and job.kill_reason is None and self.end_words is not None:
                job.kill_reason, job.kill_state = self.end_words(job)
            ending = job.classify(status, usage)
            job.pid = self._fork(lambda: children.write_crash(job, ending))
            self.by_pid[job.pid] = job

    def _finished(self, job: Job) -> None:
        result = read_result(job.spec) or job.unrecorded()
        self._remove(job)
        self.tell({"ev": "ended", "uuid": job.spec.uuid, "result": json.loads(result.to_json())})

    def _remove(self, job: Job) -> None:
        self.jobs.pop(job.spec.uuid, None)
        self.forget(job.link)
        if job.door_pid is not None:
            procs.send([job.door_pid], signal.SIGTERM)
        if job.agent_listener is not None:
            self.forget(job.agent_listener)
        if job.agent_pid is None:
            remove_tree(job.live)
        else:
            self.by_agent[job.agent_pid] = job.live



    def _other_ended(self, pid: int) -> None:
        live = self.by_agent.pop(pid, None)
        if live is not None:
            remove_tree(live)
            return
        for job in self.jobs.values():
            if job.agent_pid == pid:  # no visitor for a while: wait for the next one ourselves
                job.agent_pid = None
                job.note_visited(is_visited=False)
                if job.agent_listener is not None:
                    self.watch(job.agent_listener, lambda job=job: self._visited(job))  # type: ignore[misc]
                return
        for spare in self.spares:
            if spare.pid == pid:
                self.spares.remove(spare)
                spare.link.close()
                spare.agent_listener.close()
                return

    def kill(self, job: Job, reason: str, *, state: str = "failed", grace_s: float = 2.0) -> None:
        """End a job's whole process tree: SIGTERM now, SIGKILL after the grace; the first reason stays."""
        if job.kill_reason is None:
            job.kill_reason, job.kill_state = reason, state
            job.kill_at = time.monotonic() + grace_s
            job.resume_if_frozen()
            procs.send(procs.tree(job.pid, job.spec.uuid), signal.SIGTERM)

