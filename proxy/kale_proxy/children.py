"""What the processes do that a supervisor forks: run a step, wait as a spare, serve visitors, record a crash.

What only some of them need is imported there: a batch job that is a shell step loads no kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kale_proxy import attempt, claim, leader, parents
from kale_proxy.job import crash_lines
from kale_proxy.record import cells_of, notebook_metadata, write_event, write_result
from kale_proxy.recorder import Recorder
from kale_proxy.spec import JobSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from kale_proxy.job import Job
    from kale_proxy.spec import JobResult
    from kale_proxy.stepkernel import StepApp


@dataclass(frozen=True, slots=True)
class Spare:
    """A process that was forked ahead, its kernel serving already, waiting for a step."""

    pid: int
    live: Path
    link: socket.socket
    agent_listener: socket.socket

    def give(self, spec: JobSpec) -> None:
        """Hand the step over; the process runs it and ends."""
        self.link.sendall(spec.to_json().encode().replace(b"\n", b"") + b"\n")


def listen(path: Path) -> socket.socket:
    """Return a listening Unix socket of mode 0600 (its folder is 0700)."""
    listener = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(32)
    return listener


def peer_uid(client: socket.socket) -> int:
    """Return the user at the other end of a Unix socket (SO_PEERCRED, unix(7))."""
    data = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", data)[1]
    return uid


def preload() -> None:
    """Import before the fork what every child would import after it."""
    from kale_proxy import agent, kernelrun, lanerun, shellrun, steprun  # noqa: F401

    agent.preload()


def run_job(app: StepApp | None, spec: JobSpec, live: Path, link: socket.socket) -> int:
    """Run one attempt in this process; return its exit code."""
    leader.become(str(live))
    if spec.is_warm:
        assert app is not None
        start_kernel(app, live)
    return _run(app, spec, live, link)


def run_shell(text: str, live: str, link: int) -> int:
    """Run a shell step in this process, which is its leader already (:mod:`kale_proxy.brief`); return its exit code."""
    return _run(None, JobSpec.from_json(text), Path(live), socket.socket(fileno=link))


def conclude_shell(text: str, code: int, started_at: str, live: str) -> int:
    """Judge and record a shell step whose script has ended with ``code`` (a signal's number, negative); return our exit code."""
    from kale_proxy import shellrun

    spec = JobSpec.from_json(text)
    return _guarded(spec, lambda: shellrun.conclude(spec, code, started_at, is_stopped=Path(live, "stop").exists()))


def wait_as_spare(app: StepApp, live: Path, link: socket.socket) -> int:
    """Start the kernel, wait for a step on ``link`` and run it; end when the supervisor does."""
    leader.become(str(live))
    start_kernel(app, live)
    buffer = bytearray()
    while not buffer.endswith(b"\n"):
        data = link.recv(1 << 20)
        if not data:
            return 0
        buffer += data
    return _run(app, JobSpec.from_json(bytes(buffer)), live, link)


def start_kernel(app: StepApp, live: Path) -> None:
    """Bind the prepared kernel to sockets in ``live``."""
    import asyncio

    from kale_proxy.journal import JournalWriter

    asyncio.set_event_loop(asyncio.new_event_loop())
    app.journal = JournalWriter(live)
    app.start_in_child(live)


def _run(app: StepApp | None, spec: JobSpec, live: Path, link: socket.socket) -> int:
    return _guarded(spec, lambda: _run_kind(app, spec, live, link))


def _run_kind(app: StepApp | None, spec: JobSpec, live: Path, link: socket.socket) -> None:
    parents.require(spec)
    if spec.is_warm:
        from kale_proxy.lanerun import LaneRun
        from kale_proxy.steprun import StepRun

        assert app is not None
        (StepRun if spec.lane is None else LaneRun)(app, spec, link).run()
    elif spec.kind in {"python", "kernel"}:
        from kale_proxy.kernelrun import KernelRun

        KernelRun(spec, live, link).run()
    elif spec.kind == "notebook":
        from kale_proxy.notebookrun import NotebookRun

        NotebookRun(spec, live, link).run()
    else:
        from kale_proxy import shellrun

        shellrun.run(spec, live, lambda state, reason: _tell(link, state, reason))


def _guarded(spec: JobSpec, body: Callable[[], object]) -> int:
    """Do something for a step; return this process's exit code, its log has the reason."""
    try:
        body()
    except (claim.ClaimTaken, parents.ParentNotDone) as exc:
        leader.say(str(exc))
        return attempt.REFUSED
    except OSError as exc:
        leader.say(str(exc))
        begun = (claim.owner_of(spec) or {}).get("uuid") == spec.uuid
        return attempt.BROKEN if begun else attempt.UNWRITABLE
    except Exception:  # the edge of the process: the report goes into the result
        import traceback

        leader.say(traceback.format_exc())
        return attempt.BROKEN
    return 0


def _tell(link: socket.socket, state: str, reason: str) -> None:
    with contextlib.suppress(OSError):
        link.sendall(attempt.state_line(state, reason))


def run_agent(listener: socket.socket, live: Path, kernel_pid: int, deadline_s: float = 60.0) -> int:
    """Serve visitors of one step until it ends or nobody is there."""
    os.setsid()
    end = time.monotonic() + deadline_s
    while not (live / "kernel.json").exists() and time.monotonic() < end:
        time.sleep(0.002)  # the step was forked a moment ago
    from kale_proxy import agent

    agent.run(listener, live, kernel_pid)
    return 0


def run_door(live: Path) -> int:
    """Join a TCP port, by CURVE, to the socket of one step."""
    from kale_proxy import door

    return door.run(live)


def write_crash(job: Job, result: JobResult) -> int:
    """Rebuild the record of a step that ended without one, from the journal, and write its result."""
    from kale_proxy.journal import JournalReader

    spec = job.spec
    if spec.lane is not None:
        from kale_proxy.lanerecord import write_crash as write_lane_crash

        write_lane_crash(job, result)
        return 0
    folder = Path(spec.folder)
    recorder = Recorder(folder, cells_of(spec), notebook_metadata(spec), writes_logs=not (folder / "stdout.log").exists())
    reader, seq = JournalReader(job.live), 0
    while records := reader.read(seq):
        for number, parts in records:
            recorder.message(parts)
            seq = number
    report = crash_lines(job.raw_log())
    if spec.kind in {"shell", "script"}:
        from kale_proxy.shellrun import record_logs

        record_logs(recorder, folder)
    recorder.error_output("StepEnded", result.reason, [result.reason, *report])
    recorder.save(is_durable=True)
    recorder.close()
    if report:
        with (folder / "stderr.log").open("a", encoding="utf-8") as stream:
            stream.write("\n".join([*report, ""]))
    shown = {"ename": "StepEnded", "evalue": result.reason, "traceback": report}
    final = json.loads(result.to_json()) | {"error": shown}
    write_event(spec, "ended", state=result.state, reason=result.reason)
    write_result(spec, type(result).from_json(json.dumps(final)))
    return 0
