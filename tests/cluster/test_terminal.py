"""What a person sees at a terminal of the laptop: ssh asks for password and code once, and the connection is kept."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pexpect
import pytest

from tests.cluster.conftest import PASSWORD, code, without_keys

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.conftest import Cluster

pytestmark = [pytest.mark.ssh, pytest.mark.slurm]


def spawn(cluster: Cluster, ssh: str, *words: str) -> pexpect.spawn:
    argv = cluster.hosts.laptop.argv(sys.executable, "-m", "kale_magic.cli.main", *words)
    environ = cluster.environ(on_laptop=True) | {"KALE_SSH": ssh, "COLUMNS": "200"}
    return pexpect.spawn(argv[0], argv[1:], env=environ, cwd=str(cluster.laptop), timeout=60, encoding="utf-8", dimensions=(50, 200))


@pytest.mark.parametrize("program", ["ssh -F", "paramiko"])
def test_login_asks_for_password_and_code(cluster: Cluster, folder: Path, two_factor: int, program: str) -> None:
    ssh = f"{program} {without_keys(cluster.hosts, folder, two_factor)}"
    terminal = spawn(cluster, ssh, "doctor", "--host", "login")
    terminal.expect("Password: ")
    terminal.sendline(PASSWORD)
    terminal.expect("One-time password.*: ")
    terminal.sendline(code(0))
    terminal.expect("manager there +Kale")
    terminal.expect("all is well")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    if program != "paramiko":  # whose connections are a process's own
        again = spawn(cluster, ssh, "doctor", "--host", "login")
        assert again.expect(["Password: ", "over a connection that was open"]) == 1
        again.expect(pexpect.EOF)
        again.close()


def test_login_without_a_terminal_says_how_to_log_in(cluster: Cluster, folder: Path, two_factor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ssh = f"ssh -F {without_keys(cluster.hosts, folder, two_factor)}"
    monkeypatch.setattr(cluster, "environ", lambda **_: cluster.hosts.environ(KALE_HOME=str(cluster.laptop), KALE_SSH=ssh))
    said = cluster.kale("status", "--host", "login", code=3).stderr
    assert "needs a password or another answer, and can't ask here" in said
    assert "jupyter kale doctor --host login" in said
    assert "Traceback" not in said
