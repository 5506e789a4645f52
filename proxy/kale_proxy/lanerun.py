"""Run many points of a ``--reuse-kernel`` sweep, one after another, in one process and kernel.

Each point is begun and ended by a line of the kernel's own file (:mod:`kale_proxy.pack`), so that what has ended has
ended whatever comes after. Between points the names, figures, working folder and environment are put back as they
were after the common cell; imported modules stay, which is what makes it fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_proxy import claim, inside, values
from kale_proxy.attempt import STOPPED, job_environment, require_files
from kale_proxy.lanerecord import PointRecorder, told, write_notebook
from kale_proxy.pack import Writer, told_file
from kale_proxy.record import new_result, now, publish, write_event, write_result, write_sample
from kale_proxy.recorder import CELL_PREFIX
from kale_proxy.spec import PointSpec
from kale_proxy.steprun import StepRun
from kale_proxy.visit_kernel import OF_STEP

if TYPE_CHECKING:
    import socket

    from kale_proxy.spec import JobResult, JobSpec
    from kale_proxy.stepkernel import StepApp

IDLE_S = 20.0  # so long it waits for more points
_SYNC_S = 1.0
_MARGIN_S, _LONGER = 1.0, 1.25  # what is left of an allocation must be more than the longest point took, by so much
CANCEL = " cancel"  # after a point's uuid, in the mark of an interrupt


class LaneRun(StepRun):
    """One kernel of a sweep in this process.

    Parameters
    ----------
    app : StepApp
        Its kernel is bound and serving already.
    spec : JobSpec
        With ``lane`` and its first ``points``.
    link : socket.socket
        The supervisor's end: points come in as JSON lines, states go out.
    """

    def __init__(self, app: StepApp, spec: JobSpec, link: socket.socket) -> None:
        super().__init__(app, spec, link)
        self.lane = spec
        self.todo: deque[PointSpec] = deque(spec.points)
        self._known = {point.uuid for point in spec.points}
        self._skipped: set[str] = set()
        self._buffer = b""
        self._is_last = spec.is_share  # no more points will come
        self._told_bytes = 0  # of the file by which it is told something, that were read
        self._begun_s = time.time()
        self._longest_s = 0.0
        self._is_all_well = True
        self._has_files = False  # those of --files-in were there
        self._current = ""  # uuid of the point whose code runs
        self._synced = time.monotonic()
        self._broken: JobResult | None = None  # how the common cell failed
        self._base: dict[str, Any] = {}
        self._environ: dict[bytes, bytes] = {}
        self.writer: Writer

    def run(self) -> JobResult | None:
        """Run points until no more come."""
        claim.take(self.lane)
        self.writer = Writer(Path(self.lane.folder), self._number)
        os.chdir(self.lane.cwd)
        os.environ.update(self.lane.env)
        os.environ.update(job_environment(self.lane))
        os.environ["KALE_LANE"] = str(self._number)
        random.seed()
        write_event(self.lane, "running", pid=os.getpid(), live=str(self.app.live))
        publish(self.lane, self.app.live)
        self.link.setblocking(False)
        shell = self.app.kernel.shell
        shell.transform_cell = lru_cache(maxsize=8)(shell.transform_cell)  # each point has the same cell
        loop = asyncio.get_event_loop()
        loop.run_until_complete(self._points())
        result = new_result(self.lane, "completed", self.started_at, exit_code=int(not self._is_all_well))
        self._finish(result)
        return result

    @property
    def _number(self) -> int:
        assert self.lane.lane is not None
        return self.lane.lane

    async def _points(self) -> None:
        await self._common()
        while True:
            await self._take_more(is_waiting=not self.todo)
            if self.todo and self._is_time_short():
                self._is_all_well = False
                return  # another kernel runs the rest
            if self.todo:
                self._read_told()
                await self._point(self.todo.popleft())
            elif self._is_last:
                return

    async def _common(self) -> None:
        self._record(PointRecorder(self.lane, None))
        code = self.lane.common
        before = set(self.namespace)
        if code.strip():
            self._broken = await self._execute("common", code, "in %%kale_common: ")
        self.common_names = set(self.namespace) - before
        self.recorder.save()
        self._base = dict(self.namespace)
        self._environ = dict(os.environb)

    def _record(self, recorder: PointRecorder) -> None:
        self.recorder = self.app.recorder = self.app.iopub_thread.recorder = recorder

    # -- what comes ------------------------------------------------------------------------------
    async def _take_more(self, *, is_waiting: bool) -> None:
        """Take what the supervisor has sent; wait for it, but not for ever, if there is nothing else to do."""
        while not self._is_last:
            try:
                data = self.link.recv(1 << 18)
            except BlockingIOError:
                if not is_waiting or self.todo:
                    return
                self.writer.sync()
                try:
                    data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.link, 1 << 18), IDLE_S)
                except TimeoutError:
                    self._is_last = True
                    return
                except OSError:
                    data = b""
            except OSError:
                data = b""
            if not data:  # the supervisor is gone: nobody can send more
                self._is_last = True
                return
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                self._told(line)

    def _told(self, line: bytes) -> None:
        if not line.startswith(b"{"):
            return  # the end of a look, which there is not here
        message = json.loads(line)
        for item in message.get("points", ()):
            if item["uuid"] not in self._known:
                self._known.add(item["uuid"])
                self.todo.append(PointSpec(**item))
        self._skipped.update(message.get("skip", ()))
        self._is_last = self._is_last or bool(message.get("finish"))

    def _read_told(self) -> None:
        """Take what a batch job is told, to which no connection leads."""
        if not self.lane.is_share:
            return
        with contextlib.suppress(OSError):
            size = os.stat(told_file(self.lane.folder, self._number)).st_size
            if size > self._told_bytes:
                self._told_bytes = size
                for message in told(self.lane):
                    self._skipped.update(message.get("skip", ()))

    def _ends_at(self) -> float | None:
        """Return when the allocation ends, in seconds since the epoch; None where nothing is known of it."""
        said, limit = os.environ.get("SLURM_JOB_END_TIME", ""), self.lane.limits.walltime_s
        if said.isdigit():
            return float(said)
        return self._begun_s + limit if self.lane.is_share and limit is not None else None

    def _is_time_short(self) -> bool:
        """Whether the next point would hardly end in the time that is left, judged by the longest; the first is begun in any case."""
        ends_at = self._ends_at()
        return ends_at is not None and self._longest_s > 0 and ends_at - time.time() < _MARGIN_S + _LONGER * self._longest_s

    async def _execute(self, name: str, code: str, where: str) -> JobResult | None:
        """Run one cell on the main shell; without the messages around it that nobody waits for, which cost more than a short cell."""
        kernel = self.app.kernel
        message = self.app.session.msg("execute_request", {"code": code, "silent": False})
        message["header"]["msg_id"] = message["msg_id"] = f"{CELL_PREFIX}{name}-{self.spec.uuid}"
        self._header = message["header"]
        kernel.set_parent([OF_STEP], message, channel="shell")
        kernel.shell.last_execution_result = None
        before = signal.signal(signal.SIGINT, self._interrupted)
        try:
            await kernel.do_execute(code, silent=False, store_history=False, user_expressions={}, allow_stdin=True)
        finally:
            signal.signal(signal.SIGINT, before)
        outcome = kernel.shell.last_execution_result
        error = None if outcome is None else outcome.error_before_exec or outcome.error_in_exec
        return None if error is None else self._raised(error, where)

    def _interrupted(self, signum: int, frame: Any) -> None:
        """Let an interrupt that is meant for another point pass."""
        if self._asked_to_stop():
            signal.default_int_handler(signum, frame)

    def _asked_to_stop(self) -> str:
        """Return the mark of a person who asked for the end of the present point, empty if nobody did."""
        try:
            mark = (self.app.live / "stop").read_text()
        except OSError:
            return ""
        return mark if self._current and mark.removesuffix(CANCEL) == self._current else ""

    # -- one point -------------------------------------------------------------------------------
    async def _point(self, point: PointSpec) -> None:
        self.started_at, cpu, begun = now(), time.process_time(), time.monotonic()
        self.spec = replace(
            self.lane, point=point.point, uuid=point.uuid, attempt=point.attempt, params=self.lane.params | point.params,
            folder=f"{self.lane.folder}/{point.point}",
        )
        self.writer.begin(point.point, point.uuid, point.attempt, self.started_at)
        if point.uuid in self._skipped:
            self._end_point(point, new_result(self.spec, "cancelled", self.started_at, reason="cancelled before it began"), cpu)
            return
        if self.lane.limits.walltime_s is not None:
            self._say({"point": point.point})
        self._enter_point(point)
        recorder = PointRecorder(self.spec, self.writer)
        self._record(recorder)
        threads = set(threading.enumerate())
        try:
            result = await self._run_point()
            for thread in set(threading.enumerate()) - threads:
                if not thread.daemon:
                    thread.join()
            self._drain()
        except KeyboardInterrupt as exc:  # it came between two lines of ours
            result = self._raised(exc, "") or self._failed("KeyboardInterrupt")
        self._current = ""
        self._end_point(point, result, cpu, recorder)
        self._longest_s = max(self._longest_s, time.monotonic() - begun)
        self._leave_point()

    def _drain(self) -> None:
        """Do what the application's drain does, by one wait instead of three."""
        thread, done = self.app.iopub_thread, threading.Event()
        for stream in (sys.stdout, sys.stderr):
            thread.schedule(stream._flush if hasattr(stream, "_flush") else stream.flush)
        thread.schedule(done.set)
        done.wait(10.0)

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            self.link.send(json.dumps(message).encode() + b"\n")

    def _enter_point(self, point: PointSpec) -> None:
        os.environ.update(point.env)
        os.environ.update({**job_environment(self.spec), "KALE_JOB": self.lane.uuid})
        if (ends_at := self._ends_at()) is not None:
            os.environ["KALE_ENDS_AT"] = f"{min(ends_at, float(os.environ.get('KALE_ENDS_AT', ends_at))):.0f}"
        inside.begin_point(self.spec.parameters())
        self.gate._spec = self.spec

    async def _run_point(self) -> JobResult:
        if self._broken is not None:
            return replace(self._broken, uuid=self.spec.uuid, attempt=self.spec.attempt, started_at=self.started_at)
        try:
            self.namespace.update(self.spec.parameters())
            self._take_inputs(is_last=True)
            if not self._has_files:
                require_files(self.lane)
                self._has_files = True
        except values.ValueFileError as exc:
            return self._failed(f"step `{self.spec.step}` could not get its inputs: {exc}")
        self._current = self.spec.uuid
        failure = await self._execute("step", self.spec.code, "")
        self._current = ""
        return failure or self._collect()

    def _raised(self, error: BaseException, where: str) -> JobResult | None:
        mark = self._asked_to_stop() if isinstance(error, KeyboardInterrupt) else ""
        found = super()._raised(error, where)
        if not mark:
            return found
        reason = "cancelled by the user" if mark.endswith(CANCEL) else STOPPED
        return new_result(self.spec, "cancelled", self.started_at, reason=reason, exit_code=130, error=self.recorder.error)

    def _save(self, found: dict[str, Any]) -> dict[str, dict[str, Any]]:
        portable = frozenset(self.common_names)
        return {name: self.writer.save(name, value, portable, self.lane.formats.get(name, "")) for name, value in found.items()}

    def _end_point(self, point: PointSpec, result: JobResult, cpu: float, recorder: PointRecorder | None = None) -> None:
        self._is_all_well = self._is_all_well and result.state == "completed"
        final = replace(result, ended_at=now(), pid=os.getpid(), cpu_s=round(time.process_time() - cpu, 4))
        kept = {key: item for key, item in asdict(final).items() if key == "outputs" or item not in (None, "", [], (), {})}
        record: dict[str, Any] = {"result": kept}
        if recorder is not None:
            record |= recorder.ended()
        if metrics := inside.end_point():
            record["metrics"] = metrics
        self.writer.end(point.point, point.uuid, point.attempt, record)
        moment = time.monotonic()
        if moment - self._synced > _SYNC_S:
            self._synced = moment
            self.writer.sync()

    def _leave_point(self) -> None:
        """Put back what the next point must find as this one did."""
        space = self.namespace
        for name in [name for name in space if name not in self._base]:
            del space[name]
        space.update(self._base)
        space.get("_oh", {}).clear()
        if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
            pyplot.close("all")
        os.chdir(self.lane.cwd)
        now_set: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined] # as bytes: decoding all of it costs more than a short point
        for key in [key for key in now_set if key not in self._environ]:
            del os.environb[key]
        for key, text in self._environ.items():
            if now_set.get(key) != text:
                os.environb[key] = text
        with contextlib.suppress(OSError):
            (self.app.live / "stop").unlink()

    def _finish(self, result: JobResult) -> None:
        self.spec = self.lane
        self._leave()
        with contextlib.suppress(OSError):
            write_notebook(self.lane)
        usage, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = usage.ru_utime + usage.ru_stime + children.ru_utime + children.ru_stime
        peak = max(usage.ru_maxrss, children.ru_maxrss) * 1024
        write_sample(self.lane, round(cpu, 3), peak)
        write_event(self.lane, "ended", state=result.state, reason=result.reason)
        self.writer.sync()
        self.writer.close()
        write_result(self.lane, replace(result, ended_at=now(), pid=os.getpid(), cpu_s=round(cpu, 4), peak_rss_bytes=peak))


def as_message(points: list[PointSpec]) -> dict[str, Any]:
    """Return what hands points to a kernel that runs."""
    return {"points": [asdict(point) for point in points]}
