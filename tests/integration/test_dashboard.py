"""The dashboard on a real manager without a browser: how often it looks, and what a notebook keeps of it."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from kale_magic.api import Workflow, connect
from kale_magic.api.find import Scope
from kale_magic.widgets.desk import Desk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kale_magic.client import Client
    from kale_magic.widgets.desk import Seen


class Book:
    """A place without a notebook."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client, self.folder, self.scope = client, folder, Scope(folder=folder)
        self.submitted: dict[str, Any] = {}

    def declared(self) -> None:
        return None

    def follower(self) -> Client:
        return type(self.client).connect(start=False)


class Counts:
    """A part that notes when it was told, and what it saw last."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.seen: Seen | None = None

    def show(self, seen: Seen) -> None:
        self.times.append(time.monotonic())
        self.seen = seen


def test_hundreds_of_changes_are_told_at_most_five_times_a_second(kale_home: Path, tmp_path: Path, until: Callable[..., Any]) -> None:
    workflow = Workflow("many", folder=tmp_path)
    for number in range(150):
        workflow.step(f"s{number}", "pass")
    with connect() as kale:
        desk, part = Desk(Book(kale.client, tmp_path)), Counts()
        run = workflow.submit(client=kale.client)
        desk.add(part)
        until(lambda: part.seen is not None and part.seen.status is not None and part.seen.status["state"] == "completed", "the end", 60)
        assert set(part.seen.states.values()) == {"completed"}
        times = part.times
        for start in range(len(times)):
            assert sum(times[start] < at < times[start] + 1 for at in times[start:]) <= 6
        desk.remove(part)
        assert run.state == "completed"


def test_notebook_keeps_text_and_a_picture_for_front_ends_without_widgets(
    notebook_runner: Callable[..., Any], tmp_path: Path
) -> None:
    notebook = notebook_runner([
        "%load_ext kale_magic\n%kale_workflow eos",
        "%%kale_step a --outputs x\nx = 1",
        "_ = get_ipython().run_line_magic('kale_submit', '--wait')",
        "%kale_dashboard",
        "%kale_report -o out.html",
    ])
    static, live = notebook.cells[3].outputs
    assert "a" in static.data["text/plain"]
    assert "completed" in static.data["text/plain"]
    assert 'data-kale-step="a"' in static.data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in live.data
    assert "needs a front end with ipywidgets" in live.data["text/plain"]
    assert (tmp_path / "out.html").read_text().startswith("<!DOCTYPE html>")


def test_terminal_gets_each_part_as_text(kale_home: Path, tmp_path: Path) -> None:
    code = """
import kale_magic
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
kale_magic.load_ipython_extension(shell)
shell.run_line_magic('kale_workflow', 'eos')
shell.run_cell_magic('kale_step', 'a --params n=3', 'from kale_magic.inside import metric\\nmetric(e=1)\\nmetric(e=2)\\nprint("hello", n)')
shell.run_cell_magic('kale_step', 'w --each p=range(3) --reuse-kernel', 'print("point", p)')
run = shell.run_line_magic('kale_submit', '--wait')
for part in ('', 'step --step a', 'logs --step a', 'logs --step w[1]', 'plots --step a', 'pools', 'queue', 'resources', 'ssh'):
    print('==', part)
    shell.run_line_magic('kale_dashboard', part)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path)
    said = dict(part.split("\n", 1) for part in done.stdout.split("== ")[1:])
    assert "completed" in said[""]
    assert "a completed" in said["step --step a"]
    assert "  n: 3\n" in said["step --step a"]
    assert said["logs --step a"] == "a\n-- stdout.log\nhello 3\n"
    assert said["logs --step w[1]"] == "w[1]\n-- stdout.log\npoint 1\n"
    assert "last 2, 1 to 2, 2 values" in said["plots --step a"]
    assert "No pool is open. Open one: %kale_pool open" in said["pools"]
    assert "Nothing runs and nothing waits" in said["queue"]
    assert "this host: memory" in said["resources"]
    assert said["ssh"] == "ssh: no host, idle; REST: no service, idle\n"
    assert "Traceback" not in done.stderr


def test_wrong_part_is_one_line_with_the_way_out(notebook_runner: Callable[..., Any], cell_text: Callable[..., str]) -> None:
    notebook = notebook_runner(["%load_ext kale_magic", "%kale_dashboard lgos"], allow_errors=True)
    said = cell_text(notebook.cells[1])
    assert "Did you mean logs?" in said
    assert "Traceback" not in said


def test_extension_loads_no_widget_library() -> None:
    code = (
        "import sys, kale_magic; from IPython.core.interactiveshell import InteractiveShell as S; kale_magic.load_ipython_extension(S());"
        "print([m for m in ('anywidget', 'ipywidgets', 'markdown_it', 'latex2mathml') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.strip() == "[]"
