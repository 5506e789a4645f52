"""A Jupyter server with JupyterLab and Notebook, Chromium, notebooks in it, and a busy step: what the tests of this folder look at.

A module that needs another server (its environment, its host) has a fixture ``server`` of its own; all else goes by that.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.api import connect
from tests import steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from playwright.sync_api import BrowserContext, Playwright

    from kale_magic.api import Run
    from tests.browser.pages import NotebookPage

CHROMIUM = "/usr/bin/chromium"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}  # what would be asked of the net, and of the person in a dialog
SERVER_STARTS_S = 60.0


@dataclass(frozen=True)
class Server:
    """Where the front ends are."""

    url: str
    token: str


@dataclass(frozen=True)
class Place:
    """A folder with a run in it whose step md counts, and the server's root."""

    home: Path
    root: Path
    run: Run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the server shows."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Kale and Jupyter folders of the module's own."""
    with steps.private_jupyter() as folder:
        yield folder


@pytest.fixture(scope="module")
def place(home: Path, root: Path) -> Iterator[Place]:
    """The busy step; it must still be one when the module's tests are over."""
    with connect() as kale:
        run = steps.busy(root, kale)
        yield Place(home, root, run)
        assert steps.goes_on(run)
        run.cancel()


@pytest.fixture(scope="module")
def server(home: Path, root: Path) -> Iterator[Server]:
    """One server that has both front ends."""
    with serve(home, root) as found:
        yield found


@pytest.fixture
def open_notebook(root: Path, server: Server, chromium: BrowserContext) -> Iterator[Callable[..., NotebookPage]]:
    """Return ``open_notebook(name, cells, front_end="lab", kernel="python3", run=0)``: it writes a notebook, opens it, and runs its first ``run`` cells.

    At the end a picture is taken of each page, it is closed, and its kernel is ended.
    """
    from tests.browser.pages import NotebookPage, write_notebook

    opened: list[NotebookPage] = []

    def open_it(name: str, cells: list[str], *, front_end: str = "lab", kernel: str = "python3", run: int = 0) -> NotebookPage:
        write_notebook(root, name, kernel, cells)
        opened.append(NotebookPage(chromium, server, front_end, name))
        for number in range(run):
            opened[-1].run(number)
            opened[-1].is_idle()
        return opened[-1]

    yield open_it
    for notebook in opened:
        notebook.close()


@contextlib.contextmanager
def serve(home: Path, root: Path, environ: Mapping[str, str] | None = None, **more: Any) -> Iterator[Server]:
    """Run a server that chooses its port and tells it in a file; ``more`` are settings of ``ServerApp``."""
    settings = home / "config/lab/user-settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(NO_NEWS))
    token = secrets.token_hex(16)
    options = {"ServerApp.ip": "127.0.0.1", "ServerApp.port": 0, "ServerApp.root_dir": root, "IdentityProvider.token": token}
    options |= {f"ServerApp.{name}": value for name, value in more.items()}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    if os.geteuid() == 0:
        arguments.append("--allow-root")
    log = home / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", *arguments],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, cwd=root, start_new_session=True,
            env={**os.environ, **(environ or {})},
        )
    try:
        yield Server(_url(process, home / "rt", log), token)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        print(log.read_text(errors="replace"))


def _url(process: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    file, deadline = runtime / f"jpserver-{process.pid}.json", time.monotonic() + SERVER_STARTS_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")
        with contextlib.suppress(OSError, ValueError):
            return str(json.loads(file.read_text())["url"])
        time.sleep(0.05)
    raise AssertionError(log.read_text(errors="replace"))


@pytest.fixture(scope="module")
def driver() -> Iterator[Playwright]:
    """What starts browsers; the test is skipped where there is none."""
    playwright: Any = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is missing: make system-deps")
    with playwright.sync_playwright() as found:
        yield found


@pytest.fixture(scope="module")
def chromium(driver: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """Debian's Chromium with a profile of its own."""
    with launched(driver, tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture
def second_browser(driver: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """Another Chromium, that shares nothing with the first."""
    with launched(driver, tmp_path_factory.mktemp("profile")) as context:
        yield context


@contextlib.contextmanager
def launched(driver: Playwright, profile: Path) -> Iterator[BrowserContext]:
    """Run a Chromium."""
    context = driver.chromium.launch_persistent_context(
        str(profile), executable_path=CHROMIUM, args=list(FLAGS), viewport={"width": 1280, "height": 1000}
    )
    context.set_default_timeout(60_000)
    try:
        yield context
    finally:
        context.close()
