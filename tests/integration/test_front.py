"""The kernel ``kale`` with clients that nobody here wrote: attach, switch, detach, a cell elsewhere, in any language."""

from __future__ import annotations

import json
import signal
import sys
import time
from queue import Empty
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from kale_magic.api import Workflow
from kale_magic.client import Client
from kale_magic.kernels import general
from tests.integration.test_relay import WAIT_S, Kernel, agents, evaluate, goes_on, shown, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COUNTER = "import time\nn = {0}\nwhile True:\n    n += 1\n    time.sleep(0.005)\n"
FIRST = {"a": 0, "b": 10**6, "c": 10**9}


@pytest.fixture
def client(kale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A manager of one's own, and the kernel ``kale`` where Jupyter looks."""
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(kale_home / "data"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(kale_home / "rt"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    monkeypatch.setenv("KALE_CPUS", "12")  # steps that count and sleep
    (kale_home / "rt").mkdir()
    general.install()
    with Client.connect() as client:
        yield client


@pytest.fixture
def run(client: Client, tmp_path: Path, until: Callable[..., Any]) -> Any:
    """A run of three steps that count from different numbers."""
    workflow = Workflow("eos", folder=tmp_path)
    for name, first in FIRST.items():
        workflow.step(name, COUNTER.format(first))
    run = workflow.submit(client=client)
    until(lambda: all(run[name].target().kernel is not None for name in FIRST), "three kernels")
    return run


@pytest.fixture
def kernel(client: Client) -> Iterator[Kernel]:
    assert client is not None
    with Kernel("kale") as kernel:
        yield kernel


def say(kernel: Kernel, code: str) -> str:
    """Run a cell that must succeed and return what it printed."""
    status, messages = shown(kernel.client, code)
    assert status == "ok", messages
    return text(messages)


def fails(kernel: Kernel, code: str) -> tuple[str, str]:
    """Run a cell that must fail and return the error's name and sentence."""
    status, messages = shown(kernel.client, code)
    assert status == "error", messages
    content = next(m["content"] for m in messages if m["msg_type"] == "error")
    return content["ename"], content["evalue"]


# -- attach, switch, detach


def test_attach_switch_and_detach(kernel: Kernel, run: Any) -> None:
    assert fails(kernel, "n")[0] == "NotAttached"
    listed = shown(kernel.client, "%kale_tasks")[1]
    table = next(m["content"]["data"] for m in listed if m["msg_type"] == "display_data")
    assert [line.split()[:3] for line in table["text/plain"].split("\n")[1:]] == [[run.name, name, "running"] for name in FIRST]
    assert "<table" in table["text/html"]
    assert say(kernel, "# look\n%kale_attach a").startswith(f"Attached to {run.name}/a (python)")
    assert 0 < int(evaluate(kernel.client, "n")) < 10**6
    say(kernel, "mine = 1")
    assert goes_on(kernel.client)
    assert f"Attached to {run.name}/a since" in say(kernel, "%kale_status")
    assert int(evaluate(kernel.client, f"%kale_attach {run.name}/b\nn")) > 10**6
    assert fails(kernel, "mine")[0] == "NameError"
    assert say(kernel, "%kale_detach") == f"Detached from {run.name}/b; the code there goes on.\n"
    assert fails(kernel, "n")[0] == "NotAttached"
    assert "Nothing is attached" in say(kernel, "%kale_status")


def test_start_and_list_are_quick(client: Client, run: Any) -> None:
    with Kernel("kale") as kernel:
        begun = time.monotonic()
        kernel.client.kernel_info(reply=True, timeout=WAIT_S)
        say(kernel, "%kale_tasks")
        assert time.monotonic() - begun < 1.0
        info = kernel.client.kernel_info(reply=True, timeout=WAIT_S)["content"]
        assert (info["implementation"], info["status"]) == ("kale", "ok")
        assert "%kale_tasks" in info["banner"]


def test_modes(kernel: Kernel, run: Any, until: Callable[..., Any]) -> None:
    say(kernel, "%kale_attach a --write\nn = -10**6")
    assert int(evaluate(kernel.client, "%kale_attach a\nn")) < 0
    assert "after its code" in say(kernel, "%kale_attach b --main")
    msg_id = kernel.client.execute("n, 'behind'")
    with pytest.raises(Empty):
        kernel.client.get_shell_msg(timeout=0.5)
    run["b"].stop()
    assert shown(kernel.client, "", msg_id=msg_id)[0] == "aborted"  # as any cell behind one that fails
    assert evaluate(kernel.client, "'behind'") == "'behind'"


def test_kernel_info_completion_and_inspection_follow_what_is_attached(kernel: Kernel, run: Any) -> None:
    client = kernel.client
    assert client.complete("n.bit_le", reply=True, timeout=WAIT_S)["content"]["matches"] == []
    assert not client.inspect("n", reply=True, timeout=WAIT_S)["content"]["found"]
    steps = client.complete("%kale_attach ", reply=True, timeout=WAIT_S)["content"]
    assert steps["matches"][:6] == [*FIRST, *(f"{run.name}/{name}" for name in FIRST)]
    assert client.complete("%kale_att", reply=True, timeout=WAIT_S)["content"]["matches"] == ["%kale_attach"]
    assert "--write" in client.inspect("%kale_attach a", 4, reply=True, timeout=WAIT_S)["content"]["data"]["text/plain"]
    say(kernel, "%kale_attach a\nwonderful = 1")
    assert client.complete("wonder", reply=True, timeout=WAIT_S)["content"]["matches"] == ["wonderful"]
    assert client.complete("%kale_tasks\nwonder", reply=True, timeout=WAIT_S)["content"]["matches"] == ["wonderful"]
    assert client.inspect("wonderful", reply=True, timeout=WAIT_S)["content"]["found"]
    assert client.kernel_info(reply=True, timeout=WAIT_S)["content"]["implementation"] == "ipython"
    say(kernel, "%%kale_on b\nelsewhere = 1")
    found = client.complete("%%kale_on b\nelsew", reply=True, timeout=WAIT_S)["content"]
    assert (found["matches"], found["cursor_start"]) == (["elsewhere"], 12)


@pytest.mark.parametrize("asked", ["%kale_attach -h", "%kale_attach?", "?%kale_attach", "%kale attach --help"])
def test_help(kernel: Kernel, asked: str) -> None:
    assert say(kernel, asked).startswith("%kale_attach STEP")


def test_mistakes_are_one_sentence_each(kernel: Kernel, client: Client, run: Any, tmp_path: Path, until: Callable[..., Any]) -> None:
    workflow = Workflow("others", folder=tmp_path)
    workflow.step("a", COUNTER.format(0))
    workflow.step("done", "x = 1")
    workflow.step("sh", "sleep 600", shell=True)
    workflow.step("sweep", COUNTER.format(0), each={"p": [1, 2]})
    others = workflow.submit(client=client)
    until(lambda: others.states()["done"] == "completed", "the end of a step")
    for line, name, sentence in (
        ("%kale_attach nonesuch", "UnknownStepError", "There are:"),
        ("%kale_attach eos-19990101-0000/a", "UnknownRunError", "No run"),
        ("%kale_attach a", "UsageError", "a is live in 2 runs. Say which:"),
        ("%kale_attach done", "UsageError", "its kernel is gone. Look at what it left"),
        ("%kale_attach sh", "UsageError", "is a shell step: it has no kernel"),
        ("%%kale_on sh\nx", "UsageError", "is a shell step: it has no kernel"),
        ("%kale_attach sweep", "UsageError", "sweep has 2 points. Say which: sweep[p=1], sweep[p=2]"),
        ("%kale_attach 'a b'", "UsageError", "does not name a step"),
        ("%%kale_on nonesuch/*\nx", "UnknownRunError", "No run"),
        ("%kale_tasks --host nonesuch.invalid", "ManagerUnavailable", "nonesuch.invalid"),
    ):
        ename, said = fails(kernel, line)
        assert (ename, sentence in said, "\n" in said) == (name, True, False), (line, said)


# -- waiting


def test_attach_waits_for_a_step_says_for_what_and_is_interrupted(
    kernel: Kernel, client: Client, tmp_path: Path, until: Callable[..., Any]
) -> None:
    workflow = Workflow("late", folder=tmp_path)
    workflow.step("first", "import time\nfrom pathlib import Path\nwhile not Path('go').exists():\n    time.sleep(0.01)\n")
    workflow.step("second", COUNTER.format(5), after=["first"])
    run = workflow.submit(client=client)
    msg_id = kernel.client.execute("%kale_attach second")
    behind = kernel.client.execute("print('never')")
    while "is waiting (waits for `first`); %kale_attach waits" not in text([kernel.client.get_iopub_msg(timeout=WAIT_S)]):
        pass
    kernel.manager.interrupt_kernel()
    replies = [kernel.client.get_shell_msg(timeout=WAIT_S) for _ in range(2)]
    assert [(reply["parent_header"]["msg_id"], reply["content"]["status"]) for reply in replies] == [(msg_id, "error"), (behind, "aborted")]
    while True:
        message = kernel.client.get_iopub_msg(timeout=WAIT_S)
        if message["parent_header"]["msg_id"] == behind and message["content"].get("execution_state") == "idle":
            break
    assert "Nothing is attached" in say(kernel, "%kale_status")
    assert fails(kernel, "%kale_attach second --timeout 0.1")[0] == "JobTimeout"
    msg_id = kernel.client.execute("%kale_attach second\nn > 4")
    (tmp_path / "go").touch()
    assert shown(kernel.client, "", msg_id=msg_id)[0] == "ok"
    assert run.states()["second"] == "running"


# -- elsewhere


def test_cell_on_another_step_and_on_all(kernel: Kernel, run: Any) -> None:
    say(kernel, "%kale_attach a")
    assert int(evaluate(kernel.client, "%%kale_on b\nhere = n\nn")) > 10**6
    assert int(evaluate(kernel.client, "# again\n%%kale_attach b\nhere")) > 10**6
    assert fails(kernel, "here")[0] == "NameError"
    assert "Visited by %%kale_on" in say(kernel, "%kale_status")
    status, messages = shown(kernel.client, "%%kale_on *\nprint('hi')\nn")
    assert status == "ok"
    printed = "".join(m["content"].get("text", "") or m["content"].get("data", {}).get("text/plain", "") + "\n" for m in messages if m["msg_type"] in {"stream", "display_data"})
    lines = printed.split("\n")
    assert lines[0::3][:3] == [f"── {run.name}/{name}" for name in FIRST]
    assert lines[1::3] == ["hi"] * 3
    for line, first in zip(lines[2::3], FIRST.values(), strict=False):
        assert first < int(line) < first + 10**6
    assert say(kernel, "%kale_detach *").startswith("Detached from")


def test_one_failing_step_does_not_stop_the_others(kernel: Kernel, run: Any) -> None:
    code = f"%%kale_on {run.name}/*\nassert not 10**6 <= n < 10**9, 'mine'\nprint('fine')"
    status, messages = shown(kernel.client, code)
    assert status == "error"
    assert text(messages).count("fine\n") == 2
    assert "AssertionError" in text(messages)
    error = next(m["content"] for m in messages if m["msg_type"] == "error")
    assert error["evalue"] == f"The cell failed in 1 of 3 steps: {run.name}/b (AssertionError: mine)."


def test_all_run_side_by_side_and_deadline_and_interrupt_end_them(kernel: Kernel, run: Any) -> None:
    say(kernel, "%%kale_on *\nimport time")
    begun = time.monotonic()
    say(kernel, "%%kale_on *\ntime.sleep(1)")
    assert time.monotonic() - begun < 2.5
    status, messages = shown(kernel.client, "%%kale_on * --timeout 0.5\nif n > 10**9:\n    while True: time.sleep(0.01)\nprint('fine')")
    assert (status, text(messages).count("fine\n")) == ("error", 2)
    assert "was not done within 0.5 s" in text(messages)
    msg_id = kernel.client.execute("%%kale_on *\nprint('in')\nwhile True: time.sleep(0.01)")
    time.sleep(0.5)
    begun = time.monotonic()
    kernel.manager.interrupt_kernel()
    status, messages = shown(kernel.client, "", msg_id=msg_id)
    assert time.monotonic() - begun < 2.0
    assert next(m["content"]["ename"] for m in messages if m["msg_type"] == "error") == "KeyboardInterrupt"
    assert fails(kernel, "%%kale_on b --timeout 0.3\nwhile True: time.sleep(0.01)")[0] == "KeyboardInterrupt"
    assert set(run.states().values()) == {"running"}


# -- all else passes


def test_input_is_asked_through_it(kernel: Kernel, run: Any) -> None:
    for head in ("%kale_attach a", "%%kale_on b"):
        msg_id = kernel.client.execute(f"{head}\nprint('got', input('name? '))")
        assert kernel.client.get_stdin_msg(timeout=WAIT_S)["content"]["prompt"] == "name? "
        kernel.client.input("Eos")
        assert text(shown(kernel.client, "", msg_id=msg_id)[1]).endswith("got Eos\n")


@pytest.mark.parametrize("head", ["%kale_attach a", "%kale_attach a\n%%kale_on b"])
def test_widgets_work_both_ways(kernel: Kernel, run: Any, head: str) -> None:
    client = kernel.client
    code = f"{head}\nimport ipywidgets\nslider = ipywidgets.IntSlider(3)\nslider.observe(lambda c: label.set_trait('value', str(c['new'])), 'value')\nlabel = ipywidgets.Label('')\nslider"
    status, messages = shown(client, code)
    assert status == "ok", messages
    opened = {m["content"]["data"]["state"].get("_model_name"): m["content"]["comm_id"] for m in messages if m["msg_type"] == "comm_open"}
    data = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    client.shell_channel.send(client.session.msg("comm_msg", {"comm_id": opened["IntSliderModel"], "data": data}))
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        message = client.get_iopub_msg(timeout=WAIT_S)
        if message["content"].get("comm_id") == opened["LabelModel"]:
            break
    assert message["content"]["data"]["state"] == {"value": "7"}


def test_interrupt_ends_the_cell_and_restart_and_shutdown_detach(kernel: Kernel, run: Any, until: Callable[..., Any]) -> None:
    say(kernel, "%kale_attach a\nmine = 1")
    kernel.client.execute("import time\nprint('in')\nwhile True:\n    time.sleep(0.01)")
    for send in (kernel.manager.interrupt_kernel, lambda: kernel.manager.provisioner.process.send_signal(signal.SIGINT)):
        while kernel.client.get_iopub_msg(timeout=WAIT_S)["msg_type"] != "stream":
            pass
        send()
        assert kernel.client.get_shell_msg(timeout=WAIT_S)["content"]["ename"] == "KeyboardInterrupt"
        kernel.client.execute("print('in')\nwhile True:\n    time.sleep(0.01)")
    kernel.manager.restart_kernel()
    kernel.client.wait_for_ready(timeout=WAIT_S)
    until(lambda: "Nothing is attached" in say(kernel, "%kale_status"), "a fresh kernel")
    assert fails(kernel, "%kale_attach a\nmine")[0] == "NameError"
    assert goes_on(kernel.client)
    process = kernel.manager.provisioner.process
    assert kernel.client.shutdown(reply=True, timeout=WAIT_S)["content"] == {"status": "ok", "restart": False}
    until(lambda: process.poll() is not None, "the kernel's end")
    assert process.returncode == 0
    assert set(run.states().values()) == {"running"}


def test_killed_agent_costs_no_line_and_the_status_says_when_the_step_is_over(
    kernel: Kernel, run: Any, until: Callable[..., Any]
) -> None:
    say(kernel, "%kale_attach a")
    msg_id = kernel.client.execute("import time\nfor k in range(60):\n    print(k, flush=True)\n    time.sleep(0.02)")
    until(lambda: agents(Only(run, "a")), "an agent")[0].kill()
    status, messages = shown(kernel.client, "", msg_id=msg_id)
    assert (status, text(messages).split()) == ("ok", [*map(str, range(60))])
    run["a"].cancel()
    until(lambda: "which is over" in say(kernel, "%kale_status"), "the end of the step")
    name, sentence = fails(kernel, "n")
    assert name == "StepEnded"
    assert "its kernel is gone" in sentence
    assert int(evaluate(kernel.client, "%kale_attach b\nn")) > 10**6


class Only:
    """A run whose step md is another one: what helpers of the relay's tests look at."""

    def __init__(self, run: Any, step: str) -> None:
        self._step = run[step]

    def __getitem__(self, _: str) -> Any:
        return self._step


def test_two_notebooks_at_once(kernel: Kernel, run: Any) -> None:
    with Kernel("kale") as second:
        say(kernel, "%kale_attach a\nmine = 'one'")
        say(second, "%kale_attach a")
        assert fails(second, "mine")[0] == "NameError"
        loop = "import time\nfor k in range(20):\n    print('{0}', k)\n    time.sleep(0.02)"
        first_id, second_id = kernel.client.execute(loop.format("one")), second.client.execute(loop.format("two"))
        for one, msg_id, word in ((kernel, first_id, "one"), (second, second_id, "two")):
            assert text(shown(one.client, "", msg_id=msg_id)[1]) == "".join(f"{word} {k}\n" for k in range(20))
        say(second, "%kale_detach")
        assert evaluate(kernel.client, "mine") == "'one'"


def test_bash_step_is_told_apart_and_left_alone(kernel: Kernel, client: Client, kale_home: Path, tmp_path: Path, until: Callable[..., Any]) -> None:
    """It has one shell, and says that it has subshells: a cell beside its code took its output, and it failed."""
    pytest.importorskip("bash_kernel", reason="needs bash_kernel: pip install bash_kernel")
    folder = kale_home / "data/kernels/bash"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Bash", "language": "bash"}))
    workflow = Workflow("shells", folder=tmp_path)
    workflow.step("sh", "until [ -e go ]; do echo begun; sleep 0.05; done\necho whole\n", kernel="bash")
    run = workflow.submit(client=client)
    assert "(bash): cells run in its kernel, after its code" in say(kernel, "%kale_attach sh")
    info = kernel.client.kernel_info(reply=True, timeout=WAIT_S)["content"]
    assert info["language_info"]["name"] == "bash"
    until(lambda: "begun" in run["sh"].logs(), "the step's first line")
    waiting = kernel.client.execute("%kale_status\necho visitor")
    with pytest.raises(Empty):
        kernel.client.get_shell_msg(timeout=1)
    (tmp_path / "go").touch()
    printed = text(shown(kernel.client, "", msg_id=waiting)[1])
    assert "Attached to" in printed
    assert "a cell waits until the step's code is done" in printed
    until(lambda: run.states()["sh"] == "completed", "the end of the step")
    lines = run["sh"].logs().split()
    assert lines == ["begun"] * (len(lines) - 1) + ["whole"]


# -- programs


def test_nbclient_runs_a_notebook_and_stops_at_a_mistake(run: Any) -> None:
    cells = ["%kale_tasks", f"%kale_attach {run.name}/a", "n < 10**6", "%kale_attach b", "n > 10**6", "%%kale_on c\nprint(n > 10**8)"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    NotebookClient(notebook, kernel_name="kale", timeout=60).execute()
    assert notebook.cells[2].outputs[0].data["text/plain"] == notebook.cells[4].outputs[0].data["text/plain"] == "True"
    assert notebook.cells[5].outputs[0].text == "True\n"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in ("%kale_attach nonesuch", "print('never')")])
    with pytest.raises(CellExecutionError, match="UnknownStepError"):
        NotebookClient(notebook, kernel_name="kale", timeout=60).execute()
    assert set(run.states().values()) == {"running"}


def test_gate_is_opened_and_a_question_answered_from_this_kernel(client: Client, kernel: Kernel, tmp_path: Path, until: Callable[..., Any]) -> None:
    workflow = Workflow("gated", folder=tmp_path)
    workflow.step("choose", "answer = input('how many? ')\n", gate=True, params={"x": 0}, outputs=["answer", "x"])
    workflow.step("later", "1\n", gate_release=True)
    run = workflow.submit(client=client)
    until(lambda: run["choose"].state == "gated" and run["choose"].target().kernel is not None, "the gate")
    say(kernel, "%kale_attach choose")
    assert fails(kernel, "%kale_continue choose --answer 3")[1].endswith("is at a gate and asks no question. Give it variables: --set x=3.")
    assert "goes on with x=7" in say(kernel, "%kale_continue --set x=7")
    until(lambda: "asks" in run["choose"].reason, "the question")
    name, sentence = fails(kernel, "%kale_continue choose")
    assert (name, "asks: how many?" in sentence, "--answer TEXT" in sentence) == ("UsageError", True, True)
    assert run["choose"].state == "gated"
    assert "goes on" in say(kernel, "%kale_continue choose --answer 42")
    assert "goes on, and is queued" in say(kernel, "%kale_continue later")
    assert run.wait(timeout=WAIT_S) == "completed"
    assert run["choose"].pull("answer", "x") == ("42", 7)
    assert "waits for nobody" in fails(kernel, f"%kale_continue {run.name}/later")[1]


def test_continue_with_nothing_attached_asks_for_a_step(kernel: Kernel) -> None:
    assert "needs a step" in fails(kernel, "%kale_continue")[1]
    assert "--answer" in say(kernel, "%kale_continue -h")
