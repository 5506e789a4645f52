"""The SSH part in JupyterLab, against a real sshd of this machine: a first visit, and a key that changed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kale_proxy.places import socket_dir
from tests import steps
from tests.cluster.conftest import end_masters

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'").expect

from tests.browser.conftest import serve  # noqa: E402 - needs Playwright
from tests.browser.pages import WAIT_MS, NotebookPage, write_notebook  # noqa: E402 - needs Playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import BrowserContext

    from tests.browser.conftest import Server

pytestmark = [pytest.mark.browser, pytest.mark.ssh, pytest.mark.timeout(240)]
SSHD = "/usr/sbin/sshd"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with keys, an ssh configuration, and an sshd that takes one of the keys."""
    if not Path(SSHD).exists() or os.geteuid() != 0:
        pytest.skip("needs openssh-server and root: make system-deps")
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host", "other", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nPidFile none\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin yes\n"
    )
    (folder / "config").write_text(
        f"Host there\n  HostName 127.0.0.1\n  Port {port}\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder}/known\n  GlobalKnownHostsFile /dev/null\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield folder
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    """A server whose kernels use that configuration."""
    with pytest.MonkeyPatch.context() as patch, steps.private_jupyter() as home:
        patch.setenv("KALE_SSH", f"ssh -F {place}/config")
        (place / "root").mkdir()
        with serve(home, place / "root") as found:
            yield found
        end_masters(socket_dir() / "s")


def test_first_visit_shows_the_fingerprint_and_a_changed_key_is_refused(place: Path, server: Server, chromium: BrowserContext) -> None:
    fingerprint = subprocess.run(["ssh-keygen", "-lf", place / "host.pub"], capture_output=True, text=True, check=True).stdout.split()[1]
    write_notebook(place / "root", "ssh", "python3", ["%load_ext kale_magic", "%kale_dashboard ssh"])
    notebook = NotebookPage(chromium, server, "lab", "ssh")
    notebook.run(0)
    notebook.is_idle()
    notebook.run(1)
    part = notebook.page.locator('.kale[data-kale="ssh"]')
    known = "127.0.0.1"
    (place / "known").write_text(f"[{known}]:{_port(place)} {' '.join((place / 'other.pub').read_text().split()[:2])}\n")
    part.get_by_label("Host").fill("there")
    part.get_by_role("button", name="Connect").click()
    expect(part.locator(".state")).to_contain_text("somebody may be listening", timeout=WAIT_MS)
    (place / "known").write_text("")
    part.get_by_role("button", name="Connect").click()
    expect(part.locator(".prompt")).to_contain_text(fingerprint, timeout=WAIT_MS)
    notebook.shoot("question")
    part.get_by_label("Answer").fill("yes")
    part.get_by_label("Answer").press("Enter")
    expect(part.locator(".state")).to_have_text(re.compile("connected.*--host there"), timeout=WAIT_MS)
    assert "ssh-ed25519" in (place / "known").read_text()
    notebook.save()
    assert "SHA256" not in (place / "root/ssh.ipynb").read_text()
    notebook.page.close()


def _port(place: Path) -> str:
    return (place / "config").read_text().split("Port ")[1].split()[0]
