"""Steps that listen on TCP by CURVE, where that was asked for: another way to a node, directly and through the login host."""

from __future__ import annotations

import json
import stat
import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kale_proxy.tunnel.dialer import Dialer
from kale_proxy.tunnel.openssh import OpenSSH
from kale_proxy.tunnel.route import Reach
from kale_proxy.visitor import Visitor
from tests.cluster.conftest import end_masters

if TYPE_CHECKING:
    from pathlib import Path

    from kale_magic import Run
    from tests.cluster.conftest import Login
    from tests.cluster.hosts import Hosts

pytestmark = [pytest.mark.ssh, pytest.mark.slurm]

COUNT = "import time\nn = 0\nwhile True:\n    n += 1\n    time.sleep(0.01)"


@pytest.fixture
def _listening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for it before the manager starts."""
    monkeypatch.setenv("KALE_SLURM_LISTEN", "yes")


def started(login: Login) -> tuple[Run, Reach]:
    wf = login.workflow()
    wf.step("md", COUNT)
    run = wf.submit(cache=False)
    reach = login.until(lambda: run["md"].target().kernel)
    assert isinstance(reach, Reach)
    return run, reach


def ports(hosts: Hosts, node: str) -> set[str]:
    """TCP ports on which something of a node listens for others."""
    [host] = [host for host in hosts.nodes if host.name == node]
    said = subprocess.run(host.argv("ss", "-Hltn"), capture_output=True, text=True, check=True).stdout
    return {line.split()[3].rpartition(":")[2] for line in said.splitlines() if not line.split()[3].startswith("127.")}


@pytest.mark.usefixtures("_listening")
def test_a_step_is_visited_by_its_port_from_login_and_laptop_and_the_port_ends_with_it(login: Login, hosts: Hosts, folder: Path) -> None:
    run, reach = started(login)
    door, node = reach.route.door, reach.route.node
    assert door is not None
    assert str(door.port) in ports(hosts, node)
    assert str(run["md"].execute("n > 0")) == "True"
    [visitor] = run["md"]._visits._visitors.values()
    assert visitor.way == f"TCP port of {node}"
    dialer = Dialer(OpenSSH(["ssh", "-F", str(hosts.ssh_config)], folder), folder / "ways.json")
    with hosts.laptop.here():
        far = reach._replace(route=replace(reach.route, login="login", job_id=""))
        sock, way = dialer.open(far.route, time.monotonic() + 30)
        sock.close()
        assert way == f"TCP port of {node} through login"
        with Visitor.connect(far, timeout=60) as visitor:
            assert visitor.execute("1 + 1", timeout=30)["status"] == "ok"
        wrong = replace(far.route, door=door._replace(client=door.server))
        sock, way = dialer.open(wrong, time.monotonic() + 30)
        sock.close()
        assert way.startswith("ssh to")
    end_masters(folder)
    file = next(login.home.rglob(f"{run['md'].status()['job']}.json"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text())["door"]["client"] == door.client
    assert not [path for path in login.home.rglob("*") if path != file and path.is_file() and door.client.encode() in path.read_bytes()]
    run.cancel()
    login.until(lambda: str(door.port) not in ports(hosts, node))


def test_no_port_is_open_where_none_was_asked_for(login: Login, hosts: Hosts) -> None:
    before = {host.name: ports(hosts, host.name) for host in hosts.nodes}
    run, reach = started(login)
    assert reach.route.door is None
    assert ports(hosts, reach.route.node) - before[reach.route.node] == set()
    run.cancel()
