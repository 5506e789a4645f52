"""Clusters for tests: made once a module, each with a Kale of its own on the login host."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic import Workflow
from kale_magic.api import relays
from kale_magic.client import Client
from kale_proxy.places import socket_dir
from kale_proxy.tunnel import dialer as dialers
from kale_proxy.tunnel.dialer import Dialer
from kale_proxy.tunnel.openssh import OpenSSH
from kale_proxy.tunnel.route import Route
from tests.cluster.hosts import Host, Hosts, missing
from tests.conftest import private_kale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kale_magic import Run

PASSWORD = "corr ect"
SECRET = b"12345678901234567890"

# Speaks first, as agent and manager do, then gives back what comes.
_ECHO = """
import socket, sys, threading
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(50)
print(flush=True)
def serve(stream):
    stream.sendall(b"hello")
    while data := stream.recv(65536):
        stream.sendall(data)
while True:
    stream, _ = listener.accept()
    threading.Thread(target=serve, args=(stream,), daemon=True).start()
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Laptop, login and two nodes, with Slurm."""
    if why := missing(slurm=True):
        pytest.skip(why)
    with Hosts(slurm=True) as made:
        yield made


def end_masters(folder: Path) -> None:
    """End the masters that Kale has opened, and with them their streams."""
    for master in folder.glob("m*"):
        if master.suffix != ".lock":
            subprocess.run(["ssh", "-S", str(master), "-O", "exit", "x"], capture_output=True, check=False, timeout=10)


class Echo:
    """A server on a host, at ``path``."""

    def __init__(self, host: Host, path: Path) -> None:
        self.path = path
        self.process = subprocess.Popen(host.argv(sys.executable, "-c", _ECHO, str(path)), stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"\n"

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def echoes(hosts: Hosts) -> Iterator[dict[str, Echo]]:
    """A server on login and on each node."""
    made = {host.name: Echo(host, hosts.folder / f"echo-{host.name}") for host in [hosts.login, *hosts.nodes]}
    yield made
    for echo in made.values():
        echo.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for sockets with a short path."""
    made = Path(tempfile.mkdtemp(prefix="kt-", dir="/tmp"))
    yield made
    end_masters(made)
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def dialer(hosts: Hosts, folder: Path) -> Dialer:
    """A dialer of one's own, that knows nothing yet."""
    return Dialer(OpenSSH(["ssh", "-F", str(hosts.ssh_config)], folder), folder / "ways.json")


def dial(dialer: Dialer, route: Route, *, timeout: float = 30.0) -> str:
    """Dial, exchange words with the server there, and return the way."""
    sock, way = dialer.open(route, time.monotonic() + timeout)
    with sock:
        sock.settimeout(10)
        assert receive(sock, 5) == b"hello"
        sock.sendall(bytes(100_000))
        assert receive(sock, 100_000) == bytes(100_000)
    return way


def receive(sock: Any, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, "the stream ended"
        data += more
    return data


@pytest.fixture(scope="module")
def job(hosts: Hosts) -> str:
    """The number of a Slurm job that runs on node1."""
    said = subprocess.run(
        hosts.login.argv("sbatch", "--parsable", "--nodelist=node1", "--output=/dev/null", "--wrap", "sleep 1000"),
        capture_output=True, text=True, check=True, env=hosts.environ(), cwd=hosts.folder,
    )  # fmt: skip
    number = said.stdout.strip()
    deadline = time.monotonic() + 30
    while "RUNNING" not in subprocess.run(hosts.login.argv("squeue", "-h", "-j", number, "-o", "%T"), capture_output=True, text=True, check=True, env=hosts.environ()).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return number




class Cluster:
    """A Kale on the login host, and one on the laptop that knows where the other is."""

    def __init__(self, hosts: Hosts, laptop: Path, there: Path) -> None:
        self.hosts, self.laptop, self.there = hosts, laptop, there

    def environ(self, *, on_laptop: bool) -> dict[str, str]:
        home = self.laptop if on_laptop else self.there
        return self.hosts.environ(KALE_HOME=str(home), KALE_SSH=f"ssh -F {self.hosts.ssh_config}", KALE_CPUS="64")

    def submit(self, code: str, name: str = "md", **options: Any) -> str:
        """Submit a run of one step on the login host; return ``RUN/STEP``."""
        script = (
            "import sys, json; from kale_magic import Workflow\n"
            "code, name, options = json.loads(sys.argv[1])\n"
            "wf = Workflow('eos'); wf.step(name, code, **options); print(wf.submit(cache=False).name)"
        )
        done = subprocess.run(
            self.hosts.login.argv(sys.executable, "-c", script, json.dumps([code, name, options])),
            capture_output=True, text=True, check=True, env=self.environ(on_laptop=False), cwd=self.there, timeout=60,
        )  # fmt: skip
        return f"{done.stdout.strip()}/{name}"

    def kale(self, *words: str, code: int = 0, on_laptop: bool = True, timeout: float = 90.0) -> subprocess.CompletedProcess[str]:
        """Run ``jupyter kale``."""
        host = self.hosts.laptop if on_laptop else self.hosts.login
        done = subprocess.run(
            host.argv(sys.executable, "-m", "kale_magic.cli.main", *words),
            capture_output=True, text=True, check=False, env=self.environ(on_laptop=on_laptop), cwd=self.laptop, timeout=timeout,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done


@pytest.fixture
def cluster(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A fresh Kale on both; this process's environment is the laptop's."""
    with private_kale() as there, private_kale() as laptop:
        (laptop / "config.toml").write_text(f'[hosts.login]\npython = "{sys.executable}"\nhome = "{there}"\nfolder = "{there}/kale"\n')
        made = Cluster(hosts, laptop, there)
        monkeypatch.setenv("KALE_SSH", f"ssh -F {hosts.ssh_config}")
        dialers.default.cache_clear()
        yield made
        dialers.default.cache_clear()
        relays.end_all()
        end_masters(socket_dir() / "s")


class Login:
    """This process as one on the login host, with a Kale of its own; ``home`` is its KALE_HOME and working folder."""

    def __init__(self, hosts: Hosts, home: Path) -> None:
        self.hosts, self.home = hosts, home
        self.client = Client.connect()

    def workflow(self, name: str = "eos") -> Workflow:
        return Workflow(name, executor="slurm", folder=self.home)

    def folder(self, run: Run) -> Path:
        """Where the steps of a run are."""
        return self.home / ".kale" / "runs" / run.name / "steps"

    def ran(self) -> list[str]:
        """What steps have appended to ``ran.txt``."""
        path = self.home / "ran.txt"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def run(self, *words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, check=True, env=self.hosts.environ(), cwd=self.home, timeout=60).stdout

    def squeue(self, columns: str = "%j %T") -> str:
        return self.run("squeue", "-h", "-o", columns)

    def resume_nodes(self) -> None:
        """Let drained nodes take jobs; one that is not drained is left alone."""
        for node in self.hosts.nodes:
            subprocess.run(["scontrol", "update", f"nodename={node.name}", "state=resume"], check=False, env=self.hosts.environ(), capture_output=True)

    def answers(self) -> bool:
        """Whether the controller does."""
        return subprocess.run(["scontrol", "ping"], capture_output=True, text=True, check=False, env=self.hosts.environ()).returncode == 0

    def until(self, condition: Callable[[], Any], seconds: float = 30.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{self.squeue('%i %j %T %r')}\n{(self.home / 'manager.log').read_text()}"
            time.sleep(0.05)
        return found

    def ended(self, run: Run, seconds: float = 60.0) -> dict[str, Any]:
        """Wait for the end of a run and return its steps."""
        steps: dict[str, Any] = self.client.wait(run.name, timeout=seconds)["steps"]
        return steps

    def completed(self, run: Run, seconds: float = 60.0) -> dict[str, Any]:
        steps = self.ended(run, seconds)
        assert run.state == "completed", steps
        return steps

    def kill_manager(self) -> None:
        """End the manager by kill -9."""
        pid = self.client.manager()["pid"]
        os.kill(pid, signal.SIGKILL)
        self.until(lambda: not Path(f"/proc/{pid}/exe").exists() or Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z")


@pytest.fixture
def login(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Login]:
    """Be the login host of a cluster with Slurm; whatever is in its queue afterwards is cancelled."""
    monkeypatch.setenv("SLURM_CONF", str(hosts.slurm_conf))
    monkeypatch.setenv("KALE_SLURM_GRACE_S", "4")
    monkeypatch.setenv("KALE_SLURM_POLL_S", "0.3")
    monkeypatch.setenv("KALE_SSH", f"ssh -F {hosts.ssh_config}")
    dialers.default.cache_clear()
    with hosts.login.here(), private_kale() as home:
        made = Login(hosts, home)
        yield made
        if hosts.controller is None or hosts.controller.poll() is not None:
            hosts.start_controller()
        made.resume_nodes()
        subprocess.run(["scancel", "--user=root"], check=False, env=hosts.environ())
        end_masters(socket_dir() / "s")
    dialers.default.cache_clear()


def without_keys(hosts: Hosts, folder: Path, port: int) -> Path:
    config = folder / "config"
    text = hosts.ssh_config.read_text().replace(f"IdentityFile {hosts.folder / 'id'}", f"IdentityFile {folder / 'none'}")
    config.write_text(text.replace("Host login", f"Host login\n  Port {port}\nHost login"))
    key = " ".join((hosts.folder / "host_login.pub").read_text().split()[:2])
    with (hosts.folder / "known_hosts").open("a") as known:
        known.write(f"[{hosts.login.addresses['campus']}]:{port} {key}\n")
    return config


@contextlib.contextmanager
def asking_twice(hosts: Hosts, port: int = 2210) -> Iterator[int]:
    """Run an sshd on the login host that asks for a password and then for a one-time code, by PAM; gives its port."""
    if not list(Path("/lib").glob("*/security/pam_oath.so")):
        pytest.skip("needs libpam-oath: make system-deps")
    name = f"kale-{os.getpid()}"
    check = hosts.folder / "check"
    check.write_text(f'#!/bin/sh\n[ "$(tr -d "\\000")" = "{PASSWORD}" ]\n')
    check.chmod(0o755)
    users = hosts.folder / "oath"
    users.write_text(f"HOTP root - {SECRET.hex()}\n")
    users.chmod(0o600)
    service = Path("/etc/pam.d") / name
    service.write_text(
        f"auth requisite pam_exec.so expose_authtok quiet {check}\nauth required pam_oath.so usersfile={users} window=20 digits=6\n"
        "account required pam_permit.so\nsession required pam_permit.so\n"
    )
    program = hosts.folder / name  # PAM's service is named as the program is called
    shutil.copy("/usr/sbin/sshd", program)
    options = (f"Port {port}", "UsePAM yes", "PubkeyAuthentication no", "PasswordAuthentication no", "KbdInteractiveAuthentication yes")
    server = hosts.start_sshd(hosts.login, *options, program=str(program))
    try:
        yield port
    finally:
        hosts.stop(server)
        service.unlink()


@pytest.fixture
def two_factor(hosts: Hosts) -> Iterator[int]:
    """The port of a server that asks for a password and a one-time code."""
    with asking_twice(hosts) as port:
        yield port


def code(counter: int) -> str:
    """Return a one-time code (RFC 4226)."""
    digest = hmac.digest(SECRET, struct.pack(">Q", counter), hashlib.sha1)
    at = digest[-1] & 15
    return f"{(struct.unpack('>I', digest[at : at + 4])[0] & 0x7FFFFFFF) % 1_000_000:06}"
