"""Steps whose kernels have no subshells, bash and R: a visitor waits for its turn, is told so, and disturbs nothing."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from kale_magic.api import connect
from tests import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kale_magic.api import Kale, Run

NOTE = "a cell waits until the step's code is done"


class Language(NamedTuple):
    """How to say in a language what the tests need."""

    name: str
    argv: list[str]
    counting: str  # until there is a file stop; prints what step it is at
    show_n: str
    endless: str


BASH = Language(
    "bash",
    [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"],
    "n=0; while [ ! -e stop ]; do n=$((n+1)); echo step $n; sleep 0.02; done",
    "echo n is $n",
    "echo in; while true; do sleep 0.02; done",
)
R = Language(
    "R",
    ["R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"],
    "n <- 0; while (!file.exists('stop')) { n <- n + 1; cat('step', n, '\\n'); flush.console(); Sys.sleep(0.02) }",
    "cat('n is', n, '\\n')",
    "cat('in\\n'); flush.console(); while (TRUE) Sys.sleep(0.02)",
)
needs_r = pytest.mark.skipif(shutil.which("R") is None, reason="R is missing: make system-deps")


@pytest.fixture
def kale() -> Iterator[Kale]:
    with steps.private_jupyter(), connect() as kale:
        yield kale


@pytest.fixture(params=[BASH, pytest.param(R, marks=[pytest.mark.r, needs_r])], ids=["bash", "r"])
def language(request: pytest.FixtureRequest, kale: Kale, monkeypatch: pytest.MonkeyPatch) -> Language:
    """A language whose kernelspec is installed."""
    from kale_proxy.places import jupyter_data_dir

    found: Language = request.param
    folder = jupyter_data_dir() / "kernels" / f"test-{found.name.lower()}"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({"argv": found.argv, "display_name": found.name, "language": found.name}))
    return found


@pytest.fixture
def run(language: Language, kale: Kale, tmp_path: Path, until: Callable[..., Any]) -> Iterator[Run]:
    """A run whose step counts in that language."""
    run = steps.submit(tmp_path, kale, language.counting, kernel=f"test-{language.name.lower()}")
    until(lambda: "step 3" in log(run), "the step's start", 60)
    yield run
    run.cancel()


def log(run: Run) -> str:
    file = run.folder / "steps/md/stdout.log"
    return file.read_text() if file.exists() else ""


def counts(run: Run, until: Callable[..., Any]) -> bool:
    """Whether the step goes on."""
    before = len(log(run))
    until(lambda: len(log(run)) > before, "the step's going on", 60)
    return run["md"].state == "running"


def wait_for_note(kernel: steps.Kernel, msg_id: str) -> None:
    while True:
        message = kernel.client.get_iopub_msg(timeout=steps.WAIT_S)
        if message["msg_type"] == "stream" and message["parent_header"]["msg_id"] == msg_id:
            assert NOTE in message["content"]["text"]
            return


def test_cell_waits_is_told_so_and_runs_when_the_steps_code_is_over(
    run: Run, language: Language, until: Callable[..., Any]
) -> None:
    with steps.Kernel(steps.install(run).name) as kernel:
        cell = kernel.client.execute(language.show_n)
        wait_for_note(kernel, cell)
        assert counts(run, until)
        run["md"].stop()
        until(lambda: run["md"].state == "paused", "the hold", 60)
        assert kernel.reply(cell)["status"] == "ok"
        assert "n is " in steps.text(kernel.output(cell))
        _, messages = kernel.run(language.show_n)
        assert "n is " in steps.text(messages)
    assert run["md"].state == "paused"


def test_interrupt_takes_a_waiting_cell_back_and_leaves_the_step_alone(
    run: Run, language: Language, until: Callable[..., Any]
) -> None:
    with steps.Kernel(steps.install(run).name) as kernel:
        cell = kernel.client.execute(language.endless)
        wait_for_note(kernel, cell)
        kernel.manager.interrupt_kernel()
        assert kernel.reply(cell)["ename"] == "KeyboardInterrupt"
        kernel.output(cell)
        assert counts(run, until)
        run["md"].stop()
        until(lambda: run["md"].state == "paused", "the hold", 60)
        _, messages = kernel.run(language.show_n)  # the cell that was taken back did not run before it
        assert "n is " in steps.text(messages)


def test_interrupt_ends_the_visitors_own_cell_in_a_held_kernel(
    run: Run, language: Language, until: Callable[..., Any]
) -> None:
    run["md"].stop()
    until(lambda: run["md"].state == "paused", "the hold", 60)
    with steps.Kernel(steps.install(run).name) as kernel:
        cell = kernel.client.execute(language.endless)
        while "in" not in steps.text([kernel.client.get_iopub_msg(timeout=steps.WAIT_S)]).split():
            pass
        kernel.manager.interrupt_kernel()
        kernel.reply(cell)
        _, messages = kernel.run(language.show_n)
        assert "n is " in steps.text(messages)


def test_leaving_with_a_waiting_cell_leaves_the_step_alone(
    run: Run, language: Language, tmp_path: Path, until: Callable[..., Any]
) -> None:
    with steps.Kernel(steps.install(run).name) as kernel:
        wait_for_note(kernel, kernel.client.execute(language.endless))
    assert counts(run, until)
    (tmp_path / "stop").touch()
    until(lambda: run.state == "completed", "the run's end", 60)
