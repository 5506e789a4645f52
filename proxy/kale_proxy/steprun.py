"""Run one Python step in the process that was forked for it: claim, inputs, cells, outputs, result."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zmq

from kale_proxy import claim, pack, values
from kale_proxy.attempt import STOPPED, check_files, hold_words, job_environment, require_files, state_line
from kale_proxy.gate import Gate
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
from kale_proxy.spec import read_literal
from kale_proxy.stayopen import Restarted, stay_open
from kale_proxy.visit_kernel import OF_STEP

if TYPE_CHECKING:
    import socket

    from kale_proxy.spec import JobResult, JobSpec
    from kale_proxy.stepkernel import StepApp



class StepRun:
    """One attempt of one Python step in this process.

    Parameters
    ----------
    app : StepApp
        Its kernel is bound and serving already.
    spec : JobSpec
        What to run.
    link : socket.socket
        The supervisor's end: states go out as JSON lines, ``release`` comes in.
    """

    def __init__(self, app: StepApp, spec: JobSpec, link: socket.socket) -> None:
        self.app = app
        self.spec = spec
        self.link = link
        self.folder = Path(spec.folder)
        self.started_at = now()
        self.recorder = Recorder(self.folder, cells_of(spec), notebook_metadata(spec))
        self.namespace: dict[str, Any] = app.kernel.shell.user_ns
        self.common_names: set[str] = set()
        self._header: dict[str, Any] = {}
        self.gate = Gate(spec, app.live, self._tell)
        app.kernel._kale.step_input = self._ask_person

    def run(self) -> JobResult | None:
        """Run the step to its end; the result is on disk when this returns. None: the supervisor starts it afresh."""
        claim.take(self.spec)
        self._enter()
        write_event(self.spec, "running", pid=os.getpid(), live=str(self.app.live))
        publish(self.spec, self.app.live)
        self.app.recorder = self.app.iopub_thread.recorder = self.recorder
        loop = asyncio.get_event_loop()
        try:
            result = loop.run_until_complete(self._body())
        except Restarted:
            self._make_room()
            return None
        if result.reason == STOPPED:
            loop.run_until_complete(self._hold(self.spec.hold_s, hold_words(self.spec.hold_s)))
        elif result.state == "failed" and self.spec.hold_on_failure_s:
            held = self.spec.hold_on_failure_s
            loop.run_until_complete(self._hold(held, hold_words(held, result.reason)))
        self._finish(result)
        return result

    def _enter(self) -> None:
        spec = self.spec
        os.chdir(spec.cwd)
        os.environ.update(spec.env)
        os.environ.update(job_environment(spec))
        random.seed()

    async def _body(self) -> JobResult:
        try:
            self.namespace.update(self.spec.parameters())
            has_inputs = self._take_inputs(is_last=not self.spec.common.strip())
            require_files(self.spec)
        except values.ValueFileError as exc:
            return self._failed(f"step `{self.spec.step}` could not get its inputs: {exc}")
        if self.spec.common.strip():
            before = set(self.namespace)
            failure = await self._execute("common", self.spec.common, "in %%kale_common: ")
            if failure is not None:
                return failure
            self.common_names = set(self.namespace) - before
        try:
            has_inputs = has_inputs or self._take_inputs(is_last=True)
        except values.ValueFileError as exc:
            return self._failed(f"step `{self.spec.step}` could not get its inputs: {exc}")
        if self.spec.is_gate:
            self.app.drain()
            decided = await self.gate.wait()
            self.namespace.update({name: read_literal(text) for name, text in decided.items()})
        failure = await self._execute("step", self.spec.code, "") if self.spec.code.strip() else None
        if failure is None and self.spec.idle_s is not None:
            reason = await stay_open(self.app, self.link, self.spec.idle_s)
            return replace(self._collect(), reason=reason)
        return failure or self._collect()

    def _tell(self, state: str, reason: str) -> None:
        with contextlib.suppress(OSError):
            self.link.sendall(state_line(state, reason))

    def _ask_person(self, prompt: str, is_password: bool) -> str:
        """Answer ``input()`` of the step's code: the step is gated until somebody does; the log keeps what was said."""
        self.app.drain()
        answer = self.gate.ask(prompt, is_password=is_password)
        print(prompt if is_password else f"{prompt}{answer}")
        return answer

    def _take_inputs(self, *, is_last: bool) -> bool:
        """Load the inputs; False if one can't be loaded yet, as an object whose class the common code defines."""
        try:
            self.namespace.update(load_inputs(self.spec))
        except values.ValueFileError:
            if is_last:
                raise
            return False
        return True

    async def _execute(self, name: str, code: str, where: str) -> JobResult | None:
        """Run one cell on the main shell as a request of ours; return the failure, None when it went well."""
        session, kernel = self.app.session, self.app.kernel
        content = {
            "code": code, "silent": False, "store_history": name == "step" and self.spec.lane is None, "user_expressions": {}, "allow_stdin": True, "stop_on_error": True,
        }
        message = session.msg("execute_request", content)
        message["header"]["msg_id"] = message["msg_id"] = f"{CELL_PREFIX}{name}-{self.spec.uuid}"
        self._header = message["header"]
        kernel.shell.last_execution_result = None
        frames = [zmq.Frame(part) for part in session.serialize(message, ident=[OF_STEP])]
        await kernel.shell_main(None, frames)
        outcome = kernel.shell.last_execution_result
        error = None if outcome is None else outcome.error_before_exec or outcome.error_in_exec
        return None if error is None else self._raised(error, where)

    def _raised(self, error: BaseException, where: str) -> JobResult | None:
        self.app.drain()
        code = 1
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if code == 0:
                return None
        if self.recorder.error is None:  # IPython shows SystemExit as a remark only
            self.recorder.error_output(type(error).__name__, str(error), [f"{type(error).__name__}: {error}"])
        shown = self.recorder.error
        if isinstance(error, SystemExit):
            said = f": {error.code}" if isinstance(error.code, str) else ""
            return self._failed(f"{where}the code called sys.exit({code}){said}", code=code, error=shown)
        if isinstance(error, KeyboardInterrupt) and (self.app.live / "stop").exists():
            return new_result(self.spec, "cancelled", self.started_at, reason=STOPPED, exit_code=130, error=shown)
        hint = _hint(error)
        return self._failed(f"{where}{type(error).__name__}: {error}{hint}", error=shown)

    def _collect(self) -> JobResult:
        """Save the declared outputs and check the declared files."""
        spec = self.spec
        missing = [name for name in spec.outputs if name not in self.namespace]
        if missing:
            return self._failed(f"step `{spec.step}` declares the output `{missing[0]}` but its code never assigned it")
        try:
            found = {name: self.namespace[name] for name in spec.outputs}
            index = self._save(found) if found else {}
            files = check_files(spec)
        except values.ValueFileError as exc:
            return self._failed(f"step `{spec.step}`: {exc}")
        except OSError as exc:
            return self._failed(f"step `{spec.step}`: its outputs can't be written: {exc.strerror or exc}")
        return new_result(spec, "completed", self.started_at, exit_code=0, outputs=index, files=tuple(files))

    def _save(self, found: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Save the outputs; return their index."""
        return values.save_all(found, self.folder / "outputs", portable=self.common_names, forms=self.spec.formats)

    async def _hold(self, hold_s: float, reason: str) -> None:
        """Keep the kernel open for a look, until released or ``hold_s`` has passed."""
        self.app.drain()
        with contextlib.suppress(OSError):
            self.recorder.save()
        write_event(self.spec, "paused", reason=reason)
        self.link.setblocking(False)
        with contextlib.suppress(OSError):
            self.link.sendall(state_line("paused", reason))
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError, OSError):
            data = await asyncio.wait_for(loop.sock_recv(self.link, 64), hold_s)
            if not data:  # the supervisor is gone: the person may still be looking
                await asyncio.sleep(hold_s)

    def _make_room(self) -> None:
        write_event(self.spec, "restarted")
        self._leave()
        self.recorder.close()

    def _leave(self) -> None:
        self.app.drain()
        for stream in (sys.stdout, sys.stderr):  # what exit functions print is the step's too
            if self._header and hasattr(stream, "parent_header"):
                stream.parent_header = self._header
        self.app.run_user_atexit()
        self.app.drain()
        self.app.iopub_thread.recorder = None

    def _finish(self, result: JobResult) -> None:
        self._leave()
        try:
            self.recorder.save(is_durable=True)
            self.recorder.close()
        except OSError as exc:
            print(f"kale: the record could not be saved: {exc}", file=sys.__stderr__)
        usage, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = usage.ru_utime + usage.ru_stime + children.ru_utime + children.ru_stime
        peak = max(usage.ru_maxrss, children.ru_maxrss) * 1024
        write_sample(self.spec, round(cpu, 3), peak)
        final = new_result(
            self.spec, result.state, self.started_at, exit_code=result.exit_code, reason=result.reason, error=result.error,
            outputs=result.outputs, files=result.files, pid=os.getpid(), cpu_s=round(cpu, 4),
            peak_rss_bytes=peak,
        )
        write_event(self.spec, "ended", state=final.state, reason=final.reason)
        write_result(self.spec, final)

    def _failed(self, reason: str, *, code: int = 1, error: dict[str, Any] | None = None) -> JobResult:
        return new_result(self.spec, "failed", self.started_at, reason=reason, exit_code=code, error=error)


def load_inputs(spec: JobSpec) -> dict[str, object]:
    """Load every input; a sweep's output becomes a list in point order and ``NAME_params``. Raises ValueFileError."""
    found: dict[str, object] = {}
    for item in spec.inputs:
        with pack.looked_at_once():
            loaded = [values.load(Path(folder), item.output) for folder in item.folders]
        found[item.name] = loaded if item.gather else loaded[0]
        if item.gather:
            points = [read_literal(text) for text in item.gather_params]
            found[f"{item.name}_params"] = points
            found.setdefault(f"{item.producer}_params", points)
    return found


def _hint(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, RuntimeError) and "asyncio.run() cannot be called" in text:
        return " (a step's cell runs in an event loop already, as in a notebook: write `await f()` instead)"
    return ""
