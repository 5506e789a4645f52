"""The machine: what follows from what in a run. No process, no clock."""

import pytest

from kale_magic.errors import UnknownStepError
from kale_magic.manager.graph import StepPlan
from kale_magic.manager.machine import Outcome, RunMachine
from kale_magic.model.run import Phase, Report, ReportKind, RunRecord, Verb
from kale_magic.model.states import RunState, StepState

SEED = "0123456789abcdef0123456789abcdef"


def record(**changes):
    values = {
        "id": "eos-20260101-0000", "workflow": "eos", "executor": "local", "folder": "/r", "workflow_folder": "/w",
        "python": "/python", "environment": "e", "seed": SEED, "token": "t", "submitted_at": "2026-01-01T00:00:00.000Z",
    }  # fmt: skip
    return RunRecord(**{**values, **changes})


class Play:
    """A run with a helper for each thing that can happen to it."""

    def __init__(self, *plans, jobs=None):
        self.machine = RunMachine(record(), [plan if isinstance(plan, StepPlan) else StepPlan(*plan) for plan in plans], jobs)
        self.now = 1000.0
        self.last = self.machine.start(self.now) if jobs is None else Outcome()

    def job(self, step, point=None):
        jobs = self.machine.find(step, point)
        assert len(jobs) == 1
        return jobs[0]

    def submit(self, step, point=None):
        job = self.job(step, point)
        self.last = self.machine.submitting(job.uuid)
        return job

    def tell(self, kind, uuid, **data):
        self.now += 1
        self.last = self.machine.report(Report(kind, uuid, data), self.now)
        return self.last

    def run(self, step, point=None):
        job = self.submit(step, point)
        self.tell(ReportKind.RUNNING, job.uuid, pid=7, live="/live", at="2026-01-01T00:00:01.000Z")
        return job

    def end(self, step, point=None, state="completed", **data):
        job = self.job(step, point)
        if job.phase is Phase.NONE:
            self.run(step, point)
        return self.tell(ReportKind.ENDED, job.uuid, state=state, **data)

    def states(self):
        return {name: self.machine.state(name).value for name, _ in self.machine.views()}

    def verbs(self):
        return [(command.verb, command.job.address) for command in self.last.commands]


def chain(*names):
    return [StepPlan(name, (names[i - 1],) if i else ()) for i, name in enumerate(names)]


def test_only_steps_without_parents_are_queued_at_the_start():
    play = Play(*chain("relax", "fit"))
    assert play.verbs() == [(Verb.ENQUEUE, "relax")]
    assert play.states() == {"relax": "queued", "fit": "waiting"}
    assert set(play.last.jobs) == {0, 1}  # a new run is stored whole


def test_a_step_is_queued_when_its_last_parent_is_done():
    play = Play(StepPlan("a"), StepPlan("b"), StepPlan("c", ("a", "b")))
    play.end("a")
    assert play.last.commands == []
    play.end("b")
    assert play.verbs() == [(Verb.ENQUEUE, "c")]


def test_run_completes_with_its_last_step_and_says_so_once():
    play = Play(*chain("a", "b"))
    play.end("a")
    play.end("b", outputs={"x": {}, "y": {}}, exit_code=0)
    assert play.machine.record.state is RunState.COMPLETED
    assert play.machine.record.ended_at
    assert play.job("b").outputs == ("x", "y")
    assert [change.state for change in play.last.changes if change.kind == "run"] == ["completed"]


def test_failure_cancels_dependants_with_the_reason_and_leaves_others_alone():
    play = Play(StepPlan("relax"), StepPlan("fit", ("relax",)), StepPlan("plot", ("fit",)), StepPlan("other"))
    play.end("relax", state="failed", reason="ValueError: no", error={"ename": "ValueError"})
    assert play.states() == {"relax": "failed", "fit": "cancelled", "plot": "cancelled", "other": "queued"}
    assert play.job("fit").reason == "cancelled: `fit` needs `relax`, which failed"
    assert play.job("plot").reason == "cancelled: `plot` needs `fit`, which was cancelled because `relax` failed"
    assert play.job("relax").error == {"ename": "ValueError"}
    assert play.machine.record.state is RunState.RUNNING
    play.end("other")
    assert play.machine.record.state is RunState.FAILED


def test_other_points_of_a_sweep_go_on_after_one_failed():
    play = Play(StepPlan("curve", (), 3), StepPlan("fit", ("curve",)))
    play.end("curve", 1, state="failed", reason="it broke")
    assert play.job("curve", 0).state is StepState.QUEUED
    assert play.states() == {"curve": "queued", "fit": "cancelled"}
    play.end("curve", 0)
    play.end("curve", 2)
    assert play.states()["curve"] == "failed"
    assert play.machine.record.state is RunState.FAILED


def test_consumer_of_a_sweep_waits_for_all_points():
    play = Play(StepPlan("curve", (), 3), StepPlan("fit", ("curve",)))
    play.end("curve", 2)
    play.end("curve", 0)
    assert play.job("fit").state is StepState.WAITING
    play.end("curve", 1)
    assert play.job("fit").state is StepState.QUEUED


def test_a_sweep_without_points_does_not_hold_up_what_needs_it():
    play = Play(StepPlan("curve", (), 0), StepPlan("fit", ("curve",)))
    assert play.states() == {"curve": "completed", "fit": "queued"}


def test_failed_step_with_retries_is_tried_again_as_a_new_attempt():
    play = Play(StepPlan("a", (), None, 1), StepPlan("b", ("a",)))
    first = play.job("a").uuid
    play.end("a", state="failed", reason="bad luck")
    job = play.job("a")
    assert (job.state, job.attempt, job.failures) == (StepState.QUEUED, 2, 1)
    assert job.uuid != first
    assert "bad luck" in job.reason
    assert play.verbs() == [(Verb.ENQUEUE, "a")]
    assert play.job("b").state is StepState.WAITING
    play.end("a", state="failed", reason="bad luck again")
    assert play.states() == {"a": "failed", "b": "cancelled"}


def test_report_of_an_earlier_attempt_changes_nothing():
    play = Play(StepPlan("a", (), None, 1))
    first = play.job("a").uuid
    play.end("a", state="failed")
    assert not play.tell(ReportKind.ENDED, first, state="completed")
    assert play.job("a").state is StepState.QUEUED


def test_late_running_report_cannot_reopen_finished_job():
    play = Play(StepPlan("a"))
    job = play.run("a")
    play.end("a")
    assert not play.tell(ReportKind.RUNNING, job.uuid, pid=1)
    assert not play.tell(ReportKind.STATE, job.uuid, state="paused")
    assert not play.tell(ReportKind.LOST, job.uuid, reason="x")
    assert not play.tell(ReportKind.ENDED, job.uuid, state="failed")
    assert play.job("a").state is StepState.COMPLETED


def test_repeated_running_report_is_no_event():
    play = Play(StepPlan("a"))
    job = play.run("a")
    assert play.tell(ReportKind.RUNNING, job.uuid, pid=7, live="/live").changes == []


def test_report_about_a_job_that_was_never_handed_over_is_passed_over():
    play = Play(StepPlan("a"))
    assert not play.tell(ReportKind.ENDED, play.job("a").uuid, state="completed")
    assert not play.tell(ReportKind.RUNNING, "unknown", pid=1)
    assert play.job("a").state is StepState.QUEUED


def test_result_without_a_running_report_before_it_counts():
    play = Play(StepPlan("a"))
    job = play.submit("a")
    play.tell(ReportKind.ENDED, job.uuid, state="completed")
    assert job.state is StepState.COMPLETED
    assert job.started_at


def test_unknown_words_are_data():
    play = Play(StepPlan("a"))
    job = play.run("a")
    play.tell(ReportKind.STATE, job.uuid, state="levitating", reason="so it says")
    assert job.state is StepState.RUNNING
    assert [(change.kind, change.state) for change in play.last.changes] == [("note", "levitating")]
    play.tell(ReportKind.ENDED, job.uuid, state="evaporated", surprise=1)
    assert job.state is StepState.FAILED
    assert "evaporated" in job.reason


def test_lost_job_is_tried_once_more_and_then_fails_with_words():
    play = Play(*chain("a", "b"))
    job = play.run("a")
    play.tell(ReportKind.LOST, job.uuid, reason="its process (pid 7) is gone")
    assert [change.state for change in play.last.changes] == ["lost", "queued"]
    assert (job.state, job.attempt, job.live) == (StepState.QUEUED, 2, None)
    play.submit("a")
    play.tell(ReportKind.LOST, job.uuid, reason="its process (pid 8) is gone")
    assert job.state is StepState.FAILED
    assert job.reason == "lost 2 times, the last time because its process (pid 8) is gone"
    assert play.states()["b"] == "cancelled"


def test_refused_job_fails_without_a_retry():
    play = Play(StepPlan("a", (), None, 3))
    job = play.submit("a")
    play.tell(ReportKind.REFUSED, job.uuid, reason="the disk is full")
    assert (job.state, job.reason, job.attempt) == (StepState.FAILED, "the disk is full", 1)


def test_paused_step_is_live_and_goes_on():
    play = Play(StepPlan("a"))
    job = play.run("a")
    play.tell(ReportKind.STATE, job.uuid, state="paused", reason="stopped by you")
    assert (job.state, job.reason, job.live) == (StepState.PAUSED, "stopped by you", "/live")
    play.tell(ReportKind.STATE, job.uuid, state="running")
    assert job.state is StepState.RUNNING


def test_cancelling_a_run_ends_what_has_not_started_and_tells_what_runs():
    play = Play(StepPlan("a"), StepPlan("b"), StepPlan("c", ("a", "b")))
    job = play.run("a")
    play.last = play.machine.cancel(None, None, play.now)
    assert play.verbs() == [(Verb.WITHDRAW, "b"), (Verb.CANCEL, "a")]
    assert play.states() == {"a": "running", "b": "cancelled", "c": "cancelled"}
    assert play.job("c").reason == "cancelled by you"
    play.tell(ReportKind.ENDED, job.uuid, state="cancelled", reason="cancelled by the user")
    assert play.machine.record.state is RunState.CANCELLED


def test_cancelling_a_step_cancels_what_needs_it():
    play = Play(*chain("a", "b", "c"))
    play.end("a")
    play.last = play.machine.cancel("b", None, play.now)
    assert play.states() == {"a": "completed", "b": "cancelled", "c": "cancelled"}
    assert play.job("c").reason == "cancelled: `c` needs `b`, which was cancelled"
    assert play.machine.record.state is RunState.CANCELLED


def test_cancelling_one_point_leaves_the_others():
    play = Play(StepPlan("s", (), 3))
    play.last = play.machine.cancel("s", 1, play.now)
    assert play.verbs() == [(Verb.WITHDRAW, "s[1]")]
    assert [job.state.value for job in play.machine.find("s", None)] == ["queued", "cancelled", "queued"]


def test_cancel_of_a_job_about_to_start_is_sent_again_when_it_runs():
    play = Play(StepPlan("a"))
    job = play.submit("a")
    play.last = play.machine.cancel("a", None, play.now)
    assert play.verbs() == [(Verb.CANCEL, "a")]
    play.tell(ReportKind.RUNNING, job.uuid, pid=3)
    assert play.verbs() == [(Verb.CANCEL, "a")]
    play.tell(ReportKind.LOST, job.uuid, reason="gone")
    assert job.state is StepState.CANCELLED


def test_cancelled_job_is_not_retried():
    play = Play(StepPlan("a", (), None, 5))
    job = play.run("a")
    play.machine.cancel("a", None, play.now)
    play.tell(ReportKind.ENDED, job.uuid, state="failed", reason="broke while it was ended")
    assert (job.state, job.attempt) == (StepState.FAILED, 1)


def test_cancelling_what_is_over_does_nothing():
    play = Play(StepPlan("a"))
    play.end("a")
    assert not play.machine.cancel(None, None, play.now)
    assert not play.machine.cancel("a", None, play.now)
    assert play.machine.record.state is RunState.COMPLETED


def test_only_live_jobs_are_interrupted():
    play = Play(StepPlan("s", (), 2))
    play.run("s", 0)
    play.last = play.machine.ask(Verb.INTERRUPT, "s", None)
    assert play.verbs() == [(Verb.INTERRUPT, "s[0]")]


def test_unknown_step_and_point_are_named():
    play = Play(StepPlan("s", (), 2), StepPlan("t"))
    with pytest.raises(UnknownStepError, match="no step `q`.*It has: s, t"):
        play.machine.find("q", None)
    with pytest.raises(UnknownStepError, match="no point 2.*0 to 1"):
        play.machine.find("s", 2)
    with pytest.raises(UnknownStepError, match="`t` is no sweep"):
        play.machine.find("t", 0)


def test_cached_steps_count_as_done():
    play = Play(StepPlan("a", source="/earlier/steps/a"), StepPlan("b", ("a",)))
    assert play.states() == {"a": "cached", "b": "queued"}
    play.end("b")
    assert play.machine.record.state is RunState.COMPLETED


def test_stored_run_goes_on_where_it_was():
    before = Play(*chain("a", "b", "c"), StepPlan("d"), StepPlan("e"))
    before.end("a")
    before.submit("b")
    before.run("d")
    before.machine.cancel("d", None, before.now)
    plans = [*chain("a", "b", "c"), StepPlan("d"), StepPlan("e")]
    after = Play(*plans, jobs=before.machine.jobs)
    outcome = after.machine.resume()
    assert [(c.verb, c.job.address) for c in outcome.commands] == [(Verb.CANCEL, "d"), (Verb.ENQUEUE, "e")]
    after.tell(ReportKind.ENDED, after.job("b").uuid, state="completed")
    assert after.job("c").state is StepState.QUEUED
    assert after.states() == {"a": "completed", "b": "completed", "c": "queued", "d": "running", "e": "queued"}


def test_the_same_attempt_has_the_same_uuid_in_another_life():
    assert Play(StepPlan("a")).job("a").uuid == Play(StepPlan("a")).job("a").uuid
    assert Play(StepPlan("a")).job("a").uuid != Play(StepPlan("b")).job("b").uuid


def test_a_sweep_tells_its_own_state_too():
    play = Play(StepPlan("s", (), 2))
    play.run("s", 0)
    whole = [change for change in play.last.changes if change.point is None]
    assert [(change.state, change.data["counts"]) for change in whole] == [("running", {"queued": 1, "running": 1})]


def test_views_follow_changes():
    play = Play(StepPlan("s", (), 2), StepPlan("t", ("s",)))

    def view():
        return {name: item.build(lambda step, uuid: f"{step} waits for 1 of 2 cores") for name, item in play.machine.views()}

    assert view()["t"]["reason"] == "waits for `s`"
    assert view()["s"]["points"]["1"]["reason"] == "s waits for 1 of 2 cores"
    play.end("s", 0, outputs={"x": {}})
    assert view()["s"]["points"]["0"]["state"] == "completed"
    assert view()["s"]["counts"] == {"completed": 1, "queued": 1}
    play.end("s", 1, state="failed", reason="no", error={"ename": "E"})
    assert view()["s"]["state"] == "failed"
    assert view()["s"]["reason"] == "1 of 2 points failed, first s[1]: no"
    assert view()["s"]["error"] == {"ename": "E"}
    assert view()["t"]["reason"] == "cancelled: `t` needs `s`, which failed"


def test_states_kept_in_counters_agree_with_the_jobs_whatever_happens():
    plans = [StepPlan("a", (), 4, 1), StepPlan("b", ("a",), 3), StepPlan("c", ("a", "b")), StepPlan("d", ("c",), 2)]
    for choice in range(200):
        play = Play(*plans)
        dice = choice * 2654435761 % (1 << 32)
        while not play.machine.record.state.is_final:
            queued = [job for job in play.machine.jobs if job.state is StepState.QUEUED]
            job = queued[dice % len(queued)]
            dice = (dice * 1103515245 + 12345) % (1 << 31)
            outcome = ("completed", "completed", "completed", "failed", "lost", "cancelled")[dice >> 8 & 7 if dice >> 8 & 7 < 6 else 0]
            uuid = job.uuid
            play.run(job.step, job.point)
            if outcome == "lost":
                play.tell(ReportKind.LOST, uuid, reason="gone")
            else:
                play.tell(ReportKind.ENDED, uuid, state=outcome)
            for name, view in play.machine.views():
                states = [j.state for j in play.machine.find(name, None)]
                expected = {state.value: states.count(state) for state in set(states)}
                assert view.build(lambda *_: "")["counts"] == (expected if play.machine.plan(name).point_count is not None else {states[0].value: 1})
        assert all(job.state.is_final for job in play.machine.jobs)


def test_large_runs_take_time_in_proportion():
    """10,000 points: a walk over all of them at each report would end at the test's deadline."""
    count = 10_000
    play = Play(StepPlan("s", (), count), StepPlan("t", ("s",), count))
    for point in range(count):
        play.end("s", point, state="failed" if point % 2 else "completed")
    assert all(job.state is StepState.CANCELLED for job in play.machine.find("t", None))
    assert play.machine.record.state is RunState.FAILED


def early(name, parents=(), points=None, retries=0):
    return StepPlan(name, parents, points, retries, "slurm", is_early=True)


def handed(play):
    """What was handed over by the last input: address -> (uuid, after)."""
    return {command.job.address: (command.uuid, command.after) for command in play.last.commands if command.verb is Verb.ENQUEUE}


def test_a_queue_that_keeps_order_gets_the_whole_workflow_at_once():
    play = Play(early("a"), early("b", ("a",), 2), early("c", ("b",)))
    found = handed(play)
    assert list(found) == ["a", "b[0]", "b[1]", "c"]
    a, b0, b1, c = (uuid for uuid, _ in found.values())
    assert [after for _, after in found.values()] == [(), (a,), (a,), (b0, b1)]
    assert play.states() == {"a": "queued", "b": "waiting", "c": "waiting"}
    play.submit("c")
    assert play.tell(ReportKind.PLACED, c, native_id="12")
    assert (play.job("c").phase, play.job("c").native_id, play.job("c").state.value) == (Phase.SUBMITTED, "12", "waiting")


def test_what_needs_another_executor_is_not_handed_over_early():
    play = Play(early("a"), StepPlan("b", ("a",), None, 0, "local"), StepPlan("c", ("b",), None, 0, "slurm"))
    assert list(handed(play)) == ["a"]
    play.end("a")
    assert list(handed(play)) == ["b"]


def test_step_handed_over_early_is_queued_and_runs_without_being_handed_over_again():
    play = Play(early("a"), early("b", ("a",)))
    play.submit("b")
    play.end("a")
    assert (handed(play), play.states()["b"]) == ({}, "queued")
    play.tell(ReportKind.RUNNING, play.job("b").uuid, native_id="13", node="node1")
    assert (play.states()["b"], play.job("b").native_id, play.job("b").attempt) == ("running", "13", 1)


def test_child_that_is_seen_running_before_its_parents_end_is_believed():
    play = Play(early("a"), early("b", ("a",)))
    play.submit("b")
    play.tell(ReportKind.RUNNING, play.job("b").uuid)
    play.end("a")
    assert play.states() == {"a": "completed", "b": "running"}


def test_children_of_a_retried_step_are_taken_back_and_handed_over_behind_the_new_attempt():
    play = Play(early("a", retries=1), early("b", ("a",)), early("c", ("b",)), early("d"))
    first = {step: play.job(step).uuid for step in "abc"}
    play.submit("b")
    play.end("a", state="failed", reason="no")
    assert play.verbs() == [
        (Verb.ENQUEUE, "a"), (Verb.CANCEL, "b"), (Verb.WITHDRAW, "c"), (Verb.ENQUEUE, "b"), (Verb.ENQUEUE, "c"),
    ]  # fmt: skip
    found = handed(play)
    assert found["b"][1] == (play.job("a").uuid,)
    assert found["c"][1] == (play.job("b").uuid,)
    assert [play.job(step).attempt for step in "abc"] == [2, 2, 1]
    assert play.job("b").uuid != first["b"]
    play.end("a")
    play.end("b")
    play.end("c")
    play.end("d")
    assert play.machine.record.state is RunState.COMPLETED


def test_failure_takes_children_out_of_the_queue():
    play = Play(early("a"), early("b", ("a",)), early("c", ("b",)))
    play.submit("b")
    play.end("a", state="failed")
    assert (Verb.CANCEL, "b") in play.verbs()
    assert (Verb.WITHDRAW, "c") in play.verbs()
    assert play.states() == {"a": "failed", "b": "cancelled", "c": "cancelled"}
    assert play.machine.record.state is RunState.FAILED


def test_cancelled_run_takes_what_waits_in_the_queue_out_of_it():
    play = Play(early("a"), early("b", ("a",)), early("c", ("b",)))
    play.run("a")
    play.submit("b")
    play.last = play.machine.cancel(None, None, play.now)
    assert play.verbs() == [(Verb.WITHDRAW, "c"), (Verb.CANCEL, "b"), (Verb.CANCEL, "a")]
    play.tell(ReportKind.ENDED, play.job("b").uuid, state="cancelled")
    play.tell(ReportKind.ENDED, play.job("a").uuid, state="cancelled")
    assert play.machine.record.state is RunState.CANCELLED


def test_another_life_hands_over_what_was_not_and_knows_what_it_waits_for():
    play = Play(early("a"), early("b", ("a",)), early("c", ("b",)))
    play.submit("a")
    again = RunMachine(record(), [early("a"), early("b", ("a",)), early("c", ("b",))], play.machine.jobs)
    found = {command.job.address: command.after for command in again.resume().commands}
    assert found == {"b": (play.job("a").uuid,), "c": (play.job("b").uuid,)}
    assert again.after("b") == (play.job("a").uuid,)


def test_held_step_is_held_until_it_is_released():
    play = Play(early("a"))
    play.last = play.machine.ask(Verb.HOLD, "a", None)
    assert play.verbs() == [(Verb.HOLD, "a")]
    play.submit("a")
    play.tell(ReportKind.STATE, play.job("a").uuid, state="held", reason="held by you")
    assert play.states() == {"a": "held"}
    play.last = play.machine.ask(Verb.RELEASE, "a", None)
    assert play.verbs() == [(Verb.RELEASE, "a")]
    play.tell(ReportKind.STATE, play.job("a").uuid, state="queued")
    assert play.states() == {"a": "queued"}
    play.run("a")
    play.tell(ReportKind.STATE, play.job("a").uuid, state="held")
    assert play.states() == {"a": "running"}


def test_what_waits_in_our_own_queue_is_held_there():
    play = Play(("a",))
    play.tell(ReportKind.STATE, play.job("a").uuid, state="held", reason="held by you")
    assert play.states() == {"a": "held"}
    again = RunMachine(record(), [StepPlan("a")], play.machine.jobs)
    assert [command.verb for command in again.resume().commands] == [Verb.ENQUEUE, Verb.HOLD]
    play.tell(ReportKind.STATE, play.job("a").uuid, state="running")
    assert play.states() == {"a": "held"}
    play.tell(ReportKind.STATE, play.job("a").uuid, state="queued")
    play.run("a")
    assert play.states() == {"a": "running"}


def test_a_step_with_a_gate_before_it_takes_nothing_until_a_person_lets_it_go_on():
    play = Play(("a",), StepPlan("b", ("a",), is_gate_before=True), ("c", ("b",)))
    play.end("a")
    job = play.job("b")
    assert (job.state, job.uuid) == (StepState.GATED, "")
    assert not play.machine.resume().commands
    assert not play.machine.ask(Verb.INTERRUPT, "b", None).commands
    again = Play(*PLANS_OF_GATE, jobs=[job for name in "abc" for job in play.machine.find(name, None)])
    out = again.machine.proceed("b", None, {"n": "3"}, "me", 1.0)
    assert [command.verb for command in out.commands] == [Verb.ENQUEUE]
    assert out.changes[0].data == {"by": "me", "set": {"n": "3"}}
    assert again.job("b").decision == {"n": "3"}
    assert not again.machine.proceed("b", None, {}, "me", 1.0)


def test_a_step_at_a_gate_before_it_is_cancelled_at_once():
    play = Play(StepPlan("b", is_gate_before=True), ("c", ("b",)))
    assert play.job("b").state is StepState.GATED
    play.machine.cancel("b", None, 1.0)
    assert (play.job("b").state, play.job("c").state) == (StepState.CANCELLED, StepState.CANCELLED)
    assert play.machine.record.state is RunState.CANCELLED


PLANS_OF_GATE = (("a",), StepPlan("b", ("a",), is_gate_before=True), ("c", ("b",)))
