"""Steps through an open pool on a real Slurm. As root: it makes its own cluster."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from measure import Figure
from slurm import _Bench

CHAIN = 200
_RUN = """
import json, sys, time
from kale_magic import Workflow, connect
from kale_magic.api.workflow import submit
kale = connect()
begun = time.perf_counter()
kale.open_pool("bench", sys.argv[1], cpus=2, walltime="00:30:00")
while kale.pools()[0]["state"] != "idle":
    time.sleep(0.01)
figures = {"start": time.perf_counter() - begun}
def run(count, shape):
    wf = Workflow("bench")
    if shape != "chain":
        wf.step("s", "pass", each={"i": f"range({count})"}, reuse_kernel=shape == "warm")
    else:
        for number in range(count):
            wf.step(f"s{number}", "pass", after=[f"s{number - 1}"] if number else [])
    begun = time.perf_counter()
    assert wf.submit(client=kale.client, pool="bench", cache=False).wait(timeout=600) == "completed"
    return time.perf_counter() - begun
figures["first"] = run(1, "chain")
figures["chain"] = run(200, "chain")
figures["sweep"] = run(200, "sweep")
figures["warm"] = run(10_000, "warm")
kale.close_pool("bench")
while kale.pools():
    time.sleep(0.05)
print(json.dumps(figures))
"""


def pools():
    """A pool of one node with 2 cores on a real Slurm: its start, a chain of 200 no-op Python steps, a sweep of 200."""
    from tests.cluster.hosts import Hosts, missing

    if why := missing(slurm=True):
        print(f"pools: left out, {why}")
        return []
    with tempfile.TemporaryDirectory(prefix="kale-b-", dir="/tmp") as folder, Hosts(nodes=2, slurm=True) as hosts:
        bench = _Bench(hosts, Path(folder))
        try:
            found = json.loads(bench.run(sys.executable, "-c", _RUN, "slurm"))
        finally:
            bench.close()
    return [
        Figure("from open to a pool that takes steps (queue, pilot, stream)", found["start"], "s"),
        Figure("the first step in it, which starts the warm process", found["first"], "s"),
        Figure(f"a chain of {CHAIN} Python steps", found["chain"], "s", target=25.0, note=f"{found['chain'] / CHAIN * 1000:.0f} ms a step"),
        Figure("200 independent kernel steps on 2 cores", 200 / found["sweep"], "steps/s", target=25.0, is_floor=True),
        Figure("10,000 no-op points of a --reuse-kernel sweep", 10_000 / found["warm"], "points/s", target=300.0, is_floor=True),
    ]
