"""What is measured of Kale itself: throughput, chain, visits, start-up, the manager."""

from __future__ import annotations

import ast
import datetime as dt
import itertools
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time

import psutil
from measure import Figure, median, spread, stopwatch

BUSY = "import time\nn = 0\nend = time.time() + 600\nwhile time.time() < end:\n    n += 1\n"


def _workflow(name, count, *, is_chain=False):
    from kale_magic import Workflow

    workflow = Workflow(name)
    for number in range(count):
        workflow.step(f"s{number}", "pass\n", after=[f"s{number - 1}"] if is_chain and number else [])
    return workflow


def _completed(run, timeout):
    state = run.wait(timeout=timeout)
    if state != "completed":
        sys.exit(f"run {run.name} {state}: {[s for s in run.status()['steps'].items() if s[1]['state'] != 'completed'][:2]}")


def _cpu_s():
    """CPU seconds of the manager, the warm processes and every step that has ended so far."""
    from kale_magic.config import load

    files = [load().manager_file, *load().workers_dir.glob("*/serve.json")]
    return sum(sum(psutil.Process(json.loads(file.read_text())["pid"]).cpu_times()[:4]) for file in files)


def _rate(count, repeats):
    """Steps a second from submit to the end of the run, as the client sees it; and milliseconds of CPU a step."""
    rates, submits, costs = [], [], []
    for _ in range(repeats):
        workflow = _workflow("many", count)
        before = _cpu_s()
        with stopwatch() as seconds:
            run = workflow.submit(cache=False)
            submits.append(seconds())
            _completed(run, 300)
        rates.append(count / seconds())
        costs.append((_cpu_s() - before) / count * 1e3)
    return rates, submits, costs, run


def steps():
    """200 and 1,000 independent no-op steps, each with a kernel; and the submit and status of 1,000."""
    with stopwatch() as first:
        _completed(_workflow("first", 1).submit(cache=False), 60)
    small, _, small_costs, _ = _rate(200, 3)
    large, submits, large_costs, run = _rate(1000, 1)
    status = []
    for _ in range(30):
        with stopwatch() as seconds:
            run.status()
        status.append(seconds() * 1e3)
    notebooks = len(list(run.folder.glob("steps/*/step.ipynb")))
    return [
        Figure("200 independent steps", median(small), "steps/s", 35, is_floor=True, note=spread(small, "steps/s")),
        Figure("1,000 independent steps", median(large), "steps/s", 35, is_floor=True, note=f"{notebooks} executed notebooks"),
        Figure("CPU of a step, of 200", median(small_costs), "ms", note="manager, kernel and recorder; no other load changes it much"),
        Figure("CPU of a step, of 1,000", median(large_costs), "ms"),
        Figure("submit of 1,000 steps", max(submits) * 1e3, "ms", 1000),
        Figure("status of 1,000 steps", median(status), "ms", 20, note=spread(status, "ms")),
        Figure("the very first step", first() * 1e3, "ms", note="starts the manager and the warm process"),
    ]


def _at(text):
    return dt.datetime.fromisoformat(text).timestamp()


def chain():
    """A chain of 200 no-op steps: from the start of one to the start of the next."""
    hops, totals = [], []
    for _ in range(3):
        workflow = _workflow("chain", 200, is_chain=True)
        with stopwatch() as seconds:
            run = workflow.submit(cache=False)
            _completed(run, 120)
        totals.append(seconds() / 200 * 1e3)
        found = run.status()["steps"]
        starts = [_at(found[f"s{number}"]["started_at"]) for number in range(200)]
        hops += [(after - before) * 1e3 for before, after in itertools.pairwise(starts)]
    return [
        Figure("chain of 200, one hop", median(hops), "ms", 45, note=spread(hops, "ms")),
        Figure("the same, by the whole run", median(totals), "ms", note="submit to end, divided by 200"),
    ]


class _Kernel:
    """An ordinary IPython kernel with the extension loaded: what a notebook is."""

    def __init__(self):
        from jupyter_client.manager import KernelManager

        folder = tempfile.mkdtemp(prefix="nb-", dir=os.environ["KALE_HOME"])
        self.manager = KernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/k")
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def value(self, code, timeout=120):
        """Run code and return the Python literal of its last expression; SystemExit with the traceback if it fails."""
        results, errors = [], []

        def take(message):
            kind, content = message["msg_type"], message["content"]
            if kind == "execute_result":
                results.append(content["data"]["text/plain"])
            elif kind == "error":
                errors.append("\n".join(content["traceback"]))
            elif kind == "stream" and content["name"] == "stderr":
                print(content["text"], file=sys.stderr)

        self.client.execute_interactive(textwrap.dedent(code), output_hook=take, timeout=timeout)
        if errors:
            sys.exit(errors[0])
        return ast.literal_eval(results[-1]) if results else None


_TIMED = """
import time
from IPython.utils.capture import capture_output

def visit(step, cell="1+1"):
    with capture_output() as shown:
        start = time.perf_counter()
        get_ipython().run_cell_magic("kale_attach", step, cell)
        seconds = time.perf_counter() - start
    assert any("2" in str(output.data) for output in shown.outputs) or "2" in shown.stdout, (shown.outputs, shown.stdout)
    return seconds * 1e3
None
"""


def attach():
    """`%%kale_attach` of `1+1` on a step that computes: the magic's call to the shown result, inside a real kernel."""
    from kale_magic import Workflow

    workflow = Workflow("busy")
    workflow.step("loop", BUSY)
    run = workflow.submit(cache=False)
    deadline = time.monotonic() + 30
    while run.states()["loop"] != "running":
        if time.monotonic() > deadline:
            sys.exit(f"the busy step did not start: {run.states()}")
        time.sleep(0.05)
    time.sleep(1)
    first, following, loads = [], [], []
    try:
        for _ in range(7):
            with _Kernel() as kernel:
                loads.append(
                    kernel.value(
                        "import time\nt = time.perf_counter()\nget_ipython().run_line_magic('load_ext', 'kale_magic')\n"
                        "t = time.perf_counter() - t\nt * 1e3"
                    )
                )
                kernel.value(_TIMED)
                first.append(kernel.value(f"visit('{run.name}/loop')"))
                following += kernel.value(f"[visit('{run.name}/loop') for _ in range(20)]")
    finally:
        run.cancel()
        run.wait(timeout=30)
    return [
        Figure("%%kale_attach, first visit of a notebook", median(first), "ms", 150, note=spread(first, "ms")),
        Figure("%%kale_attach, the next ones", median(following), "ms", 20, note=spread(following, "ms")),
        Figure("%load_ext kale_magic", median(loads), "ms", 100, note=spread(loads, "ms")),
    ]


def imports():
    """`import kale_magic` over a bare Python, start to end of the process."""
    bare, with_it = [], []
    for _ in range(15):
        for code, times in (("pass", bare), ("import kale_magic", with_it)):
            with stopwatch() as seconds:
                subprocess.run([sys.executable, "-c", code], check=True)
            times.append(seconds() * 1e3)
    more = [after - before for before, after in zip(bare, with_it, strict=True)]
    return [Figure("import kale_magic, over bare Python", median(more), "ms", 30, note=f"bare Python {median(bare):.1f} ms")]


def manager():
    """The manager at rest, after all that the other parts gave it to do."""
    from kale_magic.client import Client

    with Client.connect() as client:
        process = psutil.Process(client.manager()["pid"])
    time.sleep(2)
    before = process.cpu_times()
    time.sleep(20)
    after = process.cpu_times()
    used = abs(round(after.user + after.system - before.user - before.system, 2))  # in ticks of 10 ms; no -0.0
    memory = process.memory_info().rss / 1e6
    return [
        Figure("manager at rest, CPU over 20 s", used / 20 * 100, "%", 0.1),
        Figure("manager at rest, memory (RSS)", memory, "MB", 60),
    ]


