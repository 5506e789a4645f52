"""Run the demo notebook headless and tell what happens: `make demo`, or `python demo_notebooks/run_demo.py`.

The notebook's cells run in an ordinary Jupyter kernel; the steps they declare run as jobs. Printed, as it
happens: each cell, each change of a step (from the manager's stream of events), and what the cells that
looked into the running step brought back. At the end: computed against measured, and where everything is.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment, not one in the home folder

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from traitlets.config import Config

from kale_magic import Workflow, connect
from kale_magic.client import Client
from kale_magic.errors import KaleError, ManagerUnavailable

HERE = Path(__file__).resolve().parent
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Teller:
    """Prints lines with the time since the start, from several threads."""

    def __init__(self):
        self.started = time.monotonic()
        self._lock = threading.Lock()

    def say(self, text="", *, mark=" "):
        """Print a line, or an indented block under one."""
        first, *rest = ANSI.sub("", text).rstrip().split("\n") or [""]
        with self._lock:
            print(f"{time.monotonic() - self.started:6.1f} s {mark} {first}", flush=True)
            for line in rest:
                print(f"{'':8} {mark} {line}", flush=True)


class Follower(threading.Thread):
    """Prints what happens to the steps of the newest run of a folder, as the manager tells it."""

    def __init__(self, folder, teller):
        super().__init__(daemon=True)
        self.run_id = None
        self._since = datetime.now(UTC)
        self._steps = {}
        self._folder, self._teller = folder, teller
        self._is_over = threading.Event()

    def run(self):
        while not self._is_over.wait(0.1):
            try:
                with Client.connect(start=False) as client:
                    self._follow(client)
            except ManagerUnavailable:
                continue

    def close(self):
        self._is_over.set()
        self.join(timeout=10)

    def _follow(self, client):
        while self.run_id is None:
            runs = client.runs(self._folder, limit=1)
            if runs and datetime.fromisoformat(runs[0]["submitted_at"]) >= self._since:
                self.run_id = runs[0]["run"]
            elif self._is_over.wait(0.1):
                return
        folder = Path(client.status(self.run_id)["folder"])
        self._steps = Workflow.from_yaml(folder / "workflow.yaml").model.steps
        with client.events(since=0, run=self.run_id) as stream:
            while True:
                event = stream.next(0.3)
                if event is None:
                    if self._is_over.is_set():
                        return
                elif event.kind == "run":
                    self._teller.say(f"run {event.run}: {event.state}", mark="*")
                elif event.kind == "state" and event.state not in {"waiting", "queued"}:
                    self._show(event)

    def _show(self, event):
        counts = event.data.get("counts")
        if counts:
            return  # the sweep as a whole: its points are told one by one
        name = event.step
        if event.point is not None:
            values = self._steps[name].points()[event.point]
            name += "[" + ",".join(f"{parameter}={value}" for parameter, value in values.items()) + "]"
        reason = event.data.get("reason") or ""
        self._teller.say(f"{name}: {event.state}{' (' + reason + ')' if reason else ''}", mark="*")


class Demo:
    """One execution of the notebook in an output folder."""

    def __init__(self, notebook, out):
        self.teller = Teller()
        self.notebook_path, self.out = notebook, out
        self.notebook = nbformat.read(notebook, as_version=4)
        self.seen_inside = 0
        self.pictures = []

    def execute(self):
        """Run all cells; returns what went wrong, or an empty text."""
        code = [cell for cell in self.notebook.cells if cell.cell_type == "code"]
        numbers = {cell.id: f"[{number}/{len(code)}]" for number, cell in enumerate(code, 1)}

        def before(cell, cell_index):
            if cell.id in numbers:
                self.teller.say(f"cell {numbers[cell.id]} {_title(cell.source)}", mark=">")

        def after(cell, cell_index, execute_reply):
            if cell.id in numbers:
                self._show_outputs(cell)

        try:
            with tempfile.TemporaryDirectory(prefix="kale-demo-", dir="/tmp") as sockets:
                NotebookClient(
                    self.notebook, kernel_name="python3", timeout=600, startup_timeout=120,
                    config=Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/k"}),  # no open TCP ports
                    resources={"metadata": {"path": str(self.out)}}, on_cell_execute=before, on_cell_executed=after,
                ).execute()
        except CellExecutionError as error:
            return f"A cell failed: {error.ename}: {error.evalue}"
        except (CellTimeoutError, DeadKernelError) as error:
            return str(error)
        finally:
            nbformat.write(self.notebook, self.out / self.notebook_path.name)
            page, _ = HTMLExporter().from_notebook_node(self.notebook)
            (self.out / self.notebook_path.with_suffix(".html").name).write_text(page, encoding="utf-8")
        return ""

    def _show_outputs(self, cell):
        is_inside = cell.source.startswith("%%kale_attach")
        is_shown = is_inside or not cell.source.startswith(("%kale_show", "%%kale_", "%kale_submit"))
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                self._keep_picture(cell, data["image/png"], is_inside=is_inside)
            text = output.get("text") or data.get("text/markdown") or data.get("text/plain", "")
            if output.output_type == "error":
                text = "\n".join(output.traceback)
            elif "image/png" in data or not is_shown:
                continue
            if text.strip():
                self.seen_inside += is_inside
                self.teller.say(text, mark="<" if is_inside else " ")

    def _keep_picture(self, cell, png, *, is_inside):
        path = self.out / f"{cell.id}.png"
        path.write_bytes(base64.b64decode(png))
        self.pictures.append(path)
        self.seen_inside += is_inside
        what = "a figure drawn inside the running step" if is_inside else "a figure"
        self.teller.say(f"{what}: {_relative(path)}", mark="<" if is_inside else " ")


def _title(source):
    lines = source.split("\n")
    first = lines[0] if len(lines[0]) <= 100 else lines[0][:97] + "..."
    return f"{first}  (+{len(lines) - 1} lines)" if len(lines) > 1 else first


def _relative(path):
    return os.path.relpath(path)


def print_results(run):
    """Print computed against measured constants, from the outputs that the run's steps left; returns the rows."""
    table, alpha, room_edge = run["compare"].pull("table", "alpha", "room_edge")
    print("\n  metal     a0 / Å  measured   error     B0 / GPa  measured   error")
    for row in table:
        print(
            "  {metal:<6} {a0:9.3f} {a_measured:9.2f} {a_error:+8.1%} {B0:11.1f} {B_measured:9.1f} {B_error:+8.1%}".format(
                **row
            )
        )
    print(f"  Cu at 300 K: a = {room_edge:.3f} Å (measured 3.61); expansion {alpha * 1e6:.1f}e-6 / K (measured 16.5e-6)\n")
    return table


def print_paths(demo, run):
    """Print where everything is that a person may want to open."""
    folder = Path(run.folder)
    executed = sorted(folder.glob("steps/**/step.ipynb"))
    print("  notebook, executed   ", _relative(demo.out / demo.notebook_path.name))
    print("  the same as a page   ", _relative(demo.out / demo.notebook_path.with_suffix(".html").name))
    print("  workflow as YAML     ", _relative(demo.out / "eos.yaml"))
    print("  run folder           ", _relative(folder))
    print(f"  notebooks of {len(executed):2} jobs  ", _relative(folder / "steps" / "*" / "step.ipynb"))
    for picture in demo.pictures:
        print("  figure               ", _relative(picture))
    print()
    return executed


def check(demo, run, table, executed):
    """Return what is not as it should be, one sentence each."""
    states = run.states()
    wrong = [f"step {name} is {state}." for name, state in states.items() if state not in {"completed", "cached"}]
    if len(table) != 7 or any(abs(row["a_error"]) > 0.02 for row in table):
        wrong.append("The lattice constants are not those of EMT.")
    if demo.seen_inside < 3:
        wrong.append("Nothing was seen inside the running step.")
    if not (demo.out / "eos.yaml").is_file():
        wrong.append("No workflow was exported.")
    if len(executed) < 10:
        wrong.append(f"{len(executed)} jobs left a notebook; 10 should.")
    return wrong


def main():
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("notebook", nargs="?", type=Path, default=HERE / "01_equation_of_state.ipynb")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for everything that is made")
    options = parser.parse_args()
    out = options.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    demo = Demo(options.notebook.resolve(), out)
    follower = Follower(out, demo.teller)
    print(f"{_relative(demo.notebook_path)} in {_relative(out)}    > cell   * step   < seen inside the running step\n")
    follower.start()
    try:
        wrong = [message] if (message := demo.execute()) else []
    finally:
        follower.close()
    seconds = time.monotonic() - demo.teller.started
    try:
        run = connect().run(follower.run_id) if follower.run_id else None
        if run is None:
            wrong.append("No run was submitted.")
        elif wrong and not run.is_over:
            wrong.append(f"Cancelled what still ran: {', '.join(run.cancel())}.")
        elif not wrong:
            table = print_results(run)
            wrong = check(demo, run, table, print_paths(demo, run))
    except KaleError as error:
        wrong.append(str(error))
    if wrong:
        print(f"\nThe demo failed after {seconds:.0f} s. " + "\n  ".join(wrong), file=sys.stderr)
        return 1
    print(f"Demo done in {seconds:.0f} s: run {run.name} completed, {len(run)} steps; figures, notebooks and YAML as above.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
