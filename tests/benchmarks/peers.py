"""The same kind of work given to other tools, in an environment of their own, in the same session."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Figure, median, spread, stopwatch

_PAPERMILL = """
import sys, papermill
for number in sys.argv[1:]:
    papermill.execute_notebook("empty.ipynb", f"done-{number}.ipynb", progress_bar=False, kernel_name="python3")
"""


def papermill(peers):
    """20 notebooks with one empty cell each, two processes side by side."""
    cell = {"cell_type": "code", "id": "a", "source": "pass", "metadata": {}, "outputs": [], "execution_count": None}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    with tempfile.TemporaryDirectory(prefix="kale-bench-") as folder:
        Path(folder, "empty.ipynb").write_text(json.dumps(notebook))
        command = [str(peers / "python"), "-W", "ignore", "-c", _PAPERMILL]
        with stopwatch() as seconds:
            numbers = [str(number) for number in range(20)]
            halves = [
                subprocess.Popen([*command, *half], cwd=folder, stderr=subprocess.PIPE, text=True)
                for half in (numbers[::2], numbers[1::2])
            ]
            for half in halves:
                _, error = half.communicate(timeout=300)
                if half.returncode:
                    sys.exit(f"papermill failed:\n{error}")
        made = len(list(Path(folder).glob("done-*.ipynb")))
    return [Figure("papermill, 20 empty notebooks", made / seconds(), "steps/s", note="two processes side by side")]


def snakemake(peers):
    """200 rules that run `true`, two at a time."""
    rules = [f"rule r{number}:\n    output: touch('done/{number}')\n    shell: 'true'\n" for number in range(200)]
    everything = "rule all:\n    input: expand('done/{n}', n=range(200))\n"
    with tempfile.TemporaryDirectory(prefix="kale-bench-") as folder:
        Path(folder, "Snakefile").write_text("\n".join([everything, *rules]))
        with stopwatch() as seconds:
            result = subprocess.run(
                [str(peers / "snakemake"), "--cores", "2", "--quiet", "all"],
                cwd=folder, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
        if result.returncode:
            sys.exit(f"snakemake failed:\n{result.stderr[-2000:]}")
    return [Figure("Snakemake, 200 rules `true`", 200 / seconds(), "steps/s", note="no kernels, no notebooks")]


_SSHPYK = """
import json, os, signal, subprocess, sys, threading, time
from queue import Empty
from jupyter_client.manager import KernelManager

mode, times, lines = sys.argv[1], [], []


def cut():
    time.sleep(1.5)
    if mode == "kill":
        for pid in subprocess.run(["pgrep", "-f", "^ssh: " + os.getcwd() + "/m-"], capture_output=True, text=True).stdout.split():
            os.kill(int(pid), signal.SIGKILL)
    else:
        sys.stdout.write("cut\\n"); sys.stdout.flush()


manager = KernelManager(kernel_name="far")
begun = time.perf_counter()
manager.start_kernel()
client = manager.client()
client.start_channels()
client.wait_for_ready(timeout=60)
client.execute("1+1", reply=True, timeout=30)
took = time.perf_counter() - begun
msg_id = client.execute("import time\\nfor i in range(60):\\n    print('line', i, flush=True)\\n    time.sleep(0.05)")
threading.Thread(target=cut, daemon=True).start()
text, is_idle, end = "", False, time.monotonic() + 30
while time.monotonic() < end and not is_idle:
    try:
        message = client.get_iopub_msg(timeout=1)
    except Empty:
        continue
    if message["parent_header"].get("msg_id") == msg_id and message["msg_type"] == "stream":
        text += message["content"]["text"]
    is_idle = message["parent_header"].get("msg_id") == msg_id and message["content"].get("execution_state") == "idle"
sys.stdout.write(json.dumps({"took": took, "lines": len(text.splitlines()), "idle": is_idle}) + "\\n")
sys.stdout.flush()
os._exit(0)
"""


def sshpyk(peers):
    """A notebook's kernel on a login host through sshpyk: from its start to the first reply, and 60 lines while its ssh is killed or the cable is out for 2 s."""
    from tests.cluster.hosts import Hosts, missing

    if why := missing(slurm=True):
        print(f"\nsshpyk was not measured: {why}")
        return []
    if not (peers / "sshpyk").exists():
        print("\nsshpyk was not measured: it is not installed in the peers' environment")
        return []
    took = []
    with tempfile.TemporaryDirectory(prefix="kale-b-") as folder, Hosts(slurm=True) as hosts:
        environ = hosts.environ(JUPYTER_DATA_DIR=f"{folder}/data", JUPYTER_RUNTIME_DIR=f"{folder}/run")
        Path(folder, "run").mkdir()
        config = Path(folder, "config")
        config.write_text(f"Host login\n  ControlMaster auto\n  ControlPath {folder}/m-%C\n  ControlPersist 10m\nMatch all\nInclude {hosts.ssh_config}\n")
        add = [peers / "sshpyk", "add", "--kernel-name", "far", "--language", "python", "--ssh-host-alias", "login", "--ssh-config", config]
        add += ["--remote-python", peers / "python", "--remote-kernel-name", "python3", "--display-name", "far"]
        subprocess.run([str(word) for word in add], env=environ, check=True, capture_output=True, timeout=60)
        for mode in ("kill", "unplug", "kill"):
            process = subprocess.Popen(
                hosts.laptop.argv(str(peers / "python"), "-W", "ignore", "-c", _SSHPYK, mode), env=environ, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            said = process.stdout.readline()
            if said.strip() == "cut":
                hosts.set_link(hosts.laptop, is_up=False)
                time.sleep(2)
                hosts.set_link(hosts.laptop, is_up=True)
                said = process.stdout.readline()
            _, error = process.communicate(timeout=120)
            if not said.startswith("{"):
                print(f"\nsshpyk was not measured: {(error.strip().splitlines() or ['it said nothing'])[-1]}")
                return []
            found = json.loads(said)
            took.append(found["took"] * 1e3)
            print(f"  sshpyk, {mode}: {found['lines']} of 60 lines, the cell's end {'came' if found['idle'] else 'did not come within 30 s'}")
    return [Figure("sshpyk, from start to the first reply", median(took), "ms", note=f"a kernel of its own on the login host; {spread(took, 'ms')}")]
