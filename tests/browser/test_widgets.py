"""The dashboard in JupyterLab and Notebook 7: by clicks and keys, checked in the page and in the manager."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from nbconvert import HTMLExporter

from kale_magic.client import Client

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'").expect

from tests.browser.pages import WAIT_MS, NotebookPage  # noqa: E402 - needs Playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import BrowserContext, Locator, Page

    from tests.browser.conftest import Server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
FRONT_ENDS = ["lab", "notebook"]
MD = """%%kale_step md --outputs b
import pathlib, time, sys
from kale_magic.inside import metric
print('\\x1b[32mgreen\\x1b[0m start')
print('to stderr', file=sys.stderr)
n = 0
while not pathlib.Path('{go}').exists():
    n += 1
    metric(energy=-n / (n + 3), step=n)
    print(f'\\rstep {{n}}', end='', flush=True)
    time.sleep(0.1)
print()
b = len(a)
"""
DECLARE = [
    "%load_ext kale_magic\n%kale_workflow {name}",
    "%%kale_step relax --outputs a --params n=2\n'''Relax: $E = mc^2$ and **more**.'''\na = list(range(n))",
    MD,
    "%%kale_step fit\nprint('fit of', b)\nraise ValueError('no minimum')",
    "%%kale_step sweep --each p=[1,2,3]\nprint(p)",
]
SUBMIT, SHOW = len(DECLARE), len(DECLARE) + 1


@pytest.fixture
def open_dashboard(open_notebook: Callable[..., NotebookPage]) -> Iterator[Callable[..., NotebookPage]]:
    """Return a function that opens a notebook, submits its workflow, and shows the dashboard; what was started is cancelled at the end."""

    def open_it(front_end: str, name: str, show: str = "%kale_dashboard", more: tuple[str, ...] = ()) -> NotebookPage:
        cells = [text.format(name=name, go=f"go-{name}") for text in DECLARE]
        notebook = open_notebook(name, [*cells, "run = %kale_submit", show, *more], front_end=front_end)
        for number in range(SUBMIT + 1):
            notebook.run(number)
        notebook.is_idle()
        notebook.run(SHOW)
        return notebook

    yield open_it
    with Client.connect() as client:
        for run in client.runs(None, 50):
            client.cancel(run["run"])


def node(notebook: NotebookPage, step: str) -> Locator:
    return notebook.step(step)


def newest(workflow: str) -> dict[str, Any]:
    """What the manager says of a workflow's newest run."""
    with Client.connect() as client:
        run = next(run for run in client.runs(None, 50) if run["workflow"] == workflow)
        return client.status(run["run"])


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_states_change_in_the_page_as_they_do_in_the_manager(
    root: Path, open_dashboard: Callable[..., NotebookPage], until: Callable[..., Any], front_end: str
) -> None:
    name = f"live-{front_end}"
    notebook = open_dashboard(front_end, name)
    expect(node(notebook, "md")).to_have_attribute("data-kale-state", "running", timeout=WAIT_MS)
    expect(node(notebook, "relax")).to_have_attribute("aria-label", "relax: completed")
    expect(node(notebook, "fit")).to_have_attribute("data-kale-state", "waiting")
    expect(node(notebook, "fit").locator(".w")).to_have_text("waiting")
    notebook.shoot("running")
    (root / f"go-{name}").touch()
    expect(node(notebook, "fit")).to_have_attribute("data-kale-state", "failed", timeout=WAIT_MS)
    expect(notebook.page.locator(".kale .head .pill")).to_have_text("failed")
    assert newest(name)["steps"]["fit"]["state"] == "failed"
    node(notebook, "fit").click()
    panel = notebook.part("step")
    expect(panel).to_contain_text("no minimum")
    expect(panel.locator("pre").first).to_contain_text("ValueError")
    node(notebook, "relax").click()
    expect(panel.locator("math")).to_be_visible()


def test_logs_come_as_they_are_written_in_colour_and_with_bars(root: Path, open_dashboard: Callable[..., NotebookPage]) -> None:
    notebook = open_dashboard("lab", "logs", "%kale_dashboard logs --step md")
    log = notebook.page.locator('.kale[data-kale="logs"] .log')
    expect(log.locator(".ansi-green-fg")).to_have_text("green", timeout=WAIT_MS)
    expect(log.locator(".err")).to_have_text("to stderr")
    bar = log.locator("div").filter(has_text=re.compile(r"^step \d+$"))
    expect(bar).to_have_count(1)  # one line that moves
    first = bar.inner_text()
    expect(bar).not_to_have_text(first)
    notebook.page.locator(".kale .src").select_option("err")
    expect(log.locator("div")).to_have_count(1)
    notebook.page.locator(".kale .src").select_option("both")
    expect(log.locator(".ansi-green-fg")).to_have_text("green")
    search = notebook.page.get_by_label("Search the log")
    search.fill("START")
    search.press("Enter")
    expect(log.locator(".hit")).to_contain_text("green start")
    search.fill("nowhere")
    search.press("Enter")
    expect(notebook.page.locator(".kale .kale-say")).to_contain_text("'nowhere' is not found in stdout.log")
    notebook.page.get_by_role("button", name="Follow").click()
    (root / "go-logs").touch()
    expect(notebook.page.locator(".kale .doing")).to_have_text("completed", timeout=WAIT_MS)


def test_queue_cancels_after_asking_back(open_dashboard: Callable[..., NotebookPage], until: Callable[..., Any]) -> None:
    notebook = open_dashboard("lab", "queue", "%kale_dashboard queue")
    part = notebook.part("queue")
    row = part.locator("tr[data-job$='/md']").filter(has_text="queue-2")
    expect(row).to_contain_text("running", timeout=WAIT_MS)
    expect(part.locator(".when")).to_contain_text("as of")
    notebook.shoot("rows")
    row.get_by_role("button").click()
    row.get_by_role("button", name="Keep it").click()
    assert newest("queue")["steps"]["md"]["state"] == "running"
    row.get_by_role("button").click()
    row.get_by_role("button", name="Really cancel md").click()
    until(lambda: newest("queue")["steps"]["md"]["state"] == "cancelled", "the end of md")
    expect(row).to_have_count(0)
    part.get_by_label("Filter").fill("nothing like it")
    expect(part).to_contain_text("Nothing")


def test_buttons_do_what_they_say(root: Path, open_dashboard: Callable[..., NotebookPage], until: Callable[..., Any]) -> None:
    notebook = open_dashboard("lab", "acts")
    page = notebook.page
    expect(node(notebook, "md")).to_have_attribute("data-kale-state", "running", timeout=WAIT_MS)
    first = newest("acts")["run"]
    node(notebook, "md").click()
    page.get_by_role("button", name="Stop").click()
    until(lambda: newest("acts")["steps"]["md"]["state"] != "running", "the stop of md")
    page.get_by_role("button", name="Cancel", exact=True).first.click()
    page.get_by_role("button", name="Sure? Cancel").click()
    until(lambda: newest("acts")["steps"]["md"]["state"] == "cancelled", "the end of md")
    expect(node(notebook, "md")).to_have_attribute("data-kale-state", "cancelled")
    (root / "go-acts").touch()
    page.get_by_role("button", name="Rerun failed").click()
    until(lambda: newest("acts")["run"] != first and newest("acts")["state"] == "failed", "the second run's end", 30)
    second = newest("acts")
    assert {name: step["state"] for name, step in second["steps"].items()} == {"md": "completed", "fit": "failed"} | (
        {"relax": second["steps"]["relax"]["state"]} if "relax" in second["steps"] else {}
    )
    node(notebook, "md").click()
    page.locator(".kale .runs").select_option(first)
    expect(node(notebook, "md")).to_have_attribute("data-kale-state", "cancelled")
    node(notebook, "relax").click()
    panel = page.locator('.kale[data-kale="step"]')
    panel.get_by_label("n", exact=True).fill("5")
    panel.get_by_role("button", name="Run with these").click()
    until(lambda: list(newest("acts")["steps"]) == ["relax"] and newest("acts")["state"] == "completed", "relax with n=5", 30)
    with Client.connect() as client:
        from kale_magic.api import Run

        assert Run(newest("acts")["run"], client)["relax"].pull("a") == [0, 1, 2, 3, 4]


def test_picture_is_worked_by_keys_alone(open_dashboard: Callable[..., NotebookPage]) -> None:
    notebook = open_dashboard("lab", "keys")
    page = notebook.page
    expect(node(notebook, "md")).to_have_attribute("data-kale-state", "running", timeout=WAIT_MS)
    cells = page.locator(".jp-Cell").count()
    page.get_by_role("button", name="Top to bottom").focus()
    page.keyboard.press("Tab")
    expect(node(notebook, "relax")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(node(notebook, "md")).to_be_focused()
    page.keyboard.press("Enter")
    expect(node(notebook, "md")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("[data-kale-panel]")).to_contain_text("md")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Control+Enter")
    expect(page.locator('.kale[data-kale="actions"] .what')).to_have_text(re.compile("md, relax|relax, md"))
    page.keyboard.press("Escape")
    expect(page.locator(".kale [aria-pressed=true].n")).to_have_count(0)
    assert page.locator(".jp-Cell").count() == cells  # no key went to the notebook
    page.get_by_role("button", name="Top to bottom").click()
    expect(page.get_by_role("button", name="Left to right")).to_be_visible()
    boxes = [node(notebook, name).bounding_box() for name in ("relax", "md")]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["y"] + boxes[0]["height"] < boxes[1]["y"]


def test_busy_kernel_still_shows_changes_and_takes_clicks(root: Path, open_dashboard: Callable[..., NotebookPage]) -> None:
    busy = "import time\nuntil = time.monotonic() + 25\nwhile time.monotonic() < until:\n    pass\nprint('done')"
    notebook = open_dashboard("lab", "busy", more=(busy,))
    expect(node(notebook, "md")).to_have_attribute("data-kale-state", "running", timeout=WAIT_MS)
    output = notebook.run(SHOW + 1)
    expect(notebook.page.locator(".jp-Notebook-ExecutionIndicator").first).to_have_attribute("data-status", "busy")
    (root / "go-busy").touch()
    expect(node(notebook, "fit")).to_have_attribute("data-kale-state", "failed", timeout=10_000)
    node(notebook, "fit").click()
    expect(notebook.page.locator("[data-kale-panel]")).to_contain_text("fit", timeout=10_000)
    expect(output).to_have_count(0)  # the cell is still at it


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_reloaded_page_and_second_browser_have_it_all(
    root: Path, server: Server, second_browser: BrowserContext, open_dashboard: Callable[..., NotebookPage], front_end: str
) -> None:
    name = f"again-{front_end}"
    notebook = open_dashboard(front_end, name)
    expect(node(notebook, "md")).to_have_attribute("data-kale-state", "running", timeout=WAIT_MS)
    node(notebook, "md").click()
    expect(notebook.page.locator("[data-kale-panel]")).to_contain_text("md")
    notebook.save()
    notebook.page.reload()
    expect(node(notebook, "md")).to_have_attribute("data-kale-state", "running", timeout=WAIT_MS)
    expect(node(notebook, "md")).to_have_attribute("aria-pressed", "true")
    other = NotebookPage(second_browser, server, "notebook", name)
    expect(node(other, "md")).to_have_attribute("data-kale-state", "running", timeout=WAIT_MS)
    (root / f"go-{name}").touch()
    for page in (notebook, other):
        expect(node(page, "fit")).to_have_attribute("data-kale-state", "failed", timeout=WAIT_MS)
    other.page.close()


def test_without_its_kernel_the_saved_notebook_shows_the_last_state(root: Path, open_dashboard: Callable[..., NotebookPage]) -> None:
    notebook = open_dashboard("lab", "gone")
    page = notebook.page
    expect(node(notebook, "md")).to_have_attribute("data-kale-state", "running", timeout=WAIT_MS)
    static = page.locator("[data-kale-static]")
    expect(static).to_be_hidden()
    (root / "go-gone").touch()
    expect(node(notebook, "fit")).to_have_attribute("data-kale-state", "failed", timeout=WAIT_MS)
    expect(static.locator('[data-kale-step="fit"]')).to_have_attribute("data-kale-state", "failed", timeout=WAIT_MS)
    notebook.save()
    notebook.choose("shutdown")
    page.reload()
    expect(static.locator('[data-kale-step="fit"]')).to_be_visible(timeout=WAIT_MS)
    expect(page.locator(".kale")).to_have_count(0)
    page.wait_for_timeout(3000)  # whatever else would come has come
    expect(page.get_by_text("model not found")).to_be_hidden()
    notebook.shoot("static")


def test_saved_notebook_is_a_page_without_a_front_end(root: Path, open_dashboard: Callable[..., NotebookPage]) -> None:
    notebook = open_dashboard("lab", "html")
    (root / "go-html").touch()
    expect(node(notebook, "fit")).to_have_attribute("data-kale-state", "failed", timeout=WAIT_MS)
    expect(notebook.page.locator('[data-kale-static] [data-kale-step="fit"]')).to_have_attribute("data-kale-state", "failed", timeout=WAIT_MS)
    notebook.save()
    html, _ = HTMLExporter().from_filename(str(root / "html.ipynb"))
    (root / "html.html").write_text(html)
    notebook.page.goto(f"file://{root}/html.html")
    expect(notebook.page.locator('[data-kale-static] [data-kale-step="fit"]')).to_be_visible()
    expect(notebook.page.get_by_text("model not found")).to_be_hidden()


def test_metrics_and_resources_are_drawn_as_they_come(root: Path, open_dashboard: Callable[..., NotebookPage]) -> None:
    notebook = open_dashboard("lab", "charts", "%kale_dashboard plots --step md", ("%kale_dashboard resources --step md",))
    plots = notebook.part("plots")
    line = plots.locator("svg[aria-label^=energy] path[stroke-width='1.5']")
    expect(line).to_be_visible(timeout=WAIT_MS)
    first = str(line.get_attribute("d"))
    expect(line).not_to_have_attribute("d", first, timeout=WAIT_MS)
    (root / "table.csv").write_text("t,e\n0,1\n1,4\n2,9\n")
    with (root / "table.csv").open("a") as stream:
        plots.locator(".file").select_option("table.csv", timeout=WAIT_MS)
        plots.locator(".x").select_option("t")
        expect(plots.locator("svg[aria-label='table.csv: e']")).to_be_visible()
        stream.write("3,16\n")
    notebook.run(SHOW + 1)
    usage = notebook.part("resources")
    for title in ("job: memory", "node: memory", "this host: processors"):
        expect(usage.locator(f"svg[aria-label^='{title}']")).to_be_visible(timeout=WAIT_MS)
    notebook.shoot("both")


def test_pause_and_resume_by_click(open_dashboard: Callable[..., NotebookPage], until: Callable[..., Any]) -> None:
    notebook = open_dashboard("lab", "pause", "%kale_dashboard dag")
    page = notebook.page
    expect(node(notebook, "md")).to_have_attribute("data-kale-state", "running", timeout=WAIT_MS)
    node(notebook, "md").click()
    page.get_by_role("button", name="Pause").click()
    until(lambda: newest("pause")["steps"]["md"]["state"] == "paused", "the pause of md")
    expect(node(notebook, "md")).to_have_attribute("data-kale-state", "paused")
    page.get_by_role("button", name="Resume").click()
    until(lambda: newest("pause")["steps"]["md"]["state"] == "running", "md going on")
    expect(node(notebook, "md")).to_have_attribute("data-kale-state", "running")
    page.get_by_role("button", name="Open notebook").click()
    expect(page.locator(".kale .kale-say").filter(has_text="its kernel is that of")).to_be_visible(timeout=WAIT_MS)


def choose(page: Page, tab: str) -> None:
    """Choose a tab of the dashboard and see its part."""
    page.get_by_role("tab", name=tab).click()
    expect(page.locator(f'.kale[data-kale="{tab.lower()}"]')).to_be_visible(timeout=WAIT_MS)


def test_tabs_answer_after_each_reload_of_the_page_and_to_the_keyboard(root: Path, open_dashboard: Callable[..., NotebookPage]) -> None:
    notebook = open_dashboard("lab", "tabs")
    page = notebook.page
    (root / "go-tabs").touch()
    expect(node(notebook, "fit")).to_have_attribute("data-kale-state", "failed", timeout=WAIT_MS)
    notebook.save()
    for _ in range(6):
        page.reload()
        expect(node(notebook, "fit")).to_have_attribute("data-kale-state", "failed", timeout=WAIT_MS)
        for tab in ("Step", "Logs", "Plots", "Step"):
            choose(page, tab)
        expect(page.locator('.kale[data-kale="logs"]')).to_be_hidden()
    page.get_by_role("tab", name="Step").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator('.kale[data-kale="logs"]')).to_be_visible()
    page.keyboard.press("End")
    expect(page.locator('.kale[data-kale="ssh"]')).to_be_visible()
    expect(page.get_by_role("tab", name="SSH")).to_have_attribute("aria-selected", "true")


def test_no_serious_fault_for_a_screen_reader_in_either_theme(root: Path, open_dashboard: Callable[..., NotebookPage]) -> None:
    notebook = open_dashboard("lab", "themes")
    page = notebook.page
    (root / "go-themes").touch()
    expect(node(notebook, "fit")).to_have_attribute("data-kale-state", "failed", timeout=WAIT_MS)
    node(notebook, "fit").click()
    for tab in ("Step", "Logs", "Plots", "Resources", "Queue", "Pools", "SSH"):
        choose(page, tab)
        notebook.part("dag").scroll_into_view_if_needed()
        notebook.look(tab.lower())
