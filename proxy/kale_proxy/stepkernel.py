"""The kernel of a Python step, made ready before the fork and bound to its sockets after it.

The supervisor calls :func:`prepare` once, while it has one thread and no zmq context: the shell, the
kernel object and the visits mechanism are made there and shared by every step that is forked from
it. :class:`StepApp` then does after the fork what ``IPKernelApp.initialize`` of ipykernel 7 does, in
its order (ipykernel/kernelapp.py), minus what is done already. The iopub thread writes each message
to the journal and shows it to the recorder before it is sent.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import secrets
import sys
import threading
import traceback
import uuid
from collections import deque
from typing import TYPE_CHECKING, Any

import zmq
from ipykernel import ipkernel, zmqshell
from ipykernel.compiler import XCachingCompiler
from ipykernel.iostream import IOPubThread
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.session import Session
from traitlets.config import Config
from zmq.eventloop.zmqstream import ZMQStream

from kale_proxy import visits
from kale_proxy.values import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from kale_proxy.journal import JournalWriter
    from kale_proxy.recorder import Recorder

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


class JournalThread(IOPubThread):  # type: ignore[misc]
    """ipykernel's iopub thread, which journals and records each message before it sends it."""

    journal: JournalWriter | None = None
    recorder: Recorder | None = None
    _pipe_address = ""
    _save_due = False
    _is_asked = False
    save_every_s = 2.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._late: deque[tuple[tuple[Any, ...], dict[str, Any]]] = deque()

    def send_multipart(self, *args: Any, **kwargs: Any) -> None:
        """Send at once what a flush that was asked for sends, so that it ends with the text in the journal.

        What this thread flushes by itself, every 0.2 s, queues behind what was sent before it was printed, but not
        behind a flush that is asked for after it: that has the text that comes next.
        """
        if threading.current_thread() is not self.thread:
            super().send_multipart(*args, **kwargs)
        elif self._is_asked:
            self._send_late()
            self._really_send(*args, **kwargs)
        else:
            self._late.append((args, kwargs))
            self.schedule(self._send_late)

    def _send_late(self) -> None:
        while self._late:
            args, kwargs = self._late.popleft()
            self._really_send(*args, **kwargs)

    def _handle_event(self, msg: Any) -> None:
        self._is_asked = True
        try:
            super()._handle_event(msg)
        finally:
            self._is_asked = False

    def _really_send(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        if self.journal is not None and self._is_master_process():
            parts = [part if isinstance(part, bytes) else memoryview(part) for part in msg]
            self.journal.append(parts)
            if self.recorder is not None:
                self._record(self.recorder, parts)
        super()._really_send(msg, *args, **kwargs)

    def _setup_pipe_in(self) -> None:
        """Take what forked children print by an ipc socket in our folder, not by ipykernel's TCP port."""
        self._pipe_uuid = os.urandom(16)
        pipe_in = self.socket.context.socket(zmq.PULL)
        pipe_in.linger = 0
        pipe_in.bind(self._pipe_address)
        self._pipe_in = ZMQStream(pipe_in, self.io_loop)
        self._pipe_in.on_recv(self._handle_pipe_msg)

    def _setup_pipe_out(self) -> tuple[Any, Any]:
        context = zmq.Context()
        pipe_out = context.socket(zmq.PUSH)
        pipe_out.linger = 3000
        pipe_out.connect(self._pipe_address)
        return context, pipe_out

    def _record(self, recorder: Recorder, parts: list[bytes | memoryview]) -> None:
        try:
            recorder.message(parts)
        except Exception:  # the edge of this thread: one odd message must not stop those behind it
            traceback.print_exc(file=sys.__stderr__)
        if recorder.is_dirty and not self._save_due:
            self._save_due = True
            self.io_loop.call_later(self.save_every_s, self._save)

    def _save(self) -> None:
        self._save_due = False
        if self.recorder is not None and self.recorder.is_dirty:
            try:
                self.recorder.save()
            except OSError as exc:  # a full disk: the end will try again and say so
                print(f"kale: the notebook could not be saved: {exc}", file=sys.__stderr__)


class StepApp(IPKernelApp):  # type: ignore[misc]
    """An ipykernel application split in two by a fork."""

    live: Path
    iopub_port: int
    journal: JournalWriter | None = None
    recorder: Recorder | None = None

    def prepare(self, folder: Path) -> None:
        """Make everything that needs no socket and no thread; ``folder`` gets a private IPython profile."""
        config = Config()
        config.HistoryManager.enabled = False  # no history.sqlite on a network home
        profile = folder / "ipython" / "profile_default"
        profile.mkdir(mode=0o700, parents=True, exist_ok=True)
        config.BaseIPythonApplication.ipython_dir = str(profile.parent)
        config.BaseIPythonApplication.log_level = 40
        self.update_config(config)
        super(IPKernelApp, self).initialize([])
        self.init_pdb()
        self.user_ns: dict[str, Any] = {}
        shell = zmqshell.ZMQInteractiveShell.instance(
            parent=self,
            profile_dir=self.profile_dir,
            user_module=None,
            user_ns=self.user_ns,
            kernel=None,
            compiler_class=XCachingCompiler,
        )
        shell.run_cell("None", silent=True, store_history=False)
        shell.execution_count = 1
        self.kernel = ipkernel.IPythonKernel.instance(
            parent=self, session=Session(key=b"-"), profile_dir=self.profile_dir, user_ns=self.user_ns, log=self.log
        )
        shell.kernel = shell.parent = self.kernel
        visits.install(self.kernel)
        gc.collect()
        gc.freeze()

    def start_in_child(self, live: Path) -> dict[str, Any]:
        """Bind the kernel to its sockets in ``live`` and start its threads; return the connection info."""
        self.live = live
        self.connection_file = str(live / "kernel.json")
        self.transport, self.ip = "ipc", str(live / "k")
        key = secrets.token_hex(32)
        for number, channel in enumerate(CHANNELS, 1):
            setattr(self, f"{channel}_port", number)
        self.session = Session(key=key.encode(), session=str(uuid.uuid4()))
        self.init_sockets()
        self.init_heartbeat()
        self._ports = {channel: getattr(self, f"{channel}_port") for channel in CHANNELS}
        self.init_io()
        self.init_signal()
        self.init_kernel()
        self.init_shell()
        if not os.environ.get("MPLBACKEND"):
            os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        self.kernel.start()
        info: dict[str, Any] = {f"{channel}_port": number for number, channel in enumerate(CHANNELS, 1)}
        info |= {"transport": "ipc", "ip": self.ip, "key": key, "signature_scheme": "hmac-sha256"}
        info |= {"kernel_name": "python3", "kale_visits": True}
        write_atomic(live / "kernel.json", json.dumps(info).encode())
        return info

    def init_iopub(self, context: zmq.Context[Any]) -> None:
        """As ipykernel's, with the journalling thread. A slow subscriber may miss what the journal has: visitors get theirs from there."""
        self.iopub_socket = context.socket(zmq.XPUB)
        self.iopub_socket.linger = 1000
        self.iopub_port = self._bind_socket(self.iopub_socket, self.iopub_port)
        self.configure_tornado_logger()
        JournalThread._pipe_address = f"ipc://{self.live}/k-pipe"
        self.iopub_thread = JournalThread(self.iopub_socket, pipe=True, session=self.session)
        self.iopub_thread.journal = self.journal
        self.iopub_thread.recorder = self.recorder
        self.iopub_thread.start()
        self.iopub_socket = self.iopub_thread.background_socket

    def init_kernel(self) -> None:
        """Give the kernel object of before the fork its streams, session and threads."""
        kernel, shell = self.kernel, self.kernel.shell
        shell_stream = ZMQStream(self.shell_socket, self.shell_channel_thread.io_loop)
        self.shell_channel_thread.shell_stream = shell_stream
        kernel.control_stream = ZMQStream(self.control_socket, self.control_thread.io_loop)
        debugpy_stream = ZMQStream(self.debugpy_socket, self.control_thread.io_loop)
        self.control_thread.start()
        self.shell_channel_thread.start()
        kernel.session = self.session
        kernel.debugpy_stream, kernel.debug_shell_socket = debugpy_stream, self.debug_shell_socket
        kernel.shell_stream, kernel.stdin_socket = shell_stream, self.stdin_socket
        kernel.control_thread, kernel.shell_channel_thread = self.control_thread, self.shell_channel_thread
        kernel.iopub_thread, kernel.iopub_socket = self.iopub_thread, self.iopub_socket
        kernel._stdout, kernel._stderr = sys.stdout, sys.stderr
        for publisher in (shell.displayhook, shell.display_pub):
            publisher.session, publisher.pub_socket = self.session, self.iopub_socket
        shell.displayhook.topic = kernel._topic("execute_result")
        debugger = getattr(kernel, "debugger", None)
        if debugger is not None:
            debugger.session, debugger.shell_socket = self.session, self.debug_shell_socket
            debugger.debugpy_client.debugpy_stream = debugpy_stream
        kernel.record_ports({f"{name}_port": port for name, port in self._ports.items()})
        self.displayhook.get_execution_count = lambda: kernel.execution_count

    def drain(self, timeout_s: float = 10.0) -> None:
        """Wait until the iopub thread has journalled and sent everything printed so far."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        done = threading.Event()
        self.iopub_thread.schedule(done.set)
        done.wait(timeout_s)

    def run_user_atexit(self) -> None:
        """Join the user's threads and run the user's exit functions; ours would tear the sockets down slowly."""
        main = threading.main_thread()
        for thread in threading.enumerate():
            if thread is not main and not thread.daemon and thread is not self.iopub_thread.thread:
                thread.join()
        for function in (self.close, self.iopub_thread.stop):
            atexit.unregister(function)
        atexit._run_exitfuncs()


def prepare(folder: Path) -> StepApp:
    """Return the application every step is forked from; call once, with one thread and no zmq context."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    sys.argv = [""]
    app = StepApp.instance()
    app.prepare(folder)
    if threading.active_count() != 1:
        names = [thread.name for thread in threading.enumerate()]
        message = f"the warm process may have one thread only, found {names}"
        raise RuntimeError(message)
    return app  # type: ignore[no-any-return]
