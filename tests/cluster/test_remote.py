"""From a laptop to steps that run on a cluster: the manager of the login host, attach, kernelspecs, cut cables."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from jupyter_client import BlockingKernelClient

from kale_magic.api.connection import connect
from kale_magic.errors import ManagerUnavailable, UsageError
from kale_proxy.places import socket_dir
from tests.cluster.conftest import end_masters
from tests.cluster.test_node_steps import connection
from tests.integration.test_relay import evaluate, shown, text, wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.conftest import Cluster

pytestmark = [pytest.mark.ssh, pytest.mark.slurm]

COUNTER = "import time\nfrom pathlib import Path\nn = 0\nwhile not Path('stop').exists():\n    n += 1\n    time.sleep(0.01)\n"


@pytest.fixture
def step(cluster: Cluster) -> str:
    """A step that counts on the login host."""
    return cluster.submit(COUNTER)


@pytest.fixture
def client(cluster: Cluster, step: str) -> Iterator[BlockingKernelClient]:
    """A Jupyter client on the laptop, by a connection file."""
    with cluster.hosts.laptop.here(), connect(host="login") as kale:
        run, _, name = step.partition("/")
        file = kale.run(run)[name].connection_file()
        client = BlockingKernelClient(connection_file=str(file))
        client.load_connection_file()
        client.start_channels()
        wait_until_ready(client)
        yield client
        client.stop_channels()
        client.context.destroy(linger=0)


def test_code_runs_in_a_step_of_the_cluster(cluster: Cluster, step: str) -> None:
    assert int(cluster.kale("attach", "--host", "login", step, "--exec", "n").stdout) >= 0
    said = cluster.kale("attach", "--host", "login", "md", "--exec", "import socket; print(socket.gethostname())")
    assert said.stdout == "login\n"
    assert json.loads(cluster.kale("status", "--host", "login", "--json").stdout)["state"] == "running"
    assert step.startswith(json.loads(cluster.kale("runs", "--host", "login", "--json").stdout)[0]["run"])


def test_kernelspec_of_a_step_of_the_cluster_names_the_host(cluster: Cluster, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(cluster.laptop / "data"))
    made = json.loads(cluster.kale("kernels", "install", "--host", "login", step, "--json").stdout)
    spec = json.loads((cluster.laptop / "data" / "kernels" / made["name"] / "kernel.json").read_text())
    assert spec["argv"][-2:] == ["--host", "login"]
    assert spec["env"]["KALE_SSH"]
    assert spec["display_name"].endswith("on login")


def test_any_jupyter_client_visits_from_the_laptop(client: BlockingKernelClient) -> None:
    assert int(evaluate(client, "n")) > 0
    assert evaluate(client, "__import__('socket').gethostname()") == "'login'"


def cut(cluster: Cluster, seconds: float) -> None:
    cluster.hosts.set_link(cluster.hosts.laptop, is_up=False)
    time.sleep(seconds)
    cluster.hosts.set_link(cluster.hosts.laptop, is_up=True)


LINES = "import time\nfor i in range(60):\n    print('line', i, flush=True)\n    time.sleep(0.05)"


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [2.0, 25.0])  # the second is past the end of the cell, and past what the line forgives
def test_cable_that_is_cut_loses_no_line(cluster: Cluster, client: BlockingKernelClient, seconds: float) -> None:
    cutter = threading.Timer(0.7, cut, (cluster, seconds))
    cutter.start()
    status, messages = shown(client, LINES, timeout=100)
    cutter.join()
    assert status == "ok"
    said = [line for line in text(messages).splitlines() if not line.startswith("Kale:")]
    assert said == [f"line {i}" for i in range(60)]
    assert evaluate(client, "1 + 1") == "2"


@pytest.mark.slow
def test_masters_that_are_killed_lose_no_line(cluster: Cluster, client: BlockingKernelClient) -> None:
    killers = [threading.Timer(at, end_masters, (socket_dir() / "s",)) for at in (0.5, 1.2, 2.0)]
    for killer in killers:
        killer.start()
    status, messages = shown(client, LINES, timeout=60)
    for killer in killers:
        killer.join()
    assert status == "ok"
    assert [line for line in text(messages).splitlines() if not line.startswith("Kale:")] == [f"line {i}" for i in range(60)]


def test_state_of_a_lost_line_is_told_under_the_waiting_cell(cluster: Cluster, client: BlockingKernelClient) -> None:
    cluster.hosts.stop_all_sshd()
    try:
        end_masters(socket_dir() / "s")
        msg_id = client.execute("6 * 7")
        while True:
            message = client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") == msg_id and message["msg_type"] == "stream":
                break
        assert "is out of reach" in message["content"]["text"]
        assert "this cell waits" in message["content"]["text"]
        assert client.is_alive() or client.hb_channel.is_beating()
    finally:
        cluster.hosts.start_sshd(cluster.hosts.login)
    _, messages = shown(client, "", msg_id=msg_id, timeout=60)
    assert any(m["msg_type"] == "execute_result" and m["content"]["data"]["text/plain"] == "42" for m in messages)


def test_nothing_can_be_submitted_from_afar_yet(cluster: Cluster) -> None:
    from kale_magic.client import Client

    with cluster.hosts.laptop.here(), Client.connect(host="login") as client, pytest.raises(UsageError, match="Log in there and submit"):
        client.submit({}, folder=".")


def test_files_of_a_step_elsewhere_are_refused_with_a_way_out(cluster: Cluster, step: str) -> None:
    run, _, name = step.partition("/")
    with cluster.hosts.laptop.here(), connect(host="login") as kale:
        for look in (lambda s: s.logs(), lambda s: s.pull("n")):
            with pytest.raises(UsageError, match="are on login, and can't be read from here"):
                look(kale.run(run)[name])


@pytest.mark.parametrize(
    ("host", "words"),
    [("nowhere", "nowhere can't be reached: .*resolve hostname"), ("-oBad", "no name of a host")],
)
def test_hosts_that_are_none(cluster: Cluster, host: str, words: str) -> None:
    with cluster.hosts.laptop.here(), pytest.raises((ManagerUnavailable, UsageError), match=words):
        connect(host=host)


def test_host_without_kale_says_what_to_mend(cluster: Cluster) -> None:
    (cluster.laptop / "config.toml").write_text('[hosts.login]\npython = "/usr/bin/false-python"\n')
    said = cluster.kale("status", "--host", "login", code=3).stderr
    assert "[hosts.login] python" in said
    assert "Traceback" not in said


def test_kale_kernel_attaches_to_a_step_of_the_cluster_and_says_by_which_way(cluster: Cluster, step: str, tmp_path: Path) -> None:
    file = connection(tmp_path)
    command = [sys.executable, "-m", "kale_magic.kernels", "front", "-f", str(file)]
    process = subprocess.Popen(cluster.hosts.laptop.argv(*command), env=cluster.environ(on_laptop=True), stderr=subprocess.DEVNULL)
    client = BlockingKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels()
    try:
        wait_until_ready(client)
        status, messages = shown(client, f"%kale_attach {step} --host login")
        assert (status, "Attached to" in text(messages)) == ("ok", True)
        assert int(evaluate(client, "n")) > 0
        _, messages = shown(client, "%kale_status")
        assert "by ssh to login" in text(messages)
    finally:
        client.shutdown()
        client.stop_channels()
        client.context.destroy(linger=0)
        assert process.wait(30) == 0


def test_doctor_shows_the_ways_there(cluster: Cluster) -> None:
    said = cluster.kale("doctor", "--host", "login").stdout
    assert "a login, kept open for the next ones" in said
    assert "to steps on login: ssh to login, then ssh to login, a command" in said
    assert "on its nodes: ssh to NODE through login, then ssh to NODE through login, a command, then srun through login by ssh" in said
    assert "over a connection that was open" in cluster.kale("doctor", "--host", "login").stdout


def test_step_that_is_over_says_so_from_afar(cluster: Cluster) -> None:
    step = cluster.submit("x = 1", name="quick")
    deadline = time.monotonic() + 30
    while json.loads(cluster.kale("status", "--host", "login", "--json").stdout)["state"] == "running":
        assert time.monotonic() < deadline
    said = cluster.kale("attach", "--host", "login", step, "--exec", "x", code=2).stderr
    assert "has completed: its kernel is gone" in said


