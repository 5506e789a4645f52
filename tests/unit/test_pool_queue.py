"""Which job goes into which node of a pool, what waits and why; and how pools are stored, begun and spoken of."""

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from kale_magic.abc import Environment, Ticket
from kale_magic.api.pools import open_pool
from kale_magic.errors import SubmitError, UsageError
from kale_magic.executors._pool_launch import failure, launch_of
from kale_magic.executors._pool_pilots import pilot_script
from kale_magic.executors._pool_queue import MARGIN_S, PoolQueue, Room
from kale_magic.executors._pool_record import PoolBook, PoolRecord
from kale_magic.executors._pool_words import demand_of
from kale_magic.executors._queue import HELD, PATIENCE_S
from kale_magic.executors.slurm_text import read_time
from kale_magic.model.resources import Resources
from kale_magic.model.run import Demand
from kale_magic.model.step import Step
from kale_magic.render.pools import pools_text


def ticket(number, cpus=1, walltime_s=None, **more):
    return Ticket(f"u{number}", "r", f"s{number}", (1, number), Demand(cpus, **more), None, None, resources=Resources(walltime_s=walltime_s))


def queue(*tickets, **rooms):
    made = PoolQueue()
    for item in tickets:
        made.add(item)
    for name, cpus in rooms.items():
        made.open_room(name, Room(cpus))
    return made


def taken(made, left_s=None, now=0.0):
    return [item.uuid for item in made.take(now, left_s)]


def test_jobs_go_in_order_to_the_first_node_that_has_room():
    made = queue(*(ticket(n) for n in range(5)), a=2, b=2)
    assert taken(made) == ["u0", "u1", "u2", "u3"]
    assert [made.started[f"u{n}"].node for n in range(4)] == ["a", "a", "b", "b"]
    assert made.reason("u4", None) == "waits for 1 of 4 cores"
    made.free("u2")
    assert taken(made) == ["u4"]
    assert made.started["u4"].node == "b"


def test_nothing_is_started_where_no_node_is_joined():
    assert taken(queue(ticket(0))) == []


def test_a_job_goes_back_to_its_place_in_the_line():
    made = queue(ticket(0), ticket(1), ticket(2), a=1)
    taken(made)
    made.add(made.free("u0"))
    assert list(made.waiting) == ["u0", "u1", "u2"]


def test_a_job_that_is_too_long_for_what_is_left_waits_and_lets_others_pass():
    made = queue(ticket(0, walltime_s=100), ticket(1, walltime_s=10), ticket(2), a=3)
    assert taken(made, left_s=50.0) == ["u1", "u2"]
    assert made.reason("u0", 50.0) == "does not fit into the 00:00:50 that are left of it; waits for its next allocation"
    assert not made.is_stuck(50.0)
    made.free("u1")
    made.free("u2")
    assert made.is_stuck(50.0)
    assert taken(made, left_s=None) == ["u0"]


def test_nothing_is_started_right_before_the_end():
    assert taken(queue(ticket(0), a=1), left_s=MARGIN_S - 1) == []


def test_small_jobs_pass_a_big_one_for_a_while_only():
    made = queue(ticket(0, 2), ticket(1, 4), ticket(2), a=4)
    assert taken(made, now=0.0) == ["u0", "u2"]
    made.add(ticket(3))
    assert taken(made, now=PATIENCE_S + 1) == []
    made.free("u0")
    made.free("u2")
    assert taken(made, now=PATIENCE_S + 2) == ["u1"]


def test_held_jobs_do_not_start():
    made = queue(ticket(0), a=1)
    assert made.hold("u0")
    assert taken(made) == []
    assert made.reason("u0", None) == HELD
    assert made.release("u0")
    assert taken(made) == ["u0"]


def test_gpus_are_given_out_by_name_and_memory_is_kept():
    made = queue(ticket(0, gpus=1), ticket(1, gpus=1), ticket(2, memory_bytes=2 << 30))
    made.open_room("a", Room(8, 1 << 30, ("3", "5")))
    assert taken(made) == ["u0", "u1"]
    assert (made.started["u0"].devices, made.started["u1"].devices) == (("3",), ("5",))
    assert made.reason("u2", None).startswith("never fits: it asks for 2GB of memory, and a node of it has 1024MB")


def test_jobs_of_an_earlier_life_count_once_their_node_is_known():
    made = queue(a=1)
    made.occupy(ticket(0), None)
    made.occupy(ticket(0), "a")
    made.add(ticket(1))
    assert taken(made) == []
    made.free("u0")
    assert taken(made) == ["u1"]


RECORD = PoolRecord(
    name="fast", executor="slurm", resources=Resources(nodes=2, cpus=4, walltime_s=600, native=("#SBATCH --exclusive",)), python="/py",
    environ={"A": "1"}, opened_at="now", pilot="ab" * 16,
)  # fmt: skip


def test_a_record_is_read_back_as_it_was_and_is_the_owners_alone(tmp_path):
    book = PoolBook(tmp_path)
    book.save(RECORD)
    assert book.load() == [RECORD]
    file = tmp_path / "pools" / "fast.json"
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)


def test_a_record_that_is_no_record_is_passed_over_and_left_there(tmp_path, caplog):
    book = PoolBook(tmp_path)
    book.save(RECORD)
    (tmp_path / "pools" / "bad.json").write_text(json.dumps({"name": "bad"}))
    assert [record.name for record in book.load()] == ["fast"]
    assert "bad.json can't be read" in caplog.text
    assert (tmp_path / "pools" / "bad.json").exists()


def test_names_of_allocations_tell_homes_apart(tmp_path):
    one, other = PoolBook(tmp_path / "a"), PoolBook(tmp_path / "b")
    assert one.new_pilot().startswith(one.tag)
    assert one.tag != other.tag
    assert len(one.new_pilot()) == 32


def test_the_script_of_a_pool_is_one_process_on_each_node():
    text = pilot_script(RECORD, Path("/tmp/k/q/x"), Path("/home/pools/fast.log"))
    assert "#SBATCH --nodes=2\n" in text
    assert "#SBATCH --exclusive\n" in text
    assert f"#SBATCH --job-name=kale-pool-{'ab' * 16}\n" in text
    assert "exec srun --nodes=2 --ntasks=2 --ntasks-per-node=1 --overlap" in text
    single = pilot_script(replace(RECORD, resources=Resources(cpus=1)), Path("/tmp/k/q/x"), Path("/l"))
    assert single.endswith("exec /py -m kale_proxy pilot --dir /tmp/k/q/x\n")


def test_a_plain_environment_needs_no_shell_and_equal_ones_share_a_supervisor():
    plain = Environment("/py", (("A", "1"),))
    assert launch_of(plain).argv == ("/py", "-m", "kale_proxy", "serve", "--in-pool", "--dir")
    assert launch_of(plain) == launch_of(replace(plain))
    assert launch_of(plain).key != launch_of(replace(plain, environ=(("A", "2"),))).key
    with_lines = launch_of(replace(plain, setup=("source 'a b'",), env=(("B", "$A"),)))
    assert with_lines.argv[:4] == ("bash", "--noprofile", "--norc", "-c")
    assert 'export B="$A"' in with_lines.argv[4]


def test_a_supervisor_that_did_not_start_is_told_in_one_sentence():
    assert failure("no such file\nkale-line: source x\n", 97) == "`source x` failed: no such file."
    assert "in time" in failure("", None)


@pytest.mark.parametrize(("text", "seconds"), [("1-02:00:00", 93600), ("10:00", 600), ("0:09", 9), ("UNLIMITED", None), ("INVALID", None)])
def test_slurms_time_left_is_read(text, seconds):
    assert read_time(text) == seconds


class Asked:
    def open_pool(self, name, executor, resources):
        return {"name": name, "executor": executor, "resources": resources}


def test_words_become_resources():
    asked = open_pool(Asked(), "fast", None, nodes=2, memory="4GB", walltime="00:10:00", native=())
    assert asked == {"name": "fast", "executor": "slurm", "resources": {"nodes": 2, "memory_bytes": 4 << 30, "walltime_s": 600}}
    with pytest.raises(UsageError, match="A pool has no option 'bogus'"):
        open_pool(Asked(), "fast", bogus=1)


def test_the_table_of_pools_has_state_nodes_and_time_left():
    line = {"name": "fast", "state": "active", "executor": "slurm", "native_id": "7", "nodes": [{"node": "node1", "cpus": 4, "used": 1}], "time_left_s": 61, "running": ["r/a", "r/b", "r/c", "r/d"], "waiting": 2, "reason": ""}
    text = pools_text([line])
    assert "node1" in text
    assert "1 of 4" in text
    assert "00:01:01" in text
    assert "r/a, r/b, r/c and 1 more" in text
    assert "No pool is open" in pools_text([])


def asking(**asked):
    return Step(name="s", code="1", resources=Resources(**asked))


def test_before_the_nodes_are_there_what_was_asked_for_counts():
    assert demand_of(RECORD, {}, 4, asking(cpus=4)).cpus == 4
    record = replace(RECORD, resources=Resources(cpus=4))
    with pytest.raises(SubmitError, match="Step `s` asks pool fast for 5 cores, and a node of it has 4"):
        demand_of(record, {}, 4, asking(cpus=5))
    by_line = replace(RECORD, resources=Resources(native=("#SBATCH --exclusive",)))
    assert demand_of(by_line, {}, 1, asking(cpus=64)).cpus == 64


def test_a_step_needs_one_node_that_is_big_enough():
    rooms = {"a": Room(2), "b": Room(8)}
    assert demand_of(RECORD, rooms, 1, asking(ntasks=4, cpus=2)).cpus == 8
    with pytest.raises(SubmitError, match="2 nodes, and a step in a pool runs on one"):
        demand_of(RECORD, rooms, 1, asking(nodes=2))
