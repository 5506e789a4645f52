"""A notebook whose own kernel is a job: front ends that nobody here wrote start ``kale-local``, use it, lose it, end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from datetime import datetime
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient

from kale_magic.api import Workflow
from kale_magic.client import Client
from kale_magic.kernels import general
from tests.integration.test_cli import kale
from tests.integration.test_relay import WAIT_S, Kernel, evaluate, shown, text, wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Until = Callable[..., Any]


@pytest.fixture
def place(kale_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, in which kale-local is installed for this Python."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(kale_home / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(kale_home / "rt"))
    (kale_home / "rt").mkdir()
    monkeypatch.setenv("KALE_CPUS", "2")
    monkeypatch.chdir(tmp_path)
    general.install()
    return tmp_path


@pytest.fixture
def client(place: Path) -> Iterator[Client]:
    """The manager."""
    with Client.connect() as client:
        yield client


@pytest.fixture
def kernel(client: Client) -> Iterator[Kernel]:
    with Kernel("kale-local") as kernel:
        yield kernel


def state_of(client: Client, run: str | None = None) -> str:
    """Return the state of a run, of the newest if none is named."""
    return str(client.status(run or newest(client))["steps"]["kernel"]["state"])


def newest(client: Client) -> str:
    return str(client.runs()[0]["run"])


def error_of(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return next(m["content"] for m in messages if m["msg_type"] == "error")


def wait_until_idle(kernel: Kernel) -> None:
    while kernel.client.get_iopub_msg(timeout=WAIT_S)["content"].get("execution_state") != "idle":
        pass


# -- a kernel like any other


def test_cells_run_in_a_job_and_share_their_names(kernel: Kernel, client: Client, place: Path) -> None:
    status, messages = shown(kernel.client, "import os\nx = 41\nprint(os.environ['KALE_RUN'], os.getcwd())\nx + 1")
    assert status == "ok"
    run = newest(client)
    assert run.startswith("notebook-")
    assert text(messages) == f"{run} {place}\n"
    assert [m["content"]["execution_count"] for m in messages if m["msg_type"] == "execute_result"] == [1]
    assert evaluate(kernel.client, "x, _") == "(41, 42)"
    assert state_of(client) == "running"


def test_rich_output_input_completion_await_and_errors(kernel: Kernel) -> None:
    client = kernel.client
    _, messages = shown(client, "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    assert any("image/png" in m["content"].get("data", {}) for m in messages)
    msg_id = client.execute("print('got', input('name? '))")
    assert client.get_stdin_msg(timeout=WAIT_S)["content"]["prompt"] == "name? "
    client.input("Eos")
    assert text(shown(client, "", msg_id=msg_id)[1]) == "got Eos\n"
    shown(client, "wonderful = 1")
    assert client.complete("wonder", reply=True, timeout=WAIT_S)["content"]["matches"] == ["wonderful"]
    assert evaluate(client, "import asyncio\nawait asyncio.sleep(0.01, 'slept')") == "'slept'"
    status, messages = shown(client, "1/0")
    assert (status, error_of(messages)["ename"]) == ("error", "ZeroDivisionError")
    info = client.kernel_info(reply=True, timeout=WAIT_S)["content"]
    assert info["language_info"]["name"] == "python"
    assert "visit" not in info["banner"]


def test_what_a_thread_prints_between_cells_arrives(kernel: Kernel) -> None:
    code = "import os, threading, time\ndef late():\n    time.sleep(0.3)\n    print('from a thread', flush=True)\n    os.write(1, b'from C\\n')\nthreading.Thread(target=late).start()"
    shown(kernel.client, code)
    printed = ""
    while "from a thread" not in printed or "from C" not in printed:
        message = kernel.client.get_iopub_msg(timeout=WAIT_S)
        printed += message["content"].get("text", "")


def test_widgets_and_comms_work_both_ways(kernel: Kernel) -> None:
    client = kernel.client
    code = "import ipywidgets\nslider = ipywidgets.IntSlider(value=3)\nslider"
    _, messages = shown(client, code)
    opened = [m["content"] for m in messages if m["msg_type"] == "comm_open"]
    model = next(content["comm_id"] for content in opened if content["data"]["state"].get("_model_name") == "IntSliderModel")
    change = {"comm_id": model, "data": {"method": "update", "state": {"value": 7}, "buffer_paths": []}}
    client.shell_channel.send(client.session.msg("comm_msg", change))
    while client.get_iopub_msg(timeout=WAIT_S)["content"].get("execution_state") != "idle":
        pass
    assert evaluate(client, "slider.value") == "7"


def test_nbclient_executes_a_notebook_and_the_job_ends_with_it(client: Client) -> None:
    cells = ["a = 6", "print(a * 7)", "import asyncio\nawait asyncio.sleep(0.1)\na"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    NotebookClient(notebook, kernel_name="kale-local", timeout=60).execute()
    assert notebook.cells[1].outputs[0].text == "42\n"
    assert notebook.cells[2].outputs[0].data["text/plain"] == "6"
    assert state_of(client) == "completed"


# -- interrupt, restart, shutdown


def test_interrupt_ends_the_running_cell_and_names_stay(kernel: Kernel) -> None:
    for loop in ("import time\nx = 1\nprint('in', flush=True)\nwhile True: time.sleep(0.01)", "import asyncio\nprint('in', flush=True)\nawait asyncio.sleep(600)"):
        msg_id = kernel.client.execute(loop)
        while kernel.client.get_iopub_msg(timeout=WAIT_S)["msg_type"] != "stream":
            pass
        kernel.manager.interrupt_kernel()
        reply = kernel.client.get_shell_msg(timeout=WAIT_S)
        assert reply["parent_header"]["msg_id"] == msg_id
        assert reply["content"]["ename"] in {"KeyboardInterrupt", "CancelledError"}
        wait_until_idle(kernel)
    assert evaluate(kernel.client, "x") == "1"
    kernel.client.control_channel.send(kernel.client.session.msg("interrupt_request", {}))  # nothing runs: nothing happens
    assert kernel.client.get_control_msg(timeout=WAIT_S)["content"]["status"] == "ok"
    assert evaluate(kernel.client, "x") == "1"


STUBBORN = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('in', flush=True)\nwhile True: time.sleep(0.01)"


@pytest.mark.parametrize("code", ["print('in')", "import time\nprint('in', flush=True)\nwhile True: time.sleep(0.01)", STUBBORN])
def test_restart_gives_a_fresh_kernel_in_the_same_job(client: Client, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setenv("KALE_KERNEL_CPUS", "2")
    with Kernel("kale-local") as kernel:
        shown(kernel.client, "import atexit, os, pathlib\nx = 1\n_ = atexit.register(pathlib.Path('left').touch)")
        before = evaluate(kernel.client, "os.getpid()")
        kernel.client.execute(code)
        while kernel.client.get_iopub_msg(timeout=WAIT_S)["msg_type"] != "stream":
            pass
        kernel.manager.restart_kernel()
        wait_until_ready(kernel.client)
        status, messages = shown(kernel.client, "x")
        assert (status, error_of(messages)["ename"]) == ("error", "NameError")
        assert evaluate(kernel.client, "import os\nos.getpid()") != before
        assert (len(client.runs()), state_of(client)) == (1, "running")
        assert Path("left").exists() is (code != STUBBORN)
        attempt = client.status(newest(client))["steps"]["kernel"]["attempt"]
        kernel.manager.restart_kernel()
        wait_until_ready(kernel.client)
        assert evaluate(kernel.client, "1 + 1") == "2"
        assert client.status(newest(client))["steps"]["kernel"]["attempt"] == attempt == 1
    assert state_of(client) == "completed"


def test_restart_in_the_queue_keeps_the_place(place: Path, client: Client, until: Until) -> None:
    workflow = Workflow("eos", folder=place)
    workflow.step("full", "import time\nfrom pathlib import Path\nwhile not Path('stop').exists(): time.sleep(0.01)", cpus=2)
    run = workflow.submit(client=client)
    until(lambda: run["full"].state == "running", "the machine to be full")
    with Kernel("kale-local") as kernel:
        until(lambda: newest(client) != run.name, "the job")
        mine = newest(client)
        kernel.manager.restart_kernel()
        wait_until_ready(kernel.client)
        (place / "stop").touch()
        assert evaluate(kernel.client, "1 + 1") == "2"
        assert newest(client) == mine


def test_shutdown_ends_the_job(client: Client, until: Until) -> None:
    with Kernel("kale-local") as kernel:
        shown(kernel.client, "import atexit, pathlib\n_ = atexit.register(pathlib.Path('left').touch)")
        launcher = kernel.manager.provisioner.process
    assert launcher.returncode == 0
    assert state_of(client) == "completed"
    assert Path("left").exists()


def test_shutdown_ends_code_that_cannot_be_interrupted(client: Client, until: Until) -> None:
    with Kernel("kale-local") as kernel:
        kernel.client.execute(STUBBORN)
        while kernel.client.get_iopub_msg(timeout=WAIT_S)["msg_type"] != "stream":
            pass
    until(lambda: state_of(client) == "cancelled", "the job's end")


def test_sigterm_ends_the_job_too(client: Client, until: Until) -> None:
    with Kernel("kale-local") as kernel:
        shown(kernel.client, "1")
        kernel.manager.provisioner.process.terminate()
        until(lambda: state_of(client) == "completed", "the job's end")


def test_exit_in_a_cell_ends_the_job_and_later_cells_say_how_to_go_on(kernel: Kernel, client: Client, until: Until) -> None:
    assert shown(kernel.client, "exit()")[0] == "ok"
    until(lambda: state_of(client) == "completed", "the job's end")
    status, messages = shown(kernel.client, "1")
    assert status == "error"
    assert error_of(messages)["ename"] == "KernelEnded"
    assert "exit() was called" in error_of(messages)["evalue"]
    assert "Restart the kernel" in error_of(messages)["evalue"]
    kernel.manager.restart_kernel()
    wait_until_ready(kernel.client)
    assert evaluate(kernel.client, "1 + 1") == "2"


def test_cell_that_ends_the_process_says_why_and_a_restart_goes_on(kernel: Kernel) -> None:
    status, messages = shown(kernel.client, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    assert status == "error"
    assert "segmentation fault" in error_of(messages)["evalue"]
    kernel.manager.restart_kernel()
    wait_until_ready(kernel.client)
    assert evaluate(kernel.client, "1 + 1") == "2"


# -- the launcher is lost


def kill(kernel: Kernel) -> None:
    process = kernel.manager.provisioner.process
    process.kill()
    process.wait()


def test_killed_launcher_leaves_the_job_which_is_listed_visited_and_cancelled(client: Client, place: Path, until: Until) -> None:
    with Kernel("kale-local") as kernel:
        shown(kernel.client, "x = 41")
        kill(kernel)
    run = newest(client)
    assert state_of(client, run) == "running"
    assert [(line["run"], line["state"]) for line in json.loads(kale(place, "runs", "--json").stdout)] == [(run, "running")]
    assert json.loads(kale(place, "status", run, "--json").stdout)["steps"]["kernel"]["state"] == "running"
    assert kale(place, "attach", f"{run}/kernel", "--exec", "print(x)").stdout == "41\n"
    name = json.loads(kale(place, "kernels", "install", f"{run}/kernel", "--main", "--json").stdout)["name"]
    with Kernel(name) as again:
        assert evaluate(again.client, "x + 1") == "42"
    assert state_of(client, run) == "running"
    kale(place, "cancel", run)
    until(lambda: state_of(client, run) == "cancelled", "the job's end")


def test_launcher_that_is_started_again_after_a_kill_takes_up_its_job(kernel: Kernel, client: Client) -> None:
    shown(kernel.client, "x = 41")
    kill(kernel)
    kernel.manager.restart_kernel(now=True)  # what the server does when it sees that a kernel has died
    wait_until_ready(kernel.client)
    assert evaluate(kernel.client, "x") == "41"
    assert len(client.runs()) == 1


def test_hang_up_leaves_the_job(client: Client) -> None:
    with Kernel("kale-local") as kernel:
        shown(kernel.client, "1")
        process = kernel.manager.provisioner.process
        process.send_signal(signal.SIGHUP)
        process.wait(WAIT_S)
    assert state_of(client) == "running"


def test_job_that_nobody_uses_ends_and_one_with_a_notebook_or_a_running_cell_does_not(
    client: Client, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KALE_KERNEL_IDLE", "2s")
    with Kernel("kale-local") as kernel:
        shown(kernel.client, "1")
        time.sleep(4)
        assert evaluate(kernel.client, "1 + 1") == "2"
        kernel.client.execute("import time\nfrom pathlib import Path\nprint('in', flush=True)\nwhile not Path('go').exists(): time.sleep(0.01)")
        while kernel.client.get_iopub_msg(timeout=WAIT_S)["msg_type"] != "stream":
            pass
        kill(kernel)
        end_agents(client)
    time.sleep(4)
    assert state_of(client) == "running"
    Path("go").touch()
    until(lambda: state_of(client) == "completed", "the job's end")
    assert client.status(newest(client))["steps"]["kernel"]["reason"] == "nobody had used its kernel for 2 s"


def end_agents(client: Client) -> None:
    """End the agent, which would wait 30 s for another client."""
    from tests.integration.test_relay import family, serves

    live = Path(client.where(newest(client), "kernel")["live"])
    for process in family(live):
        if serves(process.pid, live):
            process.kill()


def test_kernel_that_is_lost_comes_anew_and_the_next_cell_is_told(kernel: Kernel, client: Client, until: Until) -> None:
    shown(kernel.client, "x = 1")
    place = client.where(newest(client), "kernel")
    server = json.loads((Path(place["live"]).parent.parent / "serve.json").read_text())["pid"]
    pid = int(evaluate(kernel.client, "import os\nos.getpid()"))
    for process in (server, pid):
        os.kill(process, signal.SIGKILL)
    until(lambda: client.where(newest(client), "kernel")["live"] not in {None, place["live"]}, "another kernel")
    status, messages = shown(kernel.client, "x")
    assert (status, error_of(messages)["ename"]) == ("error", "NameError")
    assert "the variables of the one before are gone" in text(messages)


# -- the queue, and what is asked for


def test_cell_that_waits_in_the_queue_says_why(place: Path, client: Client, until: Until) -> None:
    workflow = Workflow("eos", folder=place)
    workflow.step("full", "import time\nfrom pathlib import Path\nwhile not Path('stop').exists(): time.sleep(0.01)", cpus=2)
    run = workflow.submit(client=client)
    until(lambda: run["full"].state == "running", "the machine to be full")
    began = time.monotonic()
    with Kernel("kale-local") as kernel:
        assert time.monotonic() - began < 10  # the front end sees a kernel that starts
        msg_id = kernel.client.execute("'here'")
        message: dict[str, Any] = {"msg_type": ""}
        while message["msg_type"] != "stream":
            message = kernel.client.get_iopub_msg(timeout=WAIT_S)
        assert f"The job of this kernel ({newest(client)}) is queued (waits for 1 of 2 cores); this cell waits." in message["content"]["text"]
        kernel.manager.interrupt_kernel()
        assert kernel.client.get_shell_msg(timeout=WAIT_S)["content"]["ename"] == "KeyboardInterrupt"
        wait_until_idle(kernel)
        msg_id = kernel.client.execute("'here'")
        (place / "stop").touch()
        assert shown(kernel.client, "", msg_id=msg_id)[0] == "ok"


def test_shutdown_while_it_waits_takes_the_job_out_of_the_queue(place: Path, client: Client, until: Until) -> None:
    workflow = Workflow("eos", folder=place)
    workflow.step("full", "import time\nfrom pathlib import Path\nwhile not Path('stop').exists(): time.sleep(0.01)", cpus=2)
    run = workflow.submit(client=client)
    until(lambda: run["full"].state == "running", "the machine to be full")
    with Kernel("kale-local"):
        until(lambda: newest(client) != run.name, "the job")
    assert state_of(client) == "cancelled"


def test_resources_are_those_of_the_kernelspec_and_the_environment_wins(
    place: Path, client: Client, kale_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = kale_home / "data/kernels/kale-local/kernel.json"
    spec = json.loads(file.read_text())
    spec["metadata"]["kale"]["resources"] = {"cpus": 1, "memory": "600MB", "walltime": "00:20:00"}
    mine = kale_home / "data/kernels/mine"
    mine.mkdir()
    (mine / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("KALE_KERNEL_WALLTIME", "00:10:00")
    with Kernel("mine") as kernel:
        job = Path(evaluate(kernel.client, "import os\nos.environ['KALE_STEP_FOLDER']").strip("'"))
        limits = json.loads((job / "job.json").read_text())["limits"]
    assert (limits["cpus"], limits["memory_bytes"], limits["walltime_s"]) == (1, 600 << 20, 600)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("KALE_KERNEL_CPUS", "two", "KALE_KERNEL_CPUS='two' is not a whole number"),
        ("KALE_KERNEL_CPUS", "100000", "asks for 100000 cores"),
        ("KALE_KERNEL_MEMORY", "4 apples", "KALE_KERNEL_MEMORY='4 apples' is not an amount of memory"),
    ],
)
def test_what_cannot_be_had_is_one_sentence_under_the_cell_and_in_the_log(
    client: Client, monkeypatch: pytest.MonkeyPatch, place: Path, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with (place / "log").open("w") as log, started(stderr=log) as kernel:
        status, messages = shown(kernel.client, "1")
        assert status == "error"
        assert said in error_of(messages)["evalue"]
        assert error_of(messages)["traceback"] == [f"KernelEnded: {error_of(messages)['evalue']}"]
    assert said in (place / "log").read_text()
    assert client.runs() == []


@contextlib.contextmanager
def started(**options: Any) -> Iterator[Kernel]:
    """A kernel whose launcher gets these options of Popen."""
    kernel = Kernel("kale-local")
    kernel.manager.start_kernel(**options)
    kernel.client = kernel.manager.client()
    kernel.client.start_channels()
    wait_until_ready(kernel.client)
    try:
        yield kernel
    finally:
        kernel.__exit__()


def test_walltime_ends_the_job_and_says_so(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KALE_KERNEL_WALLTIME", "6s")
    with Kernel("kale-local") as kernel:
        shown(kernel.client, "import time\ntime.sleep(2)")
        kernel.manager.restart_kernel()
        wait_until_ready(kernel.client)
        status, messages = shown(kernel.client, "import time\ntime.sleep(600)")
        assert status == "error"
        assert "walltime of 00:00:06 was reached" in error_of(messages)["evalue"]
        step = client.status(newest(client))["steps"]["kernel"]
        began, ended = (datetime.fromisoformat(step[key]) for key in ("started_at", "ended_at"))
        assert (ended - began).total_seconds() < 8  # a restart does not begin it anew
        assert kernel.manager.is_alive()  # so that no front end restarts it by itself


def test_two_notebooks_have_two_jobs(kernel: Kernel, client: Client) -> None:
    shown(kernel.client, "x = 1")
    with Kernel("kale-local") as other:
        assert shown(other.client, "x")[0] == "error"
        with pytest.raises(Empty):
            kernel.client.get_iopub_msg(timeout=0.3)
    assert evaluate(kernel.client, "x") == "1"
    assert isinstance(kernel.manager, KernelManager)
