"""A kernel that aborts what is queued, without a state on iopub, as IRkernel does: no cell is lost to it, none waits for ever."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.api import connect
from kale_proxy.places import jupyter_data_dir
from kale_proxy.visitor import Visitor
from tests import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kale_magic.api import Run


@pytest.fixture
def run(tmp_path: Path, until: Callable[..., Any]) -> Iterator[Run]:
    """A run whose step was stopped, so that its kernel is held for visitors."""
    with steps.private_jupyter(), connect() as kale:
        folder = jupyter_data_dir() / "kernels" / "test-abrupt"
        folder.mkdir(parents=True)
        argv = [sys.executable, str(Path(__file__).with_name("abrupt_kernel.py")), "{connection_file}"]
        (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "abrupt", "language": "abrupt"}))
        run = steps.submit(tmp_path, kale, "hang", kernel="test-abrupt")
        log = run.folder / "steps/md/stdout.log"
        until(lambda: log.exists() and "hang" in log.read_text(), "the step's start", 60)
        run["md"].stop()
        until(lambda: run["md"].state == "paused", "the hold", 60)
        yield run
        run.cancel()


def test_cell_after_one_that_failed_or_was_interrupted_runs(run: Run) -> None:
    with steps.Kernel(steps.install(run).name) as kernel:
        failed = kernel.client.execute("fail", stop_on_error=False)
        assert kernel.reply(failed)["ename"] == "Failed"
        reply, messages = kernel.run("after the failure")
        assert (reply["status"], steps.text(messages)) == ("ok", "after the failure\n")
        hanging = kernel.client.execute("hang", stop_on_error=False)
        while "hang" not in steps.text([kernel.client.get_iopub_msg(timeout=steps.WAIT_S)]):
            pass
        kernel.manager.interrupt_kernel()
        assert kernel.reply(hanging)["ename"] == "KeyboardInterrupt"
        reply, messages = kernel.run("after the interrupt")
        assert (reply["status"], steps.text(messages)) == ("ok", "after the interrupt\n")


def test_cells_queued_behind_one_that_fails_are_aborted_and_end(run: Run) -> None:
    with steps.Kernel(steps.install(run, mode="main").name) as kernel:
        cells = [kernel.client.execute(code) for code in ("fail", "b", "c")]
        replies = [kernel.reply(cell)["status"] for cell in cells]
        assert replies[:2] == ["error", "aborted"]
        assert replies[2] in {"aborted", "ok"}  # it may come when the one before it has been answered
        ended, printed = set(), ""
        while not ended >= set(cells):
            message = kernel.client.get_iopub_msg(timeout=steps.WAIT_S)
            printed += message["content"].get("text", "")
            if message["content"].get("execution_state") == "idle":
                ended.add(message["parent_header"]["msg_id"])
        assert printed == "fail\n" + ("c\n" if replies[2] == "ok" else "")
        reply, messages = kernel.run("d")
        assert (reply["status"], steps.text(messages)) == ("ok", "d\n")


def test_visitor_does_not_wait_for_the_end_of_an_aborted_cell(run: Run) -> None:
    live = run["md"].target().live
    assert live is not None
    with Visitor.connect(live, timeout=steps.WAIT_S) as one, Visitor.connect(live, timeout=steps.WAIT_S) as other:
        replies, printed = [], []

        def collect(kind: str, content: dict[str, Any], _metadata: dict[str, Any], _buffers: list[bytes]) -> None:
            if kind == "error":  # now the kernel aborts for a while
                replies.append(other.execute("b", timeout=steps.WAIT_S, on_message=collect)["status"])
            elif kind == "stream":
                printed.append(content["text"])

        assert one.execute("fail", timeout=steps.WAIT_S, on_message=collect)["status"] == "error"
        assert replies == ["aborted"]
        assert other.execute("c", timeout=steps.WAIT_S, on_message=collect)["status"] == "ok"
        assert printed == ["fail\n", "c\n"]
