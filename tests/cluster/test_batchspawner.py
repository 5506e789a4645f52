"""A real JupyterHub on the login host whose notebook servers are Slurm jobs, by batchspawner's SlurmSpawner: Kale in their kernels."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster import jupyterhub
from tests.cluster.jupyterhub import Account, Session
from tests.cluster.test_one_home import CELLS, WARNING, Home, check_run, home, hosts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.hosts import Hosts

__all__ = ["home", "hosts"]  # fixtures
pytestmark = [pytest.mark.ssh, pytest.mark.slurm, pytest.mark.slow]

# root is the user, for whom no sudo is needed; what batchspawner would write into root's home goes into the test's folder
_CONFIG = """
import batchspawner

class Spawner(batchspawner.SlurmSpawner):
    def _req_homedir_default(self):
        return {folder!r}

    def user_env(self, env):
        return {{**super().user_env(env), "HOME": {folder!r}}}

c.JupyterHub.spawner_class = Spawner
c.JupyterHub.bind_url = "http://{address}:8000"
c.JupyterHub.hub_bind_url = "http://{address}:8081"
c.JupyterHub.hub_connect_url = "http://{address}:8081"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:8001"
c.ConfigurableHTTPProxy.command = [{bin!r} + "/configurable-http-proxy"]
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allowed_users = {{"root"}}
c.JupyterHub.services = [dict(name="test", api_token={token!r})]
c.JupyterHub.load_roles = [dict(name="test", services=["test"], scopes=["admin:users", "admin:servers", "tokens", "access:servers"])]
c.Spawner.cmd = [{bin!r} + "/jupyterhub-singleuser"]
c.Spawner.args = ["--allow-root"]
c.Spawner.default_url = "/api"
c.Spawner.env_keep = {kept!r}
c.SlurmSpawner.exec_prefix = "env"
c.SlurmSpawner.req_srun = ""
c.SlurmSpawner.req_nprocs = "2"
c.SlurmSpawner.req_options = "--nodelist=node1"
c.SlurmSpawner.batchspawner_singleuser_cmd = {singleuser!r}
c.SlurmSpawner.state_exechost_re = r"\\s+node(\\d+)$"
c.SlurmSpawner.state_exechost_exp = r"10.77.0.1\\1"
"""


class BatchHub(jupyterhub.Hub):
    """The hub, on the login host; a context manager."""

    def __init__(self, home: Home) -> None:
        self.home, self.folder = home, home.folder
        self.accounts = [Account("root", 0, home.folder)]
        self._token = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.home.hosts.login.address}:8000"

    def __exit__(self, *_: object) -> None:
        """End the hub alone, the proxy with it: its user is root, whose other processes are not ours."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def _start(self) -> None:
        folder, bin_ = self.folder / "hub", os.path.join(sys.prefix, "bin")
        folder.mkdir(mode=0o700)
        environ = {name: value for name, value in self.home.environ().items() if not name.startswith(("JUPYTER", "JPY_", "IPYTHON"))}
        kept = [name for name in environ if name.startswith(("KALE_", "SLURM_")) or name in {"PATH", "LANG", "VIRTUAL_ENV"}]
        apart = shlex.join(["unshare", "--mount", "bash", "-c", f'{self.home.apart} && exec "$0" "$@"', f"{bin_}/batchspawner-singleuser"])
        address = self.home.hosts.login.address
        text = _CONFIG.format(folder=str(self.folder), address=address, bin=bin_, token=self._token, kept=kept, singleuser=apart)
        (folder / "config.py").write_text(text)
        with (folder / "log").open("wb") as log:
            argv = self.home.hosts.login.argv("setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "jupyterhub", "--config", str(folder / "config.py"))
            self._process = subprocess.Popen(argv, env={**environ, "HOME": str(folder)}, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < deadline, self.log()
            assert self._process.poll() is None, self.log()
            time.sleep(0.1)


def jobs(home: Home) -> dict[str, str]:
    """What is in the queue: number -> name."""
    return dict(line.split() for line in home.run(home.hosts.login, "squeue", "-h", "-o", "%i %j").stdout.splitlines())


def run_cells(session: Session, home: Home) -> tuple[str, str]:
    """Run the cells in a kernel of the notebook server; return the number of its job and what stands under the cells."""
    [job] = [number for number, name in jobs(home).items() if name == "spawner-jupyterhub"]
    with session.kernel() as kernel:
        assert kernel.run("import os; print(os.environ['SLURM_JOB_ID'], os.uname().nodename)").split() == [job, "node1"]
        return job, "".join(kernel.run(cell) for cell in CELLS)


@pytest.mark.timeout(180)
def test_kale_in_a_notebook_of_batchspawner_warns_and_the_next_client_goes_on(home: Home, hosts: Hosts, until: Callable[..., Any]) -> None:
    with hosts.login.here(), BatchHub(home) as hub:
        session = hub.log_in(hub.accounts[0])
        job, said = run_cells(session, home)
        assert said.count(WARNING) == 1, said
        assert f"this notebook is in Slurm job {job}, " in said
        assert home.manager()["host"] == "node1"
        session.stop_server()  # as when an idle one is culled: batchspawner cancels the job
        until(lambda: "spawner-jupyterhub" not in jobs(home).values(), "the end of the notebook's job", timeout=60)
        check_run(home, job)
        assert home.manager()["host"] == "login"


@pytest.mark.timeout(180)
def test_kale_in_a_notebook_of_batchspawner_puts_the_manager_on_a_login_host(home: Home, hosts: Hosts) -> None:
    (home.folder / "config.toml").write_text('[manager]\nhost = "login"\n')
    with hosts.login.here(), BatchHub(home) as hub:
        session = hub.log_in(hub.accounts[0])
        job, said = run_cells(session, home)
        assert WARNING not in said
        manager = home.manager()
        assert manager["host"] == "login"
        session.stop_server()
        check_run(home, job)
        assert home.manager()["pid"] == manager["pid"]
