"""The SSH part's way REST in JupyterLab, against a real slurmrestd: a wrong token, a right one, a step by it, and where it is not."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.client import Client
from tests import steps
from tests.cluster.hosts import Hosts, missing, missing_rest

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'").expect

from tests.browser.pages import WAIT_MS  # noqa: E402 - needs Playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.browser.pages import NotebookPage

pytestmark = [pytest.mark.browser, pytest.mark.slurm, pytest.mark.timeout(240)]
CELLS = [
    "%load_ext kale_magic\n%kale_workflow rests --executor slurm-rest",
    "%%kale_step md\nimport time\ntime.sleep(300)",
    "%kale_dashboard ssh",
    "%kale_dashboard queue",
    "_ = get_ipython().run_line_magic('kale_submit', '--no-cache')",
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Hosts]:
    """A cluster; this process, and what it starts, is on its login host, without its Slurm."""
    if why := missing(slurm=True) or missing_rest():
        pytest.skip(why)
    with Hosts(slurm=True, nodes=1) as hosts, hosts.login.here():
        yield hosts


@pytest.fixture(scope="module")
def home(cluster: Hosts) -> Iterator[Path]:
    """Folders of the module's own; its kernels know of no Slurm."""
    assert cluster.slurm_conf.exists()
    assert "SLURM_CONF" not in os.environ
    with steps.private_jupyter() as folder:
        yield folder


def test_login_by_token_runs_a_step_and_the_token_is_nowhere(
    cluster: Hosts, home: Path, root: Path, open_notebook: Callable[..., NotebookPage], until: Callable[..., Any]
) -> None:
    url, token = cluster.start_rest(), cluster.token()
    notebook = open_notebook("rest", CELLS, run=4)
    part, queue = notebook.part("ssh"), notebook.part("queue")
    expect(part.get_by_label("Token")).to_be_hidden()
    part.get_by_label("Way").select_option("rest")
    expect(part.get_by_label("Token")).to_have_attribute("type", "password")
    part.get_by_label("Address").fill(url)
    part.get_by_label("User").fill("root")
    part.get_by_label("Token").fill(f"{token[:-6]}AAAAAA")
    part.get_by_role("button", name="Connect").click()
    expect(part.locator(".kale-say.bad")).to_contain_text("Slurm does not take the token of root", timeout=WAIT_MS)
    expect(part.get_by_label("Token")).to_have_value("")
    part.get_by_label("Token").fill(token)
    part.get_by_label("Token").press("Enter")
    expect(part.locator(".rested")).to_contain_text(f"connected root at {url}, until", timeout=WAIT_MS)
    expect(part.locator(".rested")).to_contain_text("not encrypted")
    expect(part.locator(".kale-say")).to_contain_text("--executor slurm-rest")
    notebook.look("connected")
    with Client.connect() as client:
        assert client.rest()["user"] == "root"
        notebook.run(4)
        run = until(lambda: client.runs(None, 1), "the run", 60)[0]["run"]
        until(lambda: client.status(run)["state"] == "running" and client.status(run)["steps"]["md"]["state"] == "running", "md", 60)
        queue.get_by_role("tab", name="slurm-rest").click(timeout=WAIT_MS)
        queue.get_by_label("Queue").select_option("user")
        row = queue.locator("tr[data-job$='/md']")
        expect(row).to_contain_text("RUNNING", timeout=WAIT_MS)
        expect(row).to_contain_text("node1")
        notebook.shoot("queue")
        row.get_by_role("button").click()
        row.get_by_role("button", name="Really cancel md").click()
        until(lambda: client.status(run)["steps"]["md"]["state"] == "cancelled", "the end of md", 60)
        words = cluster.login.argv("sbatch", "--parsable", "--output=/dev/null", "--wrap", "sleep 100")
        job = subprocess.run(words, capture_output=True, text=True, check=True, env=cluster.environ(), cwd=root).stdout.strip()
        other = queue.locator(f"tr[data-job='slurm-rest/{job}']")
        expect(other).to_contain_text("wrap", timeout=WAIT_MS)  # a job that is not Kale's
        other.get_by_role("button").click()
        other.get_by_role("button", name=f"Really cancel job {job}").click()
        expect(queue.locator(".kale-say")).to_have_text(f"Job {job} of slurm-rest is cancelled.", timeout=WAIT_MS)
        expect(other).to_have_count(0, timeout=WAIT_MS)
        notebook.save()
        part.get_by_role("button", name="Forget").click()
        expect(part.locator(".rested")).to_have_text("", timeout=WAIT_MS)
        assert client.rest() == {}
    held = [path for folder in (root, home) for path in folder.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    assert held == []
