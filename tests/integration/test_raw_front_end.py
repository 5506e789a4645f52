"""A front end that launches kernels itself, without jupyter_client, as VS Code's does.

VS Code and its extension are in no registry that is reached here. What its extension does is written down in its sources
(microsoft/vscode-jupyter, version 2026.6.1, ``src/kernels/raw``: ``kernelLauncher``, ``kernelProcess``, ``rawKernelConnection``), and is
done here in the same order: a connection file of its own with a few fields, the words of ``kernel.json`` with the file's name in
place, ports that are connected to and left until they are open, kernel_info on control and shell until iopub has spoken,
interrupts by message, and in the end a shutdown without patience: all children killed, then the process.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import uuid
from typing import TYPE_CHECKING, Any, Self

import psutil
import pytest
from jupyter_client import BlockingKernelClient
from jupyter_core.paths import jupyter_runtime_dir

from kale_magic.api import connect
from kale_magic.kernels import general
from tests import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kale_magic.api import Kale, Run

_PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


@pytest.fixture
def kale() -> Iterator[Kale]:
    with steps.private_jupyter(), connect() as kale:
        yield kale


class Raw:
    """A kernel launched so; as a context manager it is started, and killed in the end."""

    def __init__(self, spec: dict[str, Any], folder: Path) -> None:
        held = [socket.create_server(("127.0.0.1", 0)) for _ in _PORTS]
        ports = dict(zip(_PORTS, (one.getsockname()[1] for one in held), strict=True))
        for one in held:
            one.close()
        self.connection = {"key": str(uuid.uuid4()), "signature_scheme": "hmac-sha256", "transport": "tcp", "ip": "127.0.0.1", **ports}
        self.file = os.path.join(jupyter_runtime_dir(), f"kernel-v3{uuid.uuid4().hex}.json")
        os.makedirs(os.path.dirname(self.file), 0o700, exist_ok=True)
        with open(self.file, "w", encoding="utf-8") as stream:
            json.dump(self.connection, stream)
        places = [number for number, word in enumerate(spec["argv"]) if "{connection_file}" in word]
        assert len(places) == 1
        self.argv = [word.replace("{connection_file}", self.file) for word in spec["argv"]]
        assert "ipykernel" not in " ".join(self.argv)  # or it would be launched in another way
        assert spec["interrupt_mode"] == "message"
        self._environment = {**os.environ, **spec.get("env", {})}
        self._folder = folder

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self.argv, cwd=self._folder, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name in ("shell_port", "iopub_port"):
            self._wait_until_used(int(self.connection[name]))
        self.client = BlockingKernelClient(connection_file=self.file)
        self.client.load_connection_file()
        self.client.start_channels(hb=False)
        self._wait_until_ready()
        return self

    def _wait_until_used(self, port: int) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except ConnectionRefusedError:
                assert self.process.poll() is None, self.process.stderr.read() if self.process.stderr else ""
                time.sleep(0.2)
            else:
                return
        raise AssertionError(port)

    def _wait_until_ready(self) -> None:
        heard = set[str]()
        for _ in range(100):
            request = self.client.session.msg("kernel_info_request", {})
            self.client.control_channel.send(request)
            self.client.kernel_info()
            end = time.monotonic() + 0.5
            while time.monotonic() < end and heard != {"iopub", "shell", "control"}:
                for name in ("iopub", "shell", "control"):
                    channel = getattr(self.client, f"{name}_channel")
                    if channel.msg_ready():
                        message = channel.get_msg(timeout=1)
                        assert name == "iopub" or message["msg_type"] == "kernel_info_reply"
                        heard.add(name)
                time.sleep(0.01)
            if heard == {"iopub", "shell", "control"}:
                return
        raise AssertionError(heard)

    def run(self, code: str) -> tuple[str, str]:
        """Execute; return the reply's status and what was printed."""
        texts: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            content = message["content"]
            texts.append(str(content.get("text") or content.get("data", {}).get("text/plain") or ""))

        reply = self.client.execute_interactive(code, timeout=60, output_hook=hear, allow_stdin=False)
        return reply["content"]["status"], "".join(texts)

    def interrupt(self) -> None:
        self.client.control_channel.send(self.client.session.msg("interrupt_request", {}))

    def __exit__(self, *_: object) -> None:
        self.client.control_channel.send(self.client.session.msg("shutdown_request", {"restart": False}))
        for child in psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []:
            child.kill()
        self.process.terminate()
        self.process.communicate(timeout=30)
        self.client.stop_channels()


def test_kernelspec_of_a_step(kale: Kale, tmp_path: Path, until: Callable[..., Any]) -> None:
    run = steps.busy(tmp_path, kale)
    spec = json.loads((steps.install(run).path / "kernel.json").read_text())
    with Raw(spec, tmp_path) as kernel:
        assert kernel.run("print(n >= 0)") == ("ok", "True\n")
        request = kernel.client.execute("import time\nprint('begun', flush=True)\nwhile True:\n    time.sleep(0.05)")
        until(lambda: kernel.client.get_iopub_msg(timeout=20)["content"].get("text") == "begun\n", "the cell", 30)
        kernel.interrupt()
        reply = kernel.client.get_shell_msg(timeout=20)
        assert reply["parent_header"]["msg_id"] == request
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert kernel.run("6 * 7") == ("ok", "42")
    assert steps.goes_on(run)
    run.cancel()


def test_general_kernel_attaches_by_its_magics(kale: Kale, tmp_path: Path) -> None:
    run: Run = steps.busy(tmp_path, kale)
    made = next(spec for spec in general.install(tmp_path / "prefix") if spec.name == "kale")
    with Raw(json.loads((made.path / "kernel.json").read_text()), tmp_path) as kernel:
        status, said = kernel.run(f"%%kale_attach {run.name}/md\nprint(n >= 0)")
        assert (status, said.splitlines()[-1]) == ("ok", "True")
    assert steps.goes_on(run)
    run.cancel()


def test_kernel_in_a_job_ends_with_the_window(kale: Kale, tmp_path: Path, until: Callable[..., Any]) -> None:
    made = next(spec for spec in general.install(tmp_path / "prefix") if spec.name == "kale-local")
    with Raw(json.loads((made.path / "kernel.json").read_text()), tmp_path) as kernel:
        status, said = kernel.run("import os\nprint(os.getpid())")
        assert status == "ok"
        pid = int(re.findall(r"\d+", said)[-1])
        assert psutil.pid_exists(pid)
    until(lambda: not psutil.pid_exists(pid), "the job's end", 60)


def test_probe_of_a_port_that_leaves_at_once_is_no_client(kale: Kale, tmp_path: Path) -> None:
    run = steps.busy(tmp_path, kale)
    spec = json.loads((steps.install(run).path / "kernel.json").read_text())
    with Raw(spec, tmp_path) as kernel:
        for name in _PORTS * 20:
            socket.create_connection(("127.0.0.1", int(kernel.connection[name])), 1).close()
        assert kernel.run("1 + 1") == ("ok", "2")
        os.kill(kernel.process.pid, signal.SIGINT)  # what it sends where a kernelspec does not say "message"
        kernel.run("2 + 2")  # which it may meet
        assert kernel.run("2 + 2") == ("ok", "4")
    run.cancel()
