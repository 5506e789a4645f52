"""The real manager with the real local executor: started by clients, shared by them, killed and started again."""

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from kale_magic import config, protocol
from kale_magic._connection import Connection
from kale_magic.client import Client
from kale_magic.errors import (
    CycleError,
    ManagerUnavailable,
    ProtocolVersionError,
    SubmitError,
    UnknownExecutorError,
    UnknownRunError,
    UnknownStepError,
    UsageError,
    WorkflowError,
)
from kale_magic.model.codec import workflow_to_dict
from kale_magic.model.resources import Resources
from kale_magic.model.step import Axis, Step, StepKind
from kale_magic.model.workflow import Workflow


def flow(*steps, name="eos", **options):
    return workflow_to_dict(Workflow(name=name, steps={step.name: step for step in steps}, **options))


@pytest.fixture
def client(kale_home):
    with Client.connect() as connected:
        yield connected


def manager_pid():
    return json.loads(config.load().manager_file.read_text())["pid"]


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def states(status):
    return {name: step["state"] for name, step in status["steps"].items()}


def test_a_workflow_runs_and_values_go_from_step_to_step(client, tmp_path):
    steps = [
        Step(name="curve", code="e = m * 2", outputs=("e",), each=(Axis("m", (1, 2, 3), "[1, 2, 3]"),)),
        Step(name="fit", code="total = sum(e)", outputs=("total",)),
        Step(name="show", code="print('total', total)"),
    ]
    submitted = client.submit(flow(*steps), folder=tmp_path)
    status = client.wait(submitted["run"], timeout=60)
    assert status["state"] == "completed"
    assert states(status) == {"curve": "completed", "fit": "completed", "show": "completed"}
    assert {point: view["state"] for point, view in status["steps"]["curve"]["points"].items()} == dict.fromkeys("012", "completed")
    assert status["steps"]["curve"]["counts"] == {"completed": 3}
    folder = Path(submitted["folder"])
    assert folder == tmp_path / ".kale" / "runs" / submitted["run"]
    assert (folder / "steps" / "show" / "stdout.log").read_text() == "total 12\n"
    assert (tmp_path / ".kale" / ".gitignore").read_text() == "*\n"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert "schema: kale-magic.org/v1" in (folder / "workflow.yaml").read_text()


def test_environment_of_steps_is_cleaned_and_its_names_are_kept(client, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("MY_SECRET", "hush")
    submitted = client.submit(flow(Step(name="a", code="import os; print(os.environ.get('SLURM_JOB_ID'), os.environ['MY_SECRET'])")), folder=tmp_path)
    client.wait(submitted["run"], timeout=60)
    folder = Path(submitted["folder"])
    assert (folder / "steps" / "a" / "stdout.log").read_text() == "None hush\n"
    kept = json.loads((folder / "environment.json").read_text())
    assert "MY_SECRET" in kept["kept"]
    assert "SLURM_JOB_ID" not in kept["kept"]
    assert kept["python"] == sys.executable
    assert "hush" not in (folder / "environment.json").read_text() + (folder / "workflow.yaml").read_text()


def test_failure_reaches_the_status_with_its_traceback(client, tmp_path):
    steps = [Step(name="relax", code="x = 1 / 0", outputs=("x",)), Step(name="fit", code="print(x)")]
    status = client.wait(client.submit(flow(*steps), folder=tmp_path)["run"], timeout=60)
    assert status["state"] == "failed"
    assert status["steps"]["relax"]["error"]["ename"] == "ZeroDivisionError"
    assert status["steps"]["fit"]["reason"] == "cancelled: `fit` needs `relax`, which failed"


def test_retries_run_a_step_again(client, tmp_path):
    code = "import os\nn = len(open('tries', 'a+').read()) if False else (os.path.getsize('tries') if os.path.exists('tries') else 0)\nopen('tries', 'a').write('x')\nassert n >= 2, n"
    status = client.wait(client.submit(flow(Step(name="a", code=code, retries=2)), folder=tmp_path)["run"], timeout=60)
    assert (status["state"], status["steps"]["a"]["attempt"]) == ("completed", 3)
    assert (Path(status["folder"]) / "steps" / "a" / "attempts" / "2" / "result.json").exists()


def test_cancel_ends_what_runs_and_what_waits(client, tmp_path, until):
    steps = [Step(name="long", code="import time; open('pid', 'w').write(str(__import__('os').getpid())); time.sleep(600)"), Step(name="after", code="1", after=("long",))]
    run = client.submit(flow(*steps), folder=tmp_path)["run"]
    pid = int(until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the step"))
    assert client.where(run, "long")["state"] == "running"
    assert sorted(client.cancel(run)) == ["after", "long"]
    status = client.wait(run, timeout=30)
    assert (status["state"], states(status)) == ("cancelled", {"long": "cancelled", "after": "cancelled"})
    assert is_gone(pid)
    assert client.cancel(run) == []


def test_queue_says_what_waits_for_what(client, tmp_path, until):
    sleep = "import time; time.sleep(600)"
    run = client.submit(flow(Step(name="big", code=sleep, resources=Resources(cpus=os.cpu_count())), Step(name="next", code=sleep)), folder=tmp_path)["run"]
    until(lambda: client.where(run, "big")["state"] == "running", "the start of big")
    lines = {line["step"]: line for line in client.queue()}
    assert (lines["big"]["state"], lines["next"]["state"]) == ("running", "queued")
    assert lines["next"]["reason"] == f"waits for 1 of {os.cpu_count()} cores"
    assert client.where(run, "next")["reason"] == lines["next"]["reason"] == client.status(run)["steps"]["next"]["reason"]
    live = client.where(run, "big")["live"]
    until(lambda: (Path(live) / "kernel.json").exists(), "the kernel's connection file")
    client.cancel(run)
    client.wait(run, timeout=30)


def test_two_clients_and_their_events_see_the_same(client, tmp_path):
    with Client.connect(start=False) as other:
        assert other.hello.pid == client.hello.pid
        run = client.submit(flow(Step(name="a", code="1")), folder=tmp_path)["run"]
        other.wait(run, timeout=60)
        assert [line["run"] for line in other.runs(tmp_path)] == [run]
        assert other.runs(tmp_path / "elsewhere") == []
        assert other.status() == client.status(run)


def test_events_are_complete_and_in_order_from_any_number(client, tmp_path):
    run = client.submit(flow(Step(name="a", code="1"), Step(name="b", code="1", after=("a",))), folder=tmp_path)["run"]
    client.wait(run, timeout=60)
    with client.events(0, run) as stream:
        events = []
        while not events or events[-1].kind != "run" or events[-1].state == "running":
            events.append(stream.next(20))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    shown = [(event.step, event.state) for event in events]
    assert shown == [
        (None, "running"), ("a", "queued"), ("a", "running"), ("a", "completed"), ("b", "queued"), ("b", "running"), ("b", "completed"), (None, "completed"),
    ]  # fmt: skip
    with client.events(4, run) as stream:
        assert stream.next(20) == events[4]


def test_selection_uses_values_of_an_earlier_run(client, tmp_path):
    steps = [Step(name="a", code="x = 5", outputs=("x",)), Step(name="b", code="print(x + 1)"), Step(name="c", code="print('c')")]
    with pytest.raises(WorkflowError, match="Step b needs `x` of step a, which is not chosen and which no earlier run has"):
        client.submit(flow(*steps), folder=tmp_path, only=["b"])
    client.wait(client.submit(flow(*steps), folder=tmp_path)["run"], timeout=60)
    status = client.wait(client.submit(flow(*steps), folder=tmp_path, only=["b"], no_cache=True)["run"], timeout=60)
    assert states(status) == {"a": "cached", "b": "completed"}
    assert (Path(status["folder"]) / "steps" / "b" / "stdout.log").read_text() == "6\n"
    again = client.wait(client.submit(flow(*steps), folder=tmp_path, from_=["b"], to=["b"], fresh=["b"])["run"], timeout=60)
    assert states(again) == {"a": "cached", "b": "completed"}


def test_params_replace_those_that_steps_declare(client, tmp_path):
    step = Step(name="a", code="print(n, s)", params={"n": 1, "s": "q"})
    status = client.wait(client.submit(flow(step), folder=tmp_path, params={"n": "(2, 3)"})["run"], timeout=60)
    assert (Path(status["folder"]) / "steps" / "a" / "stdout.log").read_text() == "(2, 3) q\n"
    with pytest.raises(WorkflowError, match="--params m: no step has a parameter `m`. There is: n, s"):
        client.submit(flow(step), folder=tmp_path, params={"m": "1"})


def test_bad_submits_are_refused_in_one_line_and_leave_nothing(client, tmp_path):
    def refused(kind, words, *steps, **options):
        with pytest.raises(kind, match=words):
            client.submit(flow(*steps), **{"folder": tmp_path, **options})

    refused(CycleError, "a -> b -> a|b -> a -> b", Step(name="a", code="1", after=("b",)), Step(name="b", code="1", after=("a",)))
    refused(WorkflowError, "has no steps")
    refused(SubmitError, "Step `a` asks for 4096 cores; this machine has", Step(name="a", code="1", resources=Resources(cpus=4096)))
    refused(UnknownExecutorError, "There is no executor 'slurrm'", Step(name="a", code="1"), executor="slurrm")
    refused(SubmitError, "/nowhere/python, can't be run", Step(name="a", code="1"), python="/nowhere/python")
    refused(UsageError, "can't be the name of a run", Step(name="a", code="1"), name="../up")
    (tmp_path / "file").write_text("")
    refused(SubmitError, "can't be written: Not a directory", Step(name="a", code="1"), folder=tmp_path / "file")
    assert not (tmp_path / ".kale").exists()
    assert client.runs() == []


def test_a_taken_name_is_refused(client, tmp_path):
    step = Step(name="a", code="1")
    assert client.submit(flow(step), folder=tmp_path, name="mine")["run"] == "mine"
    with pytest.raises(UsageError, match="There is a run mine"):
        client.submit(flow(step), folder=tmp_path, name="mine")
    client.wait("mine", timeout=60)


def test_unknown_runs_steps_and_requests_are_named(client, tmp_path):
    with pytest.raises(UnknownRunError, match="No run has been submitted"):
        client.status()
    with pytest.raises(UnknownRunError, match="No run nope"):
        client.status("nope")
    run = client.submit(flow(Step(name="a", code="1")), folder=tmp_path)["run"]
    with pytest.raises(UnknownStepError, match="has no step `b`"):
        client.where(run, "b")
    client.wait(run, timeout=60)
    with pytest.raises(UnknownStepError, match="`a` of run .* is completed: only a running step can be interrupted"):
        client.stop(run, "a")
    with pytest.raises(Exception, match="does not know the request 'dance'"):
        client._ask("dance", {})


def test_a_submit_asked_twice_happens_once(client, tmp_path):
    fields = {
        "workflow": flow(Step(name="a", code="1")), "folder": str(tmp_path), "python": sys.executable, "environ": {}, "token": "same",
    }  # fmt: skip
    first, second = (client._ask(protocol.SUBMIT, fields) for _ in range(2))
    assert first["run"] == second["run"]
    assert len(client.runs()) == 1
    client.wait(first["run"], timeout=60)


def test_eight_clients_at_once_end_with_one_manager(kale_home):
    program = "from kale_magic.client import Client; print(Client.connect().hello.pid)"
    processes = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(8)]
    pids = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(pids) == 1
    assert pids == {str(manager_pid())}


def test_daemons_started_at_once_leave_one(kale_home, until):
    command = [sys.executable, "-m", "kale_magic.manager.daemon"]
    daemons = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(4)]
    try:
        until(lambda: sum(daemon.poll() is None for daemon in daemons) == 1, "the end of all but one")
        until(lambda: config.load().manager_file.exists(), "manager.json")
        [left] = [daemon for daemon in daemons if daemon.poll() is None]
        assert manager_pid() == left.pid
        assert {daemon.returncode for daemon in daemons if daemon is not left} == {0}
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait(20)


def test_the_manager_ends_when_idle(kale_home, monkeypatch, until):
    monkeypatch.setenv("KALE_IDLE_S", "0.3")
    with Client.connect() as client:
        pid = client.hello.pid
        time.sleep(1)
        assert client.manager()["pid"] == pid  # a client is there
    until(lambda: is_gone(pid), "the end of the idle manager")
    settings = config.load()
    assert not settings.socket.exists()
    assert not settings.manager_file.exists()


def test_shutdown_ends_the_manager_and_not_the_jobs(client, tmp_path):
    run = client.submit(flow(Step(name="a", code="import time; time.sleep(1.5); print('done')")), folder=tmp_path)["run"]
    pid = client.hello.pid
    time.sleep(0.5)
    client.shutdown()
    assert is_gone(pid) or not config.load().socket.exists()
    status = client.wait(run, timeout=60)  # a new manager is started by this
    assert status["state"] == "completed"
    assert status["steps"]["a"]["attempt"] == 1
    assert client.hello.pid != pid


def test_without_start_an_absent_manager_is_said(kale_home):
    with pytest.raises(ManagerUnavailable, match="No manager runs. Start it with: jupyter kale manager start"):
        Client.connect(start=False)


def test_a_stale_socket_and_record_of_a_dead_manager_are_replaced(client, kale_home):
    pid = client.hello.pid
    os.kill(pid, signal.SIGKILL)
    settings = config.load()
    assert settings.socket.exists()
    with Client.connect() as fresh:
        assert fresh.hello.pid != pid
        assert fresh.manager()["pid"] == manager_pid()


def test_a_manager_on_another_host_is_named(kale_home):
    settings = config.load()
    settings.manager_file.write_text(json.dumps({"host": "login7", "pid": 1}))
    with pytest.raises(ManagerUnavailable, match=r"Your manager runs on login7 \(pid 1\)"):
        Client.connect()
    settings.manager_file.unlink()
    (settings.state_dir / "manager.lock.4").write_text(json.dumps({"host": "login7", "pid": 1}))
    with pytest.raises(ManagerUnavailable, match="login7"):
        Client.connect()


def test_a_manager_of_another_version_is_refused_with_the_way_out(kale_home):
    settings = config.load()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(settings.socket))
    listener.listen()

    def greet():
        peer, _ = listener.accept()
        peer.sendall(protocol.encode({"hello": {"protocol": 99, "version": "9.9", "pid": 1, "host": "h", "started_at": ""}}))
        peer.close()

    thread = threading.Thread(target=greet)
    thread.start()
    with pytest.raises(ProtocolVersionError, match=r"Kale 9\.9 \(protocol 99\).*jupyter kale manager stop"):
        Client.connect()
    thread.join(10)
    listener.close()


def test_sockets_and_state_are_the_owners_alone(client, kale_home):
    settings = config.load()
    for path in (settings.socket_dir, settings.state_dir):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in (settings.socket, settings.database, settings.manager_file, settings.log_file):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


@pytest.mark.skipif(os.getuid() != 0, reason="connecting as another user needs root: run as root")
def test_another_user_is_hung_up_on(client):
    settings = config.load()
    settings.socket_dir.chmod(0o711)  # as if the folder did not protect it
    settings.socket.chmod(0o666)
    program = f"import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.connect({str(settings.socket)!r}); print(s.recv(100))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "b''\n"


def test_nonsense_on_the_wire_is_answered_and_harms_nobody(client):
    connection = Connection(config.load().socket, 10)
    for line in (b"\n", b"{}\n", b"[1]\n", b'{"id": 1, "op": "status", "run": 7}\n', b'{"id": 2, "op": "submit"}\n', b'{"id": 3, "op": "events", "since": "x"}\n', b"\xff\xfe\n"):
        connection._socket.sendall(line)
        assert connection.read(10)["ok"] is False
    connection.close()
    assert client.manager()["runs"] == 0


def test_threads_have_connections_of_their_own(client, tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: (found.append(client.manager()["pid"]), client.close())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [client.hello.pid] * 5


def test_event_stream_goes_on_over_a_killed_manager(client, tmp_path):
    steps = [Step(name=f"s{i}", code="import time; time.sleep(0.3)", after=(f"s{i - 1}",) if i else ()) for i in range(4)]
    run = client.submit(flow(*steps), folder=tmp_path)["run"]
    seen = []
    with client.events(0, run) as stream:
        while not seen or seen[-1].kind != "run" or seen[-1].state == "running":
            event = stream.next(30)
            assert event is not None, seen
            seen.append(event)
            if event.state == "running" and event.step in {"s1", "s2"}:
                os.kill(manager_pid(), signal.SIGKILL)
    assert seen[-1].state == "completed"
    assert [event.seq for event in seen] == sorted({event.seq for event in seen})
    completed = [event.step for event in seen if event.state == "completed" and event.step]
    assert completed == ["s0", "s1", "s2", "s3"]


@pytest.mark.parametrize("seed", [1, 2])
def test_kill_9_at_any_moment_loses_nothing_and_runs_nothing_twice(kale_home, tmp_path, seed):
    """Each step adds its name to a file; the manager is killed again and again, at random moments, from the submit on."""
    dice = random.Random(seed)
    width, length = 3, 10
    steps = [
        Step(
            name=f"s{row}_{column}",
            kind=StepKind.SHELL if row == 0 else StepKind.PYTHON,
            code=f"echo s{row}_{column} >> ran.txt" if row == 0 else f"open('ran.txt', 'a').write('s{row}_{column}\\n')",
            after=(f"s{row}_{column - 1}",) if column else (),
        )
        for row in range(width)
        for column in range(length)
    ]
    client = Client.connect()
    stop = threading.Event()
    kills = []

    def murder():
        while not stop.wait(dice.uniform(0.0, 0.5)):
            try:
                os.kill(manager_pid(), signal.SIGKILL)
                kills.append(1)
            except (OSError, ValueError, KeyError):
                continue

    run = client.submit(flow(*steps), folder=tmp_path)["run"]
    thread = threading.Thread(target=murder)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if client.status(run)["state"] != "running":
                    break
            except ManagerUnavailable:
                pass
            time.sleep(0.1)
            if len(kills) >= 15:
                stop.set()
    finally:
        stop.set()
        thread.join(20)
    status = client.wait(run, timeout=90)
    client.close()
    assert kills
    assert Counter((tmp_path / "ran.txt").read_text().split()) == Counter(step.name for step in steps)
    assert status["state"] == "completed"
    assert {step["attempt"] for step in status["steps"].values()} == {1}


def test_kill_9_of_manager_and_supervisor_together_runs_nothing_twice(kale_home, tmp_path, until):
    from kale_proxy.places import socket_dir

    client = Client.connect()
    steps = [Step(name=f"s{i}", code=f"import time; open('ran.txt', 'a').write('s{i}\\n'); time.sleep(0.4)") for i in range(6)]
    run = client.submit(flow(*steps), folder=tmp_path)["run"]
    until(lambda: (tmp_path / "ran.txt").exists(), "the first step")
    os.kill(manager_pid(), signal.SIGKILL)
    for record in (socket_dir() / "w").glob("*/serve.json"):
        os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)
    status = client.wait(run, timeout=90)
    client.close()
    ran = Counter((tmp_path / "ran.txt").read_text().split())
    assert status["state"] == "completed"
    for step in steps:  # what was under way when its supervisor died may be lost, and is then a second attempt, never a second copy
        assert ran[step.name] == status["steps"][step.name]["attempt"] <= 2


def test_a_disk_that_is_full_at_submit_is_said(client, tmp_path):
    if os.getuid() != 0:
        pytest.skip("a small file system needs root: run as root")
    disk = tmp_path / "small"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, check=False).returncode:
        pytest.skip("a small file system can't be mounted here: run as root outside of a container")
    try:
        with pytest.raises(OSError, match="No space"):
            (disk / "filler").write_bytes(b"x" * (1 << 20))
        with pytest.raises(SubmitError, match=r"The run's folder .* can't be written: No space left on device\."):
            client.submit(flow(Step(name="a", code="1")), folder=disk)
        assert client.runs() == []
    finally:
        subprocess.run(["umount", disk], check=True)
