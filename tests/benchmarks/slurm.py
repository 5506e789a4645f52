"""Jobs of a real Slurm, side by side with bare sbatch and with other tools. As root: it makes its own cluster."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Figure
from slurm_peers import slurm_peers

COUNT = 200
_COLD = """
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel()
client.execute_interactive("pass")
client.stop_channels()
manager.shutdown_kernel(now=True)
"""
_SUBMIT = """
import json, sys, time
from kale_magic import Workflow
shape, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
wf = Workflow("bench", executor="slurm")
options = {"shell": True} if kind == "shell" else {}
code = "true" if kind == "shell" else "pass"
if shape in {"array", "warm"}:
    wf.step("s", code, each={"i": f"range({count})"}, reuse_kernel=shape == "warm", **options)
elif shape == "layers":
    for layer in range(10):
        for number in range(count // 10):
            after = [f"s{layer - 1}_{number}"] if layer else []
            wf.step(f"s{layer}_{number}", code, after=after, **options)
else:
    for number in range(count):
        wf.step(f"s{number}", code, **options)
begun = time.perf_counter()
run = wf.submit(cache=False)
if sys.argv[4] == "1":
    while not all(step["native_id"] for step in run.status()["steps"].values()):
        time.sleep(0.02)
else:
    run.wait(timeout=900)
print(json.dumps({"seconds": time.perf_counter() - begun, "state": run.status()["state"], "run": run.name}))
"""


def slurm(peers=None):
    """200 jobs on a real Slurm (2 nodes of 8 oversubscribed CPUs each), against bare sbatch, in turn."""
    from tests.cluster.hosts import Hosts, missing

    if why := missing(slurm=True):
        print(f"slurm: left out, {why}")
        return []
    figures = []
    with tempfile.TemporaryDirectory(prefix="kale-b-", dir="/tmp") as folder, Hosts(nodes=2, slurm=True) as hosts:
        bench = _Bench(hosts, Path(folder))
        try:
            bench.kale("independent", "python", 2)  # the manager starts, byte code is compiled
            cold, shell = bench.bare("cold"), bench.bare("true")
            figures.append(Figure("bare sbatch, a cold ipykernel each", COUNT / cold, "jobs/s"))
            figures.append(Figure("bare sbatch, `true`", COUNT / shell, "jobs/s"))
            for shape, words in (("independent", "200 independent steps"), ("layers", "10 x 20 layers"), ("array", "an array of 200")):
                took = bench.kale(shape, "python", COUNT)
                figures.append(Figure(f"{words}: time, bare cold kernels = 1", took / cold, "x", target=1.15))
            took = bench.kale("independent", "shell", COUNT)
            figures.append(Figure("200 shell steps: time, bare `true` = 1", took / shell, "x", target=1.5))
            warm = bench.kale("warm", "python", 10_000)
            figures.append(Figure("10,000 no-op points of a --reuse-kernel sweep, as 8 jobs", 10_000 / warm, "points/s", target=300.0, is_floor=True))
            figures.append(_submission(bench))
            if peers:
                figures.append(Figure("Kale, 200 shell steps", COUNT / took, "jobs/s"))
                figures += slurm_peers(bench, peers, COUNT)
        finally:
            bench.close()
    return figures


def _submission(bench):
    """How long it takes until Slurm has 200 jobs of a workflow, against a bare loop of sbatch; none of them begins meanwhile."""
    bench.run("scontrol", "update", "partitionname=debug", "state=down")
    bare = bench.loop("true")
    bench.cancel()
    kale = bench.kale("independent", "shell", COUNT, is_submission=True)
    bench.cancel()
    bench.run("scontrol", "update", "partitionname=debug", "state=up")
    return Figure("submission of 200 jobs: time, a bare loop of sbatch = 1", kale / bare, "x", target=1.3, note=f"bare {COUNT / bare:.0f} jobs/s, Kale {COUNT / kale:.0f}")


class _Bench:
    """A Kale of its own on the login host, and bare jobs beside it."""

    def __init__(self, hosts, folder):
        self.hosts, self.folder = hosts, folder
        self.environ = hosts.environ(KALE_HOME=str(folder / "home"), KALE_SLURM_GRACE_S="10")
        (folder / "cold.py").write_text(_COLD)

    def run(self, *argv):
        done = subprocess.run(self.hosts.login.argv(*argv), env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=900, check=False)
        if done.returncode:
            sys.exit(f"{argv[0]} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def loop(self, what):
        """Submit 200 bare jobs in a loop; return the seconds it took."""
        command = f"{sys.executable} {self.folder}/cold.py" if what == "cold" else "true"
        begun = time.perf_counter()
        self.run("bash", "-c", f"for i in {{1..{COUNT}}}; do sbatch --parsable --job-name=bare --output=/dev/null --wrap '{command}' >/dev/null; done")
        return time.perf_counter() - begun

    def bare(self, what):
        """Run 200 bare jobs; return the seconds from the first sbatch to the last one's end."""
        begun = time.perf_counter()
        self.loop(what)
        self.drain()
        return time.perf_counter() - begun

    def cancel(self):
        """Cancel all that is in the queue."""
        self.run("scancel", "--user=root")
        self.drain()

    def drain(self):
        while self.run("squeue", "-h").strip():
            time.sleep(0.1)

    def kale(self, shape, kind, count, *, is_submission=False):
        """Run a workflow to its end, or until all its jobs have numbers; return the seconds."""
        said = json.loads(self.run(sys.executable, "-c", _SUBMIT, shape, kind, str(count), str(int(is_submission))))
        if said["state"] != "completed" and not is_submission:
            sys.exit(f"the run {said['run']} {said['state']}")
        return said["seconds"]

    def close(self):
        self.run(sys.executable, "-m", "kale_magic.cli.main", "manager", "stop")
