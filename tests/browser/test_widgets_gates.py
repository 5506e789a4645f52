"""Steps that wait for a person, in JupyterLab: answered from the dashboard by clicks and keys, checked in the step's own record."""

from __future__ import annotations

import json
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
ASKS = "%%kale_step asks\nimport getpass\nmetal = input('Which metal? ')\nkey = getpass.getpass('Key: ')\nprint(metal, len(key))"
CELLS = [
    "%load_ext kale_magic\n%kale_workflow gates",
    "%%kale_step pick --gate --params index=0\nprint('index', index)",
    "%%kale_step early --gate-release --params n=1\nprint('n', n)",
    "%%kale_step swept --gate --each p=[1,2]\nprint('p', p)",
    ASKS,
    "_ = get_ipython().run_line_magic('kale_submit', '')",
    "%kale_dashboard",
]


@pytest.fixture(scope="module")
def server(home: Path, root: Path) -> Iterator[Server]:
    """A server with many cores: who waits for a person holds one."""
    with serve(home, root, {"KALE_CPUS": "8"}) as found:
        yield found


def test_gates_are_opened_with_values_and_questions_answered_by_who_sits_there(
    root: Path, open_notebook: Callable[..., NotebookPage]
) -> None:
    notebook = open_notebook("gates", CELLS, run=len(CELLS))
    node, panel, actions = notebook.step, notebook.part("step"), notebook.part("actions")
    with Client.connect() as client:
        run = client.runs(None, 1)[0]["run"]
        folder = root / ".kale" / "runs" / run / "steps"

        def state(step: str) -> str:
            return str(client.status(run)["steps"][step]["state"])

        def decided(step: str) -> list[dict[str, Any]]:
            events = [json.loads(line) for line in (folder / step / "events.jsonl").read_text().splitlines()]
            return [event for event in events if event["event"] == "resumed"]

        for step in ("pick", "early", "swept", "asks"):
            expect(node(step)).to_have_attribute("data-kale-state", "gated", timeout=WAIT_MS)
        gate = panel.get_by_role("form", name="Continue")
        node("pick").click()
        gate.get_by_role("textbox").fill("index")
        gate.get_by_role("button", name="Continue").click()
        expect(panel.locator(".kale-say.bad")).to_contain_text("--set", timeout=WAIT_MS)
        assert state("pick") == "gated"
        gate.get_by_role("textbox").fill("index=2")
        notebook.look("gate", panel)
        gate.get_by_role("textbox").press("Enter")
        expect(panel.locator(".kale-say")).to_contain_text("pick goes on with index=2", timeout=WAIT_MS)
        expect(node("pick")).to_have_attribute("data-kale-state", "completed", timeout=WAIT_MS)
        expect(gate).to_be_hidden()
        assert (folder / "pick" / "stdout.log").read_text() == "index 2\n"
        [event] = decided("pick")
        assert (event["set"], "@" in event["by"]) == ({"index": "2"}, True)
        panel.get_by_text("History").click()
        expect(panel).to_contain_text(f"resumed by {event['by']}, with index=2")

        node("early").click()
        gate.get_by_role("textbox").fill("n=7")
        gate.get_by_role("button", name="Continue").click()
        expect(node("early")).to_have_attribute("data-kale-state", "completed", timeout=WAIT_MS)
        assert (folder / "early" / "stdout.log").read_text() == "n 7\n"
        expect(panel).to_contain_text(f"continued by {event['by']}, with n=7")

        node("swept").click()
        actions.get_by_role("button", name="Continue").click()
        expect(node("swept")).to_have_attribute("data-kale-state", "completed", timeout=WAIT_MS)

        node("asks").click()
        actions.get_by_role("button", name="Continue").click()
        expect(actions.locator(".kale-say.bad")).to_contain_text("asks: Which metal? Answer it in the step's panel.", timeout=WAIT_MS)
        assert state("asks") == "gated"
        box = gate.locator("input")
        expect(gate.locator(".prompt")).to_have_text("Which metal?")
        notebook.look("question", panel)
        expect(box).to_have_attribute("type", "text")
        box.fill("Cu")
        box.press("Enter")
        expect(gate.locator(".prompt")).to_have_text("Key:", timeout=WAIT_MS)
        expect(box).to_have_attribute("type", "password")
        expect(box).to_have_value("")
        box.fill("hidden-word")
        box.press("Enter")
        expect(node("asks")).to_have_attribute("data-kale-state", "completed", timeout=WAIT_MS)
        assert (folder / "asks" / "stdout.log").read_text().endswith("Cu 11\n")
        assert [event.get("answer") for event in decided("asks")] == ["Cu", None]
        notebook.save()
        assert "hidden-word" not in (root / "gates.ipynb").read_text()
        assert not [path for path in root.rglob("*") if path.is_file() and b"hidden-word" in path.read_bytes()]
