"""What earlier runs of a workflow have left that a submit may use: outputs of steps that are not chosen, and what the cache looks at."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kale_magic.errors import UnknownRunError
from kale_magic.manager.cache import Earlier
from kale_magic.manager.graph import run_of
from kale_magic.model.difference import step_differences

if TYPE_CHECKING:
    from kale_magic.manager.service import LiveRun, Service
    from kale_magic.manager.submission import Submission

EARLIER_RUNS = 50
_CACHED_RUNS = 10  # so many are looked through for a step that is unchanged


class Past:
    """See the module; ``service`` has the runs."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def made(self, submission: Submission) -> dict[str, str]:
        """Return the folders in which earlier runs of this workflow left the outputs that are needed; the newest count."""
        made: dict[str, str] = {}
        needed = submission.needed()
        if not needed:
            return made
        first = [submission.of_run] if submission.of_run else []
        earlier = self._service.store.earlier_runs(submission.workflow.name, str(submission.folder), EARLIER_RUNS)
        for past in dict.fromkeys([*first, *(record.id for record in earlier)]):
            run = self._service.find(past)
            record = run.record
            for name in (needed - made.keys()) & run.context.steps.keys():
                step, body = submission.workflow.steps[name], run.context.steps[name]
                count = submission.plan.steps[name].point_count if step.is_sweep else None
                folder = body.source or f"{record.folder}/steps/{name}"
                if run.machine.state(name).is_success and body.point_count == count and os.path.isdir(folder):
                    made[name] = folder
                    submission.changed |= self._changes(submission, name, run_of(folder))
            if len(made) == len(needed):
                break
        return made

    def _changes(self, submission: Submission, name: str, of_run: str) -> dict[str, str]:
        """Return in what a step has changed since the run that computed what is used of it."""
        try:
            then = self._service.find(of_run).context.workflow
            was, now = then.steps[name], submission.workflow.steps[name]
        except (UnknownRunError, KeyError):
            return {}
        found = step_differences(was, now, old_common=then.common_code(), new_common=submission.workflow.common_code())
        return {name: "; ".join(found[:3])} if found else {}

    def earlier(self, submission: Submission, chosen: list[str]) -> dict[str, list[Earlier]]:
        """Return, for each chosen step, the newest earlier runs of this workflow that completed it."""
        found: dict[str, list[Earlier]] = {name: [] for name in chosen}
        for record in self._service.store.earlier_runs(submission.workflow.name, str(submission.folder), _CACHED_RUNS):
            run = self._service.find(record.id)
            common = run.context.workflow.common_code()
            folders = {name: body.source or f"{record.folder}/steps/{name}" for name, body in run.context.steps.items()}
            for name in found.keys() & run.context.steps.keys():
                done = None if run.machine.state(name).is_success else _completed_points(run, name)
                if done is not None and not done:
                    continue
                began = [job.started_at for job in run.machine.find(name, None) if job.started_at]
                body = run.context.steps[name]
                if body.source is not None and not body.is_cached:  # only used there, perhaps as it was declared before
                    continue
                found[name].append(
                    Earlier(
                        run=record.id,
                        step=run.context.workflow.steps[name],
                        common=common,
                        body=body,
                        folder=folders[name],
                        producers=folders,
                        surroundings=record.body.get("surroundings") or {},
                        used_at=min(began, default=record.submitted_at),
                        done=done,
                    )
                )
        return found


def _completed_points(run: LiveRun, step: str) -> frozenset[int]:
    """Return the points of a sweep that completed, though not all of them did."""
    return frozenset(job.point for job in run.machine.find(step, None) if job.point is not None and job.state.is_success)
