"""One running attempt as its supervisor knows it, and in words how it ended when it could not say so itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

from kale_proxy import attempt, procs
from kale_proxy.attempt import RESTART, VISITED
from kale_proxy.checkpoints import ENDING
from kale_proxy.claim import pid_start
from kale_proxy.record import new_result, now, write_event
from kale_proxy.values import write_atomic

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from kale_proxy.spec import JobResult, JobSpec

FROM_OUTSIDE = "from outside Kale"  # in the reason of a step that neither Kale nor its own code ended
_SIGNALS = {
    signal.SIGSEGV: "a segmentation fault in compiled code",
    signal.SIGBUS: "a bus error in compiled code",
    signal.SIGILL: "an illegal instruction in compiled code",
    signal.SIGFPE: "an arithmetic fault in compiled code",
    signal.SIGABRT: "compiled code called abort()",
    signal.SIGTERM: f"SIGTERM {FROM_OUTSIDE}",
    signal.SIGINT: f"SIGINT {FROM_OUTSIDE}",
}
_LOG_MAX = 64 << 10


class Job:
    """An attempt and its process; ``link`` is our end of the socket pair to it."""

    def __init__(self, spec: JobSpec, pid: int, live: Path, link: socket.socket, agent_listener: socket.socket | None) -> None:
        self.spec = spec
        self.pid = pid
        self.leader = pid
        self.pid_start = pid_start(pid)
        self.live = live
        self.link = link
        self.agent_listener = agent_listener
        self.agent_pid: int | None = None
        self.heard = b""  # the beginning of a line
        self.door_pid: int | None = None
        self.at = now()
        self.started = time.monotonic()
        self.state = "running"
        self.reason = ""
        self.is_frozen = False
        self.is_warned = False
        self.kill_reason: str | None = None
        self.kill_state = "failed"
        self.kill_at: float | None = None
        self.is_finishing = False
        self.had_children = False
        self.peak_bytes = 0
        self.oom_kills = procs.oom_kills()

    def describe(self) -> dict[str, Any]:
        """Return what managers are told of a running job."""
        return {
            "uuid": self.spec.uuid, "folder": self.spec.folder, "pid": self.leader, "pid_start": self.pid_start,
            "live": str(self.live), "state": self.state, "reason": self.reason,
        }

    def move(self, state: str, reason: str = "") -> None:
        """Take the state that a running step is in, and write it into its events unless the step has done so."""
        self.state, self.reason = state, reason
        with contextlib.suppress(OSError):
            write_event(self.spec, "resumed" if state == "running" else state, reason=reason)

    def held_at(self) -> str | None:
        """Return where the step is held (:mod:`kale_proxy.pause`); None while it is not."""
        try:
            return (self.live / attempt.HELD).read_text(encoding="utf-8")
        except OSError:
            return None

    def freeze(self) -> None:
        """Stop every process of the step (SIGSTOP); its kernel answers nobody meanwhile."""
        self.is_frozen = True
        procs.send(procs.tree(self.leader, self.spec.uuid), signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        if self.is_frozen:
            self.is_frozen = False
            procs.send(procs.tree(self.leader, self.spec.uuid), signal.SIGCONT)

    def begin_point(self) -> None:
        """Count time anew: one of many points begins in its kernel."""
        self.started = time.monotonic()
        if self.is_warned:
            self.is_warned = False
            (self.live / ENDING).unlink(missing_ok=True)

    def warn(self, words: str) -> None:
        """Tell the step that its end is near: its Python code by a file (:mod:`kale_proxy.checkpoints`), bash by SIGUSR1 if it has a trap for that."""
        self.is_warned = True
        with contextlib.suppress(OSError):
            write_atomic(self.live / ENDING, json.dumps({"at": now(), "reason": words}).encode())
            write_event(self.spec, "warned", reason=words, state=self.state)
        if self.spec.kind in {"shell", "script"}:
            procs.send([pid for pid in self._scripts() if procs.catches(pid, signal.SIGUSR1)], signal.SIGUSR1)

    def _scripts(self) -> list[int]:
        """Return the process of the step's script; in a container its runtime may be between, and catches all signals."""
        if self.spec.container is None:
            return procs.children(self.leader)
        return [pid for pid in procs.tree(self.leader, self.spec.uuid) if procs.name(pid) == "bash"]

    def kernel_pid(self) -> int:
        """Return the process that holds the kernel: the job's own, or the one a foreign kernel was started as."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.live / "kernel.pid").read_text(encoding="ascii"))
        return self.leader

    def note_visited(self, *, is_visited: bool) -> None:
        """Let a kernel that stays open for a notebook know whether somebody is connected."""
        if self.spec.idle_s is not None:
            with contextlib.suppress(OSError):
                mark = self.live / VISITED
                mark.touch(mode=0o600) if is_visited else mark.unlink(missing_ok=True)

    def wants_restart(self) -> bool:
        """Whether the process has ended so that its job gets a fresh kernel."""
        return self.spec.idle_s is not None and self.kill_reason is None and (self.live / RESTART).exists()

    def interrupt(self, point: str = "") -> None:
        """Send the code a KeyboardInterrupt; the mark tells the step that a person asked for it, and which point is meant."""
        self.thaw()
        with contextlib.suppress(OSError):
            write_atomic(self.live / "stop", point.encode())
        if self.spec.kind in {"python", "kernel", "notebook"}:
            procs.send([self.kernel_pid()], signal.SIGINT)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.leader, signal.SIGINT)

    def feed(self, message: dict[str, Any]) -> None:
        """Hand a kernel that runs many points more of them, or what became of those that it has."""
        with contextlib.suppress(OSError):
            self.link.sendall(json.dumps(message).encode() + b"\n")

    def release(self) -> None:
        """End the hold of a stopped step."""
        with contextlib.suppress(OSError):
            self.link.sendall(b"release\n")

    def resume_if_frozen(self) -> None:
        """Let a process that is stopped (SIGSTOP) see the signal that ends it."""
        self.thaw()
        procs.send([self.leader], signal.SIGCONT)

    def may_have_leftovers(self) -> bool:
        """Whether processes of the step can still be there: one of its session, or it was seen to have children."""
        if self.had_children or time.monotonic() - self.started > 1.0:
            return True
        try:
            os.killpg(self.leader, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def was_refused(self, status: int) -> bool:
        """Whether the process ended before the step began."""
        return os.WIFEXITED(status) and os.WEXITSTATUS(status) in {attempt.REFUSED, attempt.UNWRITABLE}

    def refusal(self, status: int) -> str:
        """Return why the step did not begin, in one sentence."""
        said = self.raw_log().strip().splitlines()
        why = said[-1] if said else "no reason was given"
        if os.WEXITSTATUS(status) == attempt.REFUSED:
            return why
        return f"the step's folder {self.spec.folder} can't be written: {why}"

    def raw_log(self) -> str:
        """Return the end of what the process wrote past the kernel: crash reports of Python and of C libraries."""
        try:
            with (self.live / "raw.log").open("rb") as stream:
                stream.seek(max(0, os.fstat(stream.fileno()).st_size - _LOG_MAX))
                return stream.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def classify(self, status: int, usage: Any) -> JobResult:
        """Return the result of a process that ended without one: crashed, killed, or left by ``os._exit``."""
        state, reason, code, signum = self.kill_state, self.kill_reason, None, None
        if os.WIFSIGNALED(status):
            signum = os.WTERMSIG(status)
            code = 128 + signum
        else:
            code = os.waitstatus_to_exitcode(status)
        if reason is None:
            state = "failed"
            reason = self._signal_words(signum) if signum is not None else self._exit_words(code)
        return new_result(
            self.spec, state, self.at, exit_code=code, signal=signum, reason=reason, pid=self.leader,
            cpu_s=round(usage.ru_utime + usage.ru_stime, 4), peak_rss_bytes=max(self.peak_bytes, usage.ru_maxrss * 1024),
        )

    def _signal_words(self, signum: int) -> str:
        if signum == signal.SIGKILL:
            if procs.oom_kills() > self.oom_kills:
                return "killed by the operating system: the machine ran out of memory (ask for more with --memory, or use less)"
            return f"killed by SIGKILL {FROM_OUTSIDE} (kill -9, or the memory limit of the machine or container)"
        try:
            name = signal.Signals(signum).name
        except ValueError:
            name = f"signal {signum}"
        words = _SIGNALS.get(signal.Signals(signum)) if name.startswith("SIG") else None
        return f"the process was ended by {words} ({name})" if words else f"the process was ended by {name}"

    def _exit_words(self, code: int) -> str:
        if code == attempt.BROKEN:
            return f"Kale's own worker failed; its report: {self.raw_log().strip()[-2000:]}"
        if self.spec.kind in {"kernel", "notebook"} or self.spec.container:
            return f"the kernel {self.spec.kernel or 'of the step'} ended with exit code {code} while the cell ran"
        return f"the process left by os._exit({code}) or a library's exit({code}), so no outputs were saved"

    def unrecorded(self) -> JobResult:
        """Return a result when even the record could not be written (a full disk)."""
        return new_result(self.spec, "failed", self.at, reason=f"its result could not be written to {self.spec.folder}: is the disk full?", exit_code=1)


def crash_lines(log: str) -> list[str]:
    """Return the crash report's thread that crashed (faulthandler names it "Current thread"), else the log's end; no frames of the kernel's own."""
    lines = log.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("Current thread")]
    if not starts:
        return lines[-40:]
    block = lines[starts[-1] :]
    ends = [number for number, line in enumerate(block) if not line.strip() or "IPython/core/interactiveshell.py" in line]
    return block[: ends[0] if ends else None][:40]
