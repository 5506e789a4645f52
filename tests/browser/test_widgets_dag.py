"""The picture, the panel and the plots of a sweep in JupyterLab, by mouse: what a person finds out about a run and begins anew."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.client import Client

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'").expect

from tests.browser.pages import WAIT_MS  # noqa: E402 - needs Playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.browser.pages import NotebookPage

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
LONG = "\n".join(f"# line {n} of a long cell" for n in range(60))
CELLS = [
    "%load_ext kale_magic\n%kale_workflow picture",
    "%%kale_step first --outputs x --params n=3\n'''Where $x^2$ begins.'''\nx = n ** 2\nprint('x is', x)",
    f"%%kale_step middle --outputs y\n{LONG}\ny = x + 1",
    "%%kale_step last\nprint('y is', y)",
    "%%kale_step alone\nprint('alone')",
    """%%kale_step sweep --each p=[1,2,3]
import matplotlib.pyplot as plt
from kale_magic.inside import metric
for i in range(5):
    metric(loss=p / (i + 1), step=i)
plt.plot([1, p])
plt.show()""",
    "_ = get_ipython().run_line_magic('kale_submit', '--wait')",
    "%kale_dashboard",
]
SHOWN = len(CELLS)
MANY = """%%capture
%kale_workflow many
get_ipython().run_cell_magic('kale_step', 'begin', 'pass')
for n in range(250):
    get_ipython().run_cell_magic('kale_step', f'm{n} --after begin', 'pass')"""


@pytest.fixture
def manager(open_notebook: Callable[..., NotebookPage]) -> Iterator[Client]:
    assert callable(open_notebook)
    with Client.connect() as client:
        yield client


def newest(manager: Client) -> dict[str, Any]:
    return manager.status(manager.runs(None, 1)[0]["run"])


def view(notebook: NotebookPage) -> tuple[float, float, float]:
    """Where the picture is, and how large."""
    found = re.findall(r"-?[\d.]+", str(notebook.part("dag").locator(".world").get_attribute("transform")))
    across, down, scale = map(float, found)
    return across, down, scale


def test_picture_is_moved_and_what_is_chosen_in_it_is_run_again(
    open_notebook: Callable[..., NotebookPage], manager: Client, until: Callable[..., Any]
) -> None:
    notebook = open_notebook("picture", CELLS, run=SHOWN)
    page, dag, actions = notebook.page, notebook.part("dag"), notebook.part("actions")
    expect(notebook.step("last")).to_have_attribute("data-kale-state", "completed", timeout=WAIT_MS)
    expect(notebook.step("sweep").locator(".b")).to_have_text("3/3")
    first = newest(manager)["run"]

    fitted = view(notebook)
    dag.get_by_role("button", name="Zoom in").click()
    assert view(notebook)[2] > fitted[2]
    box = dag.locator("svg.view").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] - 8)  # no card is there
    before = view(notebook)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9 - 50, box["y"] + box["height"] - 8, steps=4)
    page.mouse.up()
    assert view(notebook)[0] == pytest.approx(before[0] - 50, abs=2)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -200)
    page.keyboard.up("Control")
    page.wait_for_function("k => +/scale\\(([\\d.]+)/.exec(document.querySelector('.kale .world').getAttribute('transform'))[1] > k", arg=before[2])
    dag.get_by_role("button", name="Fit").click()
    assert view(notebook) == pytest.approx(fitted, abs=0.01)

    cell = page.locator(".jp-CodeCell", has_text="kale_step middle")
    expect(cell.locator(".cm-line").first).not_to_be_in_viewport()
    notebook.step("middle").dblclick()
    expect(cell).to_be_in_viewport(ratio=0.5, timeout=WAIT_MS)
    notebook.step("first").scroll_into_view_if_needed()
    page.keyboard.press("Escape")

    notebook.step("first").click()
    notebook.step("alone").click(modifiers=["Control"])
    expect(actions.locator(".what")).to_have_text(re.compile("^(first, alone|alone, first)$"))
    actions.get_by_role("button", name="Run these").click()
    second = until(lambda: (found := newest(manager))["run"] != first and found["state"] == "completed" and found, "the run of two steps", 60)
    assert sorted(second["steps"]) == ["alone", "first"]
    page.locator(".kale .runs").select_option(first)
    expect(notebook.step("sweep")).to_be_visible(timeout=WAIT_MS)
    notebook.step("middle").click()
    actions.get_by_role("button", name="Run from here").click()
    third = until(lambda: (found := newest(manager))["run"] not in {first, second["run"]} and found["state"] == "completed" and found, "the rest's run", 60)
    assert sorted(third["steps"]) == ["first", "last", "middle"]
    assert third["steps"]["first"]["state"] == "cached"  # what they need of it is there


def test_panel_and_plots_tell_what_a_step_is_and_what_it_left(open_notebook: Callable[..., NotebookPage], manager: Client) -> None:
    notebook = open_notebook("panel", [cell.replace("workflow picture", "workflow panel") for cell in CELLS], run=SHOWN)
    page, panel, status = notebook.page, notebook.part("step"), newest(manager)
    notebook.step("first").click()
    expect(panel.locator("[data-kale-panel=first]")).to_be_visible(timeout=WAIT_MS)
    expect(panel.locator("math")).to_be_visible()
    expect(panel.locator("tr", has_text="job")).to_contain_text(str(status["steps"]["first"]["native_id"]))
    expect(panel.get_by_label("n", exact=True)).to_have_value("3")
    for title, words in {"Outputs": "x", "History": "started", "Code": "x = n ** 2", "Script": "kale"}.items():
        part = panel.locator(f"details[data-k={title}]")
        part.locator("summary").click()
        expect(part).to_contain_text(words)
    notebook.look("panel", panel)
    notebook.step("sweep").click()
    panel.get_by_role("button", name="p=2").click()
    expect(panel.locator("[data-kale-panel]")).to_contain_text("sweep", timeout=WAIT_MS)
    expect(panel.locator("tr", has_text="job")).to_contain_text(str(status["steps"]["sweep"]["points"]["1"]["native_id"]))
    notebook.step("alone").click()
    notebook.step("sweep").click()
    page.get_by_role("tab", name="Plots").click()
    plots = notebook.part("plots")
    expect(plots.locator("svg[aria-label='loss: sweep[p=1], sweep[p=2], sweep[p=3]'] path[stroke-width='1.5']")).to_have_count(3, timeout=WAIT_MS)
    expect(plots.locator("img[alt^='last image of sweep']")).to_be_visible(timeout=WAIT_MS)
    notebook.look("plots", plots)


def test_hundreds_of_like_steps_stand_together_with_their_number(open_notebook: Callable[..., NotebookPage]) -> None:
    notebook = open_notebook("many", ["%load_ext kale_magic", MANY, "%kale_dashboard dag"], run=3)
    group = notebook.part("dag").locator("[data-kale-group]")
    expect(group).to_have_attribute("data-kale-group", "250", timeout=WAIT_MS)
    expect(group).to_contain_text("declared")
    expect(notebook.step("begin")).to_be_visible()
