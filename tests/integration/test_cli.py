"""The program ``jupyter-kale`` with a real manager, real jobs and real kernels: output, exit codes, ``--json``."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import psutil
import pytest

from kale_magic.cli.shapes import MANAGER_KEYS, RUN_KEYS, STEP_KEYS
from tests.conftest import private_kale
from tests.unit.cli_shell import notebook

DEADLINE_S = 60.0
GOOD = (
    "%load_ext kale_magic\n%kale_workflow eos",
    "%%kale_common\nimport math",
    "%%kale_step prep --outputs base\nprint('prepared')\nbase = math.sqrt(4)",
    "%%kale_step curve --each k=[1,2,3] --outputs y --params n=2\nimport sys\ny = base * k * n\nprint('k is', k)\nprint('to stderr', file=sys.stderr)",
    "%%kale_step fit --outputs total\ntotal = sum(y)\nprint('total', total)",
)
BAD = (
    "%kale_workflow bad",
    "%%kale_step curve --each k=[1,0] --outputs y\ny = 1 / k",
    "%%kale_step late\nprint(y)",
)
SLOW = ("%kale_workflow slow", "%%kale_step loop\nimport time\nfor i in range(1200):\n    time.sleep(0.05)")


@pytest.fixture(scope="module")
def shared_home():
    """A Kale for all tests that leave nothing behind in it; each has a folder of its own, and so runs of its own."""
    with private_kale() as home:
        yield home


@pytest.fixture
def place(shared_home, tmp_path):
    """A folder with notebooks."""
    return with_notebooks(tmp_path)


@pytest.fixture
def own_place(kale_home, tmp_path):
    """A folder with notebooks, beside a Kale of its own."""
    return with_notebooks(tmp_path)


def with_notebooks(folder):
    notebook(folder / "good.ipynb", *GOOD)
    notebook(folder / "bad.ipynb", *BAD)
    notebook(folder / "slow.ipynb", *SLOW)
    return folder


def kale(place, *words, code=0):
    """Run the program and return its stdout; its exit code must be ``code``, and it must not show a traceback of ours."""
    done = subprocess.run(
        [sys.executable, "-m", "kale_magic.cli.main", *words],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, (words, done.stdout, done.stderr)
    assert "kale_magic/" not in done.stderr
    return done


def run_object(text):
    """Read the object of run, status and wait, and check its keys."""
    found = json.loads(text)
    assert tuple(found) == (*RUN_KEYS, "steps")
    for step in found["steps"].values():
        assert tuple(key for key in step if key != "points") == STEP_KEYS
        for time_ in (step["queued_at"], step["started_at"], step["ended_at"]):
            assert time_ is None or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", time_)
    return found


def until(condition, what):
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def is_gone(pid):
    """Whether a process has ended; one that its parent has not looked at yet is a zombie for a while."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def start_slow(place, *words):
    """Start a run that is looped in until it is ended; returns its id."""
    kale(place, "run", "slow.ipynb", "--timeout", "0", *words, code=4)
    run = json.loads(kale(place, "runs", "--json").stdout)[0]["run"]
    until(
        lambda: json.loads(kale(place, "status", run, "--json").stdout)["steps"]["loop"]["state"] == "running",
        "it did not start",
    )
    return run


def test_a_notebook_runs_and_everything_about_it_can_be_asked(place):
    done = kale(place, "run", "good.ipynb", "--params", "n=5")
    run = re.search(r"run (eos-\S+) in", done.stderr)[1]
    assert done.stdout.startswith(f"{run} completed: 3 of 3 steps completed")
    assert "✓ prep completed" in done.stderr
    assert done.stderr.index("prep running") < done.stderr.index("fit completed")
    listed = re.findall(r"^  (\S+step\.ipynb)$", done.stdout, re.MULTILINE)
    assert len(listed) == 5
    assert all(json.loads((place / path).read_text())["nbformat"] == 4 for path in listed)

    found = run_object(kale(place, "status", "--json").stdout)
    assert (found["run"], found["state"], found["executor"]) == (run, "completed", "local")
    assert [point["state"] for point in found["steps"]["curve"]["points"].values()] == ["completed"] * 3
    assert found["steps"]["fit"]["outputs"] == ["total"]
    assert run_object(kale(place, "wait", run, "--json").stdout) == found
    assert [item["run"] for item in json.loads(kale(place, "runs", "--json").stdout)] == [run]
    assert json.loads(kale(place, "queue", "--json").stdout) == []
    assert kale(place, "logs", "fit").stdout == "total 60.0\n"
    assert kale(place, "logs", "curve[k=2]", "--stderr").stdout == "to stderr\n"
    assert kale(place, "logs", f"{run}/curve", "--tail", "1").stdout.splitlines()[-1] == "k is 3"
    assert "kale_proxy run" in kale(place, "logs", "prep", "--script").stdout
    assert kale(place, "wait", "fit").stdout == f"{run}/fit completed\n"


def test_a_failing_step_is_exit_code_1_with_its_traceback_and_its_dependants_cancelled(place):
    done = kale(place, "run", "bad.ipynb", code=1)
    assert "✗ curve[1] failed: ZeroDivisionError: division by zero" in done.stderr
    assert "----> 1 y = 1 / k" in done.stdout
    found = run_object(kale(place, "status", "--json").stdout)
    assert found["state"] == "failed"
    assert found["steps"]["curve"]["points"]["0"]["state"] == "completed"
    assert found["steps"]["curve"]["points"]["1"]["error"]["ename"] == "ZeroDivisionError"
    assert found["steps"]["late"]["state"] == "cancelled"
    assert "curve" in found["steps"]["late"]["reason"]
    kale(place, "status")
    kale(place, "wait", code=1)
    kale(place, "wait", "late", code=1)
    assert run_object(kale(place, "run", "bad.ipynb", "--json", code=1).stdout)["state"] == "failed"


def test_looking_into_a_running_step_then_stopping_and_cancelling_it(place):
    run = start_slow(place)
    kale(place, "wait", run, "--timeout", "0.1", code=4)
    kale(place, "wait", "loop", "--timeout", "0.1", code=4)
    first = int(kale(place, "attach", "loop", "--exec", "print(i)").stdout)
    assert int(kale(place, "attach", f"{run}/loop", "--exec", "i").stdout) > first
    wrong = kale(place, "attach", "loop", "--exec", "print('before')\n1/0", code=1)
    assert wrong.stdout == "before\n"
    assert "ZeroDivisionError: division by zero" in wrong.stderr
    assert json.loads(kale(place, "queue", "--json").stdout)[0]["step"] == "loop"
    other = start_slow(place)
    assert "live in 2 runs" in kale(place, "stop", "loop", code=2).stderr
    kale(place, "stop", f"{run}/loop")
    until(
        lambda: run_object(kale(place, "status", run, "--json").stdout)["steps"]["loop"]["state"] == "paused",
        "it did not stop",
    )
    assert int(kale(place, "attach", f"{run}/loop", "--exec", "i").stdout) > first
    for name in (run, other):
        assert json.loads(kale(place, "cancel", name, "--json").stdout) == {"cancelled": ["loop"]}
        assert run_object(kale(place, "wait", name, "--json", code=1).stdout)["state"] == "cancelled"
    assert "its kernel is gone" in kale(place, "attach", f"{run}/loop", "--exec", "i", code=2).stderr


def test_following_a_log_ends_with_the_step(place):
    notebook(
        place / "talk.ipynb",
        "%kale_workflow talk",
        "%%kale_step talk\nimport time\nfor i in range(8):\n    print(i, flush=True)\n    time.sleep(0.1)",
    )
    kale(place, "run", "talk.ipynb", "--timeout", "0", code=4)
    assert kale(place, "logs", "talk", "--follow").stdout.split() == list("01234567")
    kale(place, "wait", "talk")


def test_interrupting_the_wait_leaves_the_run_alone(place):
    process = subprocess.Popen(
        [sys.executable, "-m", "kale_magic.cli.main", "run", "slow.ipynb", "--name", "slow-1"],
        cwd=place,
        text=True,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    said = ""
    while "loop running" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130
    assert "the run goes on" in rest
    assert run_object(kale(place, "status", "slow-1", "--json").stdout)["state"] == "running"
    kale(place, "cancel", "slow-1")


def test_on_a_terminal_there_is_a_bar_and_an_interrupt_asks_whether_to_cancel(place):
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(place)
        os.environ |= {"TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
        os.execv(sys.executable, [sys.executable, "-m", "kale_magic.cli.main", "run", "slow.ipynb", "--name", "slow-2"])
    read_until(terminal, "1 running")
    os.write(terminal, b"\x03")
    read_until(terminal, "Cancel run slow-2? [y/N]")
    os.write(terminal, b"y\n")
    assert "cancelled loop" in read_until(terminal, "cancelled loop")
    _, status = os.waitpid(process, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    assert run_object(kale(place, "wait", "slow-2", "--json", code=1).stdout)["state"] == "cancelled"


def read_until(terminal, text):
    deadline = time.monotonic() + DEADLINE_S
    said = ""
    while text not in said:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, said
        said += os.read(terminal, 65536).decode(errors="replace")
    return said


def test_manager_is_started_asked_and_stopped(own_place):
    kale(own_place, "manager", "status", code=3)
    assert kale(own_place, "manager", "stop").stdout == "No manager runs.\n"
    started = json.loads(kale(own_place, "manager", "start", "--json").stdout)
    assert tuple(started) == MANAGER_KEYS
    assert "runs already" in kale(own_place, "manager", "start").stdout
    found = json.loads(kale(own_place, "manager", "status", "--json").stdout)
    assert found == started
    os.kill(found["pid"], 0)
    assert kale(own_place, "manager", "logs").stdout
    assert str(found["pid"]) in kale(own_place, "manager", "stop").stdout
    kale(own_place, "manager", "status", code=3)
    assert is_gone(found["pid"])


def test_manager_of_another_version_is_refused_and_can_be_stopped(own_place, kale_home):
    pid = json.loads(kale(own_place, "manager", "start", "--json").stdout)["pid"]
    other = "import kale_magic.protocol as p; p.PROTOCOL_VERSION = 99; import sys; from kale_magic.cli.main import main; sys.exit(main(sys.argv[1:]))"

    def as_other(*words):
        return subprocess.run(
            [sys.executable, "-c", other, *words], cwd=own_place, capture_output=True, text=True, timeout=DEADLINE_S
        )

    refused = as_other("status")
    assert refused.returncode == 3
    assert "jupyter kale manager stop" in refused.stderr
    assert refused.stderr.count("\n") == 1
    stopped = as_other("manager", "stop")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert is_gone(pid)


def test_doctor_finds_this_machine_well_and_a_broken_one_not(own_place, kale_home):
    done = json.loads(kale(own_place, "doctor", "--json").stdout)
    assert done["ok"]
    assert {finding["part"] for finding in done["findings"]} == {
        "python",
        "packages",
        "state folder",
        "socket folder",
        "manager",
        "local executor",
        "kernel",
        "transports",
    }
    kale(own_place, "manager", "stop")
    (kale_home / "config.toml").write_text("[manager]\nidle = 3\n")
    text = kale(own_place, "doctor", code=1).stdout
    assert "WRONG" in text
    assert "-> Known in [manager]" in text


def test_gc_removes_ended_runs(place):
    run = run_object(kale(place, "run", "good.ipynb", "--json").stdout)["run"]
    kale(place, "gc", "--older-than", "0d", code=2)
    assert (place / ".kale/runs" / run).exists()
    removed = json.loads(kale(place, "gc", "--older-than", "0d", "--yes", "--json").stdout)
    assert [item["run"] for item in removed["removed"]] == [run]
    assert not (place / ".kale/runs" / run).exists()
    assert run in kale(place, "runs").stdout


def test_yaml_of_a_notebook_runs_as_the_notebook_does(place):
    kale(place, "export", "good.ipynb", "-o", "good.yaml")
    kale(place, "check", "good.yaml")
    found = run_object(kale(place, "run", "good.yaml", "--json", "--to", "curve").stdout)
    assert {name: step["state"] for name, step in found["steps"].items()} == {"prep": "completed", "curve": "completed"}


def test_two_homes_know_nothing_of_each_other(place, monkeypatch, tmp_path_factory):
    kale(place, "run", "good.ipynb")
    with monkeypatch.context() as patch:
        patch.setenv("KALE_HOME", str(tmp_path_factory.mktemp("other")))
        kale(place, "manager", "status", code=3)
    kale(place, "manager", "status")


def test_words_of_the_magics_are_not_needed_to_start_quickly():
    """A command that only asks loads no notebook, kernel or message library."""
    code = "import sys, kale_magic.cli.main, kale_magic.cli.look, kale_magic.api.find, kale_magic.render.text; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {
        "IPython",
        "zmq",
        "nbformat",
        "jsonschema",
        "yaml",
        "asyncio",
        "subprocess",
        "kale_magic.dsl",
        "kale_magic.formats",
    } & set(loaded)
