"""The same 200 jobs that do nothing, given to other tools on the same Slurm, from an environment of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess

from measure import Figure

CAP_S = 60.0  # then what has been done counts

_SUBMITIT = """
import submitit
executor = submitit.SlurmExecutor("submitit", max_num_timeout=0)
executor.update_parameters(partition="debug", time=5)
jobs = [executor.submit(int) for _ in range(COUNT)]
for job in jobs:
    while not job.paths.result_pickle.exists():
        time.sleep(0.05)
    tell()
"""
_PSIJ = """
import datetime
import psij
from psij.executors.batch.slurm import SlurmExecutorConfig
config = SlurmExecutorConfig(queue_polling_interval=1, initial_queue_polling_delay=1)
executor = psij.JobExecutor.get_instance("slurm", config=config)
jobs = []
for _ in range(COUNT):
    spec = psij.JobSpec(executable="/bin/true", attributes=psij.JobAttributes(duration=datetime.timedelta(minutes=5), queue_name="debug"))
    jobs.append(psij.Job(spec))
    executor.submit(jobs[-1])
for job in jobs:
    state = job.wait().state
    assert state == psij.JobState.COMPLETED, state
    tell()
"""
_PARSL = """
import parsl, socket, sys
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SimpleLauncher
from parsl.providers import SlurmProvider
provider = SlurmProvider(partition="debug", nodes_per_block=1, cores_per_node=8, init_blocks=2, max_blocks=2, walltime="00:10:00", exclusive=False, launcher=SimpleLauncher(),
                         worker_init=f"export PATH={BIN}:$PATH")
executor = HighThroughputExecutor(label="htex", address=ADDRESS, max_workers_per_node=8, provider=provider)
parsl.load(Config(executors=[executor], strategy="none"))
@parsl.python_app
def nothing():
    return 0
for app in [nothing() for _ in range(COUNT)]:
    app.result()
    tell()
seconds = time.perf_counter() - begun  # the pilots' end is not counted
parsl.dfk().cleanup()
"""
_SNAKEMAKE = """
import pathlib, subprocess
rules = [f"rule r{n}:\\n    output: touch('done/{n}')\\n    shell: 'true'\\n" for n in range(COUNT)]
pathlib.Path("Snakefile").write_text("rule all:\\n    input: expand('done/{n}', n=range(%d))\\n" % COUNT + "\\n".join(rules))
command = ["snakemake", "--executor", "slurm", "--jobs", "200", "--latency-wait", "10", "--default-resources", "slurm_partition=debug", "mem_mb=100", "runtime=5",
           "--slurm-no-account", "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"]
with open("log", "w") as log:
    process = subprocess.Popen(command, stdout=log, stderr=log)
seen = 0
while process.poll() is None or seen < len(list(pathlib.Path("done").glob("*"))):
    for _ in range(len(list(pathlib.Path("done").glob("*"))) - seen):
        seen += 1
        tell()
    time.sleep(0.1)
if process.returncode:
    sys.exit("; ".join(line for line in open("log").read().splitlines() if line.strip())[-300:])
"""
_AROUND = """
import json, sys, time
COUNT, BIN, ADDRESS = json.loads(sys.argv[1])
done, seconds, begun = 0, None, time.perf_counter()
def tell():
    global done
    done += 1
    with open("progress", "w") as stream:
        stream.write(f"{done} {time.perf_counter() - begun}")
"""
PEERS = {"submitit": _SUBMITIT, "PSI/J": _PSIJ, "Parsl, HighThroughputExecutor in 2 allocations, their start included": _PARSL, "Snakemake, slurm plugin": _SNAKEMAKE}


def slurm_peers(bench, peers, count):
    """Run each; what can't be run is named with the reason."""
    figures = []
    for name, code in PEERS.items():
        folder = bench.folder / "".join(filter(str.isalnum, name))[:10]
        folder.mkdir()
        program = folder / "run.py"
        program.write_text(_AROUND + code)
        words = json.dumps([count, str(peers), bench.hosts.login.address])
        (folder / "bin").mkdir()
        srun = folder / "bin" / "srun"  # Snakemake takes SLURM_CONF from its jobs, and this cluster's is not below /etc
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={bench.hosts.slurm_conf} exec /usr/bin/srun "$@"\n')
        srun.chmod(0o755)
        environ = {**bench.environ, "PATH": f"{folder}/bin:{peers}:{bench.environ['PATH']}", "PYTHONWARNINGS": "ignore", "HOME": str(folder), "LOGNAME": "root", "USER": "root"}
        process = subprocess.Popen(
            bench.hosts.login.argv(str(peers / "python"), str(program), words), cwd=folder, env=environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            _, said = process.communicate(timeout=CAP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            _, said = process.communicate()
        bench.run("scancel", "--user=root")
        bench.drain()
        progress = (folder / "progress").read_text().split() if (folder / "progress").exists() else []
        if progress:
            done, seconds = int(progress[0]), float(progress[1])
            note = "" if done == count else f"only {done} of {count} within {CAP_S:g} s"
            figures.append(Figure(f"{name}: {count} jobs", done / seconds, "jobs/s", note=note))
        else:
            why = said.strip().splitlines()[-1][:200] if said.strip() else f"nothing was done within {CAP_S:g} s"
            print(f"  {name}: left out, it does not run here: {why}")
    return figures
