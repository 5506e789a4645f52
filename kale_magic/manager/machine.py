"""What happens to a run: (state, input, now) -> changed jobs, events, commands. No I/O, no clock, no randomness.

One :class:`RunMachine` holds one run. Everything that is known about order, failure, retries and cancelling
is here; the service stores what changed *before* it carries out the commands. A report is believed only if it
is about the newest attempt (its uuid) and that attempt is not over; anything else is passed over, so a late
or repeated report can't move a finished job back. Cost of a whole run: O(jobs + edges).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kale_magic.errors import UnknownStepError
from kale_magic.manager.graph import Node, StepPlan, attempt_uuid, expand, some
from kale_magic.manager.views import StepView
from kale_magic.model.events import iso
from kale_magic.model.run import Change, Command, Job, Phase, Report, ReportKind, RunRecord, Verb
from kale_magic.model.states import RunState, StepState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

_MAX_LOSSES = 1  # a lost job is tried once more; lost again, something is wrong that a third try won't mend
AT_GATE = "waits for a person; nothing is allocated meanwhile"
_IN_QUEUE = (StepState.QUEUED, StepState.HELD)
_UNSTARTED = (StepState.WAITING, StepState.QUEUED, StepState.HELD)


@dataclass(slots=True)
class Outcome:
    """What one input did. Jobs are the machine's own records, to be stored as they are now."""

    jobs: dict[int, Job] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    is_run_changed: bool = False

    def __bool__(self) -> bool:
        return bool(self.jobs or self.changes or self.commands or self.is_run_changed)


class RunMachine:
    """One run: its record, its jobs, and what follows from what.

    Parameters
    ----------
    record : RunRecord
        Changed in place (``state``, ``ended_at``).
    plans : sequence of StepPlan
        The steps of the run, parents before children.
    jobs : sequence of Job or None
        What the store knew; None makes the jobs of a new run.
    """

    def __init__(self, record: RunRecord, plans: Sequence[StepPlan], jobs: Sequence[Job] | None = None) -> None:
        self.record = record
        self._steps: dict[str, Node] = {}
        self._open = 0  # jobs that are not final
        self.jobs: list[Job] = list(jobs) if jobs is not None else list(expand(plans))
        self._by_uuid = {job.uuid: job for job in self.jobs if job.uuid}
        groups: dict[str, list[Job]] = {plan.name: [] for plan in plans}
        for job in self.jobs:
            groups[job.step].append(job)
        for plan in plans:
            step = self._steps[plan.name] = Node(plan, groups[plan.name])
            for parent in plan.parents:
                self._steps[parent].children.append(step)
        for step in self._steps.values():
            step.counts.update(job.state for job in step.jobs)
            self._open += sum(n for state, n in step.counts.items() if not state.is_final)
            step.shown = step.aggregate()
            step.waits_for = sum(not self._steps[parent].is_done for parent in step.plan.parents)
        self._views: dict[str, StepView] = {}

    # -- questions ---------------------------------------------------------------------------------------

    def job(self, uuid: str) -> Job | None:
        """Return the job whose newest attempt has this uuid."""
        return self._by_uuid.get(uuid)

    def find(self, step: str, point: int | None) -> list[Job]:
        """Return the job of a step or point; of a sweep without a point, all.

        Raises
        ------
        UnknownStepError
            The run has no such step or point.
        """
        found = self._steps.get(step)
        if found is None:
            raise UnknownStepError(f"Run {self.record.id} has no step `{step}`.", f"It has: {some(self._steps)}.")
        if point is None:
            return found.jobs
        count = found.plan.point_count
        if count is None:
            raise UnknownStepError(f"`{step}` is no sweep, so it has no point {point}.", f"Write {step}.")
        if not 0 <= point < count:
            raise UnknownStepError(f"`{step}` has no point {point}.", f"Its points are 0 to {count - 1}.")
        return [found.jobs[point]]

    def plan(self, step: str) -> StepPlan:
        """Return what the machine knows of a step that exists."""
        return self._steps[step].plan

    def state(self, step: str) -> StepState:
        """Return the state of a step as a whole."""
        return self._steps[step].shown

    def counts(self) -> dict[str, int]:
        """Return how many steps are in which state."""
        return dict(Counter(step.shown.value for step in self._steps.values()))

    def views(self) -> Iterator[tuple[str, StepView]]:
        """Return name and view of every step, in order; views are built when something changed."""
        return ((name, self.view(name)) for name in self._steps)

    def view(self, name: str) -> StepView:
        """Return the view of a step that exists."""
        step, view = self._steps[name], self._views.get(name)
        if view is None:
            waits = (
                [parent for parent in step.plan.parents if not self._steps[parent].is_done] if step.waits_for else []
            )
            view = self._views[name] = StepView(step, waits)
        return view

    # -- inputs ------------------------------------------------------------------------------------------

    def start(self, now: float) -> Outcome:
        """Begin a new run: what waits for nothing is queued."""
        out = Outcome(jobs={job.index: job for job in self.jobs}, is_run_changed=True)
        out.changes.append(Change(None, None, "run", RunState.RUNNING.value, {"workflow": self.record.workflow}))
        for step in self._steps.values():
            if not step.waits_for and not step.is_done:
                self._release_step(step, out, now)
            else:
                self._hand_over(step, out, now)
        self._finish_if_over(out, now)
        return out

    def resume(self) -> Outcome:
        """Take up a stored run: name again what must be queued or asked for; states stay as they are."""
        out = Outcome()
        for step in self._steps.values():
            after = self.after(step.plan.name)
            for job in step.jobs:
                if job.state.is_final or not job.uuid:
                    continue
                if job.phase is Phase.NONE:
                    out.commands.append(Command(Verb.ENQUEUE, job, job.uuid, after))
                    if job.state is StepState.HELD:
                        out.commands.append(Command(Verb.HOLD, job, job.uuid))
                elif job.is_cancel_asked:
                    out.commands.append(Command(Verb.CANCEL, job, job.uuid))
        return out

    def submitting(self, uuid: str) -> Outcome:
        """Note that a queued job is about to be started; store it, then start it."""
        out = Outcome()
        job = self._by_uuid.get(uuid)
        if job is not None and job.state in _UNSTARTED and job.phase is Phase.NONE:
            job.phase = Phase.SUBMITTING
            out.jobs[job.index] = job
        return out

    def report(self, report: Report, now: float) -> Outcome:
        """Take what an executor says; what is late, repeated or unknown changes nothing."""
        out = Outcome()
        job = self._by_uuid.get(report.uuid)
        data = report.data
        if job is None or job.state.is_final:
            return out
        if job.phase is Phase.NONE and not (report.kind is ReportKind.STATE and data.get("state") in _IN_QUEUE):
            return out  # nobody was asked to start it: all that can happen is that it is held in the queue, or let go
        if report.kind is ReportKind.PLACED:
            self._placed(job, data, out)
        elif report.kind is ReportKind.RUNNING:
            self._running(job, data, out, now)
        elif report.kind is ReportKind.STATE:
            self._moved(job, data, out)
        elif report.kind is ReportKind.ENDED:
            self._ended(job, data, out, now)
        elif report.kind is ReportKind.REFUSED:
            self._failed(job, {"reason": data.get("reason") or "the executor refused it"}, out, now, may_retry=False)
        elif report.kind is ReportKind.LOST:
            self._lost(job, str(data.get("reason") or "it vanished without a result"), out, now)
        self._finish_if_over(out, now)
        return out

    def cancel(self, step: str | None, point: int | None, now: float) -> Outcome:
        """Cancel the run, a step or a point: what has not started ends now, what runs is told to end."""
        out = Outcome()
        if step is None:
            jobs: Iterable[Job] = reversed(self.jobs)  # children first: each is cancelled for its own sake
            if not self.record.state.is_final:
                self.record.is_cancel_asked = out.is_run_changed = True
        else:
            jobs = self.find(step, point)
        for job in jobs:
            if job.state.is_final:
                continue
            if (job.state in _UNSTARTED or not job.uuid) and job.phase is Phase.NONE:
                if job.uuid:
                    out.commands.append(Command(Verb.WITHDRAW, job, job.uuid))
                self._end(job, StepState.CANCELLED, "cancelled by you", out, now)
            else:
                job.is_cancel_asked = True
                out.commands.append(Command(Verb.CANCEL, job, job.uuid))
                self._touch(job, out)
        self._finish_if_over(out, now)
        return out

    def ask(self, verb: Verb, step: str, point: int | None) -> Outcome:
        """Interrupt, freeze or thaw what runs, hold what is in the queue, or release what was interrupted or held."""
        jobs = self.find(step, point)
        if verb is Verb.HOLD:
            jobs = [job for job in jobs if job.state in _UNSTARTED and job.uuid]
        elif verb is Verb.RELEASE:
            jobs = [job for job in jobs if job.uuid and (job.state.is_live or job.state in _UNSTARTED)]
        else:
            jobs = [job for job in jobs if job.state.is_live and job.uuid]
        return Outcome(commands=[Command(verb, job, job.uuid) for job in jobs])

    def proceed(self, step: str, point: int | None, decision: dict[str, str], by: str, now: float) -> Outcome:
        """Queue what waits for a person before it is queued, with what was decided."""
        out = Outcome()
        for job in self.find(step, point):
            if job.state is StepState.GATED and not job.uuid:
                job.decision = dict(decision)
                out.changes.append(Change(job.step, job.point, "note", "continued", {"by": by, "set": dict(decision)}))
                self._queue(job, "", out, now)
        return out

    def after(self, step: str) -> tuple[str, ...]:
        """Return the uuids of the jobs that have yet to complete before a step may run."""
        node = self._steps[step]
        if not node.waits_for:
            return ()
        parents = [self._steps[name] for name in node.plan.parents if not self._steps[name].is_done]
        return tuple(job.uuid for parent in parents for job in parent.jobs if not job.state.is_success)

    # -- what follows ------------------------------------------------------------------------------------

    def _release_step(self, step: Node, out: Outcome, now: float) -> None:
        """Queue every job of a step whose parents are done; what was handed over before is in the queue already."""
        for job in step.jobs:
            if job.state is StepState.WAITING:
                if step.plan.is_gate_before and job.decision is None:
                    job.reason = AT_GATE
                    self._move(job, StepState.GATED, out)
                elif job.uuid:
                    self._move(job, StepState.QUEUED, out)
                else:
                    self._queue(job, "", out, now)

    def _hand_over(self, step: Node, out: Outcome, now: float) -> None:
        """Give the jobs of a step to a queue that keeps order, if it has what they wait for; they go on waiting there."""
        if not step.plan.is_early or not all(self._is_handed_over(self._steps[name]) for name in step.plan.parents):
            return
        after = self.after(step.plan.name)
        for job in step.jobs:
            if job.state is StepState.WAITING and not job.uuid:
                self._begin_attempt(job, "", now)
                out.commands.append(Command(Verb.ENQUEUE, job, job.uuid, after))
                self._touch(job, out)

    def _is_handed_over(self, step: Node) -> bool:
        """Whether all its jobs have completed or are with their executor."""
        return all(job.state.is_success or (job.uuid and not job.state.is_final) for job in step.jobs)

    def _recall(self, root: Node, out: Outcome, now: float) -> None:
        """Take back what waits in a queue for a job that is tried again, and hand it over anew behind the new attempt."""
        below: set[str] = set()
        todo = [root]
        while todo:
            children = [child for child in todo.pop().children if child.plan.name not in below]
            below.update(child.plan.name for child in children)
            todo += children
        steps = [step for name, step in self._steps.items() if name in below]
        for step in steps:
            for job in step.jobs:
                if job.state is StepState.WAITING and job.uuid:
                    self._take_back(job, out)
                    self._touch(job, out)
        for step in steps:
            self._hand_over(step, out, now)

    def _take_back(self, job: Job, out: Outcome) -> None:
        """Take a job that waits for others out of its queue."""
        verb = Verb.WITHDRAW if job.phase is Phase.NONE else Verb.CANCEL
        out.commands.append(Command(verb, job, job.uuid))
        self._by_uuid.pop(job.uuid, None)
        job.attempt += job.phase is not Phase.NONE
        job.uuid, job.phase, job.native_id = "", Phase.NONE, None

    def _queue(self, job: Job, reason: str, out: Outcome, now: float) -> None:
        self._begin_attempt(job, reason, now)
        out.commands.append(Command(Verb.ENQUEUE, job, job.uuid))
        self._move(job, StepState.QUEUED, out)

    def _begin_attempt(self, job: Job, reason: str, now: float) -> None:
        self._by_uuid.pop(job.uuid, None)
        job.uuid = attempt_uuid(self.record.seed, job)
        self._by_uuid[job.uuid] = job
        job.phase = Phase.NONE
        job.queued_at = iso(now)
        job.started_at = job.ended_at = job.native_id = job.node = job.live = job.exit_code = job.error = None
        job.reason = reason

    def _placed(self, job: Job, data: dict[str, Any], out: Outcome) -> None:
        native_id = str(data.get("native_id") or "") or None
        if job.phase is not Phase.SUBMITTED or job.native_id != native_id:
            job.phase, job.native_id = Phase.SUBMITTED, native_id
            self._touch(job, out)

    def _running(self, job: Job, data: dict[str, Any], out: Outcome, now: float) -> None:
        is_known = job.phase is Phase.SUBMITTED and job.live == data.get("live")
        job.phase = Phase.SUBMITTED
        job.started_at = job.started_at or str(data.get("at") or iso(now))
        job.native_id = _native_id(job, data)
        job.node = str(data["node"]) if data.get("node") else job.node
        job.live = str(data["live"]) if data.get("live") else job.live
        if job.is_cancel_asked:
            out.commands.append(Command(Verb.CANCEL, job, job.uuid))
        if not (is_known and job.state.is_live):
            job.reason = ""
            self._move(job, StepState.RUNNING, out)

    def _moved(self, job: Job, data: dict[str, Any], out: Outcome) -> None:
        try:
            state = StepState(str(data.get("state")))
        except ValueError:
            out.changes.append(
                Change(job.step, job.point, "note", str(data.get("state")), {"reason": data.get("reason", "")})
            )
            return
        is_queued = {state, job.state} <= {StepState.QUEUED, StepState.HELD}
        if (state.is_live or is_queued) and (state is not job.state or data.get("reason", "") != job.reason):
            job.phase = Phase.SUBMITTED if state.is_live else job.phase
            job.reason = str(data.get("reason") or "")
            self._move(job, state, out)

    def _ended(self, job: Job, data: dict[str, Any], out: Outcome, now: float) -> None:
        job.started_at = str(data.get("started_at") or job.started_at or iso(now))
        job.node = str(data.get("node") or job.node or "") or None
        job.native_id = _native_id(job, data)
        job.exit_code = data.get("exit_code")
        job.outputs = tuple(data.get("outputs") or ())
        state = data.get("state")
        if state == StepState.COMPLETED:
            self._end(
                job, StepState.COMPLETED, str(data.get("reason") or ""), out, now, str(data.get("ended_at") or "")
            )
        elif state == StepState.CANCELLED:
            self._end(
                job,
                StepState.CANCELLED,
                str(data.get("reason") or "cancelled"),
                out,
                now,
                str(data.get("ended_at") or ""),
            )
        else:
            may_retry = state == StepState.FAILED
            reason = data.get("reason") if may_retry else f"its result is of an unknown state {state!r}"
            self._failed(job, {**data, "reason": reason}, out, now, may_retry=may_retry)

    def _failed(self, job: Job, data: dict[str, Any], out: Outcome, now: float, *, may_retry: bool) -> None:
        job.failures += 1
        reason = str(data.get("reason") or "it failed")
        allowed = self._steps[job.step].plan.retries
        if may_retry and job.failures <= allowed and not job.is_cancel_asked:
            self._again(job, StepState.FAILED, reason, out, now)
            return
        job.error = data.get("error")
        state = StepState.CANCELLED if job.is_cancel_asked and not may_retry else StepState.FAILED
        self._end(job, state, reason, out, now, str(data.get("ended_at") or ""))

    def _lost(self, job: Job, reason: str, out: Outcome, now: float) -> None:
        job.losses += 1
        if job.is_cancel_asked:
            self._end(job, StepState.CANCELLED, f"cancelled by you; {reason}", out, now)
        elif job.losses <= _MAX_LOSSES:
            self._again(job, StepState.LOST, reason, out, now)
        else:
            self._end(job, StepState.FAILED, f"lost {job.losses} times, the last time because {reason}", out, now)

    def _again(self, job: Job, was: StepState, reason: str, out: Outcome, now: float) -> None:
        """Try a job again as a new attempt, with a uuid of its own."""
        data = {"attempt": job.attempt, "reason": reason, "exit_code": job.exit_code}
        out.changes.append(Change(job.step, job.point, "state" if was is StepState.LOST else "note", was.value, data))
        job.attempt += 1
        job.outputs = ()
        self._queue(job, f"attempt {job.attempt}, the one before {was.value}: {reason}", out, now)
        self._recall(self._steps[job.step], out, now)

    def _end(self, job: Job, state: StepState, reason: str, out: Outcome, now: float, at: str = "") -> None:
        job.ended_at = at or iso(now)
        job.reason, job.live, job.phase = reason, None, Phase.NONE
        if state is not StepState.COMPLETED:
            job.outputs = ()
        self._move(job, state, out)
        step = self._steps[job.step]
        if state.is_success:
            if step.is_done:
                self._step_done(step, out, now)
        else:
            self._cancel_dependants(step, state, out, now)

    def _step_done(self, step: Node, out: Outcome, now: float) -> None:
        for child in step.children:
            child.waits_for -= 1
            self._views.pop(child.plan.name, None)
            if child.waits_for == 0:
                self._release_step(child, out, now)

    def _cancel_dependants(self, root: Node, state: StepState, out: Outcome, now: float) -> None:
        """End everything that needs a step which did not end well; each with a sentence that names the cause."""
        happened = "failed" if state is StepState.FAILED else "was cancelled"
        cause = f"because `{root.plan.name}` {happened}"
        todo = deque((child, root, f"which {happened}") for child in root.children)
        while todo:
            step, parent, why = todo.popleft()
            if not step.counts[StepState.WAITING]:
                continue
            reason = f"cancelled: `{step.plan.name}` needs `{parent.plan.name}`, {why}"
            for job in step.jobs:
                if job.state is StepState.WAITING:
                    if job.uuid:
                        self._take_back(job, out)
                    job.ended_at, job.reason = iso(now), reason
                    self._move(job, StepState.CANCELLED, out)
            todo.extend((child, step, f"which was cancelled {cause}") for child in step.children)

    def _move(self, job: Job, state: StepState, out: Outcome) -> None:
        """Give a job its state; counters, the step's own state and events follow."""
        step = self._steps[job.step]
        self._open += job.state.is_final - state.is_final
        step.counts[job.state] -= 1
        step.counts[state] += 1
        job.state = state
        self._touch(job, out)
        data = {"attempt": job.attempt, "reason": job.reason}
        if job.exit_code is not None:
            data["exit_code"] = job.exit_code
        if job.error is not None:
            data["error"] = job.error
        if job.live is not None:
            data["live"] = job.live
        out.changes.append(Change(job.step, job.point, "state", state.value, data))
        shown = step.aggregate()
        if step.plan.point_count is not None and shown is not step.shown:
            counts = {key.value: n for key, n in step.counts.items() if n}
            out.changes.append(Change(job.step, None, "state", shown.value, {"counts": counts}))
        step.shown = shown

    def _touch(self, job: Job, out: Outcome) -> None:
        out.jobs[job.index] = job
        view = self._views.get(job.step)
        if view is not None and not view.forget(job):
            del self._views[job.step]

    def _finish_if_over(self, out: Outcome, now: float) -> None:
        if self._open or self.record.state.is_final:
            return
        shown = Counter(step.shown for step in self._steps.values())
        if self.record.is_cancel_asked and shown[StepState.CANCELLED]:
            self.record.state = RunState.CANCELLED
        elif shown[StepState.FAILED]:
            self.record.state = RunState.FAILED
        else:
            self.record.state = RunState.CANCELLED if shown[StepState.CANCELLED] else RunState.COMPLETED
        self.record.ended_at = iso(now)
        out.is_run_changed = True
        self.record.counts = {state.value: n for state, n in shown.items()}
        out.changes.append(Change(None, None, "run", self.record.state.value, {"steps": self.record.counts}))


def _native_id(job: Job, data: dict[str, Any]) -> str | None:
    """Return the queue's own name of a job, or else the number of its process."""
    found = data.get("native_id") or job.native_id or data.get("pid")
    return None if found is None else str(found)
