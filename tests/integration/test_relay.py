"""Jupyter clients that nobody here wrote visit a busy step through a relay: kernelspec, connection file, nbclient."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any, Self

import nbformat
import psutil
import pytest
import zmq
from jupyter_client import BlockingKernelClient, KernelManager
from jupyter_client.session import Session
from nbclient import NotebookClient

from kale_magic.api import Workflow, relays
from kale_magic.api.find import Scope, find_step
from kale_magic.client import Client
from kale_magic.kernels import specs
from tests.integration.test_cli import kale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT_S = 30.0
COUNTER = "import time\nfrom pathlib import Path\nn = 0\nwhile not Path('stop').exists():\n    n += 1\n    print('step', n)\n    time.sleep(0.01)\n"


@pytest.fixture
def place(kale_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Kale and a Jupyter data folder of one's own; relays are ended."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(kale_home / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(kale_home / "rt"))
    (kale_home / "rt").mkdir()
    yield tmp_path
    relays.end_all()


@pytest.fixture
def client(place: Path) -> Iterator[Client]:
    """The manager."""
    with Client.connect() as client:
        yield client


def submit(place: Path, client: Client, code: str = COUNTER, **options: Any) -> Any:
    workflow = Workflow("eos", folder=place)
    workflow.step("md", code, **options)
    return workflow.submit(client=client, cache=False)


@pytest.fixture
def run(place: Path, client: Client) -> Any:
    """A run whose step md counts until there is a file named stop."""
    return submit(place, client, outputs=["n"])


def install(run: Any, step: str = "md", **options: Any) -> specs.Spec:
    with Client.connect() as client:
        return specs.install(client, find_step(client, f"{run.name}/{step}", Scope()), **options)


def wait_until_ready(client: BlockingKernelClient) -> None:
    """Wait as front ends do, and take the answers to questions that were asked more than once."""
    client.wait_for_ready(timeout=WAIT_S)
    with contextlib.suppress(Empty):
        while True:
            client.get_shell_msg(timeout=0.2)


class Kernel:
    """A front end's kernel manager and client on a kernelspec."""

    def __init__(self, name: str, **options: Any) -> None:
        self.manager = KernelManager(kernel_name=name, **options)

    def __enter__(self) -> Self:
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        wait_until_ready(self.client)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()
        self.client.context.destroy(linger=0)


@pytest.fixture
def kernel(run: Any) -> Iterator[Kernel]:
    with Kernel(install(run).name) as kernel:
        yield kernel


@pytest.fixture
def other(run: Any) -> Iterator[BlockingKernelClient]:
    """A client of the same step by its connection file."""
    client = BlockingKernelClient(connection_file=str(run["md"].connection_file()))
    client.load_connection_file()
    client.start_channels()
    wait_until_ready(client)
    yield client
    client.stop_channels()
    client.context.destroy(linger=0)


def shown(client: BlockingKernelClient, code: str, *, timeout: float = WAIT_S, msg_id: str = "") -> tuple[str, list[dict[str, Any]]]:
    """Run a cell (or wait for one) until idle and reply; return its status and what came on iopub, in order."""
    msg_id = msg_id or client.execute(code)
    messages: list[dict[str, Any]] = []
    while not (messages and messages[-1]["content"].get("execution_state") == "idle"):
        message = client.get_iopub_msg(timeout=timeout)
        if message["parent_header"].get("msg_id") == msg_id:
            messages.append(message)
        elif message["msg_type"] not in {"status", "iopub_welcome"}:
            raise AssertionError(message)  # the step's own, or another visitor's
    while True:
        reply = client.get_shell_msg(timeout=timeout)
        if reply["parent_header"]["msg_id"] == msg_id:
            return reply["content"]["status"], messages


def text(messages: list[dict[str, Any]]) -> str:
    return "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")


def evaluate(client: BlockingKernelClient, code: str) -> str:
    status, messages = shown(client, code)
    assert status == "ok", messages
    return next(m["content"]["data"]["text/plain"] for m in messages if m["msg_type"] == "execute_result")


def goes_on(client: BlockingKernelClient) -> bool:
    """Whether the step counts."""
    before = int(evaluate(client, "n"))
    deadline = time.monotonic() + WAIT_S
    while int(evaluate(client, "n")) <= before:
        if time.monotonic() > deadline:
            return False
    return True


def agents(run: Any) -> list[psutil.Process]:
    """The agent of the step: of the supervisor's children, the one that serves the socket but is not the kernel."""
    live = run["md"].target().live
    return [process for process in psutil.process_iter(["pid"]) if serves(process.pid, live)]


def serves(pid: int, live: Path) -> bool:
    try:
        names = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False
    return any(name == "anon_inode:inotify" for name in names) and pid in {p.pid for p in family(live)}


def family(live: Path) -> list[psutil.Process]:
    server = json.loads((live.parent.parent / "serve.json").read_text())["pid"]
    return psutil.Process(server).children()


def kill_agent(run: Any) -> None:
    found = agents(run)
    assert len(found) == 1, found
    found[0].kill()


# -- two clients at once


def test_two_front_ends_on_one_busy_step_see_their_own_output_only(
    kernel: Kernel, other: BlockingKernelClient
) -> None:
    loop = "import time\nfor k in range(20):\n    print('{0}', k)\n    time.sleep(0.02)"
    first = kernel.client.execute(loop.format("one"))
    second = other.execute(loop.format("two"))
    for client, msg_id, word in ((kernel.client, first, "one"), (other, second, "two")):
        status, messages = shown(client, "", msg_id=msg_id)
        assert status == "ok"
        assert text(messages) == "".join(f"{word} {k}\n" for k in range(20))
        assert [m["content"]["execution_state"] for m in messages if m["msg_type"] == "status"] == ["busy", "idle"]
    shown(kernel.client, "mine = 1")
    assert shown(other, "mine")[0] == "error"
    assert goes_on(other)


def test_rich_output_completion_inspection_history_and_is_complete(kernel: Kernel) -> None:
    client = kernel.client
    _, messages = shown(client, "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    assert any("image/png" in m["content"].get("data", {}) for m in messages)
    _, messages = shown(client, "from IPython.display import HTML, display\nh = display(HTML('<b>x</b>'), display_id=True)\nh.update(HTML('y'))")
    assert [m["msg_type"] for m in messages][2:4] == ["display_data", "update_display_data"]
    _, messages = shown(client, "1/0")
    assert next(m for m in messages if m["msg_type"] == "error")["content"]["ename"] == "ZeroDivisionError"
    shown(client, "wonderful = 1")
    assert client.complete("wonder", reply=True, timeout=WAIT_S)["content"]["matches"] == ["wonderful"]
    assert client.inspect("len", reply=True, timeout=WAIT_S)["content"]["found"]
    client.is_complete("for i in x:")
    assert client.get_shell_msg(timeout=WAIT_S)["content"]["status"] == "incomplete"
    assert client.history(hist_access_type="tail", n=3, reply=True, timeout=WAIT_S)["content"]["status"] == "ok"


def test_input_is_asked_of_the_client_whose_cell_asks(kernel: Kernel, other: BlockingKernelClient) -> None:
    msg_id = kernel.client.execute("print('got', input('name? '))")
    question = kernel.client.get_stdin_msg(timeout=WAIT_S)
    assert question["content"]["prompt"] == "name? "
    with pytest.raises(Empty):
        other.get_stdin_msg(timeout=0.1)
    kernel.client.input("Eos")
    assert text(shown(kernel.client, "", msg_id=msg_id)[1]) == "got Eos\n"


def test_comm_opened_by_a_front_end_is_answered_to_it_alone(kernel: Kernel) -> None:
    client = kernel.client
    shown(client, "def target(comm, msg):\n    comm.on_msg(lambda m: comm.send({'twice': 2 * m['content']['data']['x']}))\nget_ipython().kernel.comm_manager.register_target('t', target)")
    for kind, content in (
        ("comm_open", {"comm_id": "c1", "target_name": "t", "data": {}}),
        ("comm_msg", {"comm_id": "c1", "data": {"x": 21}}),
    ):
        client.shell_channel.send(client.session.msg(kind, content))
    deadline = time.monotonic() + WAIT_S
    while (message := client.get_iopub_msg(timeout=WAIT_S))["msg_type"] != "comm_msg":
        assert time.monotonic() < deadline
    assert message["content"] == {"comm_id": "c1", "data": {"twice": 42}}


def test_comm_of_ones_own_cell_is_heard_when_the_step_sends_on_it_also_by_another_agent(
    place: Path, client: Client, until: Callable[..., Any]
) -> None:
    code = COUNTER.replace("    print('step', n)\n", "    if 'mine' in globals(): mine.send({'n': n})\n")
    run = submit(place, client, code)
    with Kernel(install(run, mode="write").name) as kernel:
        kernel.client.execute("from comm import create_comm\nmine = create_comm(target_name='t')")
        heard(kernel.client)
        until(lambda: agents(run), "an agent")[0].kill()
        before = heard(kernel.client)
        assert heard(kernel.client) > before
        other = BlockingKernelClient(connection_file=str(run["md"].connection_file()))
        other.load_connection_file()
        other.start_channels()
        wait_until_ready(other)
        with pytest.raises(Empty):
            other.get_iopub_msg(timeout=0.3)
        other.stop_channels()
        other.context.destroy(linger=0)


def heard(client: BlockingKernelClient) -> int:
    """Return what the step sent next on a comm."""
    while (message := client.get_iopub_msg(timeout=WAIT_S))["msg_type"] != "comm_msg":
        pass
    return int(message["content"]["data"]["n"])


def test_two_clients_of_one_connection_file_get_their_own_replies(run: Any, other: BlockingKernelClient) -> None:
    third = BlockingKernelClient(connection_file=str(run["md"].connection_file()))
    third.load_connection_file()
    third.start_channels()
    wait_until_ready(third)
    first, second = other.execute("a = 1"), third.execute("1 + 1")  # of two clients neither is first
    for client, msg_id in ((other, first), (third, second)):
        reply = client.get_shell_msg(timeout=WAIT_S)
        assert (reply["parent_header"]["msg_id"], reply["content"]["status"]) == (msg_id, "ok")
        assert client.session.session in msg_id
    third.stop_channels()
    third.context.destroy(linger=0)


# -- nothing a front end does ends or interrupts the step


def test_interrupt_ends_the_visitors_own_cell(kernel: Kernel, other: BlockingKernelClient) -> None:
    msg_id = kernel.client.execute("import time\nprint('in')\nwhile True:\n    time.sleep(0.01)")
    theirs = other.execute("import time\nfor k in range(100):\n    time.sleep(0.01)\nprint('whole')")
    while kernel.client.get_iopub_msg(timeout=WAIT_S)["msg_type"] != "stream":
        pass
    kernel.manager.interrupt_kernel()
    reply = kernel.client.get_shell_msg(timeout=WAIT_S)
    assert (reply["parent_header"]["msg_id"], reply["content"]["ename"]) == (msg_id, "KeyboardInterrupt")
    assert text(shown(other, "", msg_id=theirs)[1]) == "whole\n"
    assert goes_on(other)


def test_restart_and_shutdown_detach_and_the_step_goes_on(kernel: Kernel, other: BlockingKernelClient, until: Callable[..., Any]) -> None:
    shown(kernel.client, "mine = 1")
    kernel.client.execute("import time\ntime.sleep(600)")
    kernel.manager.restart_kernel()
    wait_until_ready(kernel.client)
    assert shown(kernel.client, "mine")[0] == "error"
    assert goes_on(kernel.client)
    relay = kernel.manager.provisioner.process
    reply = kernel.client.shutdown(reply=True, timeout=WAIT_S)
    assert reply["content"] == {"status": "ok", "restart": False}
    until(lambda: relay.poll() is not None, "the relay's end")
    assert relay.returncode == 0
    assert goes_on(other)


def test_interrupt_with_the_id_of_an_open_request_is_one(kernel: Kernel) -> None:
    """jupyter_client's manager and client share a session id, and each counts its messages from 0."""
    client = kernel.client
    msg_id = client.execute("print('in', flush=True)\nwhile True: pass")
    while client.get_iopub_msg(timeout=WAIT_S)["msg_type"] != "stream":
        pass
    message = client.session.msg("interrupt_request", {})
    message["header"]["msg_id"] = message["msg_id"] = msg_id
    client.control_channel.send(message)
    assert client.get_control_msg(timeout=WAIT_S)["content"] == {"status": "ok"}
    reply = client.get_shell_msg(timeout=WAIT_S)
    assert (reply["parent_header"]["msg_id"], reply["content"]["ename"]) == (msg_id, "KeyboardInterrupt")


def test_detaching_closes_the_visit_at_once(run: Any, kernel: Kernel, until: Callable[..., Any]) -> None:
    """A client that vanishes is waited for (20 s), one that has said goodbye is not."""
    visits = run["md"].target().live / "visits.json"
    assert len(json.loads(visits.read_text())) == 1
    kernel.client.execute("while True: pass")
    kernel.client.shutdown(reply=True, timeout=WAIT_S)
    until(lambda: json.loads(visits.read_text()) == {}, "the visit's end", 10)


def test_exit_in_a_cell_leaves_the_step_alone(kernel: Kernel) -> None:
    shown(kernel.client, "exit()")
    assert goes_on(kernel.client)


def test_relay_ends_with_the_process_that_wanted_it(run: Any, until: Callable[..., Any]) -> None:
    file = run["md"].connection_file()
    assert file.stat().st_mode & 0o777 == 0o600
    assert run["md"].connection_file() == file
    process = psutil.Process(relays._running[-1].process.pid)
    relays.end_all()
    until(lambda: not process.is_running(), "the relay's end")
    assert not file.exists()


def test_requests_that_would_reach_the_step_itself_are_refused(kernel: Kernel) -> None:
    client = kernel.client
    info = client.kernel_info(reply=True, timeout=WAIT_S)["content"]
    assert info["language_info"]["name"] == "python"
    assert info["supported_features"] == []
    for kind, content in (
        ("debug_request", {"type": "request", "seq": 1, "command": "initialize", "arguments": {}}),
        ("create_subshell_request", {}),
        ("execute_request", {"code": "n = -10**9", "silent": False}),
        ("kale_visit_request", {"op": "close"}),
    ):
        client.control_channel.send(client.session.msg(kind, content))
        reply = client.get_control_msg(timeout=WAIT_S)
        assert reply["msg_type"] == kind.replace("request", "reply")
        assert reply["content"]["status"] == "error"
        assert reply["content"]["evalue"]
    assert int(evaluate(client, "n")) > 0


def test_ill_signed_messages_are_ignored(run: Any, other: BlockingKernelClient) -> None:
    info = json.loads(run["md"].connection_file().read_text())
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(f"ipc://{info['ip']}-{info['shell_port']}")
        wrong = Session(key=b"wrong")
        wrong.send(socket, "execute_request", {"code": "broken = 1", "silent": False})
        socket.send_multipart([b"<IDS|MSG>", b"garbage"])
        assert not socket.poll(300)
    assert shown(other, "broken")[0] == "error"


# -- a stream that breaks


def test_agent_killed_in_a_printing_cell_costs_no_line_no_reply_and_no_idle(run: Any, kernel: Kernel) -> None:
    client = kernel.client
    msg_id = client.execute("import time\nfor k in range(150):\n    print(k, flush=True)\n    time.sleep(0.01)")
    after = client.execute("print('after')")
    printed = []
    while not text(printed):
        printed.append(client.get_iopub_msg(timeout=WAIT_S))
    kill_agent(run)
    printed += collect(client, [msg_id, after])[1]
    assert text(printed).split() == [*map(str, range(150)), "after"]
    assert goes_on(client)


def collect(client: BlockingKernelClient, wanted: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Wait for the replies and idles of several cells; each must come once."""
    replies = [client.get_shell_msg(timeout=WAIT_S) for _ in wanted]
    assert [reply["parent_header"]["msg_id"] for reply in replies] == wanted
    assert [reply["content"]["status"] for reply in replies] == ["ok"] * len(wanted)
    messages: list[dict[str, Any]] = []
    idle: list[str] = []
    while len(idle) < len(wanted):
        message = client.get_iopub_msg(timeout=WAIT_S)
        messages.append(message)
        if message["content"].get("execution_state") == "idle":
            idle.append(message["parent_header"]["msg_id"])
    assert idle == wanted
    return replies, messages


@pytest.mark.parametrize("pause_s", [0.0, 0.05, 0.3])
def test_agent_killed_while_a_cell_ends_gives_the_reply_once(
    run: Any, kernel: Kernel, until: Callable[..., Any], pause_s: float
) -> None:
    client = kernel.client
    shown(client, "count = 0")
    for number in range(4):
        wanted = [client.execute("import time\ntime.sleep(0.1)\ncount += 1\nprint('cell', count)"), client.execute("count")]
        time.sleep(pause_s)
        until(lambda: agents(run), "an agent")[0].kill()
        _, messages = collect(client, wanted)
        assert text(messages) == f"cell {number + 1}\n"
        assert [m["content"]["data"]["text/plain"] for m in messages if m["msg_type"] == "execute_result"] == [str(number + 1)]


def test_stopped_relay_misses_nothing(kernel: Kernel) -> None:
    client = kernel.client
    msg_id = client.execute("import time\nfor k in range(200):\n    print(k, flush=True)\n    time.sleep(0.01)")
    relay = kernel.manager.provisioner.process
    relay.send_signal(signal.SIGSTOP)
    time.sleep(3)
    relay.send_signal(signal.SIGCONT)
    status, messages = shown(client, "", msg_id=msg_id)
    assert (status, text(messages).split()) == ("ok", [str(k) for k in range(200)])


def test_many_lines_arrive_whole_and_in_order(kernel: Kernel) -> None:
    status, messages = shown(kernel.client, "for k in range(20000):\n    print(k)")
    assert status == "ok"
    assert text(messages).split() == [str(k) for k in range(20000)]


@pytest.mark.parametrize("count", [150, 500])
def test_client_that_does_not_read_fills_no_memory_and_what_is_kept_comes(
    kernel: Kernel, other: BlockingKernelClient, until: Callable[..., Any], count: int
) -> None:
    """The journal keeps 256 MiB; what is over it is told, and the executed notebook has it."""
    relay = psutil.Process(kernel.manager.provisioner.process.pid)
    info = kernel.manager.get_connection_info()
    with zmq.Context() as context, context.socket(zmq.SUB) as slow:
        slow.linger, slow.rcvhwm = 0, 1
        slow.subscribe(b"")
        slow.connect(f"tcp://{info['ip']}:{info['iopub_port']}")
        assert slow.poll(5000)
        code = f"from IPython.display import display\nfor k in range({count}):\n    display({{'text/plain': str(k) + 'x' * 1_500_000}}, raw=True)"
        msg_id = kernel.client.execute(code)
        until(lambda: relay.memory_info().rss > 100 << 20, "a full relay")
        time.sleep(1)
        assert relay.memory_info().rss < 400 << 20
        assert goes_on(other)
    status, messages = shown(kernel.client, "", msg_id=msg_id)
    shown_data = [m["content"]["data"]["text/plain"] for m in messages if m["msg_type"] == "display_data"]
    assert status == "ok"
    numbers = [int(data.rstrip("x")) for data in shown_data]
    is_whole = numbers == list(range(count))
    assert is_whole or count == 500
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == count - 1
    assert ("no longer kept" in text(messages)) is not is_whole  # how much is gone depends on who was quicker


# -- before and after


def test_end_of_the_step_gives_an_error_that_says_how_to_look_at_its_outputs(run: Any, place: Path, kernel: Kernel) -> None:
    client = kernel.client
    msg_id = client.execute("import time\ntime.sleep(600)")
    while client.get_iopub_msg(timeout=WAIT_S)["msg_type"] != "execute_input":
        pass
    (place / "stop").touch()
    reply = client.get_shell_msg(timeout=WAIT_S)
    assert reply["parent_header"]["msg_id"] == msg_id
    assert reply["content"]["status"] == "error"
    while client.get_iopub_msg(timeout=WAIT_S)["content"].get("execution_state") != "idle":
        pass
    status, messages = shown(client, "n")
    assert status == "error"
    error = next(m for m in messages if m["msg_type"] == "error")["content"]
    assert f"%kale_pull {run.name}/md n" in error["evalue"]
    assert client.complete("x", reply=True, timeout=WAIT_S)["content"]["matches"] == []
    assert kernel.manager.is_alive()
    assert client.is_alive()


def test_cells_wait_for_a_step_that_has_not_started(place: Path, client: Client) -> None:
    workflow = Workflow("eos", folder=place)
    workflow.step("first", COUNTER)
    workflow.step("md", COUNTER.replace("'stop'", "'stop2'"), after=["first"])
    run = workflow.submit(client=client)
    with Kernel(install(run).name) as kernel:
        msg_id = kernel.client.execute("'n is', n")
        message: dict[str, Any] = {"msg_type": ""}
        while message["msg_type"] != "stream":
            message = kernel.client.get_iopub_msg(timeout=WAIT_S)
        assert f"{run.name}/md is waiting" in message["content"]["text"]
        (place / "stop").touch()
        status, messages = shown(kernel.client, "", msg_id=msg_id)
        assert status == "ok", messages


def test_interrupt_takes_back_a_cell_that_waits_for_the_step(place: Path, client: Client) -> None:
    workflow = Workflow("eos", folder=place)
    workflow.step("first", COUNTER)
    workflow.step("md", "print(1)", after=["first"])
    with Kernel(install(workflow.submit(client=client)).name) as kernel:
        kernel.client.execute("1")
        while kernel.client.get_iopub_msg(timeout=WAIT_S)["msg_type"] != "stream":  # it says what it waits for
            pass
        kernel.manager.interrupt_kernel()
        assert kernel.client.get_shell_msg(timeout=WAIT_S)["content"]["ename"] == "KeyboardInterrupt"


# -- ways in


def test_nbclient_executes_a_notebook_on_a_busy_step(run: Any) -> None:
    spec = install(run)
    cells = ["here = n", "print(here > 0)", "import matplotlib.pyplot as plt\nplt.plot([n])\nplt.show()\nn - here"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    NotebookClient(notebook, kernel_name=spec.name, timeout=60).execute()
    assert notebook.cells[1].outputs[0].text == "True\n"
    picture, result = notebook.cells[2].outputs
    assert "image/png" in picture.data
    assert int(result.data["text/plain"]) >= 0
    assert run["md"].state == "running"


def test_write_mode_assigns_in_the_step(run: Any, other: BlockingKernelClient) -> None:
    with Kernel(install(run, mode="write").name) as kernel:
        shown(kernel.client, "n = 10**6")
        assert int(evaluate(other, "n")) >= 10**6


def test_main_mode_is_ready_at_once_and_its_cells_wait_for_the_steps_code(run: Any, place: Path) -> None:
    with Kernel(install(run, mode="main").name) as kernel:
        kernel.client.execute("n")
        with pytest.raises(Empty):
            kernel.client.get_shell_msg(timeout=0.5)
        kernel.manager.interrupt_kernel()
        with pytest.raises(Empty):
            kernel.client.get_shell_msg(timeout=0.3)
        assert run["md"].state == "running"


def test_encrypted_tcp(run: Any) -> None:
    with Kernel(install(run).name, transport_encryption="required") as kernel:
        assert "curve_publickey" in json.loads(Path(kernel.manager.connection_file).read_text())
        assert goes_on(kernel.client)


def test_kernelspecs_are_listed_removed_and_swept(
    run: Any, client: Client, place: Path, kale_home: Path, until: Callable[..., Any]
) -> None:
    made = json.loads(kale(place, "kernels", "install", "md", "--json").stdout)
    name = f"kale-{run.name}-md"
    assert made == {"name": name, "path": str(kale_home / "data/kernels" / name)}
    listed = json.loads(kale(place, "kernels", "list", "--json").stdout)  # where Kale is installed there are also the general ones
    assert [one for one in listed if one["step"]] == [made | {"step": f"{run.name}/md", "does": f"visits {run.name}/md"}]
    assert kale(place, "kernels", "remove", f"{run.name}/md").stdout == f"{name} removed\n"
    assert "no kernel" in kale(place, "kernels", "remove", name, code=2).stderr
    assert "Did you mean md?" in kale(place, "kernels", "install", "mdd", code=2).stderr
    kale(place, "kernels", "install", "md")
    foreign = kale_home / "data/kernels/python-of-mine"
    foreign.mkdir()
    (foreign / "kernel.json").write_text("{}")
    (place / "stop").touch()
    until(lambda: run.state == "completed", "the run's end")
    assert "its kernel is gone" in kale(place, "kernels", "install", "md", code=2).stderr
    (place / "stop").unlink()
    again = submit(place, client)
    assert kale(place, "kernels", "install", f"{again.name}/md").stdout.startswith(f"kale-{again.name}-md: ")
    assert sorted(path.name for path in foreign.parent.iterdir()) == [f"kale-{again.name}-md", "python-of-mine"]
    assert kale(place, "kernels", "remove", "--stale").stdout == "Nothing to remove.\n"


def test_relay_of_a_killed_process_ends_and_its_files_are_swept(run: Any, place: Path, until: Callable[..., Any]) -> None:
    code = f"import sys\nfrom kale_magic import connect\nprint(connect().run('{run.name}')['md'].connection_file(), flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        file = Path(owner.stdout.readline().strip())
        relay = psutil.Process(owner.pid).children()[0]
        owner.kill()
    until(lambda: not relay.is_running(), "the relay's end")
    assert file.exists()
    run["md"].connection_file()
    assert not file.exists()
    assert run["md"].state == "running"


def test_points_of_a_sweep_have_kernels_of_their_own(place: Path, client: Client) -> None:
    run = submit(place, client, COUNTER, each={"k": [1, 2]})
    spec = install(run, "md[k=2]")
    assert (spec.name, spec.step) == (f"kale-{run.name}-md.1", f"{run.name}/md[1]")
    with Kernel(spec.name) as kernel:
        assert evaluate(kernel.client, "k") == "2"


def test_console_is_explained_when_it_is_not_installed(run: Any, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from kale_magic.cli import kernels
    from kale_magic.cli.main import main

    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda _: None)
    assert main(["attach", f"{run.name}/md", "--console"]) == 2
    assert "pip install jupyter-console" in capsys.readouterr().err
