"""The SSH part in JupyterLab, against a real sshd of this machine: a first visit, and a key that changed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.client import Client
from kale_proxy.places import socket_dir
from kale_proxy.tunnel import dialer as dialers
from tests import steps
from tests.cluster.conftest import end_masters
from tests.conftest import private_kale

expect = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e '.[test]'").expect

from tests.browser.pages import WAIT_MS  # noqa: E402 - needs Playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.browser.pages import NotebookPage

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
def home(place: Path) -> Iterator[Path]:
    """Folders of the module's own; its kernels use that configuration."""
    with pytest.MonkeyPatch.context() as patch, private_kale() as there, steps.private_jupyter() as folder:
        patch.setenv("KALE_SSH", f"ssh -F {place}/config")
        dialers.default.cache_clear()
        (folder / "config.toml").write_text(f'[hosts.there]\npython = "{sys.executable}"\nhome = "{there}"\nfolder = "{there}/kale"\n')
        yield folder
        end_masters(socket_dir() / "s")
    dialers.default.cache_clear()


def test_first_visit_shows_the_fingerprint_and_a_changed_key_is_refused(place: Path, root: Path, open_notebook: Callable[..., NotebookPage]) -> None:
    fingerprint = subprocess.run(["ssh-keygen", "-lf", place / "host.pub"], capture_output=True, text=True, check=True).stdout.split()[1]
    notebook = open_notebook("ssh", ["%load_ext kale_magic", "%kale_dashboard ssh"], run=2)
    part = notebook.part("ssh")
    known = "127.0.0.1"
    (place / "known").write_text(f"[{known}]:{_port(place)} {' '.join((place / 'other.pub').read_text().split()[:2])}\n")
    part.get_by_label("Host", exact=True).fill("there")
    part.get_by_role("button", name="Connect").click()
    expect(part.locator(".state")).to_contain_text("somebody may be listening", timeout=WAIT_MS)
    (place / "known").write_text("")
    part.get_by_role("button", name="Connect").click()
    expect(part.locator(".prompt")).to_contain_text(fingerprint, timeout=WAIT_MS)
    notebook.look("question")
    part.get_by_label("Answer").fill("yes")
    part.get_by_label("Answer").press("Enter")
    expect(part.locator(".state")).to_have_text(re.compile("connected.*--host there"), timeout=WAIT_MS)
    assert "ssh-ed25519" in (place / "known").read_text()
    notebook.save()
    assert "SHA256" not in (root / "ssh.ipynb").read_text()


def test_another_host_has_a_tab_in_the_queue_and_its_pools(
    place: Path, open_notebook: Callable[..., NotebookPage], until: Callable[..., Any]
) -> None:
    (place / "known").write_text(f"[127.0.0.1]:{_port(place)} {' '.join((place / 'host.pub').read_text().split()[:2])}\n")
    cells = [
        "%load_ext kale_magic\n%kale_workflow far --host there",
        "%%kale_step md\nimport time\ntime.sleep(300)",
        "_ = get_ipython().run_line_magic('kale_submit', '')",
        "%kale_workflow near --host ''",
        "%kale_dashboard queue",
        "%kale_dashboard pools",
    ]
    notebook = open_notebook("far", cells, run=len(cells))
    queue = notebook.part("queue")
    row = queue.locator("tr[data-job$='/md']")
    expect(queue.get_by_role("tab", name="this machine")).to_have_attribute("aria-selected", "true", timeout=WAIT_MS)
    expect(row).to_have_count(0)
    queue.get_by_role("tab", name="this machine").focus()
    for _ in range(queue.get_by_role("tab").count() - 1):
        notebook.page.keyboard.press("ArrowRight")
    expect(queue.get_by_role("tab", name="there")).to_have_attribute("aria-selected", "true", timeout=WAIT_MS)
    expect(row).to_contain_text("running", timeout=WAIT_MS)
    expect(queue.locator(".when")).to_have_text(re.compile(r"^as of \d\d:\d\d:\d\d$"))
    notebook.look("tabs")
    with Client.connect(host="there") as client:
        [run] = client.runs(None, 5)
        row.get_by_role("button").click()
        row.get_by_role("button", name="Really cancel md").click()
        until(lambda: client.status(run["run"])["state"] == "cancelled", "the end of md")
        expect(row).to_have_count(0, timeout=WAIT_MS)
        queue.get_by_label("Another host").fill("nowhere")
        queue.get_by_label("Another host").press("Enter")
        expect(queue.locator(".when")).to_contain_text("nowhere", timeout=WAIT_MS)
        queue.get_by_role("tab", name="this machine").click()
        expect(queue.locator(".when")).to_have_text(re.compile(r"^as of \d\d:\d\d:\d\d$"), timeout=WAIT_MS)

        pools = notebook.part("pools")
        pools.get_by_label("Name").fill("fast")
        pools.get_by_label("Executor").select_option("local")
        pools.get_by_label("Host").fill("there")
        pools.get_by_role("button", name="Open").click()
        expect(pools.locator("tr[data-pool=fast]")).to_have_attribute("data-state", "idle", timeout=WAIT_MS)
        expect(pools.locator("tr[data-pool=fast]")).to_contain_text("local on there")
        assert [pool["name"] for pool in client.pools()] == ["fast"]
        pools.get_by_role("button", name="Close fast when it is idle").click()
        until(lambda: not client.pools(), "the end of the pool")
        expect(pools.locator("tr[data-pool=fast]")).to_have_count(0, timeout=WAIT_MS)


def _port(place: Path) -> str:
    return (place / "config").read_text().split("Port ")[1].split()[0]
