"""Which job starts next on this machine."""

import pytest

from kale_magic.abc import Ticket
from kale_magic.executors._queue import PATIENCE_S, LocalQueue
from kale_magic.model.run import Demand

GB = 1 << 30


def ticket(number, cpus=1, memory=0, gpus=0, run=1):
    return Ticket(f"u{run}.{number}", "r", f"s{number}", (run, number), Demand(cpus, memory, gpus), None, None)


def queue(*tickets, cpus=4, memory_bytes=8 * GB, devices=()):
    made = LocalQueue(cpus, memory_bytes, devices)
    for item in tickets:
        made.add(item)
    return made


def names(tickets):
    return [item.address for item in tickets]


def test_jobs_start_in_order_as_far_as_they_fit():
    line = queue(ticket(0, 2), ticket(1), ticket(2), ticket(3))
    assert names(line.take(0)) == ["s0", "s1", "s2"]
    assert line.take(0) == []
    line.free("u1.1")
    assert names(line.take(0)) == ["s3"]


def test_runs_submitted_earlier_go_first_whatever_the_order_of_arrival():
    line = queue(ticket(5, run=2), ticket(3, run=2), ticket(9, run=1), cpus=1)
    assert names(line.take(0)) == ["s9"]
    line.free("u1.9")
    assert names(line.take(0)) == ["s3"]


def test_small_jobs_pass_a_big_one_but_not_for_ever():
    line = queue(ticket(0, 3), ticket(1, 4), *(ticket(n) for n in range(2, 200)))
    assert names(line.take(0)) == ["s0", "s2"]
    line.free("u1.2")
    assert names(line.take(PATIENCE_S - 1)) == ["s3"]
    line.free("u1.3")
    assert line.take(PATIENCE_S) == []  # now nothing passes the big one
    assert line.reason("u1.1") == "waits for 4 of 4 cores"
    assert line.reason("u1.4") == "waits behind `s1`, which has waited longer"
    line.free("u1.0")
    assert names(line.take(PATIENCE_S)) == ["s1"]
    line.free("u1.1")
    assert names(line.take(PATIENCE_S)) == ["s4", "s5", "s6", "s7"]


def test_memory_and_gpus_count_too():
    line = queue(ticket(0, memory=6 * GB), ticket(1, memory=4 * GB), ticket(2, gpus=1), ticket(3, gpus=1), devices=("0",))
    assert names(line.take(0)) == ["s0", "s2"]
    assert line.started["u1.2"].devices == ("0",)
    assert line.reason("u1.1") == "waits for 4GB of 8GB memory"
    assert line.reason("u1.3") == "waits for 1 of 1 gpus"
    line.free("u1.2")
    assert [share.devices for share in [line.started[item.uuid] for item in line.take(0)]] == [("0",)]


def test_a_removed_job_does_not_start_and_a_job_that_runs_is_counted():
    line = queue(ticket(0), ticket(1), cpus=1)
    line.remove("u1.0")
    line.remove("never there")
    line.occupy(ticket(7))
    assert line.take(0) == []
    line.free("u1.7")
    line.free("never there")
    assert names(line.take(0)) == ["s1"]
    assert line.used() == Demand(1, 0, 0)


def test_what_runs_already_is_counted_even_if_it_is_too_much():
    line = queue(ticket(1), cpus=2)
    line.occupy(ticket(5, 4))
    assert line.take(0) == []
    line.free("u1.5")
    assert names(line.take(0)) == ["s1"]


def test_the_queue_is_listed_in_the_order_of_starting():
    line = queue(ticket(2, 4), ticket(0), ticket(1))
    line.take(0)
    assert [(item.uuid, item.state) for item in line.lines()] == [("u1.0", "running"), ("u1.1", "running"), ("u1.2", "queued")]


@pytest.mark.parametrize("kinds", [1, 50])
def test_ten_thousand_jobs_are_handed_out_one_by_one(kinds):
    line = queue(*(ticket(n, memory=(n % kinds + 1) << 20) for n in range(10_000)), cpus=1)
    started = 0
    while taken := line.take(0.0):
        started += len(taken)
        line.free(taken[0].uuid)
    assert started == 10_000
