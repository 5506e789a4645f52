"""A real OpenPBS on hosts of :mod:`tests.cluster.hosts`: server, scheduler and comm on login, a MOM on each node, one user.

It has been built by hand (README.rst, Other batch systems); ``KALE_TEST_PBS`` is its prefix, else /opt/pbs. Each host has an ``/etc``, a ``/var/spool`` and
a ``/root`` of its own in a mount namespace: nothing of this machine's is touched, and all ends with the hosts. The user is not root, whose
processes PBS does not count as a job's. Run something there as the user::

    python -m tests.cluster.pbs python -m pytest -n0 tests/integration/test_real_queues.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.cluster import hosts as lab
from tests.cluster.hosts import Hosts
from tests.cluster.jupyterhub import opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.hosts import Host

USER = "ada"
_HOME = "/var/spool/pbs"  # it refuses a folder below /tmp
_UP_S = 60.0
_CALM = ("job_requeue_timeout = 5", "scheduler_iteration = 2", "flatuid = True", "acl_roots = root", f"operators = {USER}@*", "node_fail_requeue = 0")


def prefix() -> Path:
    """Where OpenPBS would be."""
    return Path(os.environ.get("KALE_TEST_PBS", "/opt/pbs"))


def missing() -> str:
    """Why there can be no PBS here; empty if there can."""
    if not (prefix() / "sbin" / "pbs_server").exists():
        return f"needs OpenPBS, which has no package: build it (README.rst, Other batch systems) and set KALE_TEST_PBS to its prefix, here {prefix()}"
    return lab.missing()


class Pbs:
    """The system on hosts that it makes; a context manager. ``has_history`` is whether the server keeps jobs that have ended."""

    def __init__(self, *, has_history: bool = True) -> None:
        self.hosts = Hosts(nodes=2, ssh_to_nodes=False)
        self.folder = self.hosts.folder / "pbs"
        self._has_history = has_history
        self._uid = 690_000 + os.getpid() % 50_000  # so that two on one machine have nothing in common
        self._spaces: dict[str, int] = {}
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def user_home(self) -> Path:
        return self.folder / USER

    def __enter__(self) -> Self:
        self.hosts.__enter__()
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.hosts.__exit__()
        shutil.rmtree(f"/tmp/kale-{self._uid}", ignore_errors=True)

    def argv(self, *words: str, host: Host | None = None, is_root: bool = False) -> list[str]:
        """The command that runs ``words`` on a host, login if none is said, as the user or as root."""
        host = host or self.hosts.login
        who = [] if is_root else ["setpriv", f"--reuid={self._uid}", f"--regid={self._uid}", "--clear-groups"]
        where = "/" if is_root else str(self.user_home)
        return host.argv("nsenter", f"--mount=/proc/{self._spaces[host.name]}/ns/mnt", f"--wd={where}", *who, *words)

    def environ(self, *, is_root: bool = False) -> dict[str, str]:
        """The environment there: a fresh one."""
        path = f"{sys.prefix}/bin:{prefix()}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        own = {} if is_root else {"USER": USER, "LOGNAME": USER, "KALE_TEST_SSH": f"ssh -F {self.user_home}/ssh_config", "KALE_TEST_QUEUE": "pbs", "KALE_TEST_HISTORY": str(int(self._has_history)), "KALE_TEST_CONTROL": str(self.folder / "control")}
        return {"PATH": path, "LANG": "C.UTF-8", "HOME": "/root" if is_root else str(self.user_home), "PYTHONDONTWRITEBYTECODE": "1", **own}

    def run(self, *words: str, is_root: bool = False, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run something on login."""
        return subprocess.run(self.argv(*words, is_root=is_root), input=stdin, env=self.environ(is_root=is_root), capture_output=True, text=True, check=False, timeout=120)

    def qmgr(self, *lines: str) -> None:
        """Tell the server something."""
        self._until(lambda: self.run("qmgr", is_root=True, stdin="\n".join(lines) + "\n").returncode == 0, f"qmgr: {lines}")

    def start_server(self) -> None:
        """Start the server, from what the one before it left."""
        self._server = self._serve(self.hosts.login, "pbs_server")
        self._until(lambda: self.run("qstat", "-B").returncode == 0, "the server")

    def stop_server(self) -> None:
        """End the server; jobs go on."""
        assert self._server is not None
        self.run("qterm", "-t", "quick", is_root=True)
        self.hosts.stop(self._server)

    # -- inside

    def _start(self) -> None:
        self.folder.mkdir()
        self.folder.chmod(0o755)
        self._make_user()
        for host in [self.hosts.login, *self.hosts.nodes]:
            self._spaces[host.name] = self._hold(host)
        self._install(self.hosts.login, "server")
        self._do(self.hosts.login, str(prefix() / "libexec" / "pbs_habitat"))  # the database, and the queue workq
        self.start_server()
        for program in ("pbs_comm", "pbs_sched"):
            self._serve(self.hosts.login, program)
        for node in self.hosts.nodes:
            self._install(node, "execution")
            (self.folder / f"home-{node.name}" / "mom_priv" / "config").write_text("$clienthost login\n$usecp *:/ /\n")
            self._serve(node, "pbs_mom")
            self._serve_ssh(node)
        lines = ["set queue workq kill_delay = 2", *(f"set server {line}" for line in _CALM)]
        lines += [f"set server job_history_enable = {self._has_history}"]
        for node in self.hosts.nodes:
            lines += [f"create node {node.name}", f"set node {node.name} resources_available.ncpus = {lab.CPUS}"]
        self.qmgr(*lines)
        self._until(lambda: self.run("pbsnodes", "-a").stdout.count("state = free") == len(self.hosts.nodes), "the nodes")

    def _make_user(self) -> None:
        home = self.user_home
        home.mkdir(mode=0o755)
        shutil.copy(self.hosts.folder / "id", home / "id")
        lines = ["Host *", f"  IdentityFile {home}/id", "  StrictHostKeyChecking no", "  UserKnownHostsFile /dev/null", "  LogLevel ERROR", f"  User {USER}"]
        lines += [line for node in self.hosts.nodes for line in (f"Host {node.name}", f"  HostName {node.address}")]
        (home / "ssh_config").write_text("\n".join(lines) + "\n")
        for path in (home, *home.iterdir()):
            os.chown(path, self._uid, self._uid)
        (self.hosts.folder / "authorized").chmod(0o644)

    def _hold(self, host: Host) -> int:
        """Make a host's mount namespace, with folders of its own; return the process that holds it."""
        etc, home = self.folder / f"etc-{host.name}", self.folder / f"home-{host.name}"
        shutil.copytree("/etc", etc, symlinks=True)
        home.mkdir(mode=0o755)
        addresses = [f"{other.addresses['cluster']} {other.name}" for other in [self.hosts.login, *self.hosts.nodes]]
        (etc / "hosts").write_text("\n".join(["127.0.0.1 localhost", *addresses]) + "\n")
        with (etc / "passwd").open("a") as passwd, (etc / "group").open("a") as group:
            passwd.write(f"{USER}:x:{self._uid}:{self._uid}::{self.user_home}:/bin/bash\n")
            group.write(f"{USER}:x:{self._uid}:\n")
        is_node = host is not self.hosts.login
        lines = [f"PBS_EXEC={prefix()}", f"PBS_HOME={_HOME}", f"PBS_SERVER={self.hosts.login.name}", "PBS_CORE_LIMIT=unlimited", "PBS_SCP=/usr/bin/scp"]
        lines += [f"PBS_START_{part}={int((part == 'MOM') == is_node)}" for part in ("SERVER", "SCHED", "COMM", "MOM")]
        (etc / "pbs.conf").write_text("\n".join(lines) + "\n")
        own = self.folder / f"opened-{host.name}"
        own.mkdir()
        mounts = [f"mount --bind {etc} /etc", "mount -t tmpfs -o mode=755 tmpfs /var/spool", f"mkdir {_HOME}", f"mount --bind {home} {_HOME}", *opened(own)]
        script = " && ".join(["mount --make-rprivate /", *mounts, "echo ready", "exec sleep infinity"])
        holder = self.hosts.start(host.argv("unshare", "--mount", "bash", "-c", script), stdout=subprocess.PIPE)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        holder.stdout.close()
        return holder.pid

    def _do(self, host: Host, *words: str) -> None:
        done = subprocess.run(self.argv(*words, host=host, is_root=True), capture_output=True, text=True, check=False, timeout=120, env=self.environ(is_root=True))
        assert done.returncode == 0, done.stdout + done.stderr

    def _install(self, host: Host, part: str) -> None:
        """Make a host's folder of state."""
        version = subprocess.run([str(prefix() / "bin" / "qstat"), "--version"], capture_output=True, text=True, check=True).stdout.rpartition("= ")[2].strip()
        self._do(host, str(prefix() / "libexec" / "pbs_postinstall"), part, version, str(prefix()), _HOME, "", "sameconf")

    def _serve(self, host: Host, program: str) -> subprocess.Popen[bytes]:
        environ = [f"{name}={value}" for name, value in self.environ(is_root=True).items()]
        argv = self.argv("env", "-i", *environ, str(prefix() / "sbin" / program), "-N", host=host, is_root=True)
        return self.hosts.start(argv, log=f"{program}-{host.name}")

    def _serve_ssh(self, node: Host) -> None:
        lines = [f"HostKey {self.hosts.folder}/host_{node.name}", f"AuthorizedKeysFile {self.hosts.folder}/authorized", "PidFile none", "StrictModes no", "UsePAM no"]
        config = self.folder / f"sshd-{node.name}"
        config.write_text("\n".join(lines) + "\n")
        self.hosts.start(self.argv("/usr/sbin/sshd", "-D", "-e", "-f", str(config), host=node, is_root=True), log=f"sshd-{node.name}")

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _UP_S
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not there"
            time.sleep(0.2)


def main() -> None:
    """Run a command on the login host as the user, and exit as it does. A file of the folder ``KALE_TEST_CONTROL`` stops the server while it is there."""
    if why := missing():
        sys.exit(why)
    with Pbs(has_history="--no-history" not in sys.argv) as pbs:
        control = pbs.folder / "control"
        control.mkdir(mode=0o777)
        control.chmod(0o777)
        words = [word for word in sys.argv[1:] if word != "--no-history"]
        process = subprocess.Popen(pbs.argv(*words), env=pbs.environ())
        is_down = False
        while process.poll() is None:
            time.sleep(0.2)
            if (control / "down").exists() != is_down:
                is_down = not is_down
                (pbs.stop_server if is_down else pbs.start_server)()
                (control / "is-down").touch() if is_down else (control / "is-down").unlink()
        code = process.returncode
    sys.exit(code)


if __name__ == "__main__":
    main()
