"""The supervisor runs steps as a scientist expects, tells apart how they end, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from kale_proxy import values
from kale_proxy.spec import InputSpec, LimitSpec
from tests.integration._supervisor import SupervisorClient, alive, outputs, pid_in, printed


@pytest.fixture(scope="module")
def shared():
    folder = Path(tempfile.mkdtemp(prefix="kale-s-", dir="/tmp"))
    client = SupervisorClient(folder)
    yield client
    client.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own():
    folder = Path(tempfile.mkdtemp(prefix="kale-s-", dir="/tmp"))
    client = SupervisorClient(folder, idle_s=1.0)
    yield client
    client.close()
    shutil.rmtree(folder, ignore_errors=True)


# -- what a step gets and leaves -------------------------------------------------------------------
def test_step_gets_parameters_common_code_and_inputs_and_leaves_outputs(shared):
    up = shared.work / "up" / "outputs"
    values.save_all({"v": [1, 2]}, up)
    gathered = []
    for n in range(3):
        folder = shared.work / "sweep" / str(n) / "outputs"
        values.save_all({"e": n * 1.5}, folder)
        gathered.append(str(folder))
    inputs = (
        InputSpec(name="v", producer="up", output="v", folders=(str(up),)),
        InputSpec(name="e", producer="sweep", output="e", folders=tuple(gathered), gather=True, gather_params=("{'m': 'a'}", "{'m': 'b'}", "{'m': 'c'}")),
    )
    code = "total = f(v, n) + sum(e)\nnames = [p['m'] for p in e_params]\nprint(total)\nnames"
    spec, result = shared.run(code, params={"n": "(1, 2.5)"}, common="def f(v, n):\n    return sum(v) + sum(n)\n", inputs=inputs, outputs=("total", "names"))
    assert result["state"] == "completed", result
    folder = Path(spec.folder) / "outputs"
    assert values.load(folder, "total") == 11.0
    assert values.load(folder, "names") == ["a", "b", "c"]
    assert printed(spec) == "11.0\n"
    assert outputs(spec)[-1]["data"]["text/plain"] == "['a', 'b', 'c']"
    assert [json.loads(line)["event"] for line in (Path(spec.folder) / "events.jsonl").read_text().splitlines()] == ["running", "ended"]


def test_injected_cell_of_the_record_gives_the_same_values(shared, monkeypatch):
    up = shared.work / "up2" / "outputs"
    values.save_all({"v": {1: "x"}}, up)
    spec, _ = shared.run("v, n", params={"n": "1.5"}, inputs=(InputSpec(name="v", producer="up2", output="v", folders=(str(up),)),))
    import nbformat

    cell = nbformat.read(Path(spec.folder) / "step.ipynb", as_version=4).cells[0]
    assert cell.metadata.tags == ["injected-parameters"]
    monkeypatch.chdir(spec.folder)
    namespace: dict = {}
    exec(cell.source, namespace)
    assert (namespace["v"], namespace["n"]) == ({1: "x"}, 1.5)


def test_output_of_children_threads_and_c_code_is_recorded_once(shared):
    code = """
import os, subprocess, threading, time, multiprocessing as mp
subprocess.run(['echo', 'child'])
os.write(1, b'descriptor\\n')
def late():
    time.sleep(0.3); print('late thread')
threading.Thread(target=late).start()
with mp.get_context('fork').Pool(1) as pool:
    pool.map(print, ['pool'])
import atexit; atexit.register(print, 'at exit')
"""
    spec, result = shared.run(code)
    assert result["state"] == "completed", result
    text = printed(spec)
    assert sorted(text.split("\n")) == sorted(["", "child", "descriptor", "late thread", "pool", "at exit"])


def test_rich_display_updates_and_clear_output_are_recorded(shared):
    code = """
from IPython.display import display, HTML, clear_output
print('gone'); clear_output()
h = display(HTML('<b>1</b>'), display_id=True); h.update(HTML('<b>2</b>'))
import matplotlib.pyplot as plt; plt.plot([1, 2]);
"""
    spec, result = shared.run(code)
    assert result["state"] == "completed", result
    kinds = [(output.output_type, sorted(output.data)) for output in outputs(spec)]
    assert kinds == [("display_data", ["text/html", "text/plain"]), ("display_data", ["image/png", "text/plain"])]
    assert outputs(spec)[0].data["text/html"] == "<b>2</b>"


def test_top_level_await_works_and_asyncio_run_is_explained(shared):
    assert shared.run("import asyncio\nawait asyncio.sleep(0.01)")[1]["state"] == "completed"
    _, result = shared.run("import asyncio\nasync def f(): pass\nasyncio.run(f())")
    assert result["state"] == "completed" or "write `await f()` instead" in result["reason"]


def test_each_step_has_its_own_randomness(shared):
    code = "import random, uuid\nr = random.random(); u = str(uuid.uuid4())\nimport numpy as np\nn = float(np.random.rand())"
    seen = [values.load(Path(shared.run(code, outputs=("r", "u", "n"))[0].folder) / "outputs", name) for name in "run" for _ in range(2)]
    assert len(set(seen)) == 6


def test_notebook_is_saved_while_the_step_runs(shared, until):
    spec = shared.start("import time\nprint('early', flush=True)\ntime.sleep(30)")
    path = Path(spec.folder) / "step.ipynb"
    until(path.exists, "the notebook", 5)
    assert printed(spec) == "early\n"
    shared.send(op="cancel", uuid=spec.uuid, grace_s=0.2)
    assert shared.event(spec, "ended")["result"]["state"] == "cancelled"
    assert printed(spec) == "early\n"


def test_resources_are_sampled(shared):
    spec, result = shared.run("import time\nx = bytearray(b'1') * 80_000_000\nt = time.time()\nwhile time.time() - t < 2.2 or time.process_time() < 1.5: pass")
    samples = [json.loads(line) for line in (Path(spec.folder) / "resources.jsonl").read_text().splitlines()]
    live = [sample for sample in samples if "node" in sample]
    assert 0.2 < live[-1]["cpu_s"] < samples[-1]["cpu_s"]
    assert live[-1]["rss_bytes"] > 80_000_000
    assert live[-1]["node"]["memory_total_bytes"] > live[-1]["node"]["memory_used_bytes"] > 0
    assert result["cpu_s"] > 1
    assert result["peak_rss_bytes"] > 80_000_000


# -- how a step ends, in words -----------------------------------------------------------------------
ENDINGS = [
    ("1/0", "failed", 1, "ZeroDivisionError: division by zero"),
    ("import sys; sys.exit(3)", "failed", 3, "the code called sys.exit(3)"),
    ("import sys; sys.exit('no data')", "failed", 1, "the code called sys.exit(1): no data"),
    ("import sys; sys.exit()", "completed", 0, ""),
    ("import os; os._exit(5)", "failed", 5, "left by os._exit(5)"),
    ("import os; os._exit(0)", "failed", 0, "left by os._exit(0)"),
    ("import ctypes; ctypes.string_at(0)", "failed", 139, "segmentation fault"),
    ("import os; os.abort()", "failed", 134, "abort()"),
    ("import os; os.kill(os.getpid(), 9)", "failed", 137, "killed by SIGKILL from outside Kale"),
    ("input('? ')", "failed", 1, "nobody can answer input()"),
]


@pytest.mark.parametrize(("code", "state", "exit_code", "words"), ENDINGS)
def test_endings_are_told_apart_in_words(shared, code, state, exit_code, words):
    spec, result = shared.run("print('before', flush=True)\n" + code)
    assert (result["state"], result["exit_code"]) == (state, exit_code), result
    assert words in result["reason"]
    assert "before\n" in printed(spec)
    if state == "failed":
        assert "error" in [output.output_type for output in outputs(spec)]


def test_segfault_shows_the_line_that_crashed(shared):
    _, result = shared.run("import ctypes\ndef crash():\n    ctypes.string_at(0)\ncrash()")
    assert any("in crash" in line for line in result["error"]["traceback"])
    assert not any("IPython" in line for line in result["error"]["traceback"])


def test_missing_output_and_unsaveable_output_name_the_value(shared):
    assert "output `z` but its code never assigned it" in shared.run("y = 1", outputs=("z",))[1]["reason"]
    reason = shared.run("import threading\nlock = threading.Lock()", outputs=("lock",))[1]["reason"]
    assert "`lock` (_thread.lock) can't be saved" in reason
    assert "`Point`" in shared.run("class Point: pass\np = Point()", outputs=("p",))[1]["reason"]
    assert shared.run("p = Point()", common="class Point: pass\n", outputs=("p",))[1]["state"] == "completed"


def test_an_object_whose_class_is_in_the_common_code_goes_from_step_to_step(shared):
    common = "class Point: pass\n"
    first, _ = shared.run("p = Point()\np.x = 3", common=common, outputs=("p",))
    taken = InputSpec(name="p", producer="first", output="p", folders=(f"{first.folder}/outputs",))
    spec, result = shared.run("print(p.x, type(p) is Point)", common=common, inputs=(taken,))
    assert result["state"] == "completed", result
    assert printed(spec) == "3 True\n"
    assert "could not get its inputs: `p`" in shared.run("print(p.x)", common="import os\n", inputs=(taken,))[1]["reason"]


def test_missing_input_and_file_name_themselves(shared):
    gone = InputSpec(name="v", producer="up", output="v", folders=(str(shared.work / "nowhere"),))
    assert "could not get its inputs: there is no value `v`" in shared.run("v", inputs=(gone,))[1]["reason"]
    assert "no file that matches --files-out *.csv" in shared.run("pass", files_out=("*.csv",))[1]["reason"]
    for kind, kernel in (("python", None), ("shell", None), ("kernel", "python3")):
        reason = shared.run("echo=1", kind, kernel=kernel, files_in=("input-*.dat",))[1]["reason"]
        assert "matches --files-in input-*.dat" in reason
    (shared.work / "input-1.dat").write_text("")
    assert shared.run("pass", files_in=("input-*.dat",))[1]["state"] == "completed"
    _, result = shared.run("open('out-file.dat', 'w').close()", files_out=("out-file.*",))
    assert result["files"] == ["out-file.dat"]


def test_error_in_common_code_says_where(shared):
    _, result = shared.run("pass", common="import nonesuch_module\n")
    assert result["reason"].startswith("in %%kale_common: ModuleNotFoundError")


def test_walltime_and_memory_limits_are_kept(shared):
    _, result = shared.run("import time\ntime.sleep(60)", limits=LimitSpec(walltime_s=1))
    assert (result["state"], result["reason"]) == ("failed", "its walltime of 00:00:01 was reached (--walltime)")
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'b = bytearray(400_000_000); b[::4096] = b[::4096]; import time; time.sleep(30)'])"
    _, result = shared.run(code, limits=LimitSpec(memory_bytes=300 << 20))
    assert result["state"] == "failed"
    assert "more than the 300 MB of --memory" in result["reason"]


# -- cancel, stop, claim -----------------------------------------------------------------------------
def test_cancel_ends_the_whole_tree_daemons_included(shared, until):
    code = """
import os, subprocess, sys, time
child = subprocess.Popen(['sleep', '300'])
daemon = subprocess.Popen(['setsid', 'sh', '-c', 'trap "" TERM; echo $$ > daemon.pid; while :; do sleep 300; done'])
open('child.pid', 'w').write(str(child.pid))
time.sleep(300)
"""
    spec = shared.start(code)
    pids = [pid_in(shared.work / "child.pid"), pid_in(shared.work / "daemon.pid")]
    shared.send(op="cancel", uuid=spec.uuid, grace_s=0.3)
    result = shared.event(spec, "ended")["result"]
    assert (result["state"], result["reason"]) == ("cancelled", "cancelled by the user")
    until(lambda: not any(map(alive, pids)), "the end of the children", 5)


def test_nothing_is_left_when_a_step_completes(shared, until):
    spec, result = shared.run("import subprocess\np = subprocess.Popen(['sleep', '300'])\npid = p.pid", outputs=("pid",))
    assert result["state"] == "completed"
    pid = values.load(Path(spec.folder) / "outputs", "pid")
    until(lambda: not alive(pid), "the end of the child", 5)


def test_step_that_ignores_sigterm_and_is_frozen_is_cancelled(shared):
    spec = shared.start("import signal, time, os\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(1, flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(300)")
    shared.event(spec, "running")
    time.sleep(0.5)
    shared.send(op="cancel", uuid=spec.uuid, grace_s=0.3)
    assert shared.event(spec, "ended")["result"]["state"] == "cancelled"


def test_stop_interrupts_the_code_and_keeps_the_kernel_until_released(shared):
    spec = shared.start("import time\nn = 0\nprint('go', flush=True)\nwhile True:\n    n += 1; time.sleep(0.01)", hold_s=60.0)
    live = Path(shared.event(spec, "running")["live"])
    _wait_for(Path(spec.folder) / "stdout.log")
    shared.send(op="interrupt", uuid=spec.uuid)
    message = shared.event(spec, "state")
    assert (message["state"], message["reason"]) == ("paused", "stopped; its kernel stays open for 60 s")
    from jupyter_client import BlockingKernelClient

    client = BlockingKernelClient(connection_file=str(live / "kernel.json"))
    client.load_connection_file()
    client.start_channels()
    reply = client.execute_interactive("assert n > 0", timeout=10, store_history=False, allow_stdin=False)
    client.stop_channels()
    assert reply["content"]["status"] == "ok"
    shared.send(op="release", uuid=spec.uuid)
    result = shared.event(spec, "ended")["result"]
    assert (result["state"], result["reason"], result["error"]["ename"]) == ("cancelled", "stopped by the user", "KeyboardInterrupt")


def test_same_job_started_twice_runs_once(shared):
    spec = shared.start("import time\nopen('count', 'a').write('x')\ntime.sleep(0.5)")
    other = SupervisorClient.__new__(SupervisorClient)
    other.folder, other.process = shared.folder, shared.process
    hello = other.connect()
    import dataclasses

    other.send(op="start", spec=dataclasses.asdict(spec))
    assert other.event(spec, "running", "ended")["ev"] in {"running", "ended"}
    assert shared.event(spec, "ended")["result"]["state"] == "completed"
    shared.send(op="start", spec=dataclasses.asdict(spec))
    assert shared.event(spec, "ended")["result"]["state"] == "completed"
    assert (shared.work / "count").read_text() == "x"
    assert all(job["uuid"] != "" for job in hello["jobs"])
    other.socket.close()


def test_claim_of_another_copy_is_refused_and_nothing_runs(shared):
    import dataclasses

    spec, _ = shared.run("open('claimed', 'a').write('x')")
    copy = dataclasses.replace(spec, uuid="other")
    shared.send(op="start", spec=dataclasses.asdict(copy))
    message = shared.event(copy, "refused")
    assert "attempt 1 was begun before" in message["reason"]
    assert (shared.work / "claimed").read_text() == "x"


def test_folder_that_cannot_be_made_is_refused_with_its_name(shared):
    blocker = shared.work / "blocker"
    blocker.write_text("")
    spec = shared.start("pass", folder=str(blocker / "step"))
    assert str(blocker / "step") in shared.event(spec, "refused")["reason"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root: run as root")
def test_full_disk_is_said_and_the_supervisor_goes_on(shared):
    import subprocess

    disk = shared.work / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(disk)], check=True)
    try:
        spec = shared.start("x = bytes(5_000_000)", folder=str(disk / "s"), outputs=("x",))
        result = shared.event(spec, "ended")["result"]
        assert result["state"] == "failed"
        assert "`x` (bytes) can't be written" in result["reason"]
        assert "No space left" in result["reason"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert shared.run("pass")[1]["state"] == "completed"


# -- other kinds --------------------------------------------------------------------------------------
def test_shell_step_gets_variables_and_hands_on_outputs(shared):
    code = "echo \"$n $name ${lst}\"\necho oops >&2\nm=$((n + 1))\necho '[1, 2]' > $KALE_OUTPUTS/data.json"
    spec, result = shared.run(code, "shell", params={"n": "3", "name": "'x y'", "lst": "[1, 2]"}, outputs=("m", "data"))
    assert result["state"] == "completed", result
    assert printed(spec) == "3 x y [1, 2]\n"
    assert printed(spec, "stderr") == "oops\n"
    folder = Path(spec.folder) / "outputs"
    assert values.load(folder, "m") == 4
    assert values.load(folder, "data") == [1, 2]


def test_shell_step_stops_at_the_first_failing_command(shared):
    spec, result = shared.run("echo one\nls /nonexistent-file\necho two", "shell")
    assert (result["state"], result["exit_code"]) == ("failed", 2)
    assert "/nonexistent-file" in result["reason"]
    assert printed(spec) == "one\n"
    assert shared.run("false | true; echo no", "shell")[1]["state"] == "failed"


def test_shell_output_never_made_says_how(shared):
    assert "set the variable q, or write $KALE_OUTPUTS/q.json" in shared.run("true", "shell", outputs=("q",))[1]["reason"]


def test_script_runs_as_it_stands(shared):
    spec, result = shared.run("#!/bin/sh\n#SBATCH --nodes=1\nfalse\necho went on", "script")
    assert result["state"] == "completed"
    assert printed(spec) == "went on\n"


def test_installed_kernel_runs_a_step_with_values(shared):
    up = shared.work / "up3" / "outputs"
    values.save_all({"v": {3}}, up)
    inputs = (InputSpec(name="v", producer="up3", output="v", folders=(str(up),)),)
    spec, result = shared.run("w = max(v) * n; print(w); w", "kernel", kernel="python3", params={"n": "2"}, inputs=inputs, outputs=("w",))
    assert result["state"] == "completed", result
    assert values.load(Path(spec.folder) / "outputs", "w") == 6
    assert printed(spec) == "6\n"
    _, result = shared.run("1/0", "kernel", kernel="python3")
    assert result["reason"] == "ZeroDivisionError: division by zero"


def test_missing_kernel_and_dying_kernel_say_so(shared):
    _, result = shared.run("1", "kernel", kernel="nonesuch")
    assert "the kernel nonesuch is not installed here" in result["reason"]
    _, result = shared.run("import os; os._exit(7)", "kernel", kernel="python3")
    assert "the kernel python3 ended with exit code 7 while the cell ran" in result["reason"]


# -- faults of ours ---------------------------------------------------------------------------------
def test_steps_outlive_a_killed_supervisor(own, until):
    spec = own.start("import time\ntime.sleep(1.5)\nx = 5", outputs=("x",))
    own.event(spec, "running")
    children = psutil.Process(own.process.pid).children()
    own.process.send_signal(signal.SIGKILL)
    own.process.wait(10)
    until(lambda: sum(child.is_running() and child.status() != "zombie" for child in children) == 1, "the end of the spares", 5)
    result = Path(spec.folder) / "result.json"
    until(result.exists, "the result", 15)
    assert json.loads(result.read_text())["state"] == "completed"


def test_supervisor_ends_when_idle_and_leaves_no_processes(own, until):
    _, result = own.run("pass")
    assert result["state"] == "completed"
    own.lines.close()
    own.socket.close()
    assert own.process.wait(15) == 0
    assert not (own.folder / "w" / "s").exists()
    own.socket, own.lines = socket.socket(), (own.folder / "log").open()


def test_garbage_on_the_socket_is_answered_and_survived(own):
    own.socket.sendall(b'not json\n{"op": "start", "spec": {"version": 99}}\n{"op": "nonsense", "uuid": "x"}\n')
    assert "not understood" in own.next()["reason"]
    assert "version 99" in own.next()["reason"]
    assert own.run("pass")[1]["state"] == "completed"


def test_new_manager_learns_of_running_jobs(own):
    spec = own.start("import time\ntime.sleep(1)")
    own.event(spec, "running")
    own.lines.close()
    own.socket.close()
    hello = own.connect()
    assert [(job["uuid"], job["state"]) for job in hello["jobs"]] == [(spec.uuid, "running")]
    assert own.event(spec, "ended")["result"]["state"] == "completed"


def _wait_for(path: Path) -> None:
    end = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.02)


def test_job_is_run_again_by_hand_once_its_claim_is_removed(shared, monkeypatch):
    import subprocess
    import sys

    monkeypatch.setenv("KALE_HOME", str(shared.folder / "hand"))
    spec, _ = shared.run("print('ran', n)\nx = n + 1", params={"n": "1"}, outputs=("x",))
    folder = Path(spec.folder)
    (folder / "job.json").write_text(spec.to_json())
    command = [sys.executable, "-m", "kale_proxy", "run", str(folder / "job.json")]
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (again.returncode, again.stdout) == (0, f"{spec.step}: completed\n")
    (folder / "result.json").unlink()
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 96
    assert "attempt-1.claim (an attempt begins once: remove its .claim file to run it again by hand)" in refused.stdout
    (folder / "attempt-1.claim").unlink()
    (folder / "stdout.log").unlink()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "stdout.log").read_text() == "ran 1\n"
