"""How a run looks to a person or a program: the ``--json`` object of ``status``, built from jobs and kept until they change.

A status of 1,000 steps is asked for several times a second by every open dashboard, so what did not change is
not built again. Pure.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from kale_magic.model.states import StepState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kale_magic.manager.graph import Node
    from kale_magic.model.run import Job, RunRecord

_SHOWN_PARENTS = 3
_BRIEF_POINTS = 50
_NOTEWORTHY = (StepState.FAILED, StepState.GATED, StepState.PAUSED, StepState.LOST, StepState.CANCELLED, StepState.RUNNING)


class StepView:
    """The status object of one step, as long as it is true."""

    def __init__(self, node: Node, waits_for: Sequence[str]) -> None:
        self._node = node
        self._waiting = _waits_for(waits_for)
        self._points: dict[str, dict[str, Any]] = {}
        self._whole: dict[str, Any] | None = None
        self._text: tuple[str, str] | None = None  # the object as JSON, and the reason for waiting that is in it

    @property
    def is_long(self) -> bool:
        """Whether it is a sweep of so many points that a brief answer leaves some out."""
        return len(self._node.jobs) > _BRIEF_POINTS

    def forget(self, job: Job) -> bool:
        """Drop what is said about a job that changed; False when the whole view is to be dropped."""
        self._whole = self._text = None
        if job.point is None:
            return False
        self._points.pop(str(job.point), None)
        return True

    def build(self, reason: Callable[[str, str], str]) -> dict[str, Any]:
        """Return the object; ``reason(step, uuid)`` says why a queued job waits."""
        if self._whole is None:
            self._whole = self._sweep() if self._node.plan.point_count is not None else self._single()
        if not self._node.counts[StepState.QUEUED]:
            return self._whole
        return self._with_reasons(self._whole, reason)

    def text(self, reason: Callable[[str, str], str]) -> str:
        """Return the object as JSON, written anew only when it changed."""
        job = self._node.jobs[0] if self._node.jobs else None
        is_single = self._node.plan.point_count is None and job is not None
        if is_single or not self._node.counts[StepState.QUEUED]:
            why = reason(job.step, job.uuid) if job is not None and is_single and job.state is StepState.QUEUED else ""
            if self._text is None or self._text[1] != why:
                self._text = json.dumps(self.build(lambda *_: why)), why
            return self._text[0]
        return json.dumps(self.build(reason))

    def _single(self) -> dict[str, Any]:
        view = self._job(self._node.jobs[0])
        return {**view, "counts": {view["state"]: 1}}

    def brief(self, reason: Callable[[str, str], str]) -> dict[str, Any]:
        """Return the object as :meth:`build` does, but of a sweep of many points only those that a person wants to see."""
        jobs = self._node.jobs
        if self._node.plan.point_count is None or len(jobs) <= _BRIEF_POINTS:
            return self.build(reason)
        shown = [job for job in jobs if job.state in _NOTEWORTHY]
        shown.sort(key=lambda job: _NOTEWORTHY.index(job.state))
        points = {str(job.point): self._job(job) for job in shown[:_BRIEF_POINTS]}
        whole = self._summary()
        if self._node.shown is StepState.QUEUED and not whole["reason"]:
            whole["reason"] = queued_reason(next(job for job in jobs if job.state is StepState.QUEUED), reason)
        return {**whole, "points": dict(sorted(points.items(), key=lambda item: int(item[0])))}

    def _sweep(self) -> dict[str, Any]:
        for job in self._node.jobs:
            key = str(job.point)
            if key not in self._points:
                self._points[key] = self._job(job)
        return {**self._summary(), "points": {str(job.point): self._points[str(job.point)] for job in self._node.jobs}}

    def _summary(self) -> dict[str, Any]:
        """Return a sweep without its points."""
        jobs = self._node.jobs
        state = self._node.shown
        bad = [job for job in jobs if job.state in {StepState.FAILED, StepState.CANCELLED}]
        bad.sort(key=lambda job: job.state is not StepState.FAILED)
        ran = [job for job in jobs if job.state is not StepState.CACHED]
        ended = [job.ended_at for job in ran if job.ended_at]
        return {
            "state": state.value,
            "executor": self._node.plan.executor,
            "job": None,
            "native_id": None,
            "node": _common(job.node for job in jobs if job.node),
            "attempt": max((job.attempt for job in jobs), default=1),
            "queued_at": min((job.queued_at for job in jobs if job.queued_at), default=None),
            "started_at": min((job.started_at for job in jobs if job.started_at), default=None),
            "ended_at": max(ended, default=None) if len(ended) == len(ran) else None,
            "exit_code": bad[0].exit_code if bad else _common(job.exit_code for job in ran),
            "reason": _sweep_reason(bad, len(jobs)) or (self._waiting if state is StepState.WAITING else ""),
            "error": bad[0].error if bad else None,
            "outputs": list(next((job.outputs for job in jobs if job.outputs), ())),
            "counts": {state.value: n for state, n in self._node.counts.items() if n},
        }

    def _job(self, job: Job) -> dict[str, Any]:
        return {
            "state": job.state.value,
            "executor": self._node.plan.executor,
            "job": job.uuid or None,
            "native_id": job.native_id,
            "node": job.node,
            "attempt": job.attempt,
            "queued_at": job.queued_at,
            "started_at": job.started_at,
            "ended_at": job.ended_at,
            "exit_code": job.exit_code,
            "reason": job.reason or (self._waiting if job.state is StepState.WAITING else ""),
            "error": job.error,
            "outputs": list(job.outputs),
        }

    def _with_reasons(self, whole: dict[str, Any], reason: Callable[[str, str], str]) -> dict[str, Any]:
        """Put in why queued jobs wait, which changes without any change of theirs."""
        queued = [job for job in self._node.jobs if job.state is StepState.QUEUED]
        if "points" not in whole:
            return {**whole, "reason": queued_reason(queued[0], reason)}
        changed = {
            str(job.point): {**self._points[str(job.point)], "reason": queued_reason(job, reason)} for job in queued
        }
        own = whole["reason"] or (queued_reason(queued[0], reason) if self._node.shown is StepState.QUEUED else "")
        return {**whole, "reason": own, "points": {**whole["points"], **changed}}


def queued_reason(job: Job, reason: Callable[[str, str], str]) -> str:
    """Return why a queued job waits, after what there is to say about its earlier attempts."""
    return "; ".join(part for part in (job.reason, reason(job.step, job.uuid)) if part)


def run_text(
    record: RunRecord, views: Iterable[tuple[str, StepView]], reason: Callable[[str, str], str], seq: int, *, is_brief: bool = False
) -> str:
    """Return the ``status --json`` object of a run, as JSON; if brief, of long sweeps not every point."""
    head = json.dumps(run_object(record, seq))
    texts = ((name, json.dumps(view.brief(reason)) if is_brief and view.is_long else view.text(reason)) for name, view in views)
    steps = ",".join(f"{json.dumps(name)}:{text}" for name, text in texts)
    return f'{head[:-1]},"steps":{{{steps}}}}}'


def run_object(record: RunRecord, seq: int) -> dict[str, Any]:
    """Return the ``status --json`` object of a run without its steps."""
    return {
        "run": record.id,
        "workflow": record.workflow,
        "state": record.state.value,
        "executor": record.executor,
        "submitted_at": record.submitted_at,
        "ended_at": record.ended_at,
        "folder": record.folder,
        "workflow_folder": record.workflow_folder,
        "seq": seq,
    }


def run_line(record: RunRecord, counts: dict[str, int]) -> dict[str, Any]:
    """Return one line of ``runs --json``."""
    return {
        "run": record.id,
        "workflow": record.workflow,
        "state": record.state.value,
        "executor": record.executor,
        "submitted_at": record.submitted_at,
        "ended_at": record.ended_at,
        "folder": record.folder,
        "workflow_folder": record.workflow_folder,
        "steps": counts,
    }


def _waits_for(parents: Sequence[str]) -> str:
    if not parents:
        return ""
    names = ", ".join(f"`{name}`" for name in parents[:_SHOWN_PARENTS])
    more = len(parents) - _SHOWN_PARENTS
    return f"waits for {names}{f' and {more} more' if more > 0 else ''}"


def _sweep_reason(bad: Sequence[Job], total: int) -> str:
    if not bad:
        return ""
    count = sum(job.state is bad[0].state for job in bad)
    return f"{count} of {total} points {bad[0].state.value}, first {bad[0].address}: {bad[0].reason}"


def _common(values: Any) -> Any:
    """Return the value that all share, None if they differ or there are none."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
