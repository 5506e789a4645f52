"""Front ends that nobody here wrote, on a busy step: papermill, nbclient, jupyter console, and several at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

import nbformat
import pexpect
import pytest
from nbclient import NotebookClient

from kale_magic.api import connect
from tests import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kale_magic.api import Kale, Run


@pytest.fixture
def kale() -> Iterator[Kale]:
    with steps.private_jupyter(), connect() as kale:
        yield kale


@pytest.fixture
def run(kale: Kale, tmp_path: Path) -> Iterator[Run]:
    """A run whose step counts; it must still do so after the test."""
    run = steps.busy(tmp_path, kale)
    yield run
    assert steps.goes_on(run)
    run.cancel()


@pytest.mark.parametrize("kernel", ["", "python3"])
def test_visitor_of_a_stopped_step_sees_what_it_prints(kale: Kale, tmp_path: Path, kernel: str, until: Callable[..., Any]) -> None:
    run = steps.busy(tmp_path, kale, **({"kernel": kernel} if kernel else {}))
    run["md"].stop()
    until(lambda: run["md"].state == "paused", "the hold", 60)
    with steps.Kernel(steps.install(run).name) as client:
        reply, messages = client.run("print(n >= 0)")
        assert (reply["status"], steps.text(messages)) == ("ok", "True\n")
    run.cancel()


# -- notebooks that are executed as a whole


def notebook_of(folder: Path, kernel: str, cells: list[str], *, has_parameters: bool = False) -> Path:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in cells])
    notebook.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
    if has_parameters:
        notebook.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, folder / "in.ipynb")
    return folder / "in.ipynb"


def test_papermill_executes_a_parameterised_notebook(run: Run, tmp_path: Path) -> None:
    source = notebook_of(tmp_path, steps.install(run).name, ["k = 1", "print(k, n > 0)", "n * k"], has_parameters=True)
    call = [sys.executable, "-m", "papermill", str(source), str(tmp_path / "out.ipynb"), "-p", "k", "7", "--no-progress-bar"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    assert cells[2].outputs[0].text == "7 True\n"
    assert int(cells[3].outputs[0].data["text/plain"]) % 7 == 0


def test_papermill_tells_a_cell_that_fails(run: Run, tmp_path: Path) -> None:
    source = notebook_of(tmp_path, steps.install(run).name, ["1 / 0", "print('never')"])
    call = [sys.executable, "-m", "papermill", str(source), str(tmp_path / "out.ipynb"), "--no-progress-bar"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stderr
    assert nbformat.read(tmp_path / "out.ipynb", as_version=4).cells[-1].outputs == []


def test_nbclient_executes_and_says_that_it_can_not_answer_input(run: Run, tmp_path: Path) -> None:
    source = notebook_of(tmp_path, steps.install(run).name, ["here = n", "n >= here", "input('name? ')"])
    notebook = nbformat.read(source, as_version=4)
    NotebookClient(notebook, timeout=60, allow_errors=True).execute()
    assert notebook.cells[1].outputs[0].data["text/plain"] == "True"
    assert notebook.cells[2].outputs[0].ename == "StdinNotImplementedError"


# -- much data


@pytest.mark.parametrize(("count", "size"), [(100, 1 << 20), (1, 100 << 20)])
def test_hundred_megabytes_of_display_data_come_whole_and_in_order(run: Run, count: int, size: int) -> None:
    code = f"from IPython.display import display\nfor k in range({count}):\n    display({{'text/plain': f'{{k:3}}' + 'x' * {size}}}, raw=True)"
    with steps.Kernel(steps.install(run).name) as kernel:
        reply, messages = kernel.run(code)
        data = [m["content"]["data"]["text/plain"] for m in messages if m["msg_type"] == "display_data"]
        assert reply["status"] == "ok"
        assert [int(item[:3]) for item in data] == list(range(count))
        assert {len(item) for item in data} == {size + 3}
        assert kernel.run("1")[0]["status"] == "ok"


# -- a console in a terminal


class Console:
    """``jupyter console`` in a pseudo-terminal that nobody looks at."""

    def __init__(self, *of: str) -> None:
        environment = os.environ | {"TERM": "dumb", "PROMPT_TOOLKIT_NO_CPR": "1"}
        arguments = ["-m", "jupyter_console", *of, "--simple-prompt", "--ZMQTerminalInteractiveShell.kernel_timeout=60"]
        self.terminal = pexpect.spawn(sys.executable, arguments, env=environment, encoding="utf-8", timeout=60, echo=False)

    def __enter__(self) -> Self:
        self.terminal.expect(r"In \[\d+\]: ")
        return self

    def __exit__(self, *_: object) -> None:
        self.terminal.close(force=True)

    def run(self, line: str, expected: str = "") -> str:
        """Type a line, and return what stands before the next prompt, or before what is expected."""
        self.terminal.sendline(line)
        self.terminal.expect(expected or r"In \[\d+\]: ")
        return self.terminal.before


def test_console_computes_asks_completes_and_leaves(run: Run) -> None:
    with Console("--existing", str(run["md"].connection_file())) as console:
        assert "True" in console.run("n > 0")
        console.run("name = input('who? ')", r"who\? ")
        console.run("Eos")
        assert "'Eos'" in console.run("name")
        assert "ZeroDivisionError" in console.run("1 / 0")
        console.terminal.sendline("exit")
        console.terminal.expect(pexpect.EOF)


def test_interrupt_key_of_a_console_ends_its_own_cell(run: Run) -> None:
    """Of a kernel that it has started, that is; with --existing, jupyter console declines to interrupt."""
    with Console("--kernel", steps.install(run).name) as console:
        console.run(r"exec('print(40 + 2, flush=True)\nwhile True: pass')", "42\r\n")
        console.terminal.sendintr()
        console.terminal.expect("KeyboardInterrupt")
        console.terminal.expect(r"In \[\d+\]: ")
        assert "3" in console.run("1 + 2")


def test_two_notebooks_and_a_console_at_once(run: Run, tmp_path: Path) -> None:
    loop = "import time\nfor k in range(40):\n    print('{0}', k)\n    time.sleep(0.02)"
    name = steps.install(run).name
    with steps.Kernel(name) as one, steps.Kernel(name) as two, Console("--existing", str(run["md"].connection_file())) as console:
        cells = [kernel.client.execute(loop.format(word)) for kernel, word in ((one, "one"), (two, "two"))]
        shown = console.run("[print('three', k) for k in range(40)] and None")
        for kernel, cell, word in ((one, cells[0], "one"), (two, cells[1], "two")):
            assert steps.text(kernel.output(cell)) == "".join(f"{word} {k}\n" for k in range(40))
            assert kernel.reply(cell)["status"] == "ok"
        assert "three 39" in shown
        assert not re.search("one|two|step", shown)
        one.run("mine = 1")
        assert two.run("mine")[0]["ename"] == "NameError"
        assert "NameError" in console.run("mine")


# -- what a front end asks while one types


def test_completion_inspection_and_history(run: Run) -> None:
    with steps.Kernel(steps.install(run).name) as kernel:
        client = kernel.client
        kernel.run("wonderful = n")
        assert kernel.reply(client.complete("wonder"))["matches"] == ["wonderful"]
        found = kernel.reply(client.inspect("wonderful"))
        assert found["found"]
        assert "int" in found["data"]["text/plain"]
        history = kernel.reply(client.history(hist_access_type="range", output=False))["history"]
        assert history[-1][2] == "wonderful = n"
        answers = kernel.client.execute("print(input('name? '))", allow_stdin=True)
        assert client.get_stdin_msg(timeout=steps.WAIT_S)["content"]["prompt"] == "name? "
        client.input("Eos")
        assert steps.text(kernel.output(answers)) == "Eos\n"
