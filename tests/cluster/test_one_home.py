"""Several hosts with one home: two login nodes, and notebooks that are batch jobs themselves. There is one manager for all.

The hosts of the test share /tmp, which real ones do not: who is to be apart gets a folder of sockets of its own.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest

from kale_proxy.places import socket_dir
from kale_proxy.tunnel import dialer as dialers
from tests.cluster.conftest import end_masters
from tests.cluster.hosts import Host, Hosts, missing
from tests.conftest import private_kale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.ssh, pytest.mark.slurm]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Two login nodes and two nodes, with Slurm."""
    if why := missing(slurm=True):
        pytest.skip(why)
    with Hosts(slurm=True, login2=True) as made:
        yield made


class Home:
    """One KALE_HOME and working folder that all hosts have."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts, self.folder = hosts, folder
        self.sockets = socket_dir()
        inside = folder / "ssh_config"  # within the cluster, login hosts have another address than from the laptop
        logins = [f"Host {host.name}\n  HostName {host.addresses['cluster']}\n" for host in hosts.logins]
        inside.write_text("".join(logins) + hosts.ssh_config.read_text())
        self.ssh = f"ssh -F {inside}"
        self._holders: dict[str, subprocess.Popen[bytes]] = {}

    def environ(self, **more: str) -> dict[str, str]:
        return self.hosts.environ(KALE_HOME=str(self.folder), KALE_SSH=self.ssh, KALE_SLURM_POLL_S="0.3", KALE_SLURM_GRACE_S="4", **more)

    @property
    def apart(self) -> str:
        """A shell's words that give what follows sockets of its own."""
        return f"mount -t tmpfs tmpfs {self.sockets} && chmod 700 {self.sockets}"

    def argv(self, host: Host, *words: str) -> list[str]:
        """The command that runs words on a host: on the first login node with the sockets that its sshd sees, else apart."""
        if host is self.hosts.login:
            return host.argv(*words)
        if host.name not in self._holders:
            holder = subprocess.Popen(host.argv("unshare", "--mount", "sh", "-c", f"{self.apart} && echo ready && exec sleep infinity"), stdout=subprocess.PIPE)
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n"
            self._holders[host.name] = holder
        return host.argv("nsenter", f"--mount=/proc/{self._holders[host.name].pid}/ns/mnt", f"--wd={self.folder}", *words)

    def run(self, host: Host, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.argv(host, *words), capture_output=True, text=True, check=False, env=self.environ(), cwd=self.folder, timeout=90)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def kale(self, host: Host, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run(host, sys.executable, "-m", "kale_magic.cli.main", *words, code=code)

    def manager(self) -> dict[str, Any]:
        """Who the manager is, of its own record; empty if none has told."""
        try:
            return dict(json.loads((self.folder / "manager.json").read_text()))
        except FileNotFoundError:
            return {}

    def close(self) -> None:
        for holder in self._holders.values():
            holder.kill()
            holder.communicate()


@pytest.fixture
def home(hosts: Hosts) -> Iterator[Home]:
    with private_kale() as folder:
        made = Home(hosts, folder)
        yield made
        end_masters(made.sockets / "s")
        for host in hosts.logins[1:]:
            if host.name in made._holders:
                subprocess.run(made.argv(host, "sh", "-c", f"for m in {made.sockets}/s/m*; do ssh -S $m -O exit x; done"), capture_output=True, check=False, timeout=20)
        subprocess.run(hosts.login.argv("scancel", "--user=root"), check=False, env=hosts.environ())
        if (pid := made.manager().get("pid")) is not None:
            Path(f"/proc/{pid}").exists() and os.kill(pid, signal.SIGTERM)
        made.close()
    dialers.default.cache_clear()


SUBMIT = """
import sys; from kale_magic import Workflow
wf = Workflow("eos"); wf.step("md", sys.argv[1], outputs=["host"]); print(wf.submit(cache=False).name)
"""
LOOP = "import os, time\nn, host = 0, os.uname().nodename\nwhile not os.path.exists('stop'):\n    n += 1\n    time.sleep(0.01)\n"


def test_second_login_node_finds_the_manager_of_the_first_and_its_steps(home: Home, hosts: Hosts) -> None:
    assert hosts.login2 is not None
    run = home.run(hosts.login, sys.executable, "-c", SUBMIT, LOOP).stdout.strip()
    first = json.loads(home.kale(hosts.login, "manager", "status", "--json").stdout)
    there = json.loads(home.kale(hosts.login2, "manager", "status", "--json").stdout)
    assert (there["pid"], there["host"]) == (first["pid"], "login")
    assert json.loads(home.kale(hosts.login2, "status", run, "--json").stdout)["state"] == "running"
    assert home.kale(hosts.login2, "attach", f"{run}/md", "--exec", "print(host, n > 0)").stdout == "login True\n"
    home.kale(hosts.login2, "pause", f"{run}/md")
    home.kale(hosts.login2, "resume", f"{run}/md")

    visit = "import sys; from kale_magic import connect; from jupyter_client import BlockingKernelClient as C\nwith connect() as kale:\n    c = C(connection_file=str(kale.run(sys.argv[1])['md'].connection_file())); c.load_connection_file(); c.start_channels(); c.wait_for_ready(timeout=30)\n    c.execute_interactive('print(host, n > 0)', timeout=30); c.stop_channels()"
    assert home.run(hosts.login2, sys.executable, "-c", visit, run).stdout == "login True\n"  # any Jupyter client, by a relay on the second

    second = home.run(hosts.login2, sys.executable, "-c", SUBMIT, "host = __import__('os').uname().nodename; print('from', host)").stdout.strip()
    home.kale(hosts.login2, "wait", second)
    assert home.kale(hosts.login2, "logs", f"{second}/md").stdout == "from login\n"
    assert home.kale(hosts.login, "logs", f"{second}/md").stdout == "from login\n"
    (home.folder / "stop").touch()
    home.kale(hosts.login2, "wait", run)
    assert home.manager()["pid"] == first["pid"]


def test_manager_that_was_killed_on_its_login_node_is_started_there_again(home: Home, hosts: Hosts, until: Callable[..., Any]) -> None:
    assert hosts.login2 is not None
    first = json.loads(home.kale(hosts.login, "manager", "start", "--json").stdout)
    os.kill(first["pid"], signal.SIGKILL)
    until(lambda: not Path(f"/proc/{first['pid']}/exe").exists())
    again = json.loads(home.kale(hosts.login2, "manager", "start", "--json").stdout)
    assert again["host"] == "login"
    assert again["pid"] != first["pid"]
    assert "has ended" in home.kale(hosts.login2, "manager", "stop").stdout
    assert home.manager() == {}
    assert json.loads(home.kale(hosts.login2, "manager", "start", "--json").stdout)["host"] == "login2"  # none elsewhere: here


def test_steps_of_a_login_node_live_on_wherever_the_next_manager_is(home: Home, hosts: Hosts) -> None:
    assert hosts.login2 is not None
    run = home.run(hosts.login, sys.executable, "-c", SUBMIT, LOOP).stdout.strip()
    assert home.kale(hosts.login, "attach", f"{run}/md", "--exec", "print(host)").stdout == "login\n"
    home.kale(hosts.login, "manager", "stop")
    home.kale(hosts.login2, "runs")  # the next client, on the other login node
    assert home.manager()["host"] == "login"  # where steps run
    assert home.kale(hosts.login2, "attach", f"{run}/md", "--exec", "print(host)").stdout == "login\n"
    home.kale(hosts.login2, "manager", "stop")
    (home.folder / "manager.last.json").unlink()  # as if the first login node could not be reached any more
    home.kale(hosts.login2, "runs")
    assert home.manager()["host"] == "login2"
    time.sleep(2)
    step = json.loads(home.kale(hosts.login2, "status", run, "--json").stdout)["steps"]["md"]
    assert (step["state"], step["attempt"]) == ("running", 1)
    (home.folder / "stop").touch()
    step = json.loads(home.kale(hosts.login2, "wait", run, "--json").stdout)["steps"]["md"]
    assert (step["state"], step["attempt"]) == ("completed", 1)


def test_manager_on_a_host_that_is_gone_is_said_with_the_way_out(home: Home, hosts: Hosts) -> None:
    assert hosts.login2 is not None
    (home.folder / "manager.json").write_text(json.dumps({"host": "login9", "pid": 1, "address": "/tmp/none/m"}))
    said = home.kale(hosts.login2, "status", code=3).stderr
    assert "Your manager runs on login9 (pid 1), not on login2, and can't be reached from here" in said
    assert "If login9 is gone for good, remove" in said
    assert "Traceback" not in said


# -- a notebook that is a batch job

CELLS = [
    "%load_ext kale_magic",
    "%kale_workflow eos --executor slurm",
    "%%kale_step a --outputs found\nimport os\nfound = dict(os.environ)\n",
    "%%kale_step b --after a --outputs y\nimport os, time\nwhile not os.path.exists('go'):\n    time.sleep(0.05)\ny = 2\n",
    "%kale_submit --name batch-1",
    "%kale_status",
]
WARNING = "and the manager that was started here ends with it"


def notebook_job(home: Home, **environ: str) -> str:
    """Run the cells in a notebook that is a Slurm job on node1, until its end; return the job's number."""
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS]), home.folder / "nb.ipynb")
    execute = shlex.join([sys.executable, "-m", "jupyter", "execute", "--inplace", "nb.ipynb"])
    script = home.folder / "nb.sh"
    script.write_text(
        "#!/bin/bash\n#SBATCH --job-name=nb --cpus-per-task=3 --mem=321 --nodelist=node1\n"
        f"export TMPDIR={home.folder}/tmp-$SLURM_JOB_ID CUDA_VISIBLE_DEVICES=4711 PMI_RANK=4711 SLURM_CPU_BIND=quiet,mask_cpu:0x7; mkdir -p $TMPDIR\n"
        f"exec unshare --mount bash -c {shlex.quote(f'{home.apart} && {execute}')}\n"
    )
    submit = home.hosts.login.argv("sbatch", "--parsable", "--output=nb.out", str(script))
    done = subprocess.run(submit, capture_output=True, text=True, check=True, env=home.environ(**environ), cwd=home.folder, timeout=30)
    job = done.stdout.strip()
    deadline = time.monotonic() + 90
    while (state := home.run(home.hosts.login, "squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").stdout.strip()) != "COMPLETED":
        assert state in {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING"}, (home.folder / "nb.out").read_text()
        assert time.monotonic() < deadline, "the notebook has not ended"
        time.sleep(0.2)
    return job


def said(home: Home) -> str:
    """What stands under the cells of the notebook on stderr."""
    cells = nbformat.read(home.folder / "nb.ipynb", as_version=4).cells
    return "".join(output.text for cell in cells for output in cell.outputs if output.output_type == "stream" and output.name == "stderr")


def check_run(home: Home, job: str) -> None:
    """Let the steps end, by a client on the login node, and look at what they were given."""
    (home.folder / "go").touch()
    status = json.loads(home.kale(home.hosts.login, "wait", "batch-1", "--timeout", "60", "--json").stdout)
    assert {name: (step["state"], step["attempt"]) for name, step in status["steps"].items()} == {"a": ("completed", 1), "b": ("completed", 1)}
    code = "from kale_magic import connect\nimport json; print(json.dumps(connect().run('batch-1')['a'].pull('found')))"
    found = json.loads(home.run(home.hosts.login, sys.executable, "-c", code).stdout)
    assert found["SLURM_JOB_ID"] == status["steps"]["a"]["native_id"] != job
    assert found["SLURM_JOB_NAME"] != "nb"
    assert found.get("SLURM_CPUS_PER_TASK", "1") == "1"
    assert found.get("SLURM_MEM_PER_NODE") != "321"
    leaked = [name for name, value in found.items() if f"tmp-{job}" in value or value in {"4711", "nb", "quiet,mask_cpu:0x7"}]
    assert leaked == []


@pytest.mark.slow
@pytest.mark.parametrize("end", ["by itself", "killed"])
def test_manager_of_a_notebook_job_ends_with_it_and_the_next_client_goes_on(home: Home, hosts: Hosts, until: Callable[..., Any], end: str) -> None:
    job = notebook_job(home, KALE_IDLE_S="4" if end == "by itself" else "900")
    assert said(home).count(WARNING) == 1
    assert f"this notebook is in Slurm job {job}, " in said(home)
    assert '[manager] host = "LOGIN" in ' in said(home)
    if end == "killed":  # as a site does that holds jobs in cgroups; its lock and record stay
        manager = home.manager()
        assert manager["host"] == "node1"
        os.kill(manager["pid"], signal.SIGKILL)
    else:
        until(lambda: not home.manager(), "the manager's end", timeout=30)
        assert f"Slurm job {job}, in which it was started, is over" in (home.folder / "manager.log").read_text()
    check_run(home, job)
    assert home.manager()["host"] == "login"


@pytest.mark.slow
def test_manager_is_put_on_the_login_host_that_the_configuration_names(home: Home, hosts: Hosts) -> None:
    (home.folder / "config.toml").write_text('[manager]\nhost = "login"\n')
    job = notebook_job(home)
    assert said(home) == ""
    manager = home.manager()
    assert manager["host"] == "login"
    assert "job" not in manager
    check_run(home, job)
    assert home.manager()["pid"] == manager["pid"]


def test_login_host_that_can_not_be_had_is_said_and_the_manager_is_started_here(home: Home, hosts: Hosts) -> None:
    assert hosts.login2 is not None
    (home.folder / "config.toml").write_text('[manager]\nhost = "nowhere"\n')
    done = home.kale(hosts.login2, "manager", "start", "--json")
    assert json.loads(done.stdout)["host"] == "login2"
    assert "[manager] host = 'nowhere' is of no use here, so the manager is started on this host" in done.stderr
