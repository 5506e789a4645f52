"""Run a step in an installed kernel that is not our own: bash, R, Julia, Python of another environment.

Two processes: this one starts the kernel by its kernelspec, talks to it as a client, journals and
records what it publishes; the kernel is its child. How values cross is in :mod:`kale_proxy.languages`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_proxy import attempt, claim, container, languages, shellrun, values
from kale_proxy.agent_visit import has_subshells
from kale_proxy.gate import Gate
from kale_proxy.journal import JournalWriter
from kale_proxy.kernelcommand import CannotStart, kernel_command
from kale_proxy.record import (
    cells_of,
    new_result,
    notebook_metadata,
    now,
    publish,
    write_event,
    write_result,
    write_sample,
)
from kale_proxy.recorder import CELL_PREFIX, Recorder
from kale_proxy.visit_kernel import OF_STEP

if TYPE_CHECKING:
    import socket

    from kale_proxy.spec import JobResult, JobSpec

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
READY_S = 120.0
_SAVE_S = 2.0


END_OF_INPUT = "\x04"  # what kernels turn into EOFError


class Overtaken(Exception):  # noqa: N818 - an outcome
    """The cell that asked has ended before it was answered."""


class KernelGone(Exception):  # noqa: N818 - an outcome
    """The kernel's process ended while we waited for it."""


class KernelRun:
    """One attempt in a kernel that was started for it. Parameters as :class:`kale_proxy.steprun.StepRun`."""

    def __init__(self, spec: JobSpec, live: Path, link: socket.socket) -> None:
        self.spec = spec
        self.live = live
        self.link = link
        self.folder = Path(spec.folder)
        self.started_at = now()
        self.journal = JournalWriter(live)
        self.recorder = Recorder(self.folder, cells_of(spec, language="python" if spec.kind == "python" else ""), notebook_metadata(spec))
        self.kernel: subprocess.Popen[bytes] | None = None
        self.language = ""
        self.saved = time.monotonic()
        self.gate = Gate(spec, live, self._tell)

    def run(self) -> JobResult:
        """Run the step to its end; the result is on disk when this returns."""
        claim.take(self.spec)
        write_event(self.spec, "running", pid=os.getpid(), live=str(self.live))
        os.environ.update(self.spec.env)
        os.environ.update(attempt.job_environment(self.spec))
        try:
            result = self._lacking() or self._start() or self._cells()
            if result.reason == attempt.STOPPED:
                self._hold(self.spec.hold_s, attempt.hold_words(self.spec.hold_s))
            elif result.state == "failed" and self.spec.hold_on_failure_s and self.kernel is not None:
                self._hold(self.spec.hold_on_failure_s, attempt.hold_words(self.spec.hold_on_failure_s, result.reason))
        except KernelGone:
            assert self.kernel is not None
            code = self.kernel.wait()
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            log = self._last_words()
            reason = f"the kernel {self.spec.kernel or 'of the container'} {how} while the cell ran" + (f": {log[-1]}" if log else "")
            self.recorder.error_output("KernelDied", reason, [reason, *log])
            error = {"ename": "KernelDied", "evalue": reason, "traceback": log}
            result = self._result("failed", reason, exit_code=128 - code if code < 0 else code or 1, error=error)
        self._stop_kernel()
        return self._finish(result)

    def _lacking(self) -> JobResult | None:
        try:
            attempt.require_files(self.spec)
        except values.ValueFileError as exc:
            return self._result("failed", f"step `{self.spec.step}` could not get its inputs: {exc}")
        return None

    def _start(self) -> JobResult | None:
        """Start the kernel and wait until it answers; return a result when it can't."""
        import zmq
        from jupyter_client.session import Session

        starting = self.live / "kernel-starting.json"
        try:
            command = kernel_command(self.spec, self.live, starting)
        except CannotStart as exc:
            return self._result("failed", str(exc))
        key = secrets.token_hex(32)
        info: dict[str, Any] = {f"{name}_port": number for number, name in enumerate(CHANNELS, 1)}
        info |= {"transport": "ipc", "ip": str(self.live / "k"), "key": key, "signature_scheme": "hmac-sha256", "kernel_name": self.spec.kernel}
        info["kale_interrupt"] = command.interrupt_mode
        values.write_atomic(starting, json.dumps(info).encode())
        try:
            self.kernel = subprocess.Popen(command.argv, cwd=self.spec.cwd, env=command.environ, stdin=subprocess.DEVNULL)
        except OSError as exc:
            return self._result("failed", f"the kernel {self.spec.kernel} could not be started: {command.argv[0]}: {exc.strerror or exc}")
        (self.live / "kernel.pid").write_text(str(self.kernel.pid), encoding="ascii")
        self.session = Session(key=key.encode())
        self.context = zmq.Context()
        kinds = (zmq.SUB, zmq.DEALER, zmq.DEALER, zmq.DEALER)
        self.iopub, self.shell, self.control, self.stdin = (self.context.socket(kind) for kind in kinds)
        self.shell.setsockopt(zmq.IDENTITY, OF_STEP)  # by which a kernel finds where to ask what a cell asks
        self.stdin.setsockopt(zmq.IDENTITY, OF_STEP)
        self.iopub.rcvhwm = 0
        self.iopub.subscribe(b"")
        for name, number in (("shell", 1), ("iopub", 2), ("stdin", 3), ("control", 4)):
            sock = getattr(self, name)
            sock.linger = 0
            sock.connect(f"ipc://{self.live}/k-{number}")
        self.poller = zmq.Poller()
        for sock in (self.iopub, self.shell, self.stdin):
            self.poller.register(sock, zmq.POLLIN)
        try:
            return self._wait_ready(info)
        except KernelGone:
            if self.spec.container is None:
                raise
            return self._result("failed", container.why_gone(self.spec, self._last_words()))

    def _last_words(self) -> list[str]:
        return (self.live / "raw.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-40:]

    def _wait_ready(self, info: dict[str, Any]) -> JobResult | None:
        end = time.monotonic() + READY_S
        reply: dict[str, Any] | None = None
        while reply is None or self.journal.seq == 0:  # an iopub message proves that the subscription holds
            if time.monotonic() > end:
                return self._result("failed", f"the kernel {self.spec.kernel or 'of the container'} did not answer within {READY_S:g} s")
            with contextlib.suppress(TimeoutError):
                reply = self._request("kernel_info_request", {}, timeout=0.5)
        self.language = reply.get("language_info", {}).get("name", "")
        self.recorder.metadata["language_info"] = reply.get("language_info", {})
        info["kale_subshells"] = has_subshells(reply)
        if self.language == "python":
            from kale_proxy import inside

            self._execute(inside.bootstrap_source(), is_silent=True)
            if self.spec.container is not None:  # what we have started may be the runtime, which is not to be interrupted
                path = str(self.live / "kernel.pid")
                self._execute(f"with open({path!r}, 'w') as _f: _f.write(str(__import__('os').getpid()))\ndel _f", is_silent=True)
        if info["kale_subshells"]:
            from kale_proxy import visits

            info["kale_visits"] = self._execute(visits.bootstrap_source(), is_silent=True)["status"] == "ok"
        values.write_atomic(self.live / "kernel.json", json.dumps(info).encode())
        publish(self.spec, self.live)
        return None

    def _cells(self) -> JobResult:
        spec = self.spec
        try:
            prelude = self._prelude()
        except values.ValueFileError as exc:
            return self._result("failed", f"step `{spec.step}` could not get its inputs: {exc}")
        if prelude is None:
            return self._result("failed", f"--params and --inputs can't be given to a {self.language} kernel yet: use --env and --files-in")
        if (failure := self._prepare(prelude)) is not None:
            return failure
        if spec.is_gate and (failure := self._wait_at_gate()) is not None:
            return failure
        reply = self._execute(spec.code, msg_id=f"{CELL_PREFIX}step-{spec.uuid}")
        if reply["status"] != "ok":
            return self._raised(reply)
        try:
            index = self._collect() if spec.outputs else {}
            files = attempt.check_files(spec)
        except values.ValueFileError as exc:
            return self._result("failed", f"step `{spec.step}`: {exc}")
        return self._result("completed", "", exit_code=0, outputs=index, files=tuple(files))

    def _prepare(self, prelude: str) -> JobResult | None:
        """Set parameters and inputs, and run the common cell; inputs of classes that it defines come after it."""
        spec = self.spec
        reply = self._execute(prelude, is_silent=True) if prelude else {"status": "ok"}
        if spec.common.strip():
            self._execute("_kale_before = set(globals())", is_silent=True)
            said = self._execute(spec.common, msg_id=f"{CELL_PREFIX}common-{spec.uuid}")
            self._execute("_kale_common = set(globals()) - _kale_before\ndel _kale_before", is_silent=True)
            if said["status"] != "ok":
                failed = self._raised(said)
                return replace(failed, reason=f"in %%kale_common: {failed.reason}") if failed.state == "failed" else failed
            if reply["status"] != "ok":
                reply = self._execute(prelude, is_silent=True)
        why = languages.failure(spec) or (str(reply.get("evalue") or reply.get("ename") or "it failed") if reply["status"] != "ok" else "")
        return self._result("failed", f"step `{spec.step}` could not get its inputs: {why}", error=_error(reply)) if why else None

    def _tell(self, state: str, reason: str) -> None:
        with contextlib.suppress(OSError):
            self.link.sendall(attempt.state_line(state, reason))

    def _wait_at_gate(self) -> JobResult | None:
        """Wait for a person, and set what was decided as variables; return a result if the language has no way for that."""
        decided = self.gate.wait_in_thread(self._listen)
        if not decided:
            return None
        given = replace(self.spec, params=decided, inputs=())
        code = languages.assignments(self.language, given.params)
        if code is None:
            return self._result("failed", f"what was decided can't be set in a {self.language} kernel: go on without --set")
        reply = self._execute(code, is_silent=True)
        return None if reply["status"] == "ok" else self._result("failed", f"what was decided can't be set: {reply.get('evalue', '')}")

    def _listen(self) -> None:
        """Record what visitors print while the step waits."""
        while self.iopub.poll(0):
            self._published(self.iopub.recv_multipart(), "")
        if self.kernel is not None and self.kernel.poll() is not None:
            raise KernelGone

    def _raised(self, reply: dict[str, Any]) -> JobResult:
        if (self.live / "stop").exists() and (reply.get("ename") == "KeyboardInterrupt" or self.language != "python"):
            return self._result("cancelled", attempt.STOPPED, exit_code=130, error=_error(reply))
        name, value = reply.get("ename") or "error", reply.get("evalue") or ""
        return self._result("failed", f"{name}: {value}" if value else str(name), error=self.recorder.error or _error(reply))

    def _prelude(self) -> str | None:
        """Return code in the kernel's language that sets parameters and inputs; None where we know no way."""
        return languages.prelude(self.language, self.spec)

    def _collect(self) -> dict[str, dict[str, Any]]:
        """Have the kernel leave its outputs in files, and return their index; raises ValueFileError."""
        code = languages.collecting(self.language, self.spec)
        folder = self.folder / "outputs"
        folder.mkdir(mode=0o700, exist_ok=True)
        reply = self._execute(code, is_silent=True)
        if said := languages.failure(self.spec):
            raise values.ValueFileError(said)
        if reply["status"] != "ok":
            said = str(reply.get("evalue") or reply.get("ename") or "")
            words = f"it never assigned the output {said}" if reply.get("ename") == "KeyError" else said.removeprefix("Error: ").strip()
            raise values.ValueFileError(words)
        return values.read_index(folder) if self.language == "python" else shellrun.collect(self.spec)

    # -- the kernel's channels -------------------------------------------------------------------
    def _execute(self, code: str, *, msg_id: str = "", is_silent: bool = False) -> dict[str, Any]:
        content = {"code": code, "silent": is_silent, "store_history": not is_silent, "user_expressions": {}, "allow_stdin": not is_silent, "stop_on_error": True}
        return self._request("execute_request", content, msg_id=msg_id, waits_idle=not is_silent)

    def _request(self, kind: str, content: dict[str, Any], *, msg_id: str = "", timeout: float | None = None, waits_idle: bool = False) -> dict[str, Any]:
        """Send a shell request and return its reply's content; meanwhile iopub is journalled and recorded."""
        message = self.session.msg(kind, content)
        if msg_id:
            message["header"]["msg_id"] = message["msg_id"] = msg_id
        self.session.send(self.shell, message)
        wanted = message["header"]["msg_id"]
        end = None if timeout is None else time.monotonic() + timeout
        reply: dict[str, Any] | None = None
        is_idle = not waits_idle
        late = 0.0
        while reply is None or not is_idle:
            if end is not None and time.monotonic() > end:
                raise TimeoutError
            if reply is not None and time.monotonic() > late:
                break  # a kernel that never says idle
            for sock, _ in self.poller.poll(100):
                if sock is self.iopub:
                    is_idle = self._published(self.iopub.recv_multipart(), wanted) or is_idle
                elif sock is self.stdin:
                    self._asked(self.stdin.recv_multipart(), wanted)
                else:
                    _, frames = self.session.feed_identities(self.shell.recv_multipart())
                    answer = self.session.deserialize(frames)
                    if answer["parent_header"].get("msg_id") == wanted:
                        reply, late = answer["content"], time.monotonic() + 5.0
            self._save_in_time()
            if self.kernel is not None and self.kernel.poll() is not None and not self.iopub.poll(50):
                raise KernelGone
        return reply

    def _asked(self, parts: list[bytes], wanted: str) -> None:
        """Ask the person what the step's cell asks, and give the kernel the answer; an interrupt of the cell ends the wait."""
        _, frames = self.session.feed_identities(parts)
        question = self.session.deserialize(frames)
        if question["parent_header"].get("msg_id") != wanted:
            return
        prompt, is_password = str(question["content"].get("prompt", "")), bool(question["content"].get("password"))

        def idle() -> None:
            self._listen()
            if self.shell.poll(0):
                raise Overtaken

        try:
            answer = self.gate.ask(prompt, is_password=is_password, idle=idle)
        except EOFError:
            answer = END_OF_INPUT
        except Overtaken:
            return
        shown = prompt if is_password or answer == END_OF_INPUT else f"{prompt}{answer}"
        self.recorder.content(wanted, "stream", {"name": "stdout", "text": f"{shown}\n"})
        self.session.send(self.stdin, "input_reply", {"value": answer}, parent=question)

    def _published(self, parts: list[bytes], wanted: str) -> bool:
        """Take one iopub message; return whether it says that ``wanted`` is done."""
        self.journal.append(parts)
        self.recorder.message(parts)
        return wanted.encode() in b"".join(parts[-3:-1]) and b'"idle"' in parts[-1] and b'"status"' in b"".join(parts)

    def _save_in_time(self) -> None:
        if self.recorder.is_dirty and time.monotonic() - self.saved > _SAVE_S:
            self.saved = time.monotonic()
            with contextlib.suppress(OSError):
                self.recorder.save()

    def _hold(self, hold_s: float, reason: str) -> None:
        with contextlib.suppress(OSError):
            self.recorder.save()
        write_event(self.spec, "paused", reason=reason)
        with contextlib.suppress(OSError):
            self.link.sendall(attempt.state_line("paused", reason))
            self._publish_until_released(hold_s)

    def _publish_until_released(self, hold_s: float) -> None:
        """Journal what visitors of a held kernel print, until the supervisor speaks or ``hold_s`` has passed."""
        import zmq

        poller = zmq.Poller()
        poller.register(self.iopub, zmq.POLLIN)
        poller.register(self.link, zmq.POLLIN)
        end = time.monotonic() + hold_s
        while time.monotonic() < end and self.kernel is not None and self.kernel.poll() is None:
            for sock, _ in poller.poll(100):
                if sock is self.iopub:
                    self._published(self.iopub.recv_multipart(), "")
                elif self.link.recv(64):
                    return
                else:  # the supervisor is gone: the person may still be looking
                    poller.unregister(self.link)
            self._save_in_time()

    def _stop_kernel(self) -> None:
        if self.kernel is None:
            return
        self.session.send(self.control, "shutdown_request", {"restart": False})
        try:
            self.kernel.wait(2.0)
        except subprocess.TimeoutExpired:
            self.kernel.kill()
            self.kernel.wait()

    def _result(self, state: str, reason: str, **data: Any) -> JobResult:
        data.setdefault("exit_code", 1)
        return new_result(self.spec, state, self.started_at, reason=reason, **data)

    def _finish(self, result: JobResult) -> JobResult:
        self.recorder.save(is_durable=True)
        self.recorder.close()
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = round(usage.ru_utime + usage.ru_stime, 4)
        data = json.loads(result.to_json()) | {"pid": os.getpid(), "cpu_s": cpu, "peak_rss_bytes": usage.ru_maxrss * 1024, "ended_at": now()}
        final = type(result).from_json(json.dumps(data))
        write_sample(self.spec, final.cpu_s or 0.0, final.peak_rss_bytes or 0)
        write_event(self.spec, "ended", state=final.state, reason=final.reason)
        write_result(self.spec, final)
        return final


def _error(reply: dict[str, Any]) -> dict[str, Any]:
    return {key: reply.get(key) for key in ("ename", "evalue", "traceback")}
