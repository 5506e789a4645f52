"""A Jupyter server with JupyterLab and Notebook, a busy step, and Chromium: what the tests of this folder look at."""

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
    from collections.abc import Iterator

    from playwright.sync_api import BrowserContext

    from kale_magic.api import Run

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
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The busy step; it must still be one when the module's tests are over."""
    root = tmp_path_factory.mktemp("root")
    with steps.private_jupyter() as home, connect() as kale:
        run = steps.busy(root, kale)
        yield Place(home, root, run)
        assert steps.goes_on(run)
        run.cancel()


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    """One server that has both front ends."""
    with serve(place.home, place.root) as found:
        yield found


@contextlib.contextmanager
def serve(home: Path, root: Path, **more: Any) -> Iterator[Server]:
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
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """Debian's Chromium with a profile of its own."""
    playwright: Any = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is missing: make system-deps")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("profile")),
            executable_path=CHROMIUM,
            args=list(FLAGS),
            viewport={"width": 1280, "height": 1000},
        )
        context.set_default_timeout(60_000)
        try:
            yield context
        finally:
            context.close()
