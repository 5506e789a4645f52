"""Points in space over time, in JupyterLab: by mouse and by keys, of a file that grows, an array and metrics; and what is kept of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.integration.test_gpus import RECORDED

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'").expect

from tests.browser.conftest import serve  # noqa: E402 - needs Playwright
from tests.browser.pages import WAIT_MS  # noqa: E402 - needs Playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.browser.conftest import Server
    from tests.browser.pages import NotebookPage

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
CELLS = [
    "%load_ext kale_magic\n%kale_workflow spaces",
    """%%kale_step md
import math, pathlib, time
from kale_magic.inside import metric
for n in range(30):
    metric(x=math.cos(n / 5), y=math.sin(n / 5), z=n / 30, step=n)
while not pathlib.Path('go').exists():
    time.sleep(0.1)""",
    "_ = get_ipython().run_line_magic('kale_submit', '')",
    "%kale_dashboard plots --step md",
    "%kale_dashboard resources --step md",
]
SHOW = 3


@pytest.fixture(scope="module")
def server(home: Path, root: Path) -> Iterator[Server]:
    """A server whose kernels find a program that says what ``nvidia-smi`` does."""
    program = home / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(RECORDED)
    program.chmod(0o755)
    with serve(home, root, {"PATH": f"{program.parent}:{os.environ['PATH']}"}) as found:
        yield found


def test_points_in_space_are_turned_and_moved_through_time(root: Path, open_notebook: Callable[..., NotebookPage]) -> None:
    notebook = open_notebook("space", CELLS, run=SHOW + 1)
    page, plots = notebook.page, notebook.part("plots")
    canvas, slider = plots.locator("canvas"), plots.locator("input[type=range]")
    expect(canvas).to_be_hidden()
    plots.locator(".kind").select_option("space")
    expect(canvas).to_have_attribute("data-shown", "30", timeout=WAIT_MS)
    expect(canvas).to_have_attribute("aria-label", "3-D scatter of z over x and y: 30 of 30 points at step = 29. x -0.9983 to 1, y -0.9962 to 0.9996, z 0 to 0.9667. Arrow keys turn it.")
    notebook.look("metrics", plots)

    canvas.focus()
    before = canvas.evaluate("c => c.toDataURL()")
    for key, name, value in (("ArrowRight", "yaw", "-0.50"), ("ArrowUp", "pitch", "0.55"), ("+", "zoom", "1.15"), ("Home", "yaw", "-0.60")):
        page.keyboard.press(key)
        expect(canvas).to_have_attribute(f"data-{name}", value)
        if key != "Home":
            assert canvas.evaluate("c => c.toDataURL()") != before
    assert canvas.evaluate("c => c.toDataURL()") == before
    notebook.drag(canvas, 60)
    expect(canvas).to_have_attribute("data-yaw", "-0.20")
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "step = 0")
    expect(canvas).to_have_attribute("data-shown", "1")
    page.keyboard.press("ArrowRight")
    expect(plots.locator("output")).to_have_text("step = 1")
    expect(canvas).to_have_attribute("data-shown", "2")
    plots.get_by_label("all up to then").uncheck()
    expect(canvas).to_have_attribute("data-shown", "1")
    plots.get_by_label("all up to then").check()
    plots.get_by_role("button", name="Play").click()
    expect(plots.locator("output")).to_have_text("step = 29", timeout=WAIT_MS)
    expect(plots.get_by_role("button", name="Play")).to_have_attribute("aria-pressed", "false")

    frames = np.stack([np.stack([np.arange(50), np.full(50, t), np.arange(50) * t], axis=1) for t in range(4)]).astype("f4")
    np.save(root / "atoms.npy", frames)
    plots.locator(".file").select_option("atoms.npy", timeout=WAIT_MS)
    expect(canvas).to_have_attribute("data-shown", "50", timeout=WAIT_MS)  # of four frames, one
    expect(canvas).to_have_attribute("aria-label", "3-D scatter of c2 over c0 and c1: 50 of 200 points at frame = 3. c0 0 to 49, c1 0 to 3, c2 0 to 147. Arrow keys turn it.")
    plots.locator("select.z").select_option("c0")
    expect(canvas).to_have_attribute("aria-label", "3-D scatter of c0 over c0 and c1: 50 of 200 points at frame = 3. c0 0 to 49, c1 0 to 3, c0 0 to 49. Arrow keys turn it.")

    table = root / "table.csv"
    table.write_text("t,x,y,z\n0,0,0,0\n1,1,1,1\n")
    plots.locator(".file").select_option("table.csv", timeout=WAIT_MS)
    expect(canvas).to_have_attribute("data-shown", "2", timeout=WAIT_MS)
    with table.open("a") as stream:
        stream.write("2,2,4,8\n")
    expect(canvas).to_have_attribute("data-shown", "3", timeout=WAIT_MS)  # it grows, and the newest moment is shown
    expect(plots.locator("output")).to_have_text("t = 2")
    plots.locator(".kind").select_option("dots")
    expect(plots.locator("svg path[stroke-width='4']").first).to_be_visible(timeout=WAIT_MS)
    expect(canvas).to_be_hidden()
    plots.locator(".kind").select_option("space")

    notebook.run(SHOW + 1)
    usage = notebook.part("resources")
    for title in ("node: GPUs busy, %: gpu 0, gpu 1", "node: GPU memory, GB: gpu 0, gpu 1", "this host: GPU power, W: gpu 0, gpu 1", "this host: disk, MB/s: read, written"):
        expect(usage.locator(f"svg[aria-label='{title}']")).to_be_visible(timeout=WAIT_MS)
    notebook.look("gpus", usage)

    (root / "go").touch()
    static = page.locator("[data-kale-static]").first
    expect(static.locator("svg[aria-label='table.csv: 3 points, x 0 to 2, y 0 to 4, z 0 to 8, t 0 to 2']")).to_have_count(1, timeout=WAIT_MS)
    expect(plots.locator(".doing")).to_have_text("completed", timeout=WAIT_MS)
    notebook.save()
    assert "table.csv: 3 points" in (root / "space.ipynb").read_text()
    notebook.choose("shutdown")
    page.reload()
    expect(static.locator("circle")).to_have_count(3, timeout=WAIT_MS)
    expect(static.locator("circle").first).to_be_visible()
