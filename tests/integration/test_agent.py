"""The agent beside a real kernel: visitors see their own output, disturb nobody, and lose nothing.

Each step here is a real ipykernel with a journal; the stand-in for the supervisor is ``tests/fakes/agent_step.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kale_proxy import wire
from kale_proxy.visitor import Visitor
from kale_proxy.wire import AgentGone, AgentRefused, Channel, Decoder, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPT = Path(__file__).parents[1] / "fakes" / "agent_step.py"
BUSY = "import time, sys\nsys.setswitchinterval(0.001)\nx = 0\nstop = False\nwhile not stop:\n    x += 1"


class Step:
    """A running kernel and the one who forks its agents."""

    def __init__(self, flavour: str, **constants: float) -> None:
        self.live = Path(tempfile.mkdtemp(prefix="ka-", dir="/tmp"))
        self.log = (self.live / "log").open("wb")
        command = [sys.executable, str(SCRIPT), str(self.live), flavour, json.dumps(constants)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)
        self.said: list[tuple[str, int]] = []
        self.reader = threading.Thread(target=self._listen)
        self.reader.start()
        wait_until((self.live / "kernel.json").exists)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += json.loads(line).items()

    def pids(self, word: str) -> list[int]:
        return [pid for said, pid in self.said if said == word]

    @property
    def agent(self) -> int:
        return wait_until(lambda: self.pids("agent"))[-1]

    @property
    def kernel(self) -> int:
        return self.pids("kernel")[0]

    def visit(self, **kwargs: Any) -> Visitor:
        return Visitor.connect(self.live, **{"timeout": 30.0} | kwargs)

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.reader.join(10)
        self.process.stdout.close()
        self.log.close()
        shutil.rmtree(self.live, ignore_errors=True)


@pytest.fixture
def make_step() -> Iterator[Callable[..., Step]]:
    steps: list[Step] = []

    def make(flavour: str = "bare", **constants: float) -> Step:
        steps.append(Step(flavour, **constants))
        return steps[-1]

    yield make
    for step in steps:
        step.end()


@pytest.fixture(scope="module")
def shared() -> Iterator[Step]:
    """One step with bare subshells for all tests that leave it as it was."""
    step = Step("bare")
    yield step
    step.end()


@contextlib.contextmanager
def running(step: Step, code: str = BUSY) -> Iterator[Visitor]:
    """Run ``code`` as the step's own, in the main shell, for the time of the block."""
    main = step.visit(mode="main")
    thread = threading.Thread(target=lambda: main.execute(code, timeout=60))
    thread.start()
    with step.visit(iopub="all") as watch:
        wait_until(lambda: watch.execute("", user_expressions={"x": "x > 0"})["user_expressions"]["x"].get("data"))
    yield main
    with step.visit(mode="write") as visitor:
        visitor.execute("stop = True")
    thread.join(30)
    assert not thread.is_alive()
    main.close()


def wait_until(condition: Callable[[], Any], timeout: float = 20.0) -> Any:
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.02)
    return value


class Shown(list[tuple[str, Any]]):
    """Collects what a cell shows."""

    def __call__(self, msg_type: str, content: dict[str, Any], metadata: dict[str, Any], buffers: list[bytes]) -> None:
        self.append((msg_type, content))

    def text(self) -> str:
        return "".join(content["text"] for msg_type, content in self if msg_type == "stream")

    def result(self) -> str:
        return next(content["data"]["text/plain"] for msg_type, content in self if msg_type == "execute_result")


def run(visitor: Visitor, code: str, **kwargs: Any) -> Shown:
    shown = Shown()
    reply = visitor.execute(code, on_message=shown, timeout=30, **kwargs)
    assert reply["status"] == "ok", reply
    return shown


def rss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    raise AssertionError(pid)


def memory_name(step: Step) -> bytes:
    """Key of the step's kernel."""
    return str(json.loads((step.live / "kernel.json").read_text())["key"]).encode()


# -- visits


def test_visitor_computes_while_the_step_does(shared: Step) -> None:
    with running(shared), shared.visit() as visitor:
        assert visitor.mode == "visit"
        assert "step's own" in visitor.note
        first = int(run(visitor, "x").result())
        wait_until(lambda: int(run(visitor, "x").result()) > first)


def test_two_visitors_each_get_their_own_output_and_the_step_its_own(shared: Step) -> None:
    code = "import time\nstop = False\nx = 1\nwhile not stop:\n    print('step', flush=True); time.sleep(0.01)"
    with running(shared, code), shared.visit() as one, shared.visit() as two:
        results: dict[str, Shown] = {}

        def visit(visitor: Visitor, name: str) -> None:
            results[name] = run(
                visitor, f"import time\nfor i in range(20): print('{name}', i, flush=True); time.sleep(0.01)"
            )

        threads = [threading.Thread(target=visit, args=pair) for pair in ((one, "one"), (two, "two"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for name in ("one", "two"):
            assert results[name].text() == "".join(f"{name} {i}\n" for i in range(20))


def test_error_is_a_reply_and_its_traceback_is_shown(shared: Step) -> None:
    with shared.visit() as visitor:
        shown = Shown()
        reply = visitor.execute("1/0", on_message=shown, timeout=20)
        assert (reply["status"], reply["ename"]) == ("error", "ZeroDivisionError")
        assert [msg_type for msg_type, _ in shown] == ["error"]


def test_completion_and_inspection_are_answered(shared: Step) -> None:
    with shared.visit() as visitor:
        run(visitor, "kale_word = 3")
        assert "kale_word" in visitor.request("complete_request", {"code": "kale_w", "cursor_pos": 6})["matches"]
        found = visitor.request("inspect_request", {"code": "kale_word", "cursor_pos": 3, "detail_level": 0})
        assert found["found"]
        assert visitor.pending == ()


def test_input_is_asked_of_the_visitor_that_runs_the_cell(shared: Step) -> None:
    asked = []

    def answer(prompt: str, password: bool) -> str:
        asked.append((prompt, password))
        return "forty-two"

    with shared.visit() as visitor, shared.visit() as other:
        run(other, "1")
        assert run(visitor, "print(input('number? '))", on_input=answer).text().endswith("forty-two\n")
        assert asked == [("number? ", False)]
        reply = visitor.execute("input()", on_input=lambda prompt, password: None, timeout=20)
        assert reply["ename"] == "EOFError"
        assert visitor.execute("input()", timeout=20)["ename"] == "StdinNotImplementedError"


def test_buffers_and_large_outputs_come_whole(shared: Step) -> None:
    code = "from IPython.display import display\ndisplay({'text/plain': 'y' * 20_000_000}, raw=True)"
    with shared.visit() as visitor:
        ((msg_type, content),) = run(visitor, code)
        assert msg_type == "display_data"
        assert content["data"]["text/plain"] == "y" * 20_000_000
        buffers: list[bytes] = []
        code = "k = get_ipython().kernel\nk.session.send(k.iopub_socket, 'comm_msg', {}, parent=k.get_parent(), buffers=[b'\\0' * 99, b'b'])"
        visitor.execute(code, on_message=lambda *message: buffers.extend(message[3]), timeout=20)
        assert buffers == [b"\0" * 99, b"b"]


def test_timeout_leaves_the_cell_running_and_wait_takes_it_up(shared: Step) -> None:
    with shared.visit() as visitor:
        with pytest.raises(TimeoutError, match="goes on"):
            visitor.execute("import time; time.sleep(1); print('done')", timeout=0.2)
        (msg_id,) = visitor.pending
        shown = Shown()
        assert visitor.wait(msg_id, on_message=shown, timeout=20)["status"] == "ok"
        assert shown.text() == "done\n"


def test_timeout_holds_also_while_output_never_ends(kale_step: Step) -> None:
    with kale_step.visit() as visitor:
        with pytest.raises(TimeoutError):
            visitor.execute("while True: print('x' * 1000, flush=True)", timeout=0.5)
        visitor.interrupt()
        assert visitor.wait(visitor.pending[0], timeout=20)["ename"] == "KeyboardInterrupt"


def test_reply_that_comes_while_the_agent_is_asked_is_not_lost(shared: Step) -> None:
    with shared.visit() as visitor:
        with pytest.raises(TimeoutError):
            visitor.execute("import time; time.sleep(0.3)", timeout=0.05)
        (msg_id,) = visitor.pending
        wait_until(lambda: not visitor.control("status")["waiting"])
        visitor.control("status")
        assert visitor.wait(msg_id, timeout=20)["status"] == "ok"


def test_bare_subshell_is_not_interrupted_because_the_step_would_be(shared: Step) -> None:
    with running(shared), shared.visit() as visitor:
        answer = visitor.control("interrupt")
        assert (answer["ok"], answer["code"]) == (False, "no_interrupt")
        assert "step" in answer["message"]


def test_front_end_that_shuts_down_or_interrupts_its_kernel_does_not_hit_the_step(shared: Step) -> None:
    with running(shared) as main:
        with shared.visit() as visitor:
            assert visitor.request("interrupt_request", {}, "control")["status"] == "error"
            assert visitor.request("shutdown_request", {"restart": False}, "control")["status"] == "ok"
            with pytest.raises(AgentRefused, match="closed"):
                visitor.execute("1", timeout=20)
        assert main.pending
        with shared.visit() as visitor:
            assert run(visitor, "x > 0").result() == "True"


def test_interrupt_in_main_mode_hits_only_its_own_cell(shared: Step) -> None:
    with running(shared) as main, shared.visit(mode="main") as queued:
        with pytest.raises(TimeoutError):
            queued.execute("'behind'", timeout=0.3)
        answer = queued.control("interrupt")
        assert (answer["ok"], answer["code"]) == (False, "no_interrupt")
        assert main.pending
    with shared.visit(mode="main") as mine:
        thread = threading.Timer(0.5, mine.interrupt)
        thread.start()
        shown = Shown()
        assert mine.execute("while True: pass", on_message=shown, timeout=20)["ename"] == "KeyboardInterrupt"
        thread.join()


def test_kernel_without_subshells_makes_visitors_wait_and_says_so(make_step: Callable[..., Step]) -> None:
    with make_step("none").visit() as visitor:
        assert visitor.mode == "main"
        assert "waits until the step's code is done" in visitor.note
        assert run(visitor, "6*7").result() == "42"


def test_status_tells_about_the_visit(shared: Step) -> None:
    with shared.visit() as visitor:
        status = visitor.control("status")
        assert status["kernel_pid"] == shared.kernel
        assert status["visit"]["mode"] == "visit"
        assert visitor.control("dance")["code"] == "unknown_op"
        assert visitor.control("close")["ok"]
        assert visitor.control("status")["visit"] is None
        assert visitor.control("open_visit", mode="visit")["ok"]
        assert run(visitor, "5").result() == "5"


# -- visits that can be interrupted


@pytest.fixture(scope="module")
def kale_step() -> Iterator[Step]:
    """A step whose kernel has Kale's visits."""
    step = Step("visits")
    yield step
    step.end()


def test_interrupt_ends_the_visitors_cell_and_not_the_steps(kale_step: Step) -> None:
    with running(kale_step) as main, kale_step.visit() as visitor:
        assert (visitor.mode, visitor.note) == ("visit", "")
        thread = threading.Timer(0.5, visitor.interrupt)
        thread.start()
        assert visitor.execute("while True: pass", timeout=20)["ename"] == "KeyboardInterrupt"
        thread.join()
        assert main.pending
        assert run(visitor, "x > 0").result() == "True"


def test_keyboard_interrupt_stops_the_cell_and_is_raised_again(kale_step: Step) -> None:
    with running(kale_step) as main, kale_step.visit() as visitor:
        shown = Shown()
        thread = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        thread.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            visitor.execute("import time\nwhile True: time.sleep(0.01)", on_message=shown, timeout=20)
        assert time.monotonic() - started < 10
        thread.join()
        assert [content["ename"] for msg_type, content in shown if msg_type == "error"] == ["KeyboardInterrupt"]
        assert run(visitor, "'again'").result() == "'again'"
        assert main.pending


def test_names_of_a_visit_are_its_own_unless_it_writes(kale_step: Step) -> None:
    with kale_step.visit(mode="main") as main, kale_step.visit() as visitor, kale_step.visit(mode="write") as writer:
        run(main, "y = 1")
        run(visitor, "y = 2")
        run(writer, "z = 3")
        assert run(main, "y, z").result() == "(1, 3)"


def test_step_gives_way_faster_only_while_there_are_visits(kale_step: Step) -> None:
    def interval(main: Visitor) -> float:
        return float(run(main, "import sys; sys.getswitchinterval()").result())

    with kale_step.visit(mode="main") as main:
        before = interval(main)
        with kale_step.visit(), kale_step.visit():
            assert interval(main) < before / 2
        wait_until(lambda: interval(main) == before)
        with kale_step.visit():
            run(main, "sys.setswitchinterval(0.003)")
        with kale_step.visit() as visitor:
            visitor.control("close")
            assert interval(main) == 0.003
        run(main, f"sys.setswitchinterval({before})")


def test_vanished_visitors_cell_is_ended_after_the_grace(make_step: Callable[..., Step]) -> None:
    step = make_step("visits", GRACE_S=0.3)
    visitor = step.visit()
    with pytest.raises(TimeoutError):
        visitor.execute("import time\nticks = []\nwhile True: ticks.append(time.sleep(0.01))", timeout=0.3)
    visitor.drop()
    with step.visit() as other:
        code = "import threading; n = sum(t.name.startswith('subshell') for t in threading.enumerate())"
        wait_until(lambda: run(other, code + "\nn").result() == "1")


def test_kernel_that_does_not_answer_is_told_in_time_and_keeps_no_visit_that_nobody_took(
    make_step: Callable[..., Step],
) -> None:
    step = make_step("visits", GRACE_S=0.3)
    with step.visit() as visitor:
        run(visitor, "import threading")
        os.kill(step.kernel, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError, match="did not open a visit"):
                step.visit(timeout=0.5)
            with pytest.raises(TimeoutError, match="goes on"):
                visitor.execute("1", timeout=0.5)
            assert visitor.control("status")["waiting"] == list(visitor.pending)
            time.sleep(0.5)
        finally:
            os.kill(step.kernel, signal.SIGCONT)
        code = "sum(t.name.startswith('subshell') for t in threading.enumerate())"
        wait_until(lambda: run(visitor, code).result() == "1")


# -- coming back


def test_reconnect_with_since_gets_every_line_once_in_order(shared: Step) -> None:
    watch = shared.visit(iopub="all")
    with shared.visit() as printer:
        with pytest.raises(TimeoutError):
            printer.execute(
                "import time\nfor i in range(4000):\n    print('L', i, flush=True); time.sleep(0.0002)", timeout=0.05
            )
        text = ""
        for connection in range(8):
            for n, output in enumerate(watch.outputs(timeout=5)):
                text += output.content.get("text", "")
                if (n > 150 and connection < 7) or "L 3999\n" in text:
                    break
            watch.drop()
            watch = shared.visit(iopub="all", client_id=watch.client_id, since=watch.last_seq)
            assert watch.is_resumed
        watch.close()
        assert text == "".join(f"L {i}\n" for i in range(4000))
        assert watch.lost == 0


def test_reply_that_came_while_the_client_was_away_is_kept(shared: Step) -> None:
    visitor = shared.visit()
    run(visitor, "0")
    with pytest.raises(TimeoutError):
        visitor.execute("import time; time.sleep(0.5); print('here'); 1/0", timeout=0.1)
    (msg_id,) = visitor.pending
    visitor.drop()
    time.sleep(0.8)
    again = shared.visit(client_id=visitor.client_id, since=visitor.last_seq, replies=visitor.replies_seen)
    shown = Shown()
    with again:
        assert again.wait(msg_id, on_message=shown, timeout=20)["ename"] == "ZeroDivisionError"
    assert shown.text() == "here\n"


def test_request_repeated_after_a_reconnect_runs_once(shared: Step) -> None:
    with shared.visit() as visitor:
        run(visitor, "runs = []")
        for _ in range(2):  # with another date each, or the kernel itself would see the same signature twice
            message = visitor._message(Channel.SHELL, "the-same-id", "execute_request", {"code": "runs.append(1)"})
            visitor._stream.send(message, time.monotonic() + 5)
        assert run(visitor, "runs").result() == "[1]"


def test_second_connection_of_a_client_takes_over(shared: Step) -> None:
    first = shared.visit()
    with shared.visit(client_id=first.client_id) as second:
        assert second.is_resumed
        with pytest.raises(AgentRefused, match="taken over") as caught:
            first.execute("1", timeout=20)
        assert caught.value.code == "replaced"
        assert run(second, "2").result() == "2"


def test_slow_client_costs_no_memory_delays_nobody_and_gets_everything_later(make_step: Callable[..., Step]) -> None:
    step = make_step()
    lines, width = 100_000, 300
    slow = step.visit(iopub="all")
    with step.visit() as printer, step.visit() as other:
        run(other, "1")
        before = rss_kib(step.agent)
        code = f"for i in range({lines}): print(f'{{i:0{width - 1}d}}', flush=i % 50 == 0)"
        reply: list[str] = []
        thread = threading.Thread(target=lambda: reply.append(printer.execute(code, timeout=60)["status"]))
        thread.start()
        peak, answered = before, 0
        while thread.is_alive():
            assert run(other, "2").result() == "2"
            answered += 1
            peak = max(peak, rss_kib(step.agent))
        thread.join()
    assert reply == ["ok"]
    assert answered > 3
    assert sum(file.stat().st_size for file in step.live.glob("journal-*")) > lines * width
    assert peak - before < 12 << 10
    expected = 0
    rest = ""
    for output in slow.outputs(timeout=20):
        if output.msg_type == "stream":
            *whole, rest = (rest + output.content["text"]).split("\n")
            assert list(map(int, whole)) == list(range(expected, expected + len(whole)))
            expected += len(whole)
        if expected == lines:
            break
    assert expected == lines
    assert slow.lost == 0
    slow.close()


# -- ends


def test_killed_kernel_ends_every_visitor_with_the_reason(make_step: Callable[..., Step]) -> None:
    step = make_step()
    with step.visit() as visitor, step.visit(iopub="all") as watch:
        run(visitor, "print('last words')")
        threading.Timer(0.5, os.kill, (step.kernel, signal.SIGKILL)).start()
        with pytest.raises(AgentGone, match=r"kernel .* has ended") as caught:
            visitor.execute("import time; time.sleep(60)", timeout=20)
        assert caught.value.ended
        texts: list[str] = []
        with pytest.raises(AgentGone, match="has ended"):
            texts.extend(output.content.get("text", "") for output in watch.outputs(timeout=20))
        assert "".join(texts) == "last words\n"
        with pytest.raises(AgentGone):
            visitor.execute("1")
    wait_until(lambda: step.pids("ended") == step.pids("agent"))


def test_killed_agent_is_told_and_the_next_one_knows_the_visit(make_step: Callable[..., Step]) -> None:
    step = make_step("visits")
    visitor = step.visit()
    run(visitor, "mine = 5")
    os.kill(step.agent, signal.SIGKILL)
    with pytest.raises(AgentGone, match=r"gone|broken") as caught:
        visitor.execute("1", timeout=20)
    assert not caught.value.ended
    with step.visit(client_id=visitor.client_id, since=visitor.last_seq) as again:
        assert again.is_resumed
        assert run(again, "mine").result() == "5"
    assert len(step.pids("agent")) == 2


def test_visit_left_by_a_killed_agent_is_closed_by_the_next(make_step: Callable[..., Step]) -> None:
    step = make_step("visits", GRACE_S=0.3)
    left = step.visit()
    run(left, "1")
    left.drop()
    os.kill(step.agent, signal.SIGKILL)
    with step.visit() as other:
        code = "import threading; sum(t.name.startswith('subshell') for t in threading.enumerate())"
        wait_until(lambda: run(other, code).result() == "1")


def test_agent_without_clients_ends_and_another_serves_the_next(make_step: Callable[..., Step]) -> None:
    step = make_step("bare", IDLE_S=0.2)
    with step.visit() as visitor:
        run(visitor, "1")
    wait_until(lambda: step.pids("ended"))
    with step.visit() as visitor:
        assert run(visitor, "2").result() == "2"
    assert len(set(step.pids("agent"))) == 2


def test_step_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(AgentGone, match="not running") as caught:
        Visitor.connect(tmp_path / "none")
    assert caught.value.ended
    with pytest.raises(TimeoutError, match="not become ready"):
        Visitor.connect(tmp_path, timeout=0.1)
    (tmp_path / "kernel.json").write_text('{"key": ""}')
    with pytest.raises(AgentGone, match="Nothing listens"):
        Visitor.connect(tmp_path)


# -- strangers


class Raw:
    """A client that sends what it likes."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(str(step.live / "a"))
        self.decoder = Decoder()
        self.got: list[tuple[Kind, bytes]] = []

    def send(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def read(self) -> tuple[Kind, bytes] | None:
        while not self.got:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.got += self.decoder.feed(data)
        return self.got.pop(0)

    def last(self) -> str:
        """Read to the end and return the code of the ERROR frame, "" if there was none."""
        code = ""
        with contextlib.closing(self.sock):
            while (frame := self.read()) is not None:
                if frame[0] is Kind.ERROR:
                    code = json.loads(frame[1])["code"]
        return code

    def hello(self, **change: Any) -> bytes:
        hello = {"protocol": wire.PROTOCOL, "client": os.urandom(8).hex(), "visit": {"mode": "visit"}, "since": None}
        return json.dumps(hello | change).encode()

    def open(self, key: bytes | None = None, **change: Any) -> None:
        greeting = self.hello(**change)
        self.send(wire.frame(Kind.HELLO, greeting))
        frame = self.read()
        assert frame is not None
        assert frame[0] is Kind.CHALLENGE, frame
        proof = wire.client_proof(key or memory_name(self.step), json.loads(frame[1])["nonce"], greeting)
        self.send(wire.json_frame(Kind.AUTH, {"proof": proof}))


def test_wrong_key_is_refused(shared: Step) -> None:
    raw = Raw(shared)
    raw.open(key=b"guess")
    assert raw.last() == "wrong_key"


def test_kernel_that_is_to_be_started_afresh_takes_no_visitor(make_step: Callable[..., Step]) -> None:
    step = make_step()
    (step.live / "restart").touch()
    with pytest.raises(AgentRefused, match="about to be started afresh") as caught:
        step.visit()
    assert caught.value.code == "restarting"
    (step.live / "restart").unlink()
    step.visit().close()


def test_visitor_with_a_stale_key_is_told(shared: Step, tmp_path: Path) -> None:
    (tmp_path / "kernel.json").write_text('{"key": "old"}')
    (tmp_path / "a").symlink_to(shared.live / "a")
    with pytest.raises(AgentRefused, match="key"):
        Visitor.connect(tmp_path)


def test_agent_that_does_not_know_the_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kernel.json").write_text('{"key": "secret"}')
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "a"))
    listener.listen()

    def impostor() -> None:
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(wire.json_frame(Kind.CHALLENGE, {"protocol": wire.PROTOCOL, "nonce": "n"}))
            accepted.recv(1 << 16)
            accepted.sendall(wire.json_frame(Kind.WELCOME, {"proof": "f" * 64, "mode": "visit"}))

    thread = threading.Thread(target=impostor)
    thread.start()
    with listener, pytest.raises(AgentRefused, match="does not know the kernel's key"):
        Visitor.connect(tmp_path)
    thread.join(10)


def test_other_protocol_version_is_told_both_versions(shared: Step) -> None:
    raw = Raw(shared)
    raw.send(wire.frame(Kind.HELLO, raw.hello(protocol=99)))
    challenge, frame = raw.read(), raw.read()
    assert challenge is not None
    assert challenge[0] is Kind.CHALLENGE
    assert frame is not None
    assert frame[0] is Kind.ERROR
    error = json.loads(frame[1])
    assert error["code"] == "protocol"
    assert f"protocol {wire.PROTOCOL}" in error["message"]
    assert "99" in error["message"]
    assert raw.last() == ""


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "garbage"),
        (b"\xff\xff\xff\xff\x01", "oversized"),
        (wire.frame(Kind.HELLO, b"{"), "garbage"),
        (wire.frame(Kind.PING), "garbage"),
        (wire.json_frame(Kind.HELLO, {"protocol": wire.PROTOCOL}), "garbage"),
    ],
)
def test_stranger_is_dropped_with_an_error(shared: Step, data: bytes, code: str) -> None:
    raw = Raw(shared)
    raw.send(data)
    assert raw.last() == code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (wire.frame(Kind.HELLO, b"{}"), "garbage"),
        (wire.frame(Kind.MSG, b"short"), "garbage"),
        (wire.message_frame(Channel.SHELL, 0, [b"[]", b"{}", b"{}", b"{}"]), "garbage"),
        (wire.message_frame(Channel.SHELL, 0, [b"{}", b"{}", b"{}", b"{}"]), "garbage"),
        (
            wire.message_frame(Channel.IOPUB, 0, [b'{"msg_type":"a","msg_id":"b","session":"c"}', *[b"{}"] * 3]),
            "garbage",
        ),
        (b"\x7f\xff\xff\xff\x05", "oversized"),
    ],
)
def test_client_that_breaks_the_protocol_is_dropped_alone(shared: Step, data: bytes, code: str) -> None:
    with shared.visit() as other:
        raw = Raw(shared)
        raw.open()
        frame = raw.read()
        assert frame is not None
        assert frame[0] is Kind.WELCOME
        raw.send(data)
        assert raw.last() == code
        assert run(other, "3").result() == "3"


def test_half_a_frame_and_a_hang_up_leave_nothing_behind(shared: Step) -> None:
    for data in (b"", b"\0\0", wire.frame(Kind.HELLO, b"{}")[:-1]):
        raw = Raw(shared)
        raw.send(data)
        raw.sock.close()
    with shared.visit() as visitor:
        assert run(visitor, "4").result() == "4"


@pytest.mark.skipif(os.getuid() != 0, reason="needs two users: run the tests as root, as .ci/run does in its container")
def test_another_user_who_can_reach_the_socket_is_refused(make_step: Callable[..., Step]) -> None:
    step = make_step()
    for path, mode in ((step.live, 0o755), (step.live / "a", 0o666)):
        path.chmod(mode)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        raw = Raw(step)
        os.write(theirs, raw.last().encode())
        os._exit(0)
    os.close(theirs)
    assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(ours) as pipe:
        assert pipe.read() == "other_user"


def test_slow_handshake_is_ended(make_step: Callable[..., Step]) -> None:
    raw = Raw(make_step("bare", HANDSHAKE_S=0.2))
    assert raw.last() == "slow_handshake"


def test_mutated_clients_disturb_neither_agent_nor_kernel_nor_others(shared: Step) -> None:
    dice = random.Random(7)
    with shared.visit() as other:
        agents = len(shared.pids("agent"))
        for n in range(150):
            raw = Raw(shared)
            raw.sock.settimeout(5)
            header = {"msg_id": f"m{n}", "msg_type": "execute_request", "session": "fuzz"}
            content = json.dumps({"code": "1", "silent": True}).encode()
            data = wire.message_frame(Channel.SHELL, 0, [json.dumps(header).encode(), b"{}", b"{}", content])
            data += wire.json_frame(Kind.CONTROL, {"id": 1, "op": "status"}) + wire.ack_frame(1, 1)
            if n % 3 == 0:
                data = wire.frame(Kind.HELLO, raw.hello()) + wire.json_frame(Kind.AUTH, {"proof": "0"}) + data
            else:
                raw.open()
            mutated = bytearray(data)
            for _ in range(dice.randint(1, 6)):
                mutated[dice.randrange(len(mutated))] = dice.randrange(256)
            raw.send(bytes(mutated[: dice.randint(1, len(mutated))]))
            raw.sock.shutdown(socket.SHUT_WR)
            assert raw.last() in {"", "garbage", "oversized", "wrong_key", "protocol"}
            if n % 25 == 0:
                assert run(other, "3").result() == "3"
        assert run(other, "3").result() == "3"
        assert len(shared.pids("agent")) == agents


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root: run the tests as root")
def test_full_disk_under_the_journal_costs_old_lines_and_no_cell(make_step: Callable[..., Step], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk = Path(tempfile.mkdtemp(prefix="kd-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(disk)], check=True)
    try:
        monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: str(disk / "s"))
        (disk / "s").mkdir(mode=0o700)
        step = make_step()
        monkeypatch.undo()
        with step.visit() as visitor:
            for number in range(5):  # each more than the disk has
                said = run(visitor, f"import sys\nfor i in range(40):\n    print('x' * 100_000, flush=True)\n{number}")
                assert said.result() == str(number)
        with step.visit() as slow:  # which takes nothing until more is there than is kept
            code = f"import pathlib\nfor i in range(200):\n    print('x' * 100_000, flush=True)\npathlib.Path({str(tmp_path / 'done')!r}).touch()\n7"
            content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False, "stop_on_error": True}
            msg_id = slow._send(Channel.SHELL, "execute_request", content, time.monotonic() + 30)
            wait_until((tmp_path / "done").exists)
            said = Shown()
            assert slow.wait(msg_id, on_message=said, timeout=30)["status"] == "ok"
            assert slow.lost > 0
            assert said.result() == "7"
        with step.visit() as visitor:
            assert run(visitor, "7 * 6").result() == "42"
        step.end()
        step.end = lambda: None  # the disk goes with it
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
        disk.rmdir()
