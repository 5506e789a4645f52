"""Visits from the laptop to a step in a Slurm job on a compute node, by each way that leads there."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from jupyter_client import BlockingKernelClient

from kale_proxy import relay_line
from kale_proxy.relay import Relay
from kale_proxy.relay_front import Front
from kale_proxy.relay_line import Place
from kale_proxy.tunnel import dialer as dialers
from kale_proxy.visitor import Visitor
from tests.cluster.conftest import end_masters
from tests.cluster.steps import NodeStep, node_step
from tests.integration.test_relay import evaluate, shown, text, wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kale_proxy.tunnel.route import Reach
    from tests.cluster.hosts import Hosts

pytestmark = [pytest.mark.ssh, pytest.mark.slurm]


@pytest.fixture(scope="module")
def step(hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeStep]:
    with node_step(hosts, tmp_path_factory.mktemp("n")) as made:
        yield made


@pytest.fixture(autouse=True)
def _laptop(hosts: Hosts, kale_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be the laptop, with a Kale of one's own."""
    monkeypatch.setenv("KALE_SSH", f"ssh -F {hosts.ssh_config}")
    dialers.default.cache_clear()
    assert kale_home.is_dir()
    with hosts.laptop.here():
        yield
        ssh = dialers.default().ssh
        assert ssh is not None
        end_masters(ssh.folder)
    dialers.default.cache_clear()


def remember(reach: Reach, way: str) -> None:
    """Have the dialer begin with a way."""
    (dialers.default()._memory).write_text(json.dumps({reach.route.kind: way}))


def visit(reach: Reach) -> str:
    with Visitor.connect(reach, timeout=60) as visitor:
        said: list[str] = []
        reply = visitor.execute("print(__import__('socket').gethostname(), n > 0)", on_message=lambda kind, content, *_: said.append(content.get("text", kind)), timeout=30)
        assert reply["status"] == "ok", reply
        assert "".join(said) == "node1 True\n"
        return visitor.way


def test_by_ssh_through_the_login_host(step: NodeStep) -> None:
    assert visit(step.reach()) == "ssh to node1 through login"
    assert visit(step.reach()) == "ssh to node1 through login"


def test_by_srun_through_the_login_host(step: NodeStep) -> None:
    reach = step.reach(by_srun=True)
    remember(reach, "srun through login by ssh")
    assert visit(reach) == "srun through login by ssh"


def test_wrong_key_is_told(step: NodeStep) -> None:
    from kale_proxy.wire import AgentRefused

    with pytest.raises(AgentRefused, match="does not know this kernel's key"):
        Visitor.connect(step._replace(key="guess").reach(), timeout=60)


def test_job_that_is_over_is_told(hosts: Hosts, tmp_path: Path) -> None:
    from kale_proxy.wire import AgentGone

    with node_step(hosts, tmp_path) as made:
        pass
    reach = made.reach(by_srun=True)
    with pytest.raises(AgentGone, match=r"node1 can't be reached\..*srun through login by ssh: .*job"):
        Visitor.connect(reach, timeout=60)


LINES = "import time\nfor i in range(60):\n    print('line', i)\n    time.sleep(0.05)"


@pytest.mark.parametrize("way", ["ssh to # through login", "srun through login by ssh"])
def test_relay_loses_no_line_when_its_stream_is_killed(step: NodeStep, way: str, tmp_path: Path, hosts: Hosts) -> None:
    reach = step.reach(by_srun="srun" in way)
    remember(reach, way)
    with relayed(reach, tmp_path, hosts) as client:
        ssh = dialers.default().ssh
        assert ssh is not None
        killers = [threading.Timer(at, end_masters, (ssh.folder,)) for at in (0.4, 1.5)]
        for killer in killers:
            killer.start()
        assert printed(client) == [f"line {i}" for i in range(60)]
        for killer in killers:
            killer.join()


def test_laptop_that_slept_until_its_lines_were_dead_is_back_before_ssh_notices(
    step: NodeStep, tmp_path: Path, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = [0]
    clock = SimpleNamespace(monotonic=time.monotonic, time=lambda: time.time() + 3600 * hours[0])
    monkeypatch.setattr(relay_line, "time", clock)
    with relayed(step.reach(), tmp_path, hosts) as client, ExitStack() as stack:

        def sleep() -> None:
            stack.enter_context(hosts.silent_lines())
            hours[0] += 8

        began = time.monotonic()
        sleeper = threading.Timer(1.0, sleep)
        sleeper.start()
        assert printed(client) == [f"line {i}" for i in range(60)]
        sleeper.join()
        ssh = dialers.default().ssh
        assert ssh is not None
        assert len([path for path in ssh.folder.glob("m*") if path.is_socket()]) == 4  # of login and node, the silent ones too: they are not ended
        assert time.monotonic() - began < 20


def printed(client: BlockingKernelClient) -> list[str]:
    """Print some lines, and return what came that was not Kale's own."""
    status, messages = shown(client, LINES, timeout=60)
    assert status == "ok"
    return [line for line in text(messages).splitlines() if not line.startswith("Kale:")]


@contextmanager
def relayed(reach: Reach, folder: Path, hosts: Hosts) -> Iterator[BlockingKernelClient]:
    """Give a client of the step by a relay that runs on the laptop, in this process."""
    file = connection(folder)
    started, ended = threading.Event(), threading.Event()

    async def seek() -> Place:
        return Place(where=reach)

    async def serve() -> None:
        front = Front(file)
        relay = Relay(front, "r/md", seek, "visit")
        front.open(relay.take, relay.go_on)
        started.set()
        await relay.run()
        front.close()

    def run() -> None:
        with hosts.laptop.here():
            asyncio.run(serve())
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    assert started.wait(30)
    client = BlockingKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels()
    try:
        wait_until_ready(client)
        assert int(evaluate(client, "n")) > 0
        yield client
    finally:
        client.shutdown()
        assert ended.wait(30)
        client.stop_channels()
        client.context.destroy(linger=0)


def connection(folder: Path) -> Path:
    """Write an ipc connection file."""
    file = folder / "kernel.json"
    ports = {f"{name}_port": number for number, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)}
    keys = {"transport": "ipc", "ip": str(folder / "k"), "key": os.urandom(16).hex(), "signature_scheme": "hmac-sha256", "kernel_name": ""}
    file.write_text(json.dumps(ports | keys))
    return file
