"""Pools whose allocation is a process of this machine: the same pilot, without a batch system."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kale_magic import Workflow, config, connect
from kale_magic.client import Client
from kale_magic.errors import PoolError, UsageError
from kale_magic.executors._pool_record import PoolBook


@pytest.fixture
def kale(kale_home):
    with connect() as connected:
        yield connected


def pool(kale, name="fast"):
    return next((line for line in kale.pools() if line["name"] == name), {})


def opened(kale, until, **asked):
    kale.open_pool("fast", "local", **{"cpus": 2, **asked})
    return until(lambda: (found := pool(kale)).get("state") == "idle" and found, "the pool")


def submit(kale, folder, *steps, **options):
    workflow = Workflow("eos", folder=folder)
    for name, code in steps:
        workflow.step(name, code, **options)
    return workflow.submit(client=kale.client, pool="fast", cache=False)


def pilot_pid(kale):
    return int(pool(kale)["native_id"])


SLEEP_ONCE = "import os, time\nopen('begun-' + os.environ['KALE_ATTEMPT'], 'w').close()\nif os.environ['KALE_ATTEMPT'] == '1': time.sleep(100)"


def test_a_pool_that_is_closed_while_its_process_starts_goes(kale, until):
    kale.open_pool("fast", "local", cpus=1)
    pid = pilot_pid(kale)
    kale.close_pool("fast")
    until(lambda: kale.pools() == [] and not Path(f"/proc/{pid}").exists(), "its end", 10)


def test_steps_of_a_pool_share_its_cores_and_end_with_it(kale, tmp_path, until):
    opened(kale, until)
    run = submit(kale, tmp_path, ("a", "import time; time.sleep(100)"), ("b", "import time; time.sleep(100)"), ("c", "1"))
    until(lambda: (states := run.states())["a"] == states["b"] == "running")
    assert run.status()["steps"]["c"]["reason"] == "waits for 1 of 2 cores"
    assert pool(kale)["nodes"][0]["used"] == 2
    pid = pilot_pid(kale)
    kale.close_pool("fast", now=True)
    assert run.wait(timeout=20) == "cancelled"
    until(lambda: kale.pools() == [] and not Path(f"/proc/{pid}").exists())
    assert not list(config.load().socket_dir.glob("q/*/s"))


def test_the_pilot_listens_to_its_owner_alone(kale, until):
    opened(kale, until)
    [sock] = config.load().socket_dir.glob("q/*/s")
    assert stat.S_IMODE(sock.parent.stat().st_mode) == 0o700


def test_a_killed_pilot_is_replaced_and_its_step_tried_again(kale, tmp_path, until):
    opened(kale, until)
    pid = pilot_pid(kale)
    run = submit(kale, tmp_path, ("a", SLEEP_ONCE))
    until((tmp_path / "begun-1").exists)
    os.kill(pid, signal.SIGKILL)
    assert run.wait(timeout=40) == "completed"
    assert run.status()["steps"]["a"]["attempt"] == 2
    assert pilot_pid(kale) != pid
    assert (tmp_path / ".kale" / "runs" / run.name / "steps" / "a" / "attempts" / "1").is_dir()


def test_a_step_that_someone_kills_fails_and_is_not_taken_for_lost(kale, tmp_path, until):
    opened(kale, until)
    run = submit(kale, tmp_path, ("a", "import os; os.kill(os.getpid(), 9)"))
    assert run.wait(timeout=30) == "failed"
    assert "SIGKILL" in run.status()["steps"]["a"]["reason"]


def test_the_next_manager_finds_the_pool_and_what_ran_meanwhile(kale, tmp_path, until):
    opened(kale, until)
    pid = pilot_pid(kale)
    run = submit(kale, tmp_path, ("a", "import time; time.sleep(1.5); x = 1"), ("b", "import time\nn = 1\ntime.sleep(100)"))
    until(lambda: run.states()["b"] == "running")
    os.kill(kale.client.manager()["pid"], signal.SIGKILL)
    until(lambda: run.states()["a"] == "completed")
    until(lambda: pool(kale).get("state") == "active")
    assert pilot_pid(kale) == pid
    assert (run.status()["steps"]["a"]["attempt"], run["b"].pull("n")) == (1, 1)
    run.cancel()
    assert run.wait(timeout=20) == "cancelled"


def test_a_pilot_that_no_pool_knows_is_ended_by_the_next_manager(kale, until):
    opened(kale, until)
    pid = pilot_pid(kale)
    kale.client.shutdown()
    book = PoolBook(config.load().state_dir)
    book.remove(book.load()[0])
    assert kale.pools() == []
    until(lambda: not Path(f"/proc/{pid}/exe").exists())


def test_steps_that_wait_at_the_end_of_the_time_go_into_the_next_allocation(kale, tmp_path, until):
    opened(kale, until, cpus=1, walltime="14s")
    first = pilot_pid(kale)
    run = submit(kale, tmp_path, ("a", "import time; time.sleep(5)"), ("b", "1"))
    until(lambda: "does not fit into" in run.status()["steps"]["b"]["reason"])
    assert run.states()["b"] == "queued"
    assert run.wait(timeout=40) == "completed"
    assert run.status()["steps"]["b"]["attempt"] == 1
    assert pilot_pid(kale) != first


def test_a_pool_whose_time_is_over_takes_no_steps_until_it_is_opened_again(kale, tmp_path, until):
    opened(kale, until, walltime="2s")
    until(lambda: pool(kale)["state"] == "ended")
    with pytest.raises(Exception, match=r"Pool fast is closed: its walltime was reached\. Open it again: %kale_pool open fast"):
        submit(kale, tmp_path, ("a", "1"))
    opened(kale, until)
    assert submit(kale, tmp_path, ("a", "1")).wait(timeout=20) == "completed"


def test_what_is_wrong_is_said_in_one_sentence(kale, tmp_path, until):
    with pytest.raises(PoolError, match=r"There is no pool 'fast'"):
        submit(kale, tmp_path, ("a", "1"))
    with pytest.raises(PoolError, match=r"There are no pools of executor 'pbs'\. There are of: slurm, local"):
        kale.open_pool("fast", "pbs")
    with pytest.raises(PoolError, match="Pool fast asks for 9999 cores; this machine has"):
        kale.open_pool("fast", "local", cpus=9999)
    with pytest.raises(UsageError, match="is no name of a pool"):
        kale.open_pool("../x", "local")
    opened(kale, until)
    with pytest.raises(PoolError, match="Pool FAST differs from pool fast only in case"):
        kale.open_pool("FAST", "local")
    with pytest.raises(UsageError, match="pool and an executor exclude each other"):
        Workflow("w").submit(pool="fast", executor="local")


def cli(*words, cwd, code=0):
    done = subprocess.run([sys.executable, "-m", "kale_magic.cli.main", *words], capture_output=True, text=True, cwd=cwd, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_the_command_line_opens_uses_lists_and_closes_a_pool(kale_home, tmp_path, until):
    assert "Pool fast is waiting" in cli("pool", "open", "fast", "--executor", "local", "--cpus", "1", cwd=tmp_path).stdout
    workflow = Workflow("eos")
    workflow.step("a", "print('in a pool')")
    workflow.to_yaml(tmp_path / "eos.yaml")
    cli("run", "eos.yaml", "--pool", "fast", cwd=tmp_path)
    [line] = json.loads(cli("pool", "list", "--json", cwd=tmp_path).stdout)
    assert (line["name"], line["state"], line["nodes"][0]["cpus"]) == ("fast", "idle", 1)
    assert "idle" in cli("pool", "list", cwd=tmp_path).stdout
    assert "excludes --executor" in cli("run", "eos.yaml", "--pool", "fast", "--executor", "local", cwd=tmp_path, code=2).stderr
    cli("pool", "close", "fast", cwd=tmp_path)
    until(lambda: "No pool is open" in cli("pool", "list", cwd=tmp_path).stdout)
    assert "There is no pool 'fast'" in cli("pool", "close", "fast", cwd=tmp_path, code=1).stderr
    with Client.connect() as client:
        assert client.pools() == []


def test_the_magics_open_use_list_and_close_a_pool(notebook_runner, cell_text):
    notebook = notebook_runner([
        "%load_ext kale_magic",
        "%kale_pool",
        "%kale_pool open fast --executor local --cpus 1 --walltime 00:10:00",
        "%%kale_step a\n1",
        "%kale_submit --pool fast --wait",
        "%kale_pool list",
        "%%kale_submit b --pool fast\n2", "%kale_wait", "_.status()['steps']['b']['executor']", "%kale_rerun b --wait", "_.status()['steps']['b']['executor']",
        "%kale_pool close fast",
    ])  # fmt: skip
    said = [cell_text(cell) for cell in notebook.cells]
    assert "No pool is open" in said[1]
    assert "Pool fast is waiting" in said[2]
    assert "completed" in said[4]
    assert "idle" in said[5]
    assert said[8].strip() == said[10].strip() == "'pool:fast'"
    assert "Pool fast closes." in said[11]


def test_mistakes_of_the_magic_are_one_line(notebook_runner, cell_text):
    notebook = notebook_runner(["%load_ext kale_magic\n%kale_workflow w", "%kale_pool opne x", "%kale_pool open", "%%kale_step a\n1\n", "%kale_submit --pool p --executor local"], allow_errors=True)
    said = [cell_text(cell) for cell in notebook.cells]
    assert "Did you mean open?" in said[1]
    assert "needs the name of a pool" in said[2]
    assert "exclude each other" in said[4]
