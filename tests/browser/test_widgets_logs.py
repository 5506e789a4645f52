"""A log of a gigabyte in JupyterLab: it opens at once, only what is new travels, and neither kernel nor page grows with it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from kale_magic.client import Client

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'").expect

from tests.browser.pages import WAIT_MS  # noqa: E402 - needs Playwright

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.pages import NotebookPage

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
CELLS = [
    "%load_ext kale_magic\n%kale_workflow large",
    "%%kale_step big\nprint('begin')",
    "%%kale_step stays\nimport pathlib, time\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.1)",
    "import os\n_ = get_ipython().run_line_magic('kale_submit', '')\nprint('pid', os.getpid())",
    "%kale_dashboard logs --step big",
]
SHOW = 4
GIGABYTE = 1 << 30
LINE = b"%010d of a log that is much too long to be loaded by a page ......\n"
OPENS_WITHIN_S = 5.0  # on a busy machine; alone it is under one
KERNEL_GROWS_BYTES = 60 << 20
PAGE_GROWS_BYTES = 30 << 20


class Wire:
    """What widgets have told a page by its web sockets, in bytes; not what the live display of a submit has."""

    def __init__(self, page: Any) -> None:
        self.came = 0
        page.on("websocket", lambda socket: socket.on("framereceived", self._count))

    def _count(self, data: str | bytes) -> None:
        data = data.encode() if isinstance(data, str) else data
        self.came += len(data) if b"comm_msg" in data else 0


def heap(notebook: NotebookPage) -> int:
    """What the page's JavaScript holds, after its rubbish was collected."""
    session = notebook.page.context.new_cdp_session(notebook.page)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = {item["name"]: item["value"] for item in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return int(metrics["JSHeapUsedSize"])


def fill(log: Path) -> int:
    """Make a log of a gigabyte, with a word in its midst; return how many lines it has."""
    per_block = 100_000
    count = GIGABYTE // (len(LINE % 0) * per_block)
    with log.open("wb") as stream:
        for block in range(count):
            stream.write(b"".join(LINE % (block * per_block + n) for n in range(per_block)) if block in {0, count - 1} else (LINE % block) * per_block)
            if block == count // 2:
                stream.write(b"here is the Needle\n")
    return count * per_block


def test_log_of_a_gigabyte_opens_at_once_grows_is_searched_and_is_not_loaded(
    root: Path, open_notebook: Callable[..., NotebookPage], until: Callable[..., Any]
) -> None:
    notebook = open_notebook("large", CELLS, run=SHOW)
    said = notebook.page.locator(".jp-OutputArea-output", has_text=re.compile(r"^pid \d+")).inner_text()
    kernel = psutil.Process(int(said.split()[1]))
    with Client.connect() as client:
        run = until(lambda: client.runs(None, 1), "the run")[0]["run"]
        until(lambda: client.status(run)["steps"]["big"]["state"] == "completed", "the end of big")
    log = root / ".kale" / "runs" / run / "steps" / "big" / "stdout.log"
    fill(log)
    size = log.stat().st_size
    notebook.page.reload()
    notebook.is_idle()
    wire = Wire(notebook.page)
    notebook.page.reload()  # so that its socket is counted from the start
    notebook.is_idle()
    held, used, before = kernel.memory_info().rss, heap(notebook), wire.came
    part = notebook.part("logs")
    box = part.locator(".log")
    begun = time.monotonic()
    notebook.run(SHOW)
    last = f"{size // len(LINE % 0) // 100_000 * 100_000 - 1:010}"
    expect(box).to_contain_text(last, timeout=WAIT_MS)
    took = time.monotonic() - begun
    assert took < OPENS_WITHIN_S
    notebook.page.wait_for_timeout(3000)  # what the page asks for once it is there
    came = wire.came - before
    assert came < 400_000

    before = wire.came
    with log.open("ab") as stream:
        stream.write(b"one more\n")
    expect(box).to_contain_text("one more", timeout=WAIT_MS)
    assert box.evaluate("b => b.scrollHeight - b.scrollTop - b.clientHeight") < 40  # it follows
    assert wire.came - before < 40_000

    box.evaluate("b => { b.scrollTop -= 200 }")
    expect(part.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "false")
    held_at = box.evaluate("b => b.scrollTop")
    with log.open("ab") as stream:
        stream.write(b"\x1b[31mred\x1b[0m line\n training:   0%\r training:  40%")
    expect(box.locator(".ansi-red-fg")).to_have_text("red", timeout=WAIT_MS)
    assert box.evaluate("b => b.scrollTop") == held_at  # and now it does not
    expect(box.locator("progress")).to_have_attribute("value", "40")
    with log.open("ab") as stream:
        stream.write(b"\r training:  80%")
    expect(box.locator("progress")).to_have_attribute("value", "80", timeout=WAIT_MS)
    expect(box.locator("progress")).to_have_count(1)
    part.get_by_role("button", name="Follow").click()
    expect(part.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "true")

    search = part.get_by_label("Search the log")
    search.fill("the needle")
    search.press("Shift+Enter")
    expect(box.locator(".hit")).to_have_text("here is the Needle", timeout=WAIT_MS)
    notebook.look("found", part)
    search.press("Enter")
    expect(part.locator(".kale-say")).to_have_text("'the needle' is not found below in stdout.log.", timeout=WAIT_MS)
    part.locator(".src").select_option("out")
    part.get_by_role("button", name="Earlier").click()
    expect(box.locator("div")).not_to_have_count(0)

    kernel_bytes, page_bytes = kernel.memory_info().rss - held, heap(notebook) - used
    print(f"{size / 1e9:.2f} GB: shown after {took:.2f} s and {came / 1e3:.0f} kB; kernel {kernel_bytes / 1e6:+.0f} MB, page {page_bytes / 1e6:+.1f} MB")
    assert kernel_bytes < KERNEL_GROWS_BYTES
    assert page_bytes < PAGE_GROWS_BYTES
    (root / "go").touch()
