"""What is concluded of a job from Slurm's word and its files; no Slurm, no files."""

import pytest

from kale_magic.abc import Ticket
from kale_magic.executors._slurm_batch import Batch, batches
from kale_magic.executors._slurm_job import Again, Job, Stage, decide, note
from kale_magic.executors._slurm_look import Look
from kale_magic.executors.slurm_text import Line
from kale_magic.model.resources import Resources
from kale_magic.model.run import Demand, Report
from kale_proxy.record import ENDED_BY_SIGTERM

GRACE_S = 60.0


def ticket(uuid="ab", point=None, step="fit", **changes):
    return Ticket(uuid, "r", step, (1, point or 0), Demand(), lambda: None, lambda: None, step, point, **changes)


def line(state, reason="None", **changes):
    return Line(**{"job_id": "7", "tasks": None, "name": "kale-ab", "state": state, "reason": reason, "starts_at": None, "node": "node1", **changes})


class Case:
    """A job that is with Slurm, and a clock."""

    def __init__(self, **changes):
        self.job = Job(ticket(**changes), Stage.SENT)
        self.job.batch = Batch("kale-ab", {None: self.job.ticket}, native_id="7")
        self.now = 1000.0

    def see(self, said, found=None, *, after_s=0.0, is_waiting=False):
        self.now += after_s
        note(self.job, said, self.now)
        return decide(self.job, found or Look(), self.now, grace_s=GRACE_S, is_waiting=is_waiting)


def ended(verdict):
    assert isinstance(verdict, Report), verdict
    return verdict.kind.value, verdict.data.get("state"), verdict.data.get("reason")


def result(state="completed", **changes):
    return Look(result={"state": state, "reason": "", **changes}, is_claimed=True)


@pytest.mark.parametrize("said", [line("COMPLETED"), line("COMPLETING"), line("FAILED"), None, line("NEW_STATE")])
def test_a_result_counts_whatever_slurm_says(said):
    verdict = Case().see(said, result())
    assert ended(verdict) == ("ended", "completed", "")
    assert verdict.data["native_id"] == "7"


def test_a_job_that_slurm_has_is_left_alone():
    case = Case()
    for state in ("PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "A_STATE_OF_TOMORROW"):
        assert case.see(line(state), after_s=1000) is None


def test_a_job_missing_once_or_for_a_moment_is_not_gone():
    case = Case()
    claimed = Look(is_claimed=True)
    assert case.see(None, claimed) is None
    assert case.see(None, claimed, after_s=GRACE_S - 1) is None
    assert case.see(line("RUNNING"), claimed, after_s=2) is None
    assert case.see(None, claimed, after_s=2) is None  # the grace begins anew
    assert case.see(None, claimed, after_s=GRACE_S - 1) is None
    assert ended(case.see(None, claimed, after_s=2)) == ("lost", None, "Slurm no longer knows it, and it left no result")


def test_one_look_after_a_long_pause_is_not_enough():
    assert Case().see(None, Look(is_claimed=True), after_s=10 * GRACE_S) is None


def test_a_job_that_slurm_forgot_before_it_began_is_submitted_again_some_times():
    case = Case()
    for number in range(3):
        case.see(None)
        verdict = case.see(None, after_s=GRACE_S + 1)
        assert verdict == Again("Slurm forgot it")
        case.job.tries = number + 1
        case.job.missed, case.job.missing_since = 0, None
    case.see(None)
    assert ended(case.see(None, after_s=GRACE_S + 1)) == ("lost", None, "it never began: Slurm forgot it")


def test_completed_without_a_result_is_lost_and_no_success():
    case = Case()
    assert case.see(line("COMPLETED"), Look(is_claimed=True)) is None  # a network disk may show the result late
    assert ended(case.see(line("COMPLETED"), Look(is_claimed=True), after_s=11)) == ("lost", None, "Slurm says COMPLETED, and it left no result")


def test_a_script_that_never_reached_the_step_failed_with_its_last_words():
    case = Case()
    found = Look(log="bash: /opt/python: No such file or directory")
    case.see(line("FAILED"), found)
    said = "its job script ended before the step began: bash: /opt/python: No such file or directory"
    assert ended(case.see(line("FAILED"), found, after_s=11)) == ("ended", "failed", said)


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [("NODE_FAIL", "lost", "its node failed"), ("PREEMPTED", "lost", "preempted"), ("TIMEOUT", "ended", "walltime of 00:01:00"), ("OUT_OF_MEMORY", "ended", "more memory")],
)
def test_what_slurm_did_to_a_job_is_said(state, kind, words):
    case = Case(resources=Resources(walltime_s=60))
    case.see(line(state), Look(is_claimed=True))
    found, _, reason = ended(case.see(line(state), Look(is_claimed=True), after_s=11))
    assert found == kind
    assert words in reason


def test_a_result_of_a_signal_waits_for_slurms_word_why():
    case = Case()
    by_signal = result("cancelled", reason=ENDED_BY_SIGTERM)
    assert case.see(line("COMPLETING"), by_signal) is None
    assert ended(case.see(line("PREEMPTED"), by_signal))[0] == "lost"
    assert ended(Case().see(line("CANCELLED"), by_signal))[2].startswith("cancelled in Slurm's queue, not by Kale")


def test_a_job_that_a_person_cancelled_is_cancelled():
    case = Case()
    case.job.is_cancelled = True
    assert ended(case.see(line("CANCELLED"))) == ("ended", "cancelled", "cancelled by you before it began")
    case = Case()
    case.job.is_cancelled = True
    assert ended(case.see(line("COMPLETING"), result("cancelled", reason=ENDED_BY_SIGTERM)))[2] == "cancelled by you"


def test_a_child_that_slurm_cancelled_for_its_parent_waits_for_what_becomes_of_the_parent():
    case = Case(after=("parent",))
    killed = line("CANCELLED", "DependencyNeverSatisfied")
    case.see(killed, is_waiting=True)
    assert case.see(killed, after_s=100, is_waiting=True) is None
    assert case.see(killed, is_waiting=False) == Again("Slurm cancelled it for what it waited for")


def test_a_worker_that_found_its_parent_not_done_is_submitted_again_when_it_is():
    case = Case(after=("parent",))
    found = Look(refusal="`relax`, which it needs, has no result")
    case.see(line("FAILED"), found, is_waiting=True)
    assert case.see(line("FAILED"), found, after_s=11, is_waiting=True) is None
    assert case.see(line("FAILED"), found) == Again("`relax`, which it needs, has no result")


def test_points_of_a_sweep_go_together_and_other_jobs_alone():
    jobs = [ticket("a"), *(ticket(f"p{n}", n, "sweep") for n in range(5)), ticket("b"), ticket("q7", 7, "other")]
    found = list(batches(jobs, 1001))
    assert [list(batch.tickets) for batch in found] == [[None], [0, 1, 2, 3, 4], [None], [None]]
    assert [batch.name for batch in found] == ["kale-a", "kale-p0", "kale-b", "kale-q7"]


def test_large_sweeps_are_cut_at_what_the_site_allows():
    found = list(batches([ticket(f"p{n}", n, "sweep") for n in range(25)], 10))
    assert [(batch.first, min(batch.tickets), max(batch.tickets)) for batch in found] == [(0, 0, 9), (10, 0, 9), (20, 0, 4)]


def test_points_of_different_attempts_or_parents_do_not_go_together():
    jobs = [ticket("a", 0), ticket("b", 1, attempt=2), ticket("c", 2, attempt=2, after=("x",))]
    assert len(list(batches(jobs, 1001))) == 3
