"""A kernel that aborts as IRkernel does: ``python abrupt_kernel.py CONNECTION_FILE``.

For a while after a cell has failed or was interrupted, whatever comes on shell is answered by ``aborted``, and no state
is said on iopub for it. The cell ``hang`` waits to be interrupted, ``fail`` fails, any other is printed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.session import Session

ABORTING_S = 0.5


class AbruptKernel:
    """One thread, one thing at a time."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.session = Session(key=info["key"].encode())
        context = zmq.Context()
        self.sockets = {}
        for channel, kind in (("hb", zmq.REP), ("shell", zmq.ROUTER), ("control", zmq.ROUTER), ("stdin", zmq.ROUTER), ("iopub", zmq.PUB)):
            socket = self.sockets[channel] = context.socket(kind)
            joint = "-" if info["transport"] == "ipc" else ":"
            socket.bind(f"{info['transport']}://{info['ip']}{joint}{info[channel + '_port']}")

    def run(self) -> None:
        """Serve for ever."""
        poller = zmq.Poller()
        for channel in ("hb", "shell", "control"):
            poller.register(self.sockets[channel], zmq.POLLIN)
        while True:
            try:
                ready = dict(poller.poll())
            except KeyboardInterrupt:
                continue
            if self.sockets["hb"] in ready:
                self.sockets["hb"].send(self.sockets["hb"].recv())
            elif self.sockets["shell"] in ready:
                self.answer("shell")
            elif self.sockets["control"] in ready:
                self.answer("control")

    def receive(self, channel: str) -> tuple[list[bytes], dict[str, Any]]:
        """Take a message."""
        identities, parts = self.session.feed_identities(self.sockets[channel].recv_multipart())
        return identities, self.session.deserialize(parts)

    def say(self, channel: str, kind: str, content: dict[str, Any], parent: dict[str, Any], identities: list[bytes] | None = None) -> None:
        """Send a message."""
        self.session.send(self.sockets[channel], kind, content, parent=parent, ident=identities)

    def answer(self, channel: str) -> None:
        """Do what a message asks."""
        identities, message = self.receive(channel)
        kind = message["header"]["msg_type"]
        if kind == "shutdown_request":
            self.say(channel, "shutdown_reply", {"status": "ok", "restart": False}, message, identities)
            sys.exit(0)
        self.say("iopub", "status", {"execution_state": "busy"}, message)
        if kind == "execute_request":
            self.execute(message, identities)
        elif kind == "kernel_info_request":
            language = {"name": "abrupt", "version": "1", "mimetype": "text/plain", "file_extension": ".txt"}
            info = {"status": "ok", "protocol_version": "5.3", "implementation": "abrupt", "implementation_version": "1", "language_info": language, "banner": ""}
            self.say(channel, "kernel_info_reply", info, message, identities)
        self.say("iopub", "status", {"execution_state": "idle"}, message)

    def execute(self, message: dict[str, Any], identities: list[bytes]) -> None:
        """Run a cell."""
        code = message["content"]["code"].strip()
        self.say("iopub", "execute_input", {"code": code, "execution_count": 1}, message)
        failure = "Failed" if code == "fail" else ""
        try:
            self.say("iopub", "stream", {"name": "stdout", "text": f"{code}\n"}, message)  # who sees it may interrupt
            while code == "hang":
                time.sleep(0.01)
        except KeyboardInterrupt:
            failure = "KeyboardInterrupt"
        if not failure:
            self.say("shell", "execute_reply", {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}}, message, identities)
            return
        error = {"ename": failure, "evalue": "", "traceback": []}
        self.say("iopub", "error", error, message)
        self.say("shell", "execute_reply", {"status": "error", "execution_count": 1} | error, message, identities)
        end = time.monotonic() + ABORTING_S
        while (left := end - time.monotonic()) > 0:
            if self.sockets["shell"].poll(left * 1000):
                identities, late = self.receive("shell")
                self.say("shell", late["header"]["msg_type"].replace("request", "reply"), {"status": "aborted"}, late, identities)


if __name__ == "__main__":
    AbruptKernel(json.loads(Path(sys.argv[1]).read_text())).run()
