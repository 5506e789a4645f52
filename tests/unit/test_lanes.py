"""How points are shared out among the jobs of a sweep, and what becomes of them when one ends; no process, no queue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from kale_magic.abc import Environment, Ticket
from kale_magic.executors._lane import GIVEN, Group, Lane
from kale_magic.executors._lane_shares import ShareKeeper
from kale_magic.manager.cache_points import group, keys_of, since, spans, words
from kale_magic.model.run import Demand, Report, ReportKind
from kale_magic.model.step import Axis, Step
from kale_proxy.spec import JobSpec

if TYPE_CHECKING:
    from pathlib import Path


def ticket(folder: Path, point: int, *, attempt: int = 1, after: tuple[str, ...] = ()) -> Ticket:
    uuid = f"{point:x}{attempt:x}".rjust(32, "0")
    spec = JobSpec(run="r", step="fit", point=point, attempt=attempt, uuid=uuid, folder=f"{folder}/fit/{point}", cwd=str(folder), kind="python", code="1", params={"n": str(point), "k": "7"})
    return Ticket(uuid, "r", f"fit[{point}]", (1, point), Demand(), lambda: spec, lambda: Environment("python", ()), "fit", point, attempt, after=after, shares_kernel=True)


def group_of(tickets: list[Ticket]) -> Group:
    made = Group(tickets[0], is_far=True, is_shared_out=True)
    made.tickets = made.waiting = {item.uuid: item for item in tickets}
    made.tickets = dict(made.tickets)
    return made


def numbers(lane: Lane, made: Group, chosen: list[str], again: list[Ticket]) -> list[int]:
    return [item.point or 0 for item in again] + [made.tickets[uuid].point or 0 for uuid in chosen]


def test_shares_are_equal_and_what_was_cut_off_before_goes_first(tmp_path: Path) -> None:
    made = group_of([ticket(tmp_path, point, attempt=2 if point == 9 else 1) for point in range(10)])
    shares = []
    for _ in range(3):
        lane = made.new_lane()
        made.asked = None
        shares.append(numbers(lane, made, *made.share(lane, 3)))
    assert [len(share) for share in shares] == [4, 3, 3]
    assert shares[0][0] == 9
    assert sorted(point for share in shares for point in share) == list(range(10))
    assert not made.waiting


def test_fewer_points_than_jobs_are_one_each_and_points_that_wait_for_other_steps_go_apart(tmp_path: Path) -> None:
    made = group_of([ticket(tmp_path, 0, after=("a",)), ticket(tmp_path, 1, after=("a",)), ticket(tmp_path, 2)])
    lane = made.new_lane()
    assert lane.ticket.after == ("a",)
    assert numbers(lane, made, *made.share(lane, 8)) == [0]
    other = made.new_lane()
    assert numbers(other, made, *made.share(other, 8)) == [1]
    last = made.new_lane()
    assert (last.ticket.after, numbers(last, made, *made.share(last, 8))) == ((), [2])


def test_a_kernel_is_told_what_differs_from_what_the_kernels_before_the_manager_was_killed_began_with(tmp_path: Path) -> None:
    (tmp_path / "fit").mkdir()
    (tmp_path / "fit" / "job-1.json").write_text(json.dumps({"params": {"n": "0", "k": "7"}}))
    made = Group(ticket(tmp_path, 5))
    assert made.point(ticket(tmp_path, 5)).params == {"n": "5"}
    assert made.point(ticket(tmp_path, 0)).params == {}


class _Queue:
    def __init__(self) -> None:
        self.known: dict[str, str | None] = {}
        self.cancelled: list[str] = []

    def represent(self, uuid: str, job: str | None) -> None:
        self.known[uuid] = job

    def cancel(self, uuid: str) -> None:
        self.cancelled.append(uuid)


def lost(lane: Lane, report: ReportKind, data: dict[str, Any], *, tmp_path: Path) -> dict[int, tuple[str, str]]:
    """What is told of each point of a job that ended; of those to be run by another, nothing."""
    keeper = ShareKeeper(cast("Any", _Queue()), 2)
    found = {}
    for item in lane.backlog.values():
        if (fate := keeper.fate(lane, item, Report(report, lane.uuid, data))) is not None:
            found[item.point or 0] = (fate.kind.value, str(fate.data.get("state") or fate.data.get("reason")))
    return found


@pytest.fixture
def lane(tmp_path: Path) -> Lane:
    """A job that is at the second of its three points."""
    made = group_of([ticket(tmp_path, point) for point in range(4)])
    lane = made.new_lane()
    lane.backlog = {item.uuid: item for item in made.tickets.values() if item.point}
    lane.count_begun, lane.current = 2, ticket(tmp_path, 1).uuid
    return lane


TIMEOUT = {"state": "failed", "reason": "its walltime was reached", "is_timeout": True}


def test_a_job_that_is_lost_takes_with_it_the_point_that_it_was_at(lane: Lane, tmp_path: Path) -> None:
    assert lost(lane, ReportKind.LOST, {"reason": "its node failed"}, tmp_path=tmp_path) == {1: ("lost", "its node failed")}


def test_a_job_whose_time_is_over_fails_its_first_point_alone_and_loses_a_later_one(lane: Lane, tmp_path: Path) -> None:
    found = lost(lane, ReportKind.ENDED, TIMEOUT, tmp_path=tmp_path)
    assert found == {1: ("lost", "the time of its job was over, in which 1 points had ended before it began")}
    lane.count_begun = 1
    assert lost(lane, ReportKind.ENDED, TIMEOUT, tmp_path=tmp_path) == {1: ("ended", "failed")}


def test_a_job_that_is_cancelled_by_hand_cancels_all_that_it_had(lane: Lane, tmp_path: Path) -> None:
    data = {"state": "cancelled", "reason": "cancelled in Slurm's queue, not by Kale"}
    assert lost(lane, ReportKind.ENDED, data, tmp_path=tmp_path) == {1: ("ended", "cancelled"), 2: ("ended", "cancelled"), 3: ("ended", "cancelled")}
    lane.is_killed = True  # by us, for the point that it was at
    assert lost(lane, ReportKind.ENDED, data, tmp_path=tmp_path) == {1: ("ended", "cancelled")}


def test_a_job_that_never_came_to_a_point_fails_all_and_one_that_handed_back_fails_none(lane: Lane, tmp_path: Path) -> None:
    lane.count_begun, lane.current = 0, ""
    failed = {"state": "failed", "reason": "`module load x` failed"}
    assert set(lost(lane, ReportKind.ENDED, failed, tmp_path=tmp_path)) == {1, 2, 3}
    assert lost(lane, ReportKind.ENDED, {"state": "completed"}, tmp_path=tmp_path) == {}


def test_what_a_job_wrote_is_taken_up_once_whoever_read_it(lane: Lane, tmp_path: Path) -> None:
    (tmp_path / "fit").mkdir()
    path = tmp_path / "fit" / "points-1.jsonl"
    path.write_text('{"claim": {}}\n{"begin": 2, "uuid": "u", "attempt": 1, "at": "x"}\n{"end": 2, "uuid": "u", "attempt": 1, "result": {"state": "completed"}}\n{"beg')
    one, other = lane.fetch(), lane.fetch()
    assert lane.absorb(*one, 1.0) == [("u", {"state": "completed"})]
    assert lane.absorb(*other, 1.0) == []
    with path.open("a") as stream:
        stream.write('in": 9, "uuid": "cut off by a full disk\n{"beg')  # as its next line begins
    assert lane.read(1.5) == []
    assert lane.current == ""
    with path.open("a") as stream:
        stream.write('in": 3, "uuid": "v", "attempt": 1, "at": "y"}\n')
    assert lane.read(2.0) == []
    assert lane.current == "v"
    assert not (tmp_path / "fit" / GIVEN).exists()


# -- the words of the cache ---------------------------------------------------------------------------------------


def test_points_are_the_same_by_their_parameters_and_types() -> None:
    one = Step(name="s", code="", params={"k": 1}, each=(Axis("n", (1, 2), "[1, 2]"),))
    other = Step(name="s", code="", params={"n": 2}, each=(Axis("k", (1,), "[1]"),))
    assert keys_of(one)[1] == keys_of(other)[0]
    third = Step(name="s", code="", each=(Axis("n", (1, 1.0, True), "[1, 1.0, True]"),))
    assert len(set(keys_of(third))) == 3


def test_thousands_of_points_are_told_in_a_line() -> None:
    step = Step(name="s", code="", each=(Axis("n", tuple(range(9000)), "range(9000)"),))
    reasons = {point: "never ran" if point < 5000 else "did not complete" for point in range(0, 9000, 2)}
    cached = dict.fromkeys(range(1, 9000, 2), "eos-1")
    assert len(words(step, reasons, cached)) < 250
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert spans(range(0, 100, 2)).endswith("and 44 more")
    assert group({3: "a", 1: "b", 2: "a"}) == {"b": [1], "a": [2, 3]}
    assert since(["b", "a", "b", "c", "d"]) == "since a, b and 2 more runs"
