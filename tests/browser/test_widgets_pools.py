"""The pools part in JupyterLab: opened, watched and closed by clicks and keys, checked in the page and in the manager."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.client import Client

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
    "%load_ext kale_magic\n%kale_workflow pooled",
    "%%kale_step md\nimport pathlib, time\nwhile not pathlib.Path('go').exists():\n    time.sleep(0.1)",
    "%kale_dashboard pools",
    "_ = get_ipython().run_line_magic('kale_submit', '--pool fast --no-cache')",
]
SHOWN, SUBMIT = 3, 3


@pytest.fixture(scope="module")
def server(home: Path, root: Path) -> Iterator[Server]:
    """A server of its own; pools are closed at the end."""
    with serve(home, root) as found:
        yield found
        with Client.connect() as client:
            for pool in client.pools():
                client.close_pool(pool["name"], is_now=True)


def pools() -> dict[str, dict[str, Any]]:
    """What the manager says of each pool."""
    with Client.connect() as client:
        return {pool["name"]: pool for pool in client.pools()}


def test_pool_is_opened_watched_and_closed(root: Path, open_notebook: Callable[..., NotebookPage], until: Callable[..., Any]) -> None:
    notebook = open_notebook("pools", CELLS, run=SHOWN)
    part = notebook.part("pools")
    expect(part).to_contain_text("No pool is open.")
    part.get_by_label("Name").fill("fast")
    part.get_by_label("Executor").select_option("local")
    part.get_by_label("Cores").fill("many")
    part.get_by_role("button", name="Open").click()
    expect(part.locator(".kale-say.bad")).to_contain_text("cores: 'many' is no count. Write a whole number", timeout=WAIT_MS)
    assert pools() == {}
    part.get_by_label("Cores").fill("2")
    part.get_by_label("Walltime").fill("00:20:00")
    part.get_by_label("Walltime").press("Enter")
    row = part.locator("tr[data-pool=fast]")
    expect(row).to_have_attribute("data-state", "idle", timeout=WAIT_MS)
    expect(row).to_contain_text("0 of 2")
    expect(row).to_contain_text(re.compile(r"00:(19|20):\d\d"))  # of its time, what is left
    assert (pools()["fast"]["state"], pools()["fast"]["walltime_s"]) == ("idle", 1200)
    notebook.run(SUBMIT)
    expect(row).to_have_attribute("data-state", "active", timeout=WAIT_MS)
    expect(row).to_contain_text("/md")
    expect(row).to_contain_text("1 of 2")
    part.get_by_role("button", name="Open").click()
    expect(part.locator(".kale-say.bad")).to_contain_text("Pool fast is active already. Close it first", timeout=WAIT_MS)
    notebook.look("active")
    row.get_by_role("button", name="Close fast when it is idle").press("Enter")
    expect(row).to_have_attribute("data-state", "draining", timeout=WAIT_MS)
    expect(part.locator("tr[data-why=fast]")).to_contain_text("closes when what was submitted to it has ended")
    assert pools()["fast"]["state"] == "draining"
    (root / "go").touch()
    expect(row).to_have_count(0, timeout=WAIT_MS)
    until(lambda: pools() == {}, "the end of the pool")
    with Client.connect() as client:
        [run] = [run for run in client.runs(None, 5) if run["workflow"] == "pooled"]
        assert client.status(run["run"])["steps"]["md"]["state"] == "completed"
    (root / "go").unlink()


def test_pool_that_is_closed_now_asks_back_and_cancels_what_runs(root: Path, open_notebook: Callable[..., NotebookPage], until: Callable[..., Any]) -> None:
    notebook = open_notebook("now", CELLS, run=SHOWN)
    part = notebook.part("pools")
    part.get_by_label("Name").fill("fast")
    part.get_by_label("Executor").select_option("local")
    part.get_by_label("Name").press("Enter")
    row = part.locator("tr[data-pool=fast]")
    expect(row).to_have_attribute("data-state", "idle", timeout=WAIT_MS)
    notebook.run(SUBMIT)
    expect(row).to_have_attribute("data-state", "active", timeout=WAIT_MS)
    row.get_by_role("button", name="Close fast now").click()
    row.get_by_role("button", name="Keep it").click()
    assert pools()["fast"]["state"] == "active"
    row.get_by_role("button", name="Close fast now").press("Enter")
    expect(row.get_by_role("button", name="Really close fast and cancel 1 job")).to_be_focused()
    notebook.page.keyboard.press("Enter")
    expect(part.locator(".kale-say")).to_contain_text("Pool fast closes. Cancelled:", timeout=WAIT_MS)
    expect(row).to_have_count(0, timeout=WAIT_MS)
    with Client.connect() as client:
        run = next(run for run in client.runs(None, 5) if run["workflow"] == "pooled")
        until(lambda: client.status(run["run"])["steps"]["md"]["state"] == "cancelled", "the end of md")


def test_saved_notebook_keeps_the_pools_as_a_table(open_notebook: Callable[..., NotebookPage]) -> None:
    notebook = open_notebook("kept", CELLS, run=SHOWN)
    part = notebook.part("pools")
    part.get_by_label("Name").fill("kept")
    part.get_by_label("Executor").select_option("local")
    part.get_by_label("Name").press("Enter")
    expect(part.locator("tr[data-pool=kept]")).to_have_attribute("data-state", "idle", timeout=WAIT_MS)
    page, static = notebook.page, notebook.page.locator("[data-kale-static]")
    expect(static).to_be_hidden()
    expect(static).to_contain_text("kept", timeout=WAIT_MS)
    page.wait_for_timeout(6000)  # the saved form is at most five seconds behind
    notebook.save()
    notebook.choose("shutdown")
    page.reload()
    expect(static).to_be_visible(timeout=WAIT_MS)
    expect(static).to_contain_text("idle")
    page.wait_for_timeout(2000)
    expect(page.get_by_text("model not found")).to_be_hidden()
