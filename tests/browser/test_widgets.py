"""The dashboard in JupyterLab and Notebook 7: by clicks and keys, checked in the page and in the manager."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.client import Client
from tests import steps

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'").expect

from tests.browser.conftest import serve  # noqa: E402 - needs Playwright
from tests.browser.pages import WAIT_MS, NotebookPage, write_notebook  # noqa: E402 - needs Playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import BrowserContext, Locator

    from tests.browser.conftest import Server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
FRONT_ENDS = ["lab", "notebook"]
MD = """%%kale_step md --outputs b
import pathlib, time, sys
print('\\x1b[32mgreen\\x1b[0m start')
print('to stderr', file=sys.stderr)
n = 0
while not pathlib.Path('{go}').exists():
    n += 1
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


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[Server]:
    """A server of its own; what the tests started is cancelled at the end."""
    with steps.private_jupyter() as home, serve(home, root) as found:
        yield found


@pytest.fixture
def open_dashboard(root: Path, server: Server, chromium: BrowserContext) -> Iterator[Callable[..., NotebookPage]]:
    """Return a function that opens a notebook, submits its workflow, and shows the dashboard."""
    opened: list[NotebookPage] = []

    def open_it(front_end: str, name: str, show: str = "%kale_dashboard", more: tuple[str, ...] = ()) -> NotebookPage:
        cells = [text.format(name=name, go=f"go-{name}") for text in DECLARE]
        write_notebook(root, f"{name}", "python3", [*cells, "run = %kale_submit", show, *more])
        notebook = NotebookPage(chromium, server, front_end, name)
        opened.append(notebook)
        for number in range(SUBMIT + 1):
            notebook.run(number)
        notebook.is_idle()
        notebook.run(SHOW)
        return notebook

    yield open_it
    for notebook in opened:
        notebook.shoot("end")
        notebook.page.close()
    with Client.connect() as client:
        for run in client.runs(None, 50):
            client.cancel(run["run"])


def node(notebook: NotebookPage, step: str) -> Locator:
    return notebook.page.locator(f'.kale [data-kale-step="{step}"]').first


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
    panel = notebook.page.locator('.kale[data-kale="step"]')
    expect(panel).to_contain_text("no minimum")
    expect(panel.locator("pre").first).to_contain_text("ValueError")
    node(notebook, "relax").click()
    expect(panel.locator("math")).to_be_visible()
