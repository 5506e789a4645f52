"""A small cluster on this machine: hosts as namespaces with addresses, names, sshd and, if asked, a real Slurm.

``laptop -- login -- node1..nodeN``: the laptop reaches the login hosts alone; a second one is ``login2``. Needs root, iproute2 and openssh-server; all
state is in one folder, every process is a child that dies with this one, and namespaces die with their processes. By hand::

    python -m tests.cluster.hosts --slurm        # until Ctrl-C; prints how to get onto each host
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_SSHD = "/usr/sbin/sshd"
_UP_S = 30.0
CPUS = 8


def missing(*, slurm: bool = False, accounting: bool = False) -> str:
    """Why there can be no cluster here; empty if there can."""
    if os.getuid() != 0:
        return "needs root for network namespaces: run the tests as root"
    programs = ["ip", "nsenter", "unshare", "setpriv", "ssh", _SSHD, *(("slurmctld", "slurmd", "munged", "srun") if slurm else ())]
    programs += ["slurmdbd", "mariadbd", "mariadb-install-db"] if accounting else []
    lacking = [program for program in programs if shutil.which(program, path=_path()) is None]
    if lacking:
        return f"needs {', '.join(lacking)}: make system-deps"
    made = subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True, check=False)
    return "" if made.returncode == 0 else "this machine lets no network namespaces be made: run where root may"


def missing_rest() -> str:
    """Why there can be no slurmrestd that takes tokens; empty if there can."""
    plugins = [*Path("/usr/lib").glob("*/slurm*/auth_jwt.so")]
    there = shutil.which("slurmrestd", path=_path()) and plugins
    return "" if there else "needs slurmrestd and Slurm's JWT plugin: make system-deps"


class Host:
    """One host: its name, addresses, and the process that holds its namespaces."""

    def __init__(self, name: str, addresses: dict[str, str]) -> None:
        self.name = name
        self.addresses = addresses
        self.pid = 0

    @property
    def address(self) -> str:
        return next(iter(self.addresses.values()))

    def argv(self, *words: str) -> list[str]:
        """The command that runs ``words`` on the host."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", f"--uts=/proc/{self.pid}/ns/uts", *words]

    @contextlib.contextmanager
    def here(self) -> Iterator[None]:
        """Be on the host with this thread, and with what it starts."""
        libc = ctypes.CDLL(None, use_errno=True)
        kinds = ("net", "uts")
        before = [os.open(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/{kind}", os.O_RDONLY) for kind in kinds]
        there = [os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY) for kind in kinds]
        try:
            for descriptor in there:
                assert libc.setns(descriptor, 0) == 0, os.strerror(ctypes.get_errno())
            yield
        finally:
            for descriptor in before:
                assert libc.setns(descriptor, 0) == 0, os.strerror(ctypes.get_errno())
            for descriptor in (*before, *there):
                os.close(descriptor)


class Hosts:
    """The cluster; a context manager.

    ``nodes`` is how many there are, ``ssh_to_nodes`` whether sshd runs on them, ``slurm`` whether Slurm does, ``login2``
    whether there is a second login host; ``accounting`` whether Slurm has a database of what has ended, and ``min_job_age``
    after how many seconds the controller forgets that.
    """

    def __init__(
        self, *, nodes: int = 2, slurm: bool = False, ssh_to_nodes: bool = True, login2: bool = False, accounting: bool = False, min_job_age: int = 300
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kc-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.slurm = slurm
        self.ssh_to_nodes = ssh_to_nodes
        self.accounting = accounting
        self.min_job_age = min_job_age
        self.laptop = Host("laptop", {"campus": "10.78.0.2"})
        self.login = Host("login", {"cluster": "10.77.0.10", "campus": "10.78.0.10"})
        self.login2 = Host("login2", {"cluster": "10.77.0.200", "campus": "10.78.0.200"}) if login2 else None
        self.nodes = [Host(f"node{number}", {"cluster": f"10.77.0.{10 + number}"}) for number in range(1, nodes + 1)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._servers: list[subprocess.Popen[bytes]] = []
        self._switch = 0
        self.controller: subprocess.Popen[bytes] | None = None

    @property
    def logins(self) -> list[Host]:
        return [self.login, *([self.login2] if self.login2 is not None else [])]

    @property
    def hosts(self) -> list[Host]:
        return [self.laptop, *self.logins, *self.nodes]

    @property
    def ssh_config(self) -> Path:
        """What the laptop's user has as ~/.ssh/config."""
        return self.folder / "config"

    @property
    def slurm_conf(self) -> Path:
        return self.folder / "slurm.conf"

    def __enter__(self) -> Self:
        try:
            self._wire()
            self._keys()
            for host in [*self.logins, *(self.nodes if self.ssh_to_nodes else ())]:
                self.start_sshd(host)
            if self.slurm:
                self._start_slurm()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self._processes):
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for path in self.folder.glob("pids/*"):  # sessions of sshd and slurmd that outlived them
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGKILL)
        self._end_those_inside()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_those_inside(self) -> None:
        """End what still runs in our network namespaces, such as ssh's masters and a job's processes."""
        for pid in self._inside():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _inside(self) -> list[int]:
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    if os.stat(f"/proc/{entry}/ns/net").st_ino in self._namespaces:
                        found.append(int(entry))
        return found

    # -- network

    def _wire(self) -> None:
        self._switch = self._hold("switch")
        for host in self.hosts:
            host.pid = self._hold(host.name)
        self._namespaces = {os.stat(f"/proc/{pid}/ns/net").st_ino for pid in [self._switch, *(host.pid for host in self.hosts)]}
        for bridge in ("cluster", "campus"):
            self._ip(self._switch, "link", "add", bridge, "type", "bridge")
            self._ip(self._switch, "link", "set", bridge, "up")
        for host in self.hosts:
            self._ip(host.pid, "link", "set", "lo", "up")
            for bridge, address in host.addresses.items():
                name = f"{host.name}-{bridge[:2]}"
                self._ip(self._switch, "link", "add", name, "type", "veth", "peer", "name", bridge, "netns", str(host.pid))
                self._ip(self._switch, "link", "set", name, "master", bridge, "up")
                self._ip(host.pid, "addr", "add", f"{address}/24", "dev", bridge)
                self._ip(host.pid, "link", "set", bridge, "up")

    def _hold(self, name: str) -> int:
        """Start the process that holds a host's namespaces."""
        script = 'hostname "$0"; echo ready; exec sleep infinity'
        process = self.start(["unshare", "--net", "--uts", "sh", "-c", script, name], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.stdout.close()
        return process.pid

    def _ip(self, pid: int, *words: str) -> None:
        subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", "ip", *words], check=True, env={"PATH": _path()})

    def set_link(self, host: Host, *, is_up: bool) -> None:
        """Plug a host's campus or only cable in or out."""
        name = f"{host.name}-{list(host.addresses)[-1][:2]}"
        self._ip(self._switch, "link", "set", name, "up" if is_up else "down")

    def start_delay(self, host: Host, port: int, milliseconds: float, to_port: int = 22) -> None:
        """Make a host's sshd, or what else listens there, reachable by another port too, where a round trip takes so much longer.

        By a program that holds the bytes back: not every kernel has netem.
        """
        script = Path(__file__).with_name("delay.py")
        self.start(host.argv(sys.executable, str(script), str(port), str(to_port), str(milliseconds / 2)), log=f"delay-{host.name}")
        _poll(lambda: self._listens(host, port), f"the slow port of {host.name}")

    # -- sshd

    def _keys(self) -> None:
        (self.folder / "log").mkdir()
        Path("/run/sshd").mkdir(exist_ok=True)
        for name in ("id", *(f"host_{host.name}" for host in [*self.logins, *self.nodes])):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)], check=True)
        shutil.copy(self.folder / "id.pub", self.folder / "authorized")
        self.write_known_hosts()
        lines = [
            "Host *",
            f"  IdentityFile {self.folder / 'id'}",
            f"  UserKnownHostsFile {self.folder / 'known_hosts'}",
            "  GlobalKnownHostsFile /dev/null",
            "  User root",
            "Host login cluster",
            f"  HostName {self.login.addresses['campus']}",
        ]
        if self.login2 is not None:
            lines += ["Host login2", f"  HostName {self.login2.addresses['campus']}"]
        for node in self.nodes:
            lines += [f"Host {node.name}", f"  HostName {node.address}"]
        self.ssh_config.write_text("\n".join(lines) + "\n")

    def write_known_hosts(self, **changed: str) -> None:
        """Write what the laptop's user knows of host keys; ``changed`` maps host names to other keys, "" to none."""
        lines = []
        for host in [*self.logins, *self.nodes]:
            key = changed.get(host.name, " ".join((self.folder / f"host_{host.name}.pub").read_text().split()[:2]))
            lines += [f"{address} {key}" for address in host.addresses.values() if key]
        (self.folder / "known_hosts").write_text("\n".join(lines) + "\n")

    def start_sshd(self, host: Host, *options: str, program: str = _SSHD) -> subprocess.Popen[bytes]:
        """Start a host's sshd; ``options`` are lines of its configuration, of which the first of a kind counts."""
        lines = [
            *options,
            f"HostKey {self.folder / f'host_{host.name}'}",
            f"AuthorizedKeysFile {self.folder / 'authorized'}",
            "PidFile none",
            "StrictModes no",
            "UsePAM no",
            "Subsystem sftp internal-sftp",
            "PermitRootLogin yes",
            "MaxSessions 200",
            "MaxStartups 200",
            f"SetEnv SLURM_CONF={self.slurm_conf}",
        ]
        config = self.folder / f"sshd_{host.name}"
        config.write_text("\n".join(lines) + "\n")
        process = self.start(host.argv(program, "-D", "-e", "-f", str(config)), log=f"sshd-{host.name}")
        self._servers.append(process)
        port = next((int(option.split()[1]) for option in options if option.startswith("Port ")), 22)
        _poll(lambda: self._listens(host, port), f"sshd on {host.name}")
        return process

    def stop_all_sshd(self) -> None:
        """End the servers of all hosts, and their sessions."""
        for server in self._servers:
            family = psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []
            self.stop(server)
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.name().startswith("sshd"):
                        process.kill()
        self._servers = []

    @contextlib.contextmanager
    def silent_lines(self) -> Iterator[None]:
        """Let nothing come any more by the connections that the servers have now; new ones are as always."""
        family = [process for server in self._servers if server.poll() is None for process in psutil.Process(server.pid).children(recursive=True)]
        stopped = [process for process in family if process.name().startswith("sshd")]
        for process in stopped:
            process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End one of the servers."""
        if process not in self._processes:
            return
        self._processes.remove(process)
        process.terminate()
        process.wait(10)

    def _listens(self, host: Host, port: int) -> bool:
        lines = Path(f"/proc/{host.pid}/net/tcp").read_text().splitlines()[1:]
        return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines)

    # -- Slurm

    def _start_slurm(self) -> None:
        for name in ("state", "spool", "munge", "run"):
            (self.folder / name).mkdir()
        munge = self.folder / "munge"
        munge.chmod(0o755)
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o400)
        (self.folder / "state" / "jwt").write_bytes(os.urandom(32))
        (self.folder / "state" / "jwt").chmod(0o400)
        self.start(
            ["munged", "--foreground", "--force", f"--socket={munge}/sock", f"--key-file={munge}/key", f"--pid-file={munge}/pid",
             f"--seed-file={munge}/seed", f"--log-file={self.folder}/log/munged"],
            log="munged",
        )  # fmt: skip
        self.slurm_conf.write_text(self._slurm_text())
        if self.accounting:
            self._start_accounting()
        _poll((munge / "sock").exists, "munged")
        self.start_controller()
        for node in self.nodes:
            (self.folder / "spool" / node.name).mkdir()
            self.start(node.argv("slurmd", "-D", "-N", node.name), log=f"slurmd-{node.name}", SLURM_CONF=str(self.slurm_conf))
        _poll(self._is_idle, "the nodes")

    def _start_accounting(self) -> None:
        """Start slurmdbd on the login host, and the database under it; both seen from there alone."""
        database = self.folder / "db"
        made = ["mariadb-install-db", "--no-defaults", f"--datadir={database}", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(made, check=True, capture_output=True, env=self.environ())
        options = ["--no-defaults", f"--datadir={database}", "--user=root", f"--socket={database}/s", f"--pid-file={database}/pid", "--bind-address=127.0.0.1"]
        self.start(self.login.argv("mariadbd", *options), log="mariadbd")
        _poll(lambda: self._listens(self.login, 3306), "the database")
        lines = [
            "AuthType=auth/munge", f"AuthInfo=socket={self.folder}/munge/sock", f"DbdHost=login\nDbdAddr={self.login.address}", "SlurmUser=root",
            "StorageType=accounting_storage/mysql", "StorageHost=127.0.0.1", "StorageUser=root", "StorageLoc=accounting",
            f"PidFile={self.folder}/run/slurmdbd.pid",
        ]  # fmt: skip
        config = self.folder / "slurmdbd.conf"
        config.write_text("\n".join(lines) + "\n")
        config.chmod(0o600)
        self.start(self.login.argv("slurmdbd", "-D"), log="slurmdbd", SLURM_CONF=str(self.slurm_conf))
        _poll(lambda: self._listens(self.login, 6819), "slurmdbd")
        subprocess.run(self.login.argv("sacctmgr", "--immediate", "add", "cluster", "lab"), check=True, capture_output=True, env=self.environ())

    def start_rest(self, port: int = 6820) -> str:
        """Start slurmrestd on the login host, which takes tokens alone; return its address. It refuses to run as root."""
        words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "slurmrestd", "-a", "rest_auth/jwt", "-s", "openapi/v0.0.38", f"{self.login.address}:{port}"]
        self.start(self.login.argv(*words), log="slurmrestd", SLURM_CONF=str(self.slurm_conf), SLURM_JWT="daemon")
        _poll(lambda: self._listens(self.login, port), "slurmrestd")
        return f"http://{self.login.address}:{port}"

    def token(self, lifespan_s: int = 600) -> str:
        """Return a token of this user for slurmrestd."""
        words = self.login.argv("scontrol", "token", f"lifespan={lifespan_s}")
        said = subprocess.run(words, capture_output=True, text=True, check=True, env=self.environ())
        return said.stdout.strip().partition("=")[2]

    def start_controller(self) -> None:
        """Start slurmctld, from the state that the one before it left."""
        self.controller = self.start(self.login.argv("slurmctld", "-D"), log="slurmctld", SLURM_CONF=str(self.slurm_conf))

    def kill_controller(self) -> None:
        """End slurmctld by kill -9; jobs go on."""
        assert self.controller is not None
        self.controller.kill()
        self.forget_controller()

    def forget_controller(self) -> None:
        """Take note that slurmctld was killed."""
        assert self.controller is not None
        self.controller.wait()
        self._processes.remove(self.controller)
        self.controller = None

    def _is_idle(self) -> bool:
        asked = subprocess.run(self.login.argv("sinfo", "-h", "-N", "-t", "idle", "-o", "%N"), capture_output=True, text=True, check=False, env=self.environ())
        return len(set(asked.stdout.split())) == len(self.nodes)

    def environ(self, **more: str) -> dict[str, str]:
        """The environment on the cluster's hosts."""
        return {**os.environ, "PATH": _path(), "SLURM_CONF": str(self.slurm_conf), **more}

    def _slurm_text(self) -> str:
        folder = self.folder
        lines = [
            "ClusterName=lab", f"SlurmctldHost=login({self.login.address})", "SlurmUser=root", "SlurmdUser=root",
            "AuthType=auth/munge", f"AuthInfo=socket={folder}/munge/sock,cred_expire=5",
            *(["AuthAltTypes=auth/jwt", f"AuthAltParameters=jwt_key={folder}/state/jwt"] if not missing_rest() else []),
            f"StateSaveLocation={folder}/state", f"SlurmdSpoolDir={folder}/spool/%n",
            f"SlurmctldPidFile={folder}/run/slurmctld.pid", f"SlurmdPidFile={folder}/run/slurmd-%n.pid",
            "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "SwitchType=switch/none", "MpiDefault=none",
            "ReturnToService=2", "SlurmdParameters=config_overrides", "KillWait=5",
            "SelectType=select/cons_tres", "SelectTypeParameters=CR_CPU_Memory", "DefMemPerCPU=100",
            "SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1,bf_continue,kill_invalid_depend",
            *(f"NodeName={node.name} NodeAddr={node.address} CPUs={CPUS} RealMemory=4000" for node in self.nodes),
            "PreemptType=preempt/partition_prio", "PreemptMode=CANCEL",
            "PartitionName=debug Nodes=ALL Default=YES MaxTime=1-0 PreemptMode=OFF State=UP",
            "PartitionName=spare Nodes=ALL MaxTime=1-0 GraceTime=5 State=UP",
            "PartitionName=urgent Nodes=ALL MaxTime=1-0 PriorityTier=10 PreemptMode=OFF State=UP",
            f"MinJobAge={self.min_job_age}",
            *(["AccountingStorageType=accounting_storage/slurmdbd", f"AccountingStorageHost={self.login.address}", f"AccountingStoragePass={self.folder}/munge/sock"] if self.accounting else []),
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    # -- processes

    def start(self, argv: Sequence[str], *, log: str = "", stdout: Any = None, **environ: str) -> subprocess.Popen[bytes]:
        """Start a process that ends with this one; what it prints goes to the file `log`."""
        with (self.folder / "log" / log).open("ab") if log else open(os.devnull, "wb") as said:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *argv],
                stdin=subprocess.DEVNULL,
                stdout=stdout or said,
                stderr=said,
                env=self.environ(**environ),
            )
        self._processes.append(process)
        return process


def _poll(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _UP_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come up"
        time.sleep(0.02)


@functools.cache
def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def main() -> None:
    """Keep a cluster up until interrupted."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--slurm", action="store_true")
    parser.add_argument("--no-ssh-to-nodes", action="store_true")
    options = parser.parse_args()
    if why := missing(slurm=options.slurm):
        sys.exit(why)
    begun = time.monotonic()
    with Hosts(nodes=options.nodes, slurm=options.slurm, ssh_to_nodes=not options.no_ssh_to_nodes) as hosts:
        print(f"up in {time.monotonic() - begun:.1f} s; ssh -F {hosts.ssh_config} login; SLURM_CONF={hosts.slurm_conf}")
        for host in hosts.hosts:
            print(" ".join(host.argv("bash")), f"  # {host.name}")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
