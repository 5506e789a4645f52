"""Ways to a socket on another host, by a real OpenSSH and a real Slurm: laptop, login and nodes in namespaces.

The laptop reaches the login host alone. What each way costs is measured in ``tests/benchmarks``.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from kale_proxy.tunnel import dialer as dialers
from kale_proxy.tunnel import openssh
from kale_proxy.tunnel.dialer import Dialer
from kale_proxy.tunnel.errors import AuthenticationError, HostKeyError, TunnelError
from kale_proxy.tunnel.openssh import OpenSSH, Target, explain
from kale_proxy.tunnel.route import Route
from tests.cluster.conftest import dial

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.conftest import Echo
    from tests.cluster.hosts import Hosts

pytestmark = [pytest.mark.ssh, pytest.mark.slurm]


@pytest.fixture
def laptop(hosts: Hosts):
    """Be the laptop for the time of the test."""
    with hosts.laptop.here():
        yield


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a second where else it is several."""
    for module, name, seconds in ((dialers, "_FIRST_BYTE_S", 1.5), (dialers, "_SUSPECT_S", 0.5), (openssh, "_LIFE_S", 1.0), (openssh, "_CHECK_S", 1.0)):
        monkeypatch.setattr(module, name, seconds)


def logins(hosts: Hosts, name: str) -> int:
    """How many handshakes a host's sshd has seen."""
    return (hosts.folder / "log" / f"sshd-{name}").read_text().count("Accepted publickey")


def route(echoes: dict[str, Echo], name: str, **words: str) -> Route:
    return Route(socket=str(echoes[name].path), login="login", **({} if name == "login" else {"node": name}), **words)


@pytest.mark.usefixtures("laptop")
def test_login_host_takes_one_handshake_for_all_streams(hosts, echoes, dialer) -> None:
    before = logins(hosts, "login")
    ways = {dial(dialer, route(echoes, "login")) for _ in range(3)}
    assert ways == {"ssh to login"}
    assert logins(hosts, "login") == before + 1


@pytest.mark.usefixtures("laptop")
def test_node_takes_one_more_handshake_through_the_login_host(hosts, echoes, dialer) -> None:
    dial(dialer, route(echoes, "login"))
    before = logins(hosts, "login"), logins(hosts, "node1")
    ways = {dial(dialer, route(echoes, "node1")) for _ in range(3)}
    assert ways == {"ssh to node1 through login"}
    assert (logins(hosts, "login"), logins(hosts, "node1")) == (before[0], before[1] + 1)


@pytest.mark.usefixtures("laptop")
def test_while_our_master_is_up_no_program_of_ssh_is_run(hosts, echoes, folder) -> None:
    """Not even to ask where the user's master would be: that is another 5 ms of a first visit."""
    said, program = folder / "said", folder / "ssh"
    program.write_text(f'#!/bin/sh\necho "$@" >> {said}\nexec ssh "$@"\n')
    program.chmod(0o755)
    for is_first in (True, False):
        dialer = Dialer(OpenSSH([str(program), "-F", str(hosts.ssh_config)], folder), folder / "ways.json")  # of another process, as it were
        assert dial(dialer, route(echoes, "login")) == "ssh to login"
        assert said.exists() is is_first
        said.unlink(missing_ok=True)


@pytest.mark.usefixtures("laptop")
def test_users_own_master_is_used_and_no_handshake_made(hosts, echoes, folder) -> None:
    own = folder / "own"
    command = ["ssh", "-F", str(hosts.ssh_config), "-o", f"ControlPath={own}"]
    subprocess.run([*command, "-M", "-N", "-f", "login"], check=True, timeout=30)
    try:
        before = logins(hosts, "login")
        dialer = Dialer(OpenSSH(command, folder), folder / "ways.json")
        assert dial(dialer, route(echoes, "login")) == "ssh to login"
        assert logins(hosts, "login") == before
    finally:
        subprocess.run([*command, "-O", "exit", "login"], check=True, capture_output=True, timeout=30)


@pytest.mark.usefixtures("laptop", "impatient")
def test_users_master_that_is_frozen_is_passed_over(hosts, echoes, folder) -> None:
    own = folder / "own"
    config = folder / "config"
    config.write_text(f"Match all\n  ControlPath {own}\nInclude {hosts.ssh_config}\n")
    subprocess.run(["ssh", "-F", str(config), "-M", "-N", "-f", "login"], check=True, timeout=30)
    pid = int(subprocess.run(["ssh", "-F", str(config), "-O", "check", "login"], check=True, capture_output=True, text=True, timeout=30).stderr.rpartition("pid=")[2].rstrip(")\r\n"))
    os.kill(pid, signal.SIGSTOP)
    try:
        dialer = Dialer(OpenSSH(["ssh", "-F", str(config)], folder), folder / "ways.json")
        assert dial(dialer, route(echoes, "login"), timeout=60) == "ssh to login"
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("laptop", "impatient")
@pytest.mark.parametrize("goal", ["login", "node1"])
def test_line_that_has_gone_silent_is_replaced_and_not_ended(hosts, echoes, dialer, folder, goal) -> None:
    """As after a laptop's sleep: ssh notices it after some 20 s alone. Another process finds the new line, and needs no login."""
    assert dial(dialer, route(echoes, goal))
    old = {master: mtime_of(master) for master in masters(folder)}
    before = logins(hosts, "login"), logins(hosts, goal)
    with hosts.silent_lines():
        assert dial(dialer, route(echoes, goal)).startswith(f"ssh to {goal}")
        after = logins(hosts, "login"), logins(hosts, goal)
        assert after == tuple(count + 1 for count in before)
        other = Dialer(OpenSSH(dialer.ssh.command, folder), folder / "ways.json")
        assert dial(other, route(echoes, goal)).startswith(f"ssh to {goal}")
        assert (logins(hosts, "login"), logins(hosts, goal)) == after
        assert {master: mtime_of(master) for master in masters(folder) if master in old} == old


@pytest.mark.usefixtures("laptop", "impatient")
def test_silent_line_that_cannot_be_replaced_goes_on_when_it_comes_back(hosts, echoes, dialer, folder, monkeypatch) -> None:
    assert dial(dialer, route(echoes, "login"))
    before = logins(hosts, "login"), masters(folder)
    paths = dialer.ssh._our_paths(Target("login"))
    monkeypatch.setattr(OpenSSH, "_our_paths", lambda *_: paths)
    dialer.ssh.command = [*dialer.ssh.command, "-o", "PubkeyAuthentication=no"]  # as where a login takes a code
    with hosts.silent_lines(), pytest.raises(TunnelError, match=r"Nothing has come back") as caught:
        dial(dialer, route(echoes, "login"), timeout=4)
    assert caught.value.is_transient
    assert dial(dialer, route(echoes, "login"))
    assert (logins(hosts, "login"), masters(folder)) == before


@pytest.mark.usefixtures("laptop", "impatient")
def test_server_that_says_nothing_by_a_line_that_lives_costs_no_login(hosts, dialer, folder) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(folder / "quiet"))
        mute.listen()
        with pytest.raises(TunnelError, match="Nothing has come back"):
            dialer.open(Route(socket=str(folder / "quiet"), login="login"), time.monotonic() + 2)
        before = logins(hosts, "login")
        with pytest.raises(TunnelError, match="Nothing has come back"):
            dialer.open(Route(socket=str(folder / "quiet"), login="login"), time.monotonic() + 2)
    assert logins(hosts, "login") == before
    assert len(masters(folder)) == 1


def masters(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("m*") if path.is_socket())


def mtime_of(path: Path) -> float:
    return path.stat().st_mtime


@pytest.mark.usefixtures("laptop")
def test_host_that_forbids_forwards_is_reached_by_a_command(hosts, echoes, folder) -> None:
    server = hosts.start_sshd(hosts.login, "Port 2201", "AllowStreamLocalForwarding no")
    try:
        dialer = Dialer(OpenSSH(["ssh", "-F", str(hosts.ssh_config), "-p", "2201"], folder), folder / "ways.json")
        assert dial(dialer, route(echoes, "login")) == "ssh to login, a command"
        assert dialer.ways(route(echoes, "login"))[0].name == "ssh to login, a command"  # the next one begins with what worked
    finally:
        hosts.stop(server)


@pytest.mark.usefixtures("laptop")
def test_login_shell_that_talks_does_not_spoil_the_stream(hosts, echoes, folder) -> None:
    server = hosts.start_sshd(hosts.login, "Port 2202", "AllowStreamLocalForwarding no", 'ForceCommand echo Welcome to the cluster; sh -c "$SSH_ORIGINAL_COMMAND"')
    try:
        dialer = Dialer(OpenSSH(["ssh", "-F", str(hosts.ssh_config), "-p", "2202"], folder), folder / "ways.json")
        assert dial(dialer, route(echoes, "login")) == "ssh to login, a command"
    finally:
        hosts.stop(server)


@pytest.mark.usefixtures("laptop")
def test_node_without_ssh_is_reached_by_srun(hosts, echoes, folder, job) -> None:
    config = folder / "config"  # nobody listens there, as on a site that lets nobody in
    config.write_text(f"Host node1\n  Port 2299\nMatch all\nInclude {hosts.ssh_config}\n")
    dialer = Dialer(OpenSSH(["ssh", "-F", str(config)], folder), folder / "ways.json")
    assert dial(dialer, route(echoes, "node1", job_id=job), timeout=60) == "srun through login by ssh"
    known = Dialer(dialer.ssh, folder / "ways.json")
    assert known.ways(route(echoes, "node2", job_id=job))[0].name == "srun through login by ssh"  # another node of the kind


def test_on_the_login_host_itself_srun_needs_no_ssh(hosts, echoes, folder, job, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(hosts.slurm_conf))
    monkeypatch.setenv("SLURM_JOB_ID", "999")  # of the notebook's own job: not for us
    with hosts.login.here():
        dialer = Dialer(None, folder / "ways.json")
        there = Route(socket=str(echoes["node1"].path), node="node1", job_id=job)
        assert dial(dialer, there) == "srun"


def test_same_host_is_a_plain_socket(hosts, echoes, folder) -> None:
    with hosts.nodes[0].here():
        assert dial(Dialer(None, folder / "w"), Route(socket=str(echoes["node1"].path), node="node1")) == "this machine"


@pytest.mark.usefixtures("laptop")
def test_socket_path_that_no_forward_can_take_goes_by_a_command(hosts, folder, dialer) -> None:
    from tests.cluster.conftest import Echo

    deep = folder / ("d" * 100)
    deep.mkdir()
    (folder / "d").symlink_to(deep)
    echo = Echo(hosts.login, folder / "d" / "e")
    try:
        there = Route(socket=str(deep / "e"), login="login")
        assert len(there.socket) > 107
        assert dial(dialer, there) == "ssh to login, a command"
    finally:
        echo.close()


@pytest.mark.usefixtures("laptop")
def test_nothing_listens_there(dialer) -> None:
    with pytest.raises(TunnelError, match="login can't be reached.*nothing listens there"):
        dial(dialer, Route(socket="/tmp/kale-none/a", login="login"))


@pytest.mark.usefixtures("laptop")
def test_unknown_host_is_named(dialer) -> None:
    with pytest.raises(TunnelError, match="nowhere"):
        dial(dialer, Route(socket="/tmp/x", login="nowhere"))


@pytest.mark.usefixtures("laptop")
def test_changed_host_key_is_refused(hosts, echoes, dialer) -> None:
    other = " ".join((hosts.folder / "host_node1.pub").read_text().split()[:2])
    hosts.write_known_hosts(login=other)
    try:
        with pytest.raises(HostKeyError, match="host key of login is not the one that is known"):
            dial(dialer, route(echoes, "login"))
    finally:
        hosts.write_known_hosts()


@pytest.mark.usefixtures("laptop")
def test_unknown_host_key_is_refused(hosts, echoes, dialer) -> None:
    hosts.write_known_hosts(login="")
    try:
        with pytest.raises(HostKeyError, match=r"not known yet\. Log in once in a terminal"):
            dial(dialer, route(echoes, "login"))
    finally:
        hosts.write_known_hosts()


@pytest.mark.usefixtures("laptop")
def test_login_that_would_ask_ends_with_a_sentence(hosts, echoes, folder) -> None:
    config = folder / "config"
    config.write_text(f"Match all\n  IdentitiesOnly yes\n  IdentityFile {folder}/none\nInclude {hosts.folder}/plain\n")
    (hosts.folder / "plain").write_text(hosts.ssh_config.read_text().replace("IdentityFile", "#"))
    dialer = Dialer(OpenSSH(["ssh", "-F", str(config)], folder), folder / "ways.json")
    with pytest.raises(AuthenticationError, match="needs a password or another answer"):
        dial(dialer, route(echoes, "login"))


@pytest.mark.usefixtures("laptop")
def test_master_that_was_killed_is_made_anew(echoes, dialer, folder) -> None:
    dial(dialer, route(echoes, "login"))
    said = subprocess.run(["ssh", "-S", str(next(p for p in folder.glob("m*") if p.suffix != ".lock")), "-O", "check", "x"], capture_output=True, text=True, check=True, timeout=30)
    os.kill(int(said.stderr.rpartition("pid=")[2].rstrip(")\r\n")), signal.SIGKILL)
    time.sleep(0.2)
    assert dial(dialer, route(echoes, "login")) == "ssh to login"


@pytest.mark.usefixtures("laptop")
def test_streams_leave_no_files_and_no_listeners_behind(echoes, dialer, folder) -> None:
    for _ in range(3):
        dial(dialer, route(echoes, "login"))
    deadline = time.monotonic() + 10
    while (left := list(folder.glob("f*"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0 or path.name == "ways.json", path


@pytest.mark.usefixtures("laptop")
def test_stream_goes_on_when_its_listener_is_cancelled(echoes, dialer) -> None:
    sock, _ = dialer.open(route(echoes, "login"), time.monotonic() + 30)
    with sock:
        time.sleep(1)
        sock.settimeout(10)
        sock.sendall(b"still there")
        data = b""
        while len(data) < 16:
            data += sock.recv(100)
        assert data == b"hellostill there"


def test_no_ssh_at_all(folder: Path) -> None:
    with pytest.raises(TunnelError, match="no ssh here by which login"):
        Dialer(None, folder / "w").open(Route(socket="/x", login="login"), time.monotonic() + 1)


@pytest.mark.parametrize("name", ["-oProxyCommand=x", "a b", "a;b", "$(x)", "a\nb"])
def test_names_that_a_shell_or_ssh_would_take_for_more_are_refused(name: str) -> None:
    for key in ("login", "node", "job_id"):
        with pytest.raises(ValueError, match="no name"):
            Route(socket="/x", **{key: name})


def test_words_of_ssh_are_explained() -> None:
    assert isinstance(explain("h", 255, "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @"), HostKeyError)
    assert isinstance(explain("h", 255, "root@h: Permission denied (publickey,password)."), AuthenticationError)
    assert explain("h", 255, "").is_transient
    assert "code 255" in str(explain("h", 255, ""))
