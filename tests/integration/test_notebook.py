"""The magics in a real kernel with the real manager: what a scientist sees under each cell."""

from __future__ import annotations

import json
import os
import queue
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from jupyter_client import BlockingKernelClient, KernelManager
    from nbformat import NotebookNode

    CellText = Callable[[NotebookNode], str]

LOOP = "import time\nfor i in range(2000):\n    xs = list(range(i))\n    time.sleep(0.02)"


def displays(cell: NotebookNode) -> list[Any]:
    return [output for output in cell.outputs if output.output_type == "display_data"]


def test_newcomers_notebook_from_declaration_to_export(
    notebook_runner: Callable[..., NotebookNode], cell_text: CellText, tmp_path: Path
) -> None:
    cells = notebook_runner([
        "%load_ext kale_magic\n%kale_workflow eos",
        "%%kale_common\nimport numpy as np",
        "# a sweep\n%%kale_step curve --each metal=['Al', 'Cu', 'Ni'] --outputs e\n'''Energy of one metal.'''\ne = np.full(3, len(metal))\nprint(metal)",
        "%%kale_step scan --outputs total\nimport time\nfor i in range(80):\n    total = sum(map(np.sum, e)) + i\n    time.sleep(0.02)",
        "%kale_show",
        "run = %kale_submit\nrun.name",
        "%%kale_attach scan\nwhile 'i' not in globals():\n    pass\nseen = i\nprint('at', seen)",
        "%%kale_attach scan\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nseen",
        "%kale_vars scan",
        "%kale_pull scan i --as now\n0 < now < 80",
        "%kale_wait --timeout 60",
        "%kale_status",
        "%kale_pull curve e\n%kale_pull scan total\n%kale_pull curve[metal=Cu] e --as cu\nprint(len(e), total, cu)",
        "%kale_logs curve",
        "%kale_resources scan",
        "%kale_export eos.yaml",
        "%kale_import eos.yaml",
    ]).cells  # fmt: skip
    text = [cell_text(cell) for cell in cells]
    assert "step curve declared (3 points)" in text[2]
    assert 'data-kale-step="scan"' in displays(cells[4])[0].data["text/html"]
    live = displays(cells[5])
    assert len(live) == 1
    assert "2 of 2 steps completed" in live[0].data["text/plain"]
    assert 'data-kale-state="completed"' in live[0].data["text/html"]
    assert "at " in text[6]
    assert "image/png" in displays(cells[7])[0].data
    assert int(displays(cells[7])[1].data["text/plain"]) == int(text[6].split()[-1])
    assert "numpy.ndarray" in text[8] or "list" in text[8]
    assert "True" in text[9]
    assert "completed" in text[10]
    assert "3/3" in text[11]
    assert "3 97 [2 2 2]" in text[12]
    assert text[13].splitlines() == [
        "==> curve[0] (metal=Al) <==", "Al", "==> curve[1] (metal=Cu) <==", "Cu", "==> curve[2] (metal=Ni) <==", "Ni",
    ]  # fmt: skip
    assert "peak: " in text[14]
    assert "metal:" in (tmp_path / "eos.yaml").read_text()
    assert "workflow eos (2 steps) replaced" in text[16]


def test_failure_is_shown_with_its_traceback_and_its_reason_downstream(
    notebook_runner: Callable[..., NotebookNode], cell_text: CellText
) -> None:
    cells = notebook_runner(
        [
            "%load_ext kale_magic",
            "%%kale_step bad --outputs b\nprint('before')\nb = 1 / 0",
            "%%kale_step after\nprint(b)",
            "%kale_submit --wait",
            "%kale_logs bad",
            "%kale_pull bad b",
            "%%kale_step bad --outputs b --run\nprint('hello')\nb = 3",
        ],
        allow_errors=True,
    ).cells
    text = [cell_text(cell) for cell in cells]
    assert "b = 1 / 0" in text[3].replace("\x1b[32m", "").replace("\x1b[39m", "")
    assert "`after` needs `bad`" in text[3]
    error = cells[3].outputs[-1]
    assert error.ename == "StepFailed"
    assert len(error.traceback) == 1
    assert "bad failed: ZeroDivisionError: division by zero" in error.traceback[0]
    assert text[4].startswith("before")
    assert "ZeroDivisionError" in text[4]
    assert "it has left no values" in text[5]
    assert "hello" in text[6]


def test_attach_to_a_step_that_waits_says_why_and_then_goes_on(
    notebook_runner: Callable[..., NotebookNode], cell_text: CellText
) -> None:
    cells = notebook_runner(
        [
            "%load_ext kale_magic",
            "%%kale_step first --outputs a\nimport time\ntime.sleep(1)\na = 1",
            f"%%kale_step second\na\n{LOOP}",
            "%%kale_step third --shell --after second\necho never",
            "%kale_submit",
            "%%kale_attach second --timeout 0\n1",
            "%%kale_attach second\na",
            "%%kale_attach third --timeout 0\n1",
            "%%kale_attach nobody\n1",
            "%kale_cancel second",
            "%kale_wait",
        ],
        allow_errors=True,
    ).cells
    text = [cell_text(cell) for cell in cells]
    assert "waits for `first`" in text[5]
    assert cells[5].outputs[-1].ename == "TimeoutError"
    assert displays(cells[6])[-1].data["text/plain"] == "1"
    assert "waiting" not in text[6]  # the line went when the step began
    assert "shell step: it has no kernel" in text[7]
    assert "no run" in text[8].lower()
    assert "cancelled second" in text[9]
    assert cells[10].outputs[-1].ename == "JobCancelled"


@pytest.fixture
def kernel(kale_home: Path, tmp_path: Path) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    from jupyter_client import KernelManager

    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=30)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    manager.context.destroy()


class Cell:
    """One execution, watched as it goes."""

    def __init__(self, client: BlockingKernelClient, code: str) -> None:
        self.client = client
        self.msg_id = client.execute(code, allow_stdin=True)
        self.outputs: list[dict[str, Any]] = []

    def until(self, done: Callable[[dict[str, Any]], bool], timeout: float = 30) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                message = self.client.get_iopub_msg(timeout=0.2)
            except queue.Empty:
                continue
            if message["parent_header"].get("msg_id") == self.msg_id:
                self.outputs.append(message)
                if done(message):
                    return message
        raise AssertionError([m["content"] for m in self.outputs])

    def end(self) -> dict[str, Any]:
        self.until(lambda m: m["msg_type"] == "status" and m["content"]["execution_state"] == "idle")
        while (reply := self.client.get_shell_msg(timeout=10))["parent_header"].get("msg_id") != self.msg_id:
            pass  # kernel_info asked again while the kernel started
        return reply["content"]

    def text(self) -> str:
        return "".join(m["content"].get("text", "") for m in self.outputs if m["msg_type"] == "stream")


def test_interrupt_ends_the_visit_alone_and_input_reaches_the_visitor(
    kernel: tuple[KernelManager, BlockingKernelClient],
) -> None:
    manager, client = kernel
    assert Cell(client, "%load_ext kale_magic").end()["status"] == "ok"
    assert Cell(client, f"%%kale_submit loop\n{LOOP}").end()["status"] == "ok"

    endless = Cell(client, "%%kale_attach loop\nprint('<inside>', flush=True)\nwhile True:\n    pass")
    endless.until(lambda m: m["msg_type"] == "stream" and "<inside>" in m["content"]["text"])
    manager.interrupt_kernel()
    reply = endless.end()
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
    assert "goes on" in reply["evalue"]

    asking = Cell(client, "%%kale_attach loop\nname = input('who? ')\nprint('hello', name, i > 0)")
    question = client.get_stdin_msg(timeout=20)
    assert question["content"]["prompt"] == "who? "
    client.input("Ada")
    assert asking.end()["status"] == "ok"
    assert "hello Ada True" in asking.text()
    assert Cell(client, "%kale_cancel loop").end()["status"] == "ok"


def test_another_notebook_takes_up_the_run_after_the_first_and_the_manager_are_gone(
    notebook_runner: Callable[..., NotebookNode], cell_text: CellText, kale_home: Path
) -> None:
    first = notebook_runner(["%load_ext kale_magic\n%kale_workflow melt", f"%%kale_submit md\n{LOOP}", "%%kale_attach md\ni"]).cells
    run = json.loads((kale_home / "manager.json").read_text())
    os.kill(run["pid"], signal.SIGKILL)
    second = notebook_runner([
        "%load_ext kale_magic\n%kale_runs",
        "%%kale_attach md\ni",
        "%kale_pull md xs\nlen(xs) > 0",
        "%kale_stop md",
        "%%kale_attach md --timeout 20\ni",
        "%kale_cancel md",
        "%kale_status",
    ]).cells  # fmt: skip
    text = [cell_text(cell) for cell in second]
    assert "melt-" in text[0]
    assert int(text[1]) >= int(cell_text(first[2]))
    assert "True" in text[2]
    assert "md is paused" in text[3]
    assert int(text[4]) >= int(text[1])
    assert "cancelled md" in text[5]
    assert "cancelled" in text[6]
