"""What every store keeps its word on; and what the one in a file does besides."""

import os
import sqlite3
import subprocess
import sys

import pytest

from kale_magic.abc import Batch
from kale_magic.errors import StoreError
from kale_magic.manager.store import SqliteStore
from kale_magic.model.events import Event
from kale_magic.model.run import Job, Phase, RunRecord
from kale_magic.model.states import RunState, StepState


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    opened = SqliteStore(":memory:" if request.param == "memory" else tmp_path / "kale.db")
    yield opened
    opened.close()


def record(name="eos-1", **changes):
    values = {
        "id": name, "workflow": "eos", "executor": "local", "folder": f"/w/.kale/runs/{name}", "workflow_folder": "/w",
        "python": "/python", "environment": "", "seed": "ab" * 16, "token": f"token-{name}",
        "submitted_at": "2026-01-01T00:00:00.000Z", "body": {"steps": [1, "é"]},
    }  # fmt: skip
    return RunRecord(**{**values, **changes})


def add(store, name="eos-1", jobs=(), **changes):
    run = record(name, **changes)
    store.write(Batch(new_runs=[run], jobs=[(run, job) for job in jobs]))
    return run


def event(seq, run="eos-1", **changes):
    return Event(**{"seq": seq, "run": run, "step": "fit", "point": None, "at": "now", "kind": "state", "state": "queued", "data": {"n": seq}, **changes})


def test_a_new_store_is_empty(store):
    assert store.live_runs() == []
    assert store.run(None) is None
    assert store.run("eos-1") is None
    assert store.list_runs(None, 10) == []
    assert (store.first_seq(), store.last_seq()) == (1, 0)
    assert store.events(0, None, 10) == []


def test_a_run_comes_back_as_it_was(store):
    run = add(store)
    assert run.number == 1
    assert store.run("eos-1") == run
    assert store.run_of_token("token-eos-1") == run
    assert store.run_of_token("another") is None


def test_jobs_come_back_as_they_were_and_in_order(store):
    jobs = [
        Job(0, "relax", None, StepState.COMPLETED, outputs=("x", "y"), exit_code=0, started_at="a", ended_at="b"),
        Job(1, "fit", 0, StepState.RUNNING, 2, "u" * 32, Phase.SUBMITTED, "why", live="/live", native_id="7", losses=1, is_cancel_asked=True),
        Job(2, "fit", 1, StepState.FAILED, error={"ename": "E", "traceback": ["\x1b[31mé"]}, source="/s"),
    ]
    run = add(store, jobs=jobs)
    assert store.jobs(run) == jobs


def test_a_changed_job_replaces_the_old(store):
    job = Job(0, "fit", None)
    run = add(store, jobs=[job])
    job.state, job.phase = StepState.QUEUED, Phase.SUBMITTING
    store.write(Batch(jobs=[(run, job)], is_intent=True))
    assert [(found.state, found.phase) for found in store.jobs(run)] == [(StepState.QUEUED, Phase.SUBMITTING)]


def test_live_runs_are_those_that_have_not_ended(store):
    first, second = add(store, "a"), add(store, "b")
    first.state, first.ended_at, first.is_cancel_asked = RunState.CANCELLED, "then", True
    store.write(Batch(runs=[first]))
    assert store.live_runs() == [second]
    assert store.run("a") == first
    assert store.run(None) == second


def test_runs_are_listed_newest_first_without_their_bodies(store):
    first = add(store, "a")
    add(store, "b")
    add(store, "c", workflow_folder="/elsewhere")
    first.state, first.counts = RunState.FAILED, {"failed": 1, "completed": 3}
    store.write(Batch(runs=[first]))
    found = store.list_runs("/w", 10)
    assert [(run.id, run.counts, run.body) for run in found] == [("b", {}, {}), ("a", {"failed": 1, "completed": 3}, {})]
    assert [run.id for run in store.list_runs(None, 2)] == ["c", "b"]


def test_earlier_runs_are_those_of_the_workflow_in_its_folder(store):
    add(store, "a")
    add(store, "b", workflow="other")
    add(store, "c")
    add(store, "d", workflow_folder="/elsewhere")
    assert [run.id for run in store.earlier_runs("eos", "/w", 10)] == ["c", "a"]
    assert [run.id for run in store.earlier_runs("eos", "/w", 1)] == ["c"]


def test_runs_that_have_a_step_are_found_by_workflow_and_folder(store):
    fit, other = Job(0, "fit", None, StepState.WAITING), Job(1, "other", None, StepState.WAITING)
    add(store, "a", [fit, other])
    add(store, "b", [other])
    add(store, "c", [fit], workflow="md")
    add(store, "d", [fit], workflow_folder="/w/below")
    add(store, "e", [fit], workflow_folder="/with")

    def found(workflow=None, folder=None, is_below=False, limit=10):
        return store.runs_with("fit", workflow, folder, is_below=is_below, limit=limit)

    assert found() == ["e", "d", "c", "a"]
    assert found(limit=2) == ["e", "d"]
    assert found("eos") == ["e", "d", "a"]
    assert found(folder="/w") == ["c", "a"]
    assert found(folder="/w", is_below=True) == ["d", "c", "a"]
    assert found("eos", "/w", is_below=True) == ["d", "a"]
    assert found(folder="/", is_below=True) == ["e", "d", "c", "a"]


def test_events_are_replayed_after_a_number_and_of_one_run(store):
    store.write(Batch(events=[event(1), event(2, "b"), event(3)]))
    store.write(Batch(events=[event(4, "b")]))
    assert store.events(1, None, 10) == [event(2, "b"), event(3), event(4, "b")]
    assert store.events(0, "eos-1", 10) == [event(1), event(3)]
    assert store.events(0, None, 2) == [event(1), event(2, "b")]
    assert (store.first_seq(), store.last_seq()) == (1, 4)


def test_a_batch_is_written_whole_or_not_at_all(store):
    run = add(store)
    with pytest.raises(StoreError):
        store.write(Batch(new_runs=[record("b"), record("eos-1")], events=[event(1)]))
    assert store.run("b") is None
    assert store.last_seq() == 0
    store.write(Batch(jobs=[(run, Job(0, "fit", None))]))  # and goes on afterwards
    assert len(store.jobs(run)) == 1


def test_the_same_environment_is_kept_once(store):
    key = store.save_environment({"PATH": "/bin", "ODD": "a\udcffb"})
    assert store.save_environment({"ODD": "a\udcffb", "PATH": "/bin"}) == key
    assert store.environment(key) == {"PATH": "/bin", "ODD": "a\udcffb"}
    assert store.save_environment({"PATH": "/usr/bin"}) != key


def test_environments_of_ended_runs_are_not_kept(store):
    key = store.save_environment({"SECRET": "1"})
    run = add(store, environment=key)
    other = store.save_environment({"SECRET": "2"})
    assert store.environment(key) == {"SECRET": "1"}
    add(store, "b", environment=other)
    run.state = RunState.COMPLETED
    store.write(Batch(runs=[run]))
    store.save_environment({"SECRET": "3"})
    with pytest.raises(StoreError, match="missing"):
        store.environment(key)
    assert store.environment(other) == {"SECRET": "2"}


def test_old_events_are_dropped_but_their_numbers_stay_used(tmp_path):
    store = SqliteStore(tmp_path / "k.db", keep_events=10)
    for seq in range(1, 36):
        store.write(Batch(events=[event(seq)]))
    assert store.last_seq() == 35
    assert 10 <= len(store.events(0, None, 100)) <= 20
    assert store.first_seq() == store.events(0, None, 1)[0].seq
    store.close()


def test_everything_is_there_after_reopening(tmp_path):
    store = SqliteStore(tmp_path / "k.db")
    run = add(store, jobs=[Job(0, "fit", None)])
    store.write(Batch(events=[event(1)]))
    store.close()
    store = SqliteStore(tmp_path / "k.db")
    assert store.live_runs() == [run]
    assert store.jobs(run) == [Job(0, "fit", None)]
    assert store.last_seq() == 1
    store.close()


def test_what_was_written_survives_kill_9(tmp_path):
    program = """
import os, signal, sys
from kale_magic.abc import Batch
from kale_magic.manager.store import SqliteStore
from kale_magic.model.events import Event
store = SqliteStore(sys.argv[1])
for seq in range(1, 501):
    store.write(Batch(events=[Event(seq, "r", None, None, "", "note", "", {})]))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "k.db"], timeout=60, check=False)
    assert done.returncode == -9
    store = SqliteStore(tmp_path / "k.db")
    assert store.last_seq() == 500
    store.close()


def test_a_second_process_is_kept_out_with_a_sentence(tmp_path):
    store = SqliteStore(tmp_path / "k.db")
    with pytest.raises(StoreError, match="Another process has the manager's store .*k.db open"):
        SqliteStore(tmp_path / "k.db")
    store.close()
    SqliteStore(tmp_path / "k.db").close()


def test_no_shared_memory_file_is_made(tmp_path):
    store = SqliteStore(tmp_path / "k.db")
    add(store)
    assert not (tmp_path / "k.db-shm").exists()
    store.close()


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "k.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"k\.db can't be used"):
        SqliteStore(tmp_path / "k.db")


def test_a_store_of_a_later_version_is_left_alone(tmp_path):
    SqliteStore(tmp_path / "k.db").close()
    with sqlite3.connect(tmp_path / "k.db") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreError, match="later version"):
        SqliteStore(tmp_path / "k.db")


@pytest.mark.skipif(os.getuid() != 0 or not os.path.exists("/usr/bin/mount"), reason="needs a small file system: run as root")
def test_a_full_disk_loses_nothing_and_is_said(tmp_path):
    disk = tmp_path / "small"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small file system can't be mounted here: run as root outside of a container")
    try:
        store = SqliteStore(disk / "k.db")
        run = add(store)
        big = [event(seq, data={"x": "y" * 10_000}) for seq in range(1, 200)]
        with pytest.raises(StoreError, match="Make room"):
            store.write(Batch(jobs=[(run, Job(0, "fit", None))], events=big))
        assert store.jobs(run) == []
        store.write(Batch(jobs=[(run, Job(0, "fit", None))], events=[event(1)]))
        assert store.last_seq() == 1
        store.close()
    finally:
        subprocess.run(["umount", disk], check=True)
