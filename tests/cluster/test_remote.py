"""From a laptop to steps that run on a cluster: the manager of the login host, attach, kernelspecs, cut cables."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jupyter_client import BlockingKernelClient

from kale_magic import Workflow
from kale_magic.api import mirror
from kale_magic.api import workflow as api
from kale_magic.api.connection import connect
from kale_magic.client import Client
from kale_magic.errors import ManagerUnavailable, UsageError
from kale_proxy.places import socket_dir
from tests.cluster.conftest import end_masters
from tests.cluster.test_node_steps import connection
from tests.integration.test_relay import evaluate, shown, text, wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


@pytest.mark.usefixtures("step")
def test_manager_of_the_host_is_started_told_of_and_ended_from_the_laptop(cluster: Cluster) -> None:
    first = json.loads(cluster.kale("manager", "status", "--host", "login", "--json").stdout)
    assert (first["host"], first["runs"]) == ("login", 1)
    assert f"The manager (pid {first['pid']}) has ended; its jobs go on." in cluster.kale("manager", "stop", "--host", "login").stdout
    cluster.kale("manager", "status", "--host", "login", code=3)
    again = json.loads(cluster.kale("manager", "start", "--host", "login", "--json").stdout)
    assert again["pid"] != first["pid"]
    assert again["runs"] == first["runs"]


def test_step_that_is_over_says_so_from_afar(cluster: Cluster) -> None:
    step = cluster.submit("x = 1", name="quick")
    deadline = time.monotonic() + 30
    while json.loads(cluster.kale("status", "--host", "login", "--json").stdout)["state"] == "running":
        assert time.monotonic() < deadline
    said = cluster.kale("attach", "--host", "login", step, "--exec", "x", code=2).stderr
    assert "has completed: its kernel is gone" in said




def test_workflow_goes_up_from_the_laptop_and_its_results_come_back(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "it's [1].csv").write_text("1\n2\n3\n")
    (tmp_path / "secret.txt").write_text("stays here")
    wf = Workflow("eos", folder=tmp_path, host="login")
    read = "import glob, os\n[name] = glob.glob('data/*')\nrows = [int(row) for row in open(name)]\nthere = os.listdir('.')\nhost = os.uname().nodename\nprint(len(rows))"
    wf.step("read", read, outputs=["rows", "there", "host"], files_in=["data/*.csv"])
    wf.step("square", "import numpy as np\nvalue = np.arange(n) ** 2", each={"n": "[2, 3]"}, outputs=["value"])
    wf.step("total", "total = sum(rows) + sum(int(v.sum()) for v in value)", outputs=["total"])
    with cluster.hosts.laptop.here():
        run = wf.submit()
        assert run.wait(timeout=60) == "completed", run.status()
        assert run["total"].pull("total") == 6 + 1 + 5
        assert run["read"].pull("rows", "host") == ([1, 2, 3], "login")
        assert "secret.txt" not in run["read"].pull("there")
        assert [list(value) for value in run["square"].pull("value")] == [[0, 1], [0, 1, 4]]
        assert run["read"].logs() == "3\n"
        assert "kale_proxy run" in run["read"].script()
        assert {item["name"] for item in run["read"].variables()} == {"rows", "there", "host"}
        assert not [path for path in (cluster.laptop / "hosts").rglob("*") if path.is_file() and path.stat().st_mode & 0o077 and path.name != "login.json"]


def test_a_far_run_is_run_again_compared_tabled_and_reported_from_the_laptop(cluster: Cluster, tmp_path: Path) -> None:
    wf = Workflow("eos", folder=tmp_path, host="login")
    wf.step("square", "from kale_magic.inside import metric\nvalue = k * n ** 2\nmetric(half=value / 2)\nprint('value', value)", params={"k": 1}, each={"n": "[2, 3]"}, outputs=["value"])
    wf.step("total", "total = sum(value)", outputs=["total"])
    with cluster.hosts.laptop.here():
        run = wf.submit()
        assert run.wait(timeout=60) == "completed", run.status()
        assert [(row["n"], row["value"], row["half"]) for row in run["square"].rows()] == [(2, 4, 2.0), (3, 9, 4.5)]
        pushed = run["square"].push  # a sweep: one of its points is meant
        with pytest.raises(UsageError, match="Say which"):
            pushed(value=1)
        done = run["square[1]"].push(value=100)
        assert (done.names, done.is_edit, done.stale) == (("value",), True, ("total",))
        assert [row["value"] for row in run["square"].rows()] == [4, 100]
        there = Path(run.status()["folder"]) / "steps" / "square" / "1"
        me = f"{getpass.getuser()}@laptop via {getpass.getuser()}@login"
        assert json.loads((there / "outputs" / "index.json").read_text())["value"]["edited"]["by"] == me
        [event] = [found for line in (there / "events.jsonl").read_text().splitlines() if (found := json.loads(line)).get("event") == "edited"]
        assert event["by"] == me
        with pytest.raises(UsageError, match="has left no value `other`"):
            run["total"].push(other=5)
        again = run["square"].rerun({"k": 2}, downstream=True)
        assert again.wait(timeout=60) == "completed", again.status()
        assert again["total"].pull("total") == 26
    listed = cluster.kale("runs", "--diff", run.name, again.name, "--host", "login").stdout
    assert "parameter k changed: 1 -> 2" in listed
    cluster.kale("report", again.name, "--host", "login", "-o", str(tmp_path / "far.html"))
    page = (tmp_path / "far.html").read_text()
    assert "value 18" in page
    assert f"login:{again.status()['folder']}" in page
    once_more = json.loads(cluster.kale("rerun", f"{run.name}/total", "--host", "login", "--json").stdout)["run"]
    assert cluster.kale("wait", once_more, "--host", "login").stdout


@pytest.mark.parametrize("is_warm", [False, True])
def test_values_of_points_that_an_earlier_far_run_computed_come_here(cluster: Cluster, tmp_path: Path, is_warm: bool) -> None:
    def flow(points: list[int]) -> Workflow:
        wf = Workflow("eos", folder=tmp_path, host="login", executor="slurm" if is_warm else "local")
        wf.step("square", "value = n ** 2\nlong = [n] * 400", each={"n": points}, outputs=["value", "long"], reuse_kernel=is_warm)
        return wf

    with cluster.hosts.laptop.here():
        assert flow([2, 3]).submit().wait(timeout=60) == "completed"
        run = flow([3, 4, 2]).submit()
        assert run.wait(timeout=60) == "completed"
        assert run["square"].status()["counts"] == {"cached": 2, "completed": 1}
        assert run["square"].pull("value") == [9, 16, 4]
        assert run["square"].pull("long")[2] == [2] * 400
        assert run["square[0]"].pull("value") == 9
        assert [row["value"] for row in run["square"].rows()] == [9, 16, 4]


def test_variables_of_the_laptop_do_not_go_to_the_host(cluster: Cluster, tmp_path: Path) -> None:
    wf = Workflow("eos", folder=tmp_path, host="login")
    wf.step("look", "import os\nfound = os.environ.get('MARK_OF_THE_LAPTOP')", outputs=["found"])
    with cluster.hosts.laptop.here(), Client.connect(host="login") as client:
        run = api.submit(wf.model, client=client, folder=tmp_path, environ={"MARK_OF_THE_LAPTOP": "here", "PATH": "/nowhere"})
        assert run.wait(timeout=60) == "completed", run.status()
        assert run["look"].pull("found") is None


def test_files_that_are_there_are_not_sent_again_and_a_cut_transfer_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    (tmp_path / "big.bin").write_bytes(data)
    with cluster.hosts.laptop.here(), Client.connect(host="login") as client:
        there = client.folder_there(tmp_path)
        files = {"big.bin": tmp_path / "big.bin"}
        digest = hashlib.sha256(data).hexdigest()
        Path(there).mkdir(parents=True)
        part = Path(there, f"big.bin.kale-part-{digest[:12]}")
        part.write_bytes(data[: 1 << 20])  # what a cut connection left
        assert mirror.upload(client, there, files) == len(data)
        assert Path(there, "big.bin").read_bytes() == data
        assert not part.exists()
        assert mirror.upload(client, there, files) == 0
        part.write_bytes(b"something else")
        Path(there, "big.bin").unlink()
        with pytest.raises(UsageError, match=r"big.bin did not arrive whole on login\. Ask again"):
            mirror.upload(client, there, files)
        assert mirror.upload(client, there, files) == len(data)
        shutil.rmtree(there)


def test_values_of_a_running_step_come_back_too(cluster: Cluster, tmp_path: Path) -> None:
    wf = Workflow("eos", folder=tmp_path, host="login")
    wf.step("md", "import time\nn = list(range(1000))\nwhile True:\n    time.sleep(0.01)")
    with cluster.hosts.laptop.here():
        run = wf.submit()
        with contextlib.closing(run["md"]._visits):
            deadline = time.monotonic() + 30
            while run["md"].target().kernel is None:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert run["md"].pull("n") == list(range(1000))
        assert not list(run["md"].target().folder.glob("pulled/*"))
        run.cancel()
        run.wait(timeout=30)


def test_command_line_runs_a_workflow_on_the_login_host(cluster: Cluster, tmp_path: Path) -> None:
    wf = Workflow("eos")
    wf.step("say", "import os, time\nfor i in range(20):\n    print('line', i, flush=True)\n    time.sleep(0.02)\nhost = os.uname().nodename", outputs=["host"])
    wf.to_yaml(tmp_path / "eos.yaml")
    done = cluster.kale("run", str(tmp_path / "eos.yaml"), "--host", "login", "--name", "far-1")
    [notebook] = [line.strip() for line in done.stdout.splitlines() if line.strip().endswith("step.ipynb")]
    assert "line 19" in (cluster.laptop / notebook).read_text()  # a copy here
    logs = cluster.kale("logs", "far-1/say", "--follow", "--host", "login").stdout
    assert logs.splitlines() == [f"line {number}" for number in range(20)]
    assert "far-1" in cluster.kale("status", "far-1", "--host", "login").stdout


def test_notebook_whose_workflow_is_on_the_login_host(
    cluster: Cluster, notebook_runner: Callable[..., Any], cell_text: Callable[[Any], str]
) -> None:
    with contextlib.suppress(shutil.SameFileError):
        shutil.copy(cluster.laptop / "config.toml", os.environ["KALE_HOME"])
    cells = [
        "%load_ext kale_magic", "%kale_workflow eos --host login", "%%kale_step a --outputs host\nimport os\nhost = os.uname().nodename\nprint('there', host)",
        "%kale_submit --wait", "%kale_logs a", "%kale_pull a host\nprint(host)", "%kale_status", "%kale_logs a --follow",
    ]  # fmt: skip
    with cluster.hosts.laptop.here():
        said = [cell_text(cell) for cell in notebook_runner(cells).cells]
    assert said[1].endswith("started, on login\n")
    assert said[4] == "there login\n"
    assert said[5].endswith("login\n")
    assert "completed" in said[6]
    assert said[7] == "there login\n"
