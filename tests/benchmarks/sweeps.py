"""What is measured of sweeps in warm kernels (--reuse-kernel): points a second, the manager's memory, and the notebook beside it."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
from measure import Figure, median, spread

MANY = 10_000


def reuse():
    """1,000 no-op points, and 10,000 of them from a notebook that is used meanwhile."""
    return [*_thousand(), *_notebook()]


def _sweep(count):
    from kale_magic import Workflow

    workflow = Workflow("warm", folder=tempfile.mkdtemp(prefix="kale-sweep-"))
    workflow.step("fit", "pass\n", each={"n": f"range({count})"}, reuse_kernel=True)
    return workflow


def _thousand():
    rates, files = [], 0
    _sweep(2).submit().wait(timeout=60)  # manager and supervisor are there
    for _ in range(3):
        begun = time.perf_counter()
        run = _sweep(1000).submit(cache=False)
        if run.wait(timeout=300) != "completed":
            sys.exit(f"{run.name} {run.state}")
        rates.append(1000 / (time.perf_counter() - begun))
        files = sum(path.is_file() for path in Path(run.folder, "steps/fit").rglob("*"))
    return [
        Figure("1,000 no-op points, from submit to the end", median(rates), "points/s", 300, is_floor=True, note=spread(rates, "points/s")),
        Figure("files that they leave", files, "", 10, note="one set, and two for each kernel"),
    ]


def _notebook():
    """Submit 10,000 points in a notebook and run a cell in it over and over until they are done."""
    from jupyter_client import KernelManager

    from kale_magic.client import Client

    with Client.connect() as client:
        manager = psutil.Process(client.manager()["pid"])
    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel(cwd=tempfile.mkdtemp(prefix="kale-sweep-"))
    client = kernel.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    try:
        return _measured(client, manager)
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)


def _measured(client, manager):
    def cell(code, timeout=120.0):
        reply = client.execute_interactive(code, timeout=timeout, output_hook=lambda _: None)
        if reply["content"]["status"] != "ok":
            sys.exit("\n".join(reply["content"]["traceback"]))

    cell("%load_ext kale_magic\n%kale_workflow warm")
    cell(f"%%kale_step fit --each n=range({MANY}) --reuse-kernel\npass")
    peaks, is_over = [], threading.Event()

    def watch():
        while not is_over.wait(0.1):
            peaks.append(manager.memory_info().rss / 1e6)

    threading.Thread(target=watch, daemon=True).start()
    begun = time.perf_counter()
    cell("%kale_submit --no-cache")
    submitted = time.perf_counter() - begun
    took, updates, sizes = [], Counter(), []
    end = time.monotonic() + 600
    while time.monotonic() < end:
        start = time.perf_counter()
        request = client.execute("1 + 1")
        while True:  # execute_interactive would throw away what is not of its own request: the display's updates
            message = client.get_iopub_msg(timeout=60)
            if message["msg_type"] == "update_display_data":
                updates[int(time.perf_counter() - begun)] += 1
                sizes.append(len(str(message["content"])))
            elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle" and message["parent_header"].get("msg_id") == request:
                break
        took.append((time.perf_counter() - start) * 1e3)
        assert client.get_shell_msg(timeout=60)["content"]["status"] == "ok"
        if _is_done():
            break
        time.sleep(0.02)
    is_over.set()
    seconds = time.perf_counter() - begun
    took.sort()
    return [
        Figure(f"{MANY} no-op points from a notebook", MANY / seconds, "points/s", note=f"{seconds:.1f} s, the cell of %kale_submit {submitted:.2f} s"),
        Figure("memory (RSS) of the manager, the most", max(peaks), "MB", 300),
        Figure("a cell in that notebook meanwhile, median", median(took), "ms", 20, note=f"n={len(took)}"),
        Figure("95 of 100 of them within", took[int(len(took) * 0.95)], "ms", 100, note=f"the slowest {took[-1]:.0f} ms"),
        Figure("updates of its display in a second, at most", max(updates.values(), default=0), "", 6, note=f"{max(sizes, default=0) / 1e3:.0f} kB the largest"),
    ]


def _is_done():
    from kale_magic.client import Client

    with Client.connect() as client:
        newest = client.runs(None, 1)[0]
    return newest["state"] != "running"
