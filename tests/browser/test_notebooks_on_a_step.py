"""JupyterLab and Notebook 7 in Chromium, on the kernelspec of a busy step: output, widgets, stop, restart, shutdown."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests import steps

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'").expect

from tests.browser.pages import WAIT_MS, NotebookPage  # noqa: E402 - needs Playwright

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import Place

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
FRONT_ENDS = ["lab", "notebook"]


@pytest.fixture
def open_on_step(place: Place, open_notebook: Callable[..., NotebookPage]) -> Callable[..., NotebookPage]:
    """Return a function that writes a notebook on the step's kernelspec and opens it."""
    kernel = steps.install(place.run).name

    def open_it(front_end: str, name: str, cells: list[str]) -> NotebookPage:
        return open_notebook(name, cells, front_end=front_end, kernel=kernel)

    return open_it


def visits(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place.run["md"].target().live / "visits.json").read_text())
    return found


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_cell_shows_a_variable_of_the_busy_step(place: Place, open_on_step: Callable[..., NotebookPage], front_end: str) -> None:
    notebook = open_on_step(front_end, f"show-{front_end}", ["n", "import matplotlib.pyplot as plt\nplt.plot([1, n])\nplt.show()"])
    notebook.shows(0, re.compile(r"^\d+\s*$"))
    expect(notebook.run(1).locator("img")).to_be_visible(timeout=WAIT_MS)
    assert steps.goes_on(place.run)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_slider_moves_python_and_python_moves_the_slider(
    place: Place, open_on_step: Callable[..., NotebookPage], front_end: str
) -> None:
    cells = [
        "import ipywidgets\nslider = ipywidgets.IntSlider(value=3, max=100)\nslider",
        "print('slider is', slider.value)",
        "slider.value = 77",
        "slider.observe(lambda change: setattr(slider, 'description', f'seen {change.new}'), 'value')",
    ]
    notebook = open_on_step(front_end, f"slider-{front_end}", cells)
    output = notebook.run(0)
    readout, handle = output.locator(".widget-readout"), output.locator(".noUi-handle")
    expect(readout).to_have_text("3", timeout=WAIT_MS)
    notebook.shows(1, "slider is 3\n")
    notebook.drag(handle, 60)
    expect(readout).not_to_have_text("3")
    notebook.shows(1, f"slider is {readout.inner_text()}\n")
    notebook.run(2)
    expect(readout).to_have_text("77", timeout=WAIT_MS)
    notebook.run(3)
    notebook.is_idle()
    notebook.drag(handle, -60)  # there and back: a callback in the step's kernel changes the page
    expect(readout).not_to_have_text("77")
    expect(output.locator(".widget-label")).to_have_text(f"seen {readout.inner_text()}", timeout=WAIT_MS)
    assert steps.goes_on(place.run)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_stop_button_ends_the_endless_cell_and_not_the_step(
    place: Place, open_on_step: Callable[..., NotebookPage], front_end: str
) -> None:
    notebook = open_on_step(front_end, f"stop-{front_end}", ["print('in')\nwhile True:\n    pass", "print('after')"])
    output = notebook.run(0)
    expect(output.first).to_have_text("in\n", timeout=WAIT_MS)
    notebook.shoot("running")
    notebook.press_stop()
    expect(output.nth(1)).to_contain_text("KeyboardInterrupt", timeout=WAIT_MS)
    notebook.shows(1, "after\n")
    assert steps.goes_on(place.run)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_restart_and_shutdown_from_the_menu_detach_and_the_step_goes_on(
    place: Place, open_on_step: Callable[..., NotebookPage], until: Callable[..., Any], front_end: str
) -> None:
    notebook = open_on_step(front_end, f"restart-{front_end}", ["mine = 1\nprint('mine', n > 0)", "mine"])
    notebook.shows(0, "mine True\n")
    notebook.choose("restart")
    notebook.is_idle()
    expect(notebook.run(1).first).to_contain_text("NameError", timeout=WAIT_MS)
    notebook.shows(0, "mine True\n")
    before = len(visits(place))
    notebook.choose("shutdown")
    until(lambda: len(visits(place)) < before, "the visit's end", 60)
    assert steps.goes_on(place.run)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_two_notebooks_at_once_see_their_own_output_only(
    place: Place, open_on_step: Callable[..., NotebookPage], front_end: str
) -> None:
    code = "import time\nfor k in range(40):\n    print('{0}', k)\n    time.sleep(0.05)"
    first, second = (open_on_step(front_end, f"{word}-{front_end}", [code.format(word)]) for word in ("one", "two"))
    outputs = [(notebook.run(0).first, word) for notebook, word in ((first, "one"), (second, "two"))]
    for output, word in outputs:
        expect(output).to_have_text("".join(f"{word} {k}\n" for k in range(40)), timeout=WAIT_MS)
    assert steps.goes_on(place.run)
