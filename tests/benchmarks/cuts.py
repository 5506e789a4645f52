"""Tunnels that are cut at random points while cells print: what arrives, through Kale and through a bare ``ssh -L``.

190 cuts of 2 s and 10 of 60 s. Half of the short ones unplug the cable, the others kill ssh and its server; the long ones
unplug the cable. A front end counts as whole when it has every line once, in order, the reply and idle.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time

from measure import Figure

LINES = 60
CELL = f"import time\nfor i in range({LINES}):\n    print('line', i, flush=True)\n    time.sleep(0.05)"
CELL_S = LINES * 0.05
MANY, LONG = 38, 10


class _Cutter:
    def __init__(self, cluster):
        self.hosts = cluster.hosts

    def unplug(self, seconds):
        self.hosts.set_link(self.hosts.laptop, is_up=False)
        time.sleep(seconds)
        self.hosts.set_link(self.hosts.laptop, is_up=True)

    def kill(self, seconds):
        """End every ssh of the laptop and the server of the login host, and start the server again after a while."""
        from kale_proxy.places import socket_dir
        from tests.cluster.conftest import end_masters

        self.hosts.stop_all_sshd()
        end_masters(socket_dir() / "s")
        time.sleep(seconds)
        self.hosts.start_sshd(self.hosts.login)


def _whole(client, begin_at, results, ends, key, patience):
    """Run the cell at a time, and tell what came of it, whether reply and idle came, and when it was over."""
    time.sleep(max(0.0, begin_at - time.monotonic()))
    msg_id = client.start(CELL)
    lines, has_reply, has_idle = [], False, False
    deadline = time.monotonic() + patience
    try:
        output = client.output(msg_id, deadline - time.monotonic())
        has_idle = True
        text = "".join(m["content"]["text"] for m in output if m["msg_type"] == "stream" and m["content"]["name"] == "stdout")
        lines = text.split("\n")[:-1]
        has_reply = client.reply("shell", msg_id, 20)["status"] == "ok"
    except AssertionError:  # nothing came any more
        pass
    results[key] = (lines == [f"line {i}" for i in range(LINES)], has_reply, has_idle, len(lines))
    ends[key] = time.monotonic()


def _round(clients, cut, seconds, dice, late):
    """Start a cell in each at a random time around a cut; return the results, and add how long after the cut all was there in Kale's."""
    results, ends = {}, {}
    at = time.monotonic() + CELL_S + 1.0
    threads = [
        threading.Thread(
            target=_whole, args=(client, at - dice.uniform(0.1, CELL_S + 0.4), results, ends, name, seconds + (25 if name == "bare" else 120))
        )
        for name, client in clients.items()
    ]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, at - time.monotonic()))
    cut(seconds)
    back = time.monotonic()
    for thread in threads:
        thread.join(240)
    late.append(max(end for name, end in ends.items() if name != "bare") - back)
    return results


def cuts():
    """Tunnels cut 190 times for 2 s and 10 times for 60 s, at random points of a cell that prints 60 lines in 3 s."""
    from kale_magic import connect
    from proxy import _Bare, _far, _info
    from tests.cluster.hosts import missing
    from tests.integration._kernel import Client

    if why := missing(slurm=True):
        print(f"\nNo tunnels to cut: {why}")
        return []
    dice = random.Random(2026)
    short, long, peers, late = [], [], [], []
    with _far() as (cluster, _), cluster.hosts.laptop.here(), contextlib.ExitStack() as stack:
        run_name = cluster.submit("import time\nwhile True:\n    time.sleep(0.2)\n", name="cut", each={"p": list(range(MANY))}).partition("/")[0]
        with connect(host="login") as kale:
            run = kale.run(run_name)
            files = [run[f"cut[{number}]"].connection_file(timeout=120) for number in range(MANY)]
            clients = {number: stack.enter_context(contextlib.closing(Client(_info(file)))) for number, file in enumerate(files)}
            cutter = _Cutter(cluster)
            for number in range(5):
                cut = cutter.unplug if number % 2 else cutter.kill
                with contextlib.closing(_Bare(cluster.hosts, is_restarted=True)) as bare:
                    results = _round(clients | {"bare": bare.client}, cut, 2.0, dice, late)
                peers.append((cut.__name__, results.pop("bare")))
                short += results.values()
            some = {number: clients[number] for number in range(LONG)}
            with contextlib.closing(_Bare(cluster.hosts, is_restarted=True)) as bare:
                results = _round(some | {"bare": bare.client}, cutter.unplug, 60.0, dice, late)
            peers.append(("unplug 60 s", results.pop("bare")))
            long += results.values()
            run.cancel()
    for what, (_, has_reply, has_idle, lines) in peers:
        print(f"  a bare ssh -L, started again when it ends, {what}: {lines} of {LINES} lines, reply {has_reply}, idle {has_idle}")
    print(f"  by Kale all was there so long after each cut's end: {', '.join(f'{seconds:.1f}' for seconds in late)} s (a cell takes {CELL_S:g} s)")
    print(f"  worst of Kale's: {json.dumps(min(short + long))}")
    return [
        Figure("cut for 2 s, whole", sum(all(r[:3]) for r in short), f"of {len(short)}", len(short), is_floor=True),
        Figure("cut for 60 s, whole", sum(all(r[:3]) for r in long), f"of {len(long)}", len(long), is_floor=True),
    ]
