"""What is measured of the proxy: round trips, bulk, attaching, many kernels at once; beside the bare path in the same run.

On this machine beside the step's own sockets; over SSH beside a bare ``ssh -L`` to a plain ipykernel, from a laptop to
a login host in network namespaces (as root; left out with a line that says so elsewhere).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from measure import Figure, median, spread, stopwatch

LOOP = "import time\nwhile True:\n    time.sleep(0.05)\n"
LINES = 100_000
BULK = 200
_PRINT = f"import sys\nfor i in range({LINES}):\n    print(i, flush=i % 100 == 99)"
_SHOW = f"from IPython.display import publish_display_data as show\nfor i in range({BULK}):\n    show({{'text/plain': str(i) + 'x' * 1_000_000}})"


def p95(values):
    return statistics.quantiles(values, n=20)[18]


def _trip(client, code="1"):
    with stopwatch() as seconds:
        reply, _ = client.run(code, timeout=120)
    assert reply["status"] == "ok", reply
    return seconds() * 1e3


_ECHO = """
import socket
listener = socket.create_server(("0.0.0.0", 7007))
while True:
    stream, _ = listener.accept()
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while data := stream.recv(64):
        stream.sendall(data)
"""


class _Line:
    """The delayed line to a host, by a byte that comes back: what its round trip takes on a machine that does other things too."""

    def __init__(self, hosts, milliseconds):
        hosts.start(hosts.login.argv(sys.executable, "-c", _ECHO))
        hosts.start_delay(hosts.login, 2223, milliseconds, 7007)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError):
                self.sock = socket.create_connection((hosts.login.addresses["campus"], 2223), 10)
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.run()
                return
            if time.monotonic() > deadline:
                sys.exit("the delayed line does not come up")
            time.sleep(0.05)

    def run(self, _code="", **_):
        """Have a byte go and come; it is answered as a client's cell is."""
        self.sock.sendall(b"x")
        if self.sock.recv(1) != b"x":
            raise OSError
        return {"status": "ok"}, None


def _interleaved(clients, count, code="1"):
    """Times of each client's round trips in milliseconds, in turn, after a few that don't count."""
    times = {name: [] for name in clients}
    for number in range(count + 5):
        for name, client in clients.items():
            try:
                took = _trip(client, code)
            except AssertionError as exc:
                sys.exit(f"{name}: {exc}")
            if number >= 5:
                times[name].append(took)
    return times


def _running(run, step):
    deadline = time.monotonic() + 30
    while True:
        target = run[step].target()
        if target.kernel is not None:
            return target
        if time.monotonic() > deadline:
            sys.exit(f"{target} has not started")
        time.sleep(0.02)


def _info(file):
    return json.loads(Path(file).read_text())


def _lines(client):
    """Print many lines; return seconds, and how many came in order."""
    with stopwatch() as seconds:
        _, output = client.run(_PRINT, timeout=300)
    got = output.text.split()
    expected = iter(map(str, range(LINES)))
    in_order = sum(1 for word in got if any(word == other for other in expected))
    return seconds(), in_order


def _bulk(client):
    with stopwatch() as seconds:
        _, output = client.run(_SHOW, timeout=300)
    sizes = [len(m["content"]["data"]["text/plain"]) for m in output if m["msg_type"] == "display_data"]
    return seconds(), sum(size > 1_000_000 for size in sizes)


def relay():
    """The proxy on this machine, beside the step's own sockets: agent and relay between client and kernel."""
    from kale_magic import Workflow
    from tests.integration._kernel import Client

    workflow = Workflow("proxy")
    workflow.step("loop", LOOP)
    run = workflow.submit(cache=False)
    try:
        target = _running(run, "loop")
        direct = Client(_info(target.live / "kernel.json"))
        visit = direct.control("kale_visit_request", {"op": "open", "write": False})
        direct.header = {"subshell_id": visit["subshell_id"]}
        relayed = Client(_info(run["loop"].connection_file()))
        with contextlib.closing(direct), contextlib.closing(relayed):
            times = _interleaved({"direct": direct, "relay": relayed}, 300)
            more = [after - before for before, after in zip(times["direct"], times["relay"], strict=True)]
            lines = {"direct": [], "relay": []}
            for _ in range(3):
                for name, client in (("direct", direct), ("relay", relayed)):
                    lines[name].append(_lines(client))
    finally:
        run.cancel()
        run.wait(timeout=30)
    rates = [a[0] / b[0] for a, b in zip(lines["direct"], lines["relay"], strict=True)]
    return [
        Figure("execute, direct", median(times["direct"]), "ms", note=f"p95 {p95(times['direct']):.2f} ms, n=300"),
        Figure("execute, through agent and relay", median(times["relay"]), "ms", note=f"p95 {p95(times['relay']):.2f} ms"),
        Figure("what agent and relay add", median(more), "ms", 2, note=f"p95 {p95(more):.2f} ms"),
        Figure(f"{LINES:,} lines, delivered in order", min(n for _, n in lines["relay"]), "lines", LINES, is_floor=True,
               note=f"direct: {min(n for _, n in lines['direct']):,}"),
        Figure("the same, rate against direct", median(rates), "x", 0.8, is_floor=True,
               note=f"{spread(rates, 'x')}; {LINES / median([s for s, _ in lines['relay']]):,.0f} lines/s"),
    ]  # fmt: skip


class _Bare:
    """A plain ipykernel on a host with ports on its loopback, and one ssh that forwards all five, with a session.

    ``is_restarted`` starts that ssh again whenever it ends, as autossh would.
    """

    def __init__(self, hosts, port=22, *, is_restarted=False):
        from tests.integration._kernel import CHANNELS, Client

        self.folder = Path(tempfile.mkdtemp(prefix="kb-", dir="/tmp"))
        file = self.folder / "kernel.json"
        self.kernel = subprocess.Popen(hosts.login.argv(sys.executable, "-m", "ipykernel_launcher", "-f", str(file)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError, ValueError):
                info = _info(file)
                break
            if time.monotonic() > deadline:
                sys.exit("the bare kernel did not start")
            time.sleep(0.05)
        numbers = random.sample(range(20_000, 32_000), len(CHANNELS))  # below those that the system gives out
        here = {f"{channel}_port": number for channel, number in zip(CHANNELS, numbers, strict=True)}
        forwards = [word for name, number in here.items() for word in ("-L", f"127.0.0.1:{number}:127.0.0.1:{info[name]}")]
        command = ["ssh", "-F", str(hosts.ssh_config), "-p", str(port), "-o", "ExitOnForwardFailure=yes", *forwards, "login", "echo up; exec sleep 10000"]
        if is_restarted:
            command = ["sh", "-c", 'while true; do "$@" 2>/dev/null; sleep 0.2; done', "_", *command]
        self.ssh = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        self.ssh.stdout.readline()
        self.client = Client(info | here)

    def close(self):
        self.client.close()
        os.killpg(self.ssh.pid, signal.SIGKILL)
        self.kernel.kill()
        for process in (self.ssh, self.kernel):
            process.wait()
        self.ssh.stdout.close()


@contextlib.contextmanager
def _far():
    """Hosts, a Kale on the login host with a run whose step loops, and a Kale on the laptop that knows of it."""
    from kale_magic.api import relays
    from kale_proxy.places import socket_dir
    from kale_proxy.tunnel import dialer
    from tests.cluster.conftest import Cluster, end_masters
    from tests.cluster.hosts import Hosts
    from tests.conftest import private_kale

    relays.end_all()  # they would be of another machine
    with Hosts(slurm=True) as hosts, private_kale() as there, private_kale() as laptop:
        (laptop / "config.toml").write_text(f'[hosts.login]\npython = "{sys.executable}"\nhome = "{there}"\n')
        os.environ["KALE_SSH"] = f"ssh -F {hosts.ssh_config}"
        dialer.default.cache_clear()
        cluster = Cluster(hosts, laptop, there)
        step = cluster.submit(LOOP)
        try:
            yield cluster, step
        finally:
            relays.end_all()
            end_masters(socket_dir() / "s")
            os.environ.pop("KALE_SSH")
            dialer.default.cache_clear()


def _far_client(step):
    from kale_magic import connect
    from tests.integration._kernel import Client

    run, _, name = step.partition("/")
    with connect(host="login") as kale:
        return Client(_info(kale.run(run)[name].connection_file()))


def tunnel():
    """The proxy over SSH, laptop to login host, beside a bare `ssh -L` (with a session) to a plain ipykernel."""
    from kale_magic.api import relays
    from tests.cluster.hosts import missing

    if why := missing(slurm=True):
        print(f"\nNot measured over SSH: {why}")
        return []
    with _far() as (cluster, step), cluster.hosts.laptop.here():
        hosts = cluster.hosts
        with contextlib.closing(_Bare(hosts)) as bare, contextlib.closing(_far_client(step)) as far:
            times = _interleaved({"bare": bare.client, "kale": far}, 200)
            bulk = {"bare": [], "kale": []}
            lines = {"bare": [], "kale": []}
            for _ in range(3):
                for name, client in (("bare", bare.client), ("kale", far)):
                    bulk[name].append(_bulk(client))
                    lines[name].append(_lines(client))
        relays.end_all()
        hosts.start_delay(hosts.login, 2222, 20)
        slow_config = hosts.folder / "slow"
        slow_config.write_text(f"Host login\n  Port 2222\nMatch all\nInclude {hosts.ssh_config}\n")
        os.environ["KALE_SSH"] = f"ssh -F {slow_config}"
        with contextlib.closing(_Bare(hosts, 2222)) as bare, contextlib.closing(_far_client(step)) as far:
            slow = _interleaved({"line": _Line(hosts, 20), "bare": bare.client, "kale": far}, 60)
        relays.end_all()
        os.environ["KALE_SSH"] = f"ssh -F {hosts.ssh_config}"
        attach = _attach(step)
        nodes = _nodes(cluster)
        many = _many(cluster)
    ratio = median(times["kale"]) / median(times["bare"])
    rates = [a[0] / b[0] for a, b in zip(bulk["bare"], bulk["kale"], strict=True)]
    line_rates = [a[0] / b[0] for a, b in zip(lines["bare"], lines["kale"], strict=True)]
    return [
        Figure("execute, bare ssh -L", median(times["bare"]), "ms", note=f"p95 {p95(times['bare']):.2f} ms, n=200"),
        Figure("execute, Kale over ssh", median(times["kale"]), "ms", note=f"p95 {p95(times['kale']):.2f} ms; the step loops, the bare kernel idles"),
        Figure("the ratio", ratio, "x", 1.3),
        Figure("round trip of a byte by the line of 20 ms", median(slow["line"]), "ms", note=f"p95 {p95(slow['line']):.1f} ms, in turn with the next two"),
        Figure("execute by that line, bare ssh -L", median(slow["bare"]), "ms", note=f"p95 {p95(slow['bare']):.1f} ms"),
        Figure("execute by that line, Kale", median(slow["kale"]), "ms", round(median(slow["line"]) + 8, 1), note=f"p95 {p95(slow['kale']):.1f} ms"),
        Figure(f"{BULK} x 1 MB display data, rate against bare", median(rates), "x", 0.6, is_floor=True,
               note=f"{spread(rates, 'x')}; {min(n for _, n in bulk['kale'])} came (bare {min(n for _, n in bulk['bare'])}), {BULK / median([s for s, _ in bulk['kale']]):.0f} MB/s"),
        Figure(f"{LINES:,} lines over ssh, in order", min(n for _, n in lines["kale"]), "lines", LINES, is_floor=True,
               note=f"bare ssh -L: {min(n for _, n in lines['bare']):,}; rate {median(line_rates):.2f} x"),
        *attach,
        *nodes,
        *many,
    ]  # fmt: skip


def _attach(step):
    """From a fresh notebook's first `%%kale_attach --host login` to its shown result, the master being up."""
    from own import _TIMED, _Kernel

    bare, first, following = [], [], []
    for _ in range(7):
        bare.append(_bare_forward(step))
        with _Kernel() as kernel:
            kernel.value("get_ipython().run_line_magic('load_ext', 'kale_magic')\nNone")
            kernel.value(_TIMED)
            first.append(kernel.value(f"visit('{step} --host login')"))
            following += kernel.value(f"[visit('{step} --host login') for _ in range(20)]")
    return [
        Figure("a bare forward (-O forward, first byte)", median(bare), "ms", note=spread(bare, "ms")),
        Figure("%%kale_attach to a host whose master is up, first", median(first), "ms", 60, note=spread(first, "ms")),
        Figure("the same, the next ones", median(following), "ms", note=spread(following, "ms")),
    ]


def _bare_forward(step):
    from kale_magic.api.find import Scope, find_step
    from kale_magic.client import Client
    from kale_proxy.tunnel.dialer import default

    with Client.connect(host="login") as client:
        reach = find_step(client, step, Scope()).kernel
        with stopwatch() as seconds:
            sock, _ = default().open(reach.route, time.monotonic() + 30)
            took = seconds() * 1e3
        sock.close()
    return took


def _nodes(cluster):
    """A visit to a step on a compute node: dial, handshake, `1+1`; by ssh through login, and by srun."""
    from kale_proxy.tunnel.dialer import default
    from kale_proxy.tunnel.openssh import Target
    from kale_proxy.visitor import Visitor
    from tests.cluster.steps import node_step

    def visit(reach):
        with stopwatch() as seconds, Visitor.connect(reach, timeout=60) as visitor:
            assert visitor.execute("1+1", timeout=60)["status"] == "ok"
            return seconds() * 1e3, visitor.way

    ssh, memory = default().ssh, default()._memory
    target = Target("node1", "login")
    handshakes, first, following, srun, cells = [], [], [], [], []
    with node_step(cluster.hosts, cluster.there) as step:
        by_ssh, by_srun = step.reach(), step.reach(by_srun=True)
        for _ in range(5):
            proxy = ssh._proxy_command(target, time.monotonic() + 30)
            with stopwatch() as seconds:
                subprocess.run([*ssh.command, "-o", f"ProxyCommand={proxy}", "node1", "true"], check=True, stdin=subprocess.DEVNULL)
            handshakes.append(seconds() * 1e3)
            first.append(visit(by_ssh)[0])
            following += [visit(by_ssh)[0] for _ in range(5)]
            subprocess.run([*ssh.command, "-S", str(ssh._our_paths(target)[0]), "-O", "exit", "node1"], check=True, capture_output=True)
        memory.write_text(json.dumps({by_srun.route.kind: "srun through login by ssh"}))
        for _ in range(15):
            took, way = visit(by_srun)
            assert way == "srun through login by ssh", way
            srun.append(took)
        with Visitor.connect(by_srun, timeout=60) as visitor:
            for _ in range(50):
                with stopwatch() as seconds:
                    visitor.execute("1+1", timeout=60)
                cells.append(seconds() * 1e3)
        memory.unlink()
    more = [after - before for before, after in zip(handshakes, first, strict=True)]
    return [
        Figure("one bare ssh to a node through login", median(handshakes), "ms", note=spread(handshakes, "ms")),
        Figure("first visit to a step on the node, over that", median(more), "ms", 100, note=f"in all {spread(first, 'ms')}"),
        Figure("the same, once the node's master is up", median(following), "ms", 60, note=spread(following, "ms")),
        Figure("a visit by srun --overlap through login", median(srun), "ms", 200, note=spread(srun, "ms")),
        Figure("the next cells of that visit", median(cells), "ms", note=f"p95 {p95(cells):.1f} ms"),
    ]


def _many(cluster):
    """50 kernels attached from one process, over ssh: memory of that process, and CPU while nobody does anything."""
    from kale_magic import connect
    from kale_magic.api import relays

    steps = cluster.submit("import time\nwhile True:\n    time.sleep(10)\n", name="idle", each={"p": list(range(50))}).partition("/")
    with connect(host="login") as kale:
        run = kale.run(steps[0])
        with stopwatch() as seconds:
            for number in range(50):
                run[f"idle[{number}]"].connection_file(timeout=120)
        took = seconds()
        deadline = time.monotonic() + 60
        process = psutil.Process(relays._running[-1].process.pid)
        while sum(c.type == 1 for c in process.net_connections("unix")) < 50 and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(5)
        before = process.cpu_times()
        time.sleep(20)
        after = process.cpu_times()
        used = after.user + after.system - before.user - before.system
        memory = process.memory_info().rss / 1e6
        run.cancel()
    return [
        Figure("50 kernels attached from one process, memory (RSS)", memory, "MB", 200, note=f"connection files made in {took:.1f} s"),
        Figure("the same, CPU over 20 s at rest", used / 20 * 100, "%", 3),
    ]


def spec():
    """A kernelspec, from its start by a stock client to the first reply, on this machine."""
    from jupyter_client import KernelManager

    from kale_magic import Workflow
    from kale_magic.api.find import Scope, find_step
    from kale_magic.client import Client as Manager
    from kale_magic.kernels import specs

    workflow = Workflow("proxy")
    workflow.step("loop", LOOP)
    run = workflow.submit(cache=False)
    _running(run, "loop")
    own, whole = [], []
    try:
        with Manager.connect() as client:
            made = specs.install(client, find_step(client, f"{run.name}/loop", Scope()), prefix=os.environ["KALE_HOME"])
        for _ in range(61):  # libzmq waits 100 to 200 ms by chance before it tries a port again
            manager = KernelManager(kernel_name=made.name)
            manager.kernel_spec_manager.kernel_dirs = [str(made.path.parent)]
            with stopwatch() as seconds:
                manager.start_kernel()
                client = manager.client()
                client.start_channels()
                client.wait_for_ready(timeout=60)
                ready = seconds()
                client.execute_interactive("1", timeout=60, output_hook=lambda _: None)
            whole.append(seconds() * 1e3)
            own.append(ready * 1e3)
            client.stop_channels()
            manager.shutdown_kernel()
    finally:
        run.cancel()
        run.wait(timeout=30)
    return [
        Figure("a kernelspec: start to the first execute_reply", median(whole), "ms", 400, note=spread(whole, "ms")),
        Figure("of which up to the end of wait_for_ready", median(own), "ms"),
    ]
