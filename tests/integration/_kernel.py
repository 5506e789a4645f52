"""A real ipykernel in a 0700 folder, and clients of it that block with deadlines.

With ``KALE_TEST_BARE=1`` the kernel gets no visits and a visitor is a bare subshell: every test of
isolation must then fail. ``KALE_TEST_PYTHON`` names another interpreter for the kernel; it needs
ipykernel 7 and no Kale.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
IS_BARE = os.environ.get("KALE_TEST_BARE") == "1"
PYTHON = os.environ.get("KALE_TEST_PYTHON", sys.executable)
REPLY_S = 15.0


class Late(AssertionError):
    """What was waited for did not come in time."""


class Output(list[dict[str, Any]]):
    """The iopub messages of one request, without its states."""

    @property
    def text(self) -> str:
        return "".join(message["content"]["text"] for message in self if message["msg_type"] == "stream")

    @property
    def kinds(self) -> list[str]:
        return [message["msg_type"] for message in self]

    @property
    def result(self) -> str | None:
        for message in self:
            if message["msg_type"] == "execute_result":
                return message["content"]["data"]["text/plain"]
        return None

    @property
    def images(self) -> int:
        return sum("image/png" in m["content"]["data"] for m in self if m["msg_type"] == "display_data")


class Client:
    """One Jupyter client, with the same identity on all channels; ``header`` is added to each shell request."""

    def __init__(self, info: dict[str, Any], header: dict[str, Any] | None = None) -> None:
        self.header = header or {}
        self.session = Session(key=info["key"].encode())
        self.context = zmq.Context()
        self.sockets: dict[str, zmq.Socket[bytes]] = {}
        for channel in CHANNELS[:4]:
            socket = self.context.socket(zmq.SUB if channel == "iopub" else zmq.DEALER)
            socket.linger = 0
            if channel == "iopub":
                socket.rcvhwm = 0
                socket.subscribe(b"")
            else:
                socket.identity = self.session.bsession
            joint = "-" if info["transport"] == "ipc" else ":"
            socket.connect(f"{info['transport']}://{info['ip']}{joint}{info[channel + '_port']}")
            self.sockets[channel] = socket
        self._early: list[dict[str, Any]] = []
        self._wait_for_iopub()

    def _wait_for_iopub(self) -> None:
        """Ask on control until an answer is seen on iopub: only then is the subscription there."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            msg_id = self.send("control", "kernel_info_request", {})
            try:
                while self.receive("iopub", 0.3)["parent_header"].get("msg_id") != msg_id:
                    pass
            except Late:
                continue
            self.reply("control", msg_id)
            return
        raise Late("the kernel did not start")

    def close(self) -> None:
        self.context.destroy(linger=0)

    def send(self, channel: str, kind: str, content: dict[str, Any], **header: Any) -> str:
        message = self.session.msg(kind, content)
        message["header"] |= header
        self.session.send(self.sockets[channel], message)
        return message["header"]["msg_id"]

    def receive(self, channel: str, timeout: float = REPLY_S) -> dict[str, Any]:
        socket = self.sockets[channel]
        if not socket.poll(max(0.0, timeout) * 1000):
            raise Late(f"nothing on {channel} within {timeout:.1f} s")
        _, frames = self.session.feed_identities(socket.recv_multipart())
        return self.session.deserialize(frames)

    def reply(self, channel: str, msg_id: str, timeout: float = REPLY_S) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while True:
            message = self.receive(channel, deadline - time.monotonic())
            if message["parent_header"].get("msg_id") == msg_id:
                return message["content"]

    def output(self, msg_id: str, timeout: float = REPLY_S) -> Output:
        """Collect what came on iopub for a request, to its idle; what came for others is kept for their turn."""
        deadline, output, others = time.monotonic() + timeout, Output(), []
        while True:
            message = self._early.pop(0) if self._early else self.receive("iopub", deadline - time.monotonic())
            if message["parent_header"].get("msg_id") != msg_id:
                others.append(message)
            elif message["msg_type"] != "status":
                output.append(message)
            elif message["content"]["execution_state"] == "idle":
                self._early = others + self._early
                return output

    def wait_busy(self, msg_id: str) -> None:
        """Wait until the kernel says that it began with this request."""
        seen, deadline = [], time.monotonic() + REPLY_S
        while True:
            message = self._early.pop(0) if self._early else self.receive("iopub", deadline - time.monotonic())
            seen.append(message)
            if message["parent_header"].get("msg_id") == msg_id and message["msg_type"] == "execute_input":
                self._early = seen + self._early
                return

    def start(self, code: str, **content: Any) -> str:
        request = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        return self.send("shell", "execute_request", request | {"stop_on_error": True} | content, **self.header)

    def finish(self, msg_id: str, timeout: float = REPLY_S) -> tuple[dict[str, Any], Output]:
        return self.reply("shell", msg_id, timeout), self.output(msg_id, timeout)

    def run(self, code: str, timeout: float = REPLY_S, **content: Any) -> tuple[dict[str, Any], Output]:
        return self.finish(self.start(code, **content), timeout)

    def ask(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        return self.reply("shell", self.send("shell", kind, content, **self.header))

    def control(self, kind: str, content: dict[str, Any], timeout: float = REPLY_S, **header: Any) -> dict[str, Any]:
        return self.reply("control", self.send("control", kind, content, **header), timeout)


class Visitor(Client):
    """A client with a subshell: a visit, or with ``KALE_TEST_BARE=1`` a bare one."""

    def __init__(self, kernel: Kernel, *, write: bool = False) -> None:
        super().__init__(kernel.info)
        self.kernel = kernel
        if IS_BARE:
            self.subshell_id = self.control("create_subshell_request", {})["subshell_id"]
        else:
            reply = self.control("kale_visit_request", {"op": "open", "write": write})
            assert reply["status"] == "ok", reply
            self.subshell_id = reply["subshell_id"]
        self.header = {"subshell_id": self.subshell_id}

    def value(self, code: str, **content: Any) -> str | None:
        reply, output = self.run(code, **content)
        assert reply["status"] == "ok", reply
        return output.result

    def interrupt(self) -> dict[str, Any]:
        return self.control("interrupt_request", {}, **({} if IS_BARE else self.header))

    def leave(self, timeout: float = REPLY_S) -> dict[str, Any]:
        return self.control("delete_subshell_request", {"subshell_id": self.subshell_id}, timeout)


class Kernel:
    """A kernel process and the client that owns its main shell, where the step runs.

    ``command`` is a program of its own, given the path of a connection file that it writes.
    """

    def __init__(self, command: list[str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kale-k-", dir="/tmp"))
        self.info: dict[str, Any] = {"transport": "ipc", "ip": str(self.folder / "k"), "key": secrets.token_hex(16)}
        self.info |= {"signature_scheme": "hmac-sha256", "kernel_name": ""}
        self.info |= {f"{channel}_port": number for number, channel in enumerate(CHANNELS, 1)}
        path = self.folder / "kernel.json"
        if command is None:
            path.touch(0o600)
            path.write_text(json.dumps(self.info))
        self.log = self.folder / "log"
        program = command or [PYTHON, "-m", "ipykernel_launcher", "-f"]
        own = {"IPYTHONDIR": str(self.folder / "ipython"), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*program, str(path)],
                env=environ | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.folder,
            )
        self.clients: list[Client] = []
        if command is not None:
            self._read_info(path)
        self.owner = Client(self.info)
        self.clients.append(self.owner)
        self.step = ""

    def _read_info(self, path: Path) -> None:
        deadline = time.monotonic() + 30
        while not path.exists():
            assert self.is_alive(), self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.info = json.loads(path.read_text())

    def install(self, source: str) -> None:
        if not IS_BARE:
            reply, output = self.owner.run(source, silent=True)
            assert reply["status"] == "ok", (reply.get("evalue"), reply.get("traceback"))
            assert output == []

    def visit(self, *, write: bool = False) -> Visitor:
        visitor = Visitor(self, write=write)
        self.clients.append(visitor)
        return visitor

    def begin(self, code: str, **content: Any) -> None:
        """Start the step's code in the main shell and wait until it runs."""
        self.step = self.owner.start(code, **content)
        self.owner.wait_busy(self.step)

    def end(self, timeout: float = 30.0) -> tuple[dict[str, Any], Output]:
        """Wait for the step's code to end."""
        return self.owner.finish(self.step, timeout)

    def run(self, code: str, **content: Any) -> str:
        """Run code in the idle main shell; return what it prints."""
        reply, output = self.owner.run(code, **content)
        assert reply["status"] == "ok", reply
        return output.text

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        try:
            if self.is_alive():
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        finally:
            for client in self.clients:
                client.close()
            shutil.rmtree(self.folder, ignore_errors=True)
