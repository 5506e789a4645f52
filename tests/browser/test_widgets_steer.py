"""Parameters of a running step, changed in its panel: the step's next look sees them, and its events say who did it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.client import Client

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'").expect

from tests.browser.pages import WAIT_MS  # noqa: E402 - needs Playwright

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.pages import NotebookPage

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
LOOP = """%%kale_step loop --params rate=1 label='a b' --outputs seen
import time
from kale_magic.inside import params
seen = []
while params.rate != 7:
    time.sleep(0.02)
seen = [params.rate, params.label]
"""


def test_a_parameter_of_a_running_step_is_changed_in_its_panel(root: Path, open_notebook: Callable[..., NotebookPage], until: Callable[..., Any]) -> None:
    notebook = open_notebook("steer", ["%load_ext kale_magic\n%kale_workflow steer", LOOP, "run = %kale_submit", "%kale_dashboard"])
    for number in range(3):
        notebook.run(number)
    notebook.is_idle()
    notebook.run(3)
    page = notebook.page
    expect(notebook.step("loop")).to_have_attribute("data-kale-state", "running", timeout=WAIT_MS)
    notebook.step("loop").click()
    panel = page.locator('.kale[data-kale="step"]')
    button = panel.get_by_role("button", name="Change now, while it runs")
    button.click(timeout=WAIT_MS)
    expect(page.locator(".kale .kale-say").filter(has_text="Nothing is changed yet.").first).to_be_visible(timeout=WAIT_MS)
    panel.get_by_label("label", exact=True).fill("'it is so'")
    panel.get_by_label("rate", exact=True).fill("7")
    button.click()
    with Client.connect() as client:
        (run,) = [item["run"] for item in client.runs(None, 50) if item["workflow"] == "steer"]
        until(lambda: client.status(run)["steps"]["loop"]["state"] == "completed", "the end of the loop", 30)
    (events,) = root.glob(f".kale/runs/{run}/steps/loop/events.jsonl")
    changes = [json.loads(line) for line in events.read_text().splitlines() if "rate" in line]
    assert changes
    assert "7" in json.dumps(changes[0])
    assert changes[0]["by"]
    value = json.loads((events.parent / "outputs" / "seen.json").read_text())
    assert value == [7, "it is so"]
    expect(button).to_have_count(0)  # it is over: there is nothing to be changed any more
