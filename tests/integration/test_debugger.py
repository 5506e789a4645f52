"""The debugger of a stopped step, by the debug adapter protocol of a front end: main mode has it, visitors do not."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from kale_magic.api import connect
from tests import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kale_magic.api import Kale, Run

CODE = "a = 20\nb = a + 1\nprint('b is', 2 * b)\n"


@pytest.fixture
def kale() -> Iterator[Kale]:
    with steps.private_jupyter(), connect() as kale:
        yield kale


@pytest.fixture(params=["", "python3"], ids=["own kernel", "--kernel python3"])
def run(request: pytest.FixtureRequest, kale: Kale, tmp_path: Path) -> Iterator[Run]:
    """A run whose step counts, in Kale's own kernel or in one that was started for it."""
    run = steps.busy(tmp_path, kale, **({"kernel": request.param} if request.param else {}))
    yield run
    run.cancel()


@pytest.fixture
def stopped(run: Run, until: Callable[..., Any]) -> Run:
    """The same, with the step's code stopped and its kernel held open."""
    run["md"].stop()
    until(lambda: run["md"].state == "paused", "the hold", 60)
    return run


class Debugger:
    """A front end's side of the protocol."""

    def __init__(self, kernel: steps.Kernel) -> None:
        self.kernel = kernel
        self.seq = 0

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        self.seq += 1
        content = {"type": "request", "seq": self.seq, "command": command, "arguments": arguments}
        message = self.kernel.client.session.msg("debug_request", content)
        self.kernel.client.control_channel.send(message)
        return self.kernel.reply(message["header"]["msg_id"], "control")

    def begin(self) -> dict[str, Any]:
        return self.ask("initialize", clientID="test", adapterID="", pathFormat="path", linesStartAt1=True, columnsStartAt1=True)

    def set_breakpoint(self, code: str, line: int) -> None:
        path = self.ask("dumpCell", code=code)["body"]["sourcePath"]
        found = self.ask("setBreakpoints", breakpoints=[{"line": line}], source={"path": path}, sourceModified=False)
        assert found["body"]["breakpoints"][0]["verified"]
        assert self.ask("configurationDone")["success"]

    def stops_at(self) -> int:
        """Wait until a thread stops; return its id."""
        while True:
            message = self.kernel.client.get_iopub_msg(timeout=steps.WAIT_S)
            if message["msg_type"] == "debug_event" and message["content"]["event"] == "stopped":
                return int(message["content"]["body"]["threadId"])


def adapters_ports() -> list[tuple[str, int]]:
    """The TCP ports that debugpy's adapters listen on."""
    adapters = [p for p in psutil.process_iter(["cmdline"]) if "kale-debugpy-" in " ".join(p.info["cmdline"] or [])]
    found = [c for p in adapters for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    return [(str(c.laddr.ip), int(c.laddr.port)) for c in found]


def is_kept(port: tuple[str, int]) -> bool:
    """Whether a connection of one's own stays open, with debugpy's greeting or in silence."""
    with socket.create_connection(port, timeout=steps.WAIT_S) as sock:
        sock.settimeout(0.3)
        try:
            while sock.recv(4096):
                pass
        except TimeoutError:
            return True
    return False


def test_cell_stops_at_a_breakpoint_and_goes_on(stopped: Run) -> None:
    with steps.Kernel(steps.install(stopped, mode="main").name) as kernel:
        info = kernel.reply(kernel.client.kernel_info())
        assert info["debugger"]
        assert info["supported_features"] == ["debugger"]
        debugger = Debugger(kernel)
        assert not debugger.ask("debugInfo")["body"]["isStarted"]
        assert debugger.begin()["success"]
        assert debugger.ask("attach")["success"]
        debugger.set_breakpoint(CODE, 2)
        cell = kernel.client.execute(CODE)
        thread = debugger.stops_at()
        frame = debugger.ask("stackTrace", threadId=thread)["body"]["stackFrames"][0]
        assert frame["line"] == 2
        value = debugger.ask("evaluate", expression="a", frameId=frame["id"], context="watch")
        assert value["body"]["result"] == "20"
        assert str(stopped["md"].execute("n >= 0")) == "True"  # a visitor is not held
        assert debugger.ask("continue", threadId=thread)["success"]
        assert kernel.reply(cell)["status"] == "ok"
        assert steps.text(kernel.output(cell)) == "b is 42\n"
        assert debugger.ask("disconnect", restart=False, terminateDebuggee=False)["success"]
        assert debugger.begin()["success"]  # a second time
        assert debugger.ask("attach")["success"]
    assert stopped["md"].state == "paused"


def test_one_who_leaves_at_a_breakpoint_leaves_no_cell_that_stands(stopped: Run, until: Callable[..., Any]) -> None:
    name = steps.install(stopped, mode="main").name
    with steps.Kernel(name) as kernel:
        debugger = Debugger(kernel)
        debugger.begin()
        debugger.ask("attach")
        debugger.set_breakpoint(CODE, 2)
        kernel.client.execute(CODE)
        debugger.stops_at()
        kernel.client.shutdown(reply=True, timeout=steps.WAIT_S)  # not by the manager, which interrupts first
        until(lambda: not kernel.manager.is_alive(), "the relay's end")
    with steps.Kernel(name) as kernel:
        _, messages = kernel.run("print(b)")
        assert steps.text(messages) == "21\n"
        assert not Debugger(kernel).ask("debugInfo")["body"]["isStarted"]


@pytest.mark.parametrize("run", [""], indirect=True)
def test_behind_a_running_step_it_does_not_begin_and_holds_nothing_up(run: Run) -> None:
    with steps.Kernel(steps.install(run, mode="main").name) as kernel:
        debugger = Debugger(kernel)
        assert not debugger.ask("debugInfo")["body"]["isStarted"]
        refused = debugger.begin()
        assert not refused["success"]
        assert "while the step's code runs" in refused["message"]
        assert debugger.ask("disconnect", terminateDebuggee=False)["success"]  # of what has not begun
        assert steps.goes_on(run)


@pytest.mark.parametrize("mode", ["visit", "write"])
@pytest.mark.parametrize("run", [""], indirect=True)
def test_visitors_have_none(stopped: Run, mode: str) -> None:
    with steps.Kernel(steps.install(stopped, mode=mode).name) as kernel:
        assert not kernel.reply(kernel.client.kernel_info())["debugger"]
        refused = Debugger(kernel).begin()
        assert not refused["success"]
        assert "would stop the whole process" in refused["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root: sudo .venv/bin/python -m pytest FILE")
def test_another_user_does_not_reach_debugpys_ports(stopped: Run) -> None:
    before = adapters_ports()
    with steps.Kernel(steps.install(stopped, mode="main").name) as kernel:
        debugger = Debugger(kernel)
        assert debugger.begin()["success"]
        ports = [port for port in adapters_ports() if port not in before]
        assert len(ports) == 2, ports  # for clients and for servers
        assert {ip for ip, _ in ports} == {"127.0.0.1"}
        for port in ports:
            assert is_kept(port)
            code = f"import socket\ns = socket.create_connection({port!r}, 20)\ntry: print(s.recv(4096))\nexcept OSError: print(b'')"
            said = subprocess.run(
                ["/usr/bin/python3", "-c", code], user=65534, group=65534, extra_groups=[], cwd="/", capture_output=True, text=True, timeout=60, check=True
            )
            assert said.stdout == "b''\n"
        assert debugger.ask("attach")["success"]
