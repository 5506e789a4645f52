"""A notebook in a page of JupyterLab or Notebook 7, driven as a person does: cells, toolbar, menus."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Locator

    from tests.browser.conftest import Server

SHOTS = Path(__file__).parent / "shots"
WAIT_MS = 60_000
THEMES = ("Dark", "Light")
SERIOUS = frozenset({"serious", "critical"})
PATHS = {"lab": "lab/workspaces/{name}/tree/{name}.ipynb", "notebook": "notebooks/{name}.ipynb"}


def write_notebook(folder: Path, name: str, kernel: str, cells: list[str]) -> None:
    """Write a notebook that is bound to a kernelspec."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    notebook.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
    nbformat.write(notebook, folder / f"{name}.ipynb")


class NotebookPage:
    """One open notebook."""

    def __init__(self, chromium: BrowserContext, server: Server, front_end: str, name: str) -> None:
        self.name = f"{front_end}-{name}"
        self._sessions = f"{server.url}api/sessions?token={server.token}"
        self.page = chromium.new_page()
        self.page.goto(f"{server.url}{PATHS[front_end].format(name=name)}?token={server.token}")
        self._path = f"{name}.ipynb"
        self._is_connected()
        self.is_idle()

    def _is_connected(self) -> None:
        """Wait until the page has its kernel: a cell that is run before is forgotten without a word."""
        deadline = time.monotonic() + WAIT_MS / 1000
        while time.monotonic() < deadline:
            for session in self.page.request.get(self._sessions).json():
                kernel = session["kernel"] or {}
                if session["path"] == self._path and kernel.get("connections") and kernel["execution_state"] == "idle":
                    return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{self._path} has no kernel")

    def is_idle(self) -> None:
        """Wait until the kernel is there and rests."""
        expect(self.page.locator(".jp-Notebook-ExecutionIndicator").first).to_have_attribute("data-status", "idle", timeout=WAIT_MS)

    def run(self, number: int) -> Locator:
        """Run a cell, and return where its output comes."""
        cell = self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)
        cell.locator(".jp-InputPrompt").first.click()
        expect(cell).to_have_class(re.compile(r"\bjp-mod-active\b"))
        self.page.locator('[data-command="notebook:run-cell-and-select-next"]').first.click()
        return cell.locator(".jp-OutputArea-output")

    def part(self, name: str) -> Locator:
        """The part of the dashboard of this name."""
        return self.page.locator(f'.kale[data-kale="{name}"]')

    def step(self, name: str) -> Locator:
        """The card of a step in the picture of the workflow."""
        return self.page.locator(f'.kale [data-kale-step="{name}"]').first

    def shows(self, number: int, text: str | re.Pattern[str]) -> None:
        """Run a cell and wait until its first output has this text."""
        expect(self.run(number).first).to_have_text(text, timeout=WAIT_MS)

    def drag(self, handle: Locator, pixels: int) -> None:
        """Drag something to the right."""
        box = handle.bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + pixels, y, steps=5)
        self.page.mouse.up()

    def press_stop(self) -> None:
        """Press the square in the toolbar."""
        self.page.locator('[data-command="notebook:interrupt-kernel"]').first.click()

    def choose(self, command: str) -> None:
        """Choose from the menu Kernel; a restart is asked back for, and agreed to."""
        self.page.locator(".lm-MenuBar-item", has_text=re.compile("^Kernel$")).click()
        self.page.locator(f'.lm-Menu-item[data-command="kernelmenu:{command}"]').click()
        if command == "restart":
            accept = self.page.locator(".jp-Dialog .jp-mod-accept")
            accept.click()
            expect(accept).to_have_count(0)

    def save(self) -> None:
        """Save the notebook, and wait until it is."""
        with self.page.expect_response(lambda answer: answer.request.method == "PUT" and "/api/contents/" in answer.url, timeout=WAIT_MS):
            self.page.locator('[data-command="docmanager:save"]').first.click()
        expect(self.page.locator(".jp-mod-dirty")).to_have_count(0)

    def close(self) -> None:
        """Save a picture of the page, close it, and end its kernel, which would compute beside the tests that follow."""
        self.shoot("end")
        request = self.page.context.request
        self.page.close()
        for session in request.get(self._sessions).json():
            if session["path"] == self._path and (session["kernel"] or {}).get("execution_state") in {"idle", "busy"}:
                request.delete(self._sessions.replace("/sessions?", f"/sessions/{session['id']}?"))

    def turn(self, theme: str) -> None:
        """Choose a theme from the menu Settings: Light or Dark."""
        if self.page.locator("body").get_attribute("data-jp-theme-name") == f"JupyterLab {theme}":
            return
        self.page.locator(".lm-MenuBar-item", has_text=re.compile("^Settings$")).click()
        self.page.locator(".lm-Menu-item", has_text=re.compile("^Theme$")).hover()
        self.page.locator('.lm-Menu-item[data-command="apputils:change-theme"]', has_text=f"JupyterLab {theme}").first.click()
        expect(self.page.locator("body")).to_have_attribute("data-jp-theme-light", str(theme == "Light").lower(), timeout=WAIT_MS)

    def look(self, what: str, at: Locator | None = None) -> None:
        """Save a picture of the page in either theme, with something of it in view; axe-core must find no serious fault in what Kale shows."""
        found = []
        for theme in THEMES:
            self.turn(theme)
            self.page.wait_for_timeout(300)  # colours fade in
            if at is not None:
                at.evaluate("e => e.scrollIntoView({ block: 'center' })")
            self.shoot(f"{what}-{theme.lower()}")
            found += [(theme, *fault) for fault in self.faults()]
        assert not found

    def faults(self) -> list[tuple[str, str, list[str]]]:
        """What axe-core finds serious in Kale's parts of the page."""
        found = Axe().run(self.page, context={"include": [[".kale"]]}).response["violations"]
        return [(fault["id"], fault["help"], [part["html"][:160] for part in fault["nodes"]]) for fault in found if fault["impact"] in SERIOUS]

    def shoot(self, what: str) -> None:
        """Save a picture of the page."""
        SHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{self.name}-{what}.png")
