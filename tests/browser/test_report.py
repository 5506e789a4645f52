"""The report of a run in Chromium, from a file and without a server: everything is in it, in either theme, on paper and on a telephone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from kale_magic.api import Workflow, connect

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'").expect

from tests.browser.pages import SERIOUS, SHOTS  # noqa: E402 - needs Playwright

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import BrowserContext, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]
CURVE = """'''Energy against volume, $E(V)$.'''
import matplotlib.pyplot as plt
from kale_magic.inside import metric
for i in range(30):
    metric(energy=(i - 15) ** 2 * ord(metal[0]), step=i)
    print(f'\\r{i}%', end='')
print('\\ndone', metal)
plt.plot(range(9))
plt.show()
e = 1"""
TEXT = "# Equation of state\n\nEnergy against volume, $E(V)$, of **two metals**.\n\n| metal | lattice |\n|---|---|\n| Al | fcc |"


@pytest.fixture(scope="module")
def report(home: Path, root: Path) -> Path:
    """The report of a run in which a sweep is completed and a step has failed."""
    from kale_magic.api.report import write_report

    workflow = Workflow("eos", folder=root, description=TEXT)
    workflow.step("curve", CURVE, each={"metal": "['Al', 'Cu']"}, outputs=["e"])
    workflow.step("fit", "import sys\nprint('\\x1b[31mbad\\x1b[0m', 'x' * 300, file=sys.stderr)\nraise ValueError(f'no minimum of {e} with {n}')", params={"n": 5})
    workflow.step("compare", "pass", after=["fit"])
    with connect() as kale:
        run = kale.run(workflow.submit(client=kale.client, cache=False).name)
        assert run.wait(timeout=60) == "failed"
        write_report(kale.client, run.status(), home / "report.html")
    return home / "report.html"


def opened(chromium: BrowserContext, report: Path, **emulated: Any) -> tuple[Page, list[str]]:
    page, asked = chromium.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    if emulated:
        page.emulate_media(**emulated)
    page.goto(f"file://{report}")
    return page, [url for url in asked if not url.startswith(("file://", "data:"))]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_report_is_one_file_with_text_pictures_times_logs_and_origin(chromium: BrowserContext, report: Path, theme: str) -> None:
    page, elsewhere = opened(chromium, report, color_scheme=theme)
    assert elsewhere == []
    expect(page.locator(".narrative math").first).to_be_visible()
    expect(page.locator('[data-kale-step="fit"]')).to_be_visible()
    rows = page.locator("svg[aria-label=timeline] g")
    expect(rows).to_have_count(3)  # a row for each job that was queued: what was cancelled before was not
    expect(rows.first.locator("rect.wait")).to_have_count(1)
    expect(rows.first.locator("rect.run")).to_have_count(1)
    expect(page.locator("svg[aria-label^='energy: curve[metal=Al], curve[metal=Cu]']")).to_be_visible()
    assert page.locator("img[alt='last image of curve[metal=Cu]']").evaluate("i => i.complete && i.naturalWidth") > 100
    expect(page.locator("body")).to_contain_text("no minimum of [1, 1] with 5")
    log = page.locator("details", has_text="curve[metal=Al]: stdout")
    log.locator("summary").click()
    expect(log.locator("pre")).to_have_text("29%\ndone Al\n")
    expect(page.locator("tr", has_text="interpreter")).to_be_visible()
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"report-{theme}.png", full_page=True)
    found = Axe().run(page).response["violations"]
    assert [(fault["id"], [part["html"][:160] for part in fault["nodes"]]) for fault in found if fault["impact"] in SERIOUS] == []
    page.close()


def test_report_on_paper_has_what_is_folded_on_the_screen_and_fits_a_narrow_page(chromium: BrowserContext, report: Path) -> None:
    page, _ = opened(chromium, report, media="print")
    for words in ("done Al", "raise ValueError(f'no minimum"):
        expect(page.locator("details pre", has_text=words).first).to_be_visible()
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.screenshot(path=SHOTS / "report-narrow.png", full_page=True)
    page.close()
