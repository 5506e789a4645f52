"""A run as what its jobs need: from the stored body of a run to the specification and environment of one job.

The body holds the workflow as submitted and what was worked out then (parents, bindings, demands), so that a run
that is taken up by a later manager goes on exactly as it was begun. No file is touched.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from kale_magic.abc import Environment, Ticket
from kale_magic.manager.graph import StepPlan
from kale_magic.model.codec import workflow_from_dict
from kale_magic.model.literals import to_literal
from kale_magic.model.run import Demand
from kale_proxy.spec import ContainerSpec, InputSpec, JobSpec, LimitSpec, ParentSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from kale_magic.model.run import Job, RunRecord
    from kale_magic.model.step import Step
    from kale_magic.model.workflow import Workflow


HOLD_S = 600  # how long the kernel of a stopped step stays, unless the step says


@dataclass(frozen=True, slots=True)
class StepBody:
    """What is stored of a step of a run beside its declaration. ``bindings``: (name, producer, output, gather)."""

    name: str
    parents: tuple[str, ...]
    bindings: tuple[tuple[str, str, str, bool], ...]
    point_count: int | None
    executor: str
    demand: Demand
    source: str | None = None
    is_cached: bool = False  # it was to run, and was found unchanged
    files: tuple[tuple[str, str], ...] = ()  # (path, digest) of what its code names in the workflow's folder
    note: str = ""  # in what it has changed since, where what an earlier run left is used all the same
    points: tuple[tuple[int, str], ...] = ()  # of a sweep that runs in part: points that an earlier run computed, and their folders

    @property
    def is_there(self) -> bool:
        """Whether nothing of it runs: its outputs are those of earlier runs."""
        return self.source is not None or (self.point_count is not None and len(self.points) == self.point_count > 0)

    def to_json(self) -> dict[str, Any]:
        """Return the stored form."""
        if not self.points:
            return asdict(self)
        places: dict[str, list[tuple[int, str]]] = {}  # thousands are in few folders
        for point, folder in self.points:
            places.setdefault(os.path.dirname(folder), []).append((point, os.path.basename(folder)))
        return {**asdict(replace(self, points=())), "points": places}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StepBody:
        """Read the stored form."""
        bindings = tuple((str(a), str(b), str(c), bool(d)) for a, b, c, d in data["bindings"])
        return cls(
            data["name"],
            tuple(data["parents"]),
            bindings,
            data["point_count"],
            data["executor"],
            Demand(**data["demand"]),
            data["source"],
            bool(data.get("is_cached")),
            tuple((str(a), str(b)) for a, b in data.get("files") or ()),
            str(data.get("note") or ""),
            tuple(sorted((int(point), f"{place}/{name}") for place, items in dict(data.get("points") or {}).items() for point, name in items)),
        )


NO_SITE = ContainerSpec(image="")


class RunContext:
    """What is needed to hand jobs of one run to their executors.

    Parameters
    ----------
    record : RunRecord
        With its body.
    environment : callable
        ``environment(key)`` returns the variables kept under a key; called once, when the first job starts.
    ordered : container of str
        Names of the executors that keep order.
    site : ContainerSpec
        What is configured for containers; its image counts for nothing.
    """

    def __init__(
        self,
        record: RunRecord,
        environment: Callable[[str], Mapping[str, str]],
        ordered: Container[str] = (),
        site: ContainerSpec = NO_SITE,
    ) -> None:
        self.record = record
        self._site = site
        self._load = environment
        self._ordered = ordered
        self.steps = {item["name"]: StepBody.from_json(item) for item in record.body["steps"]}
        self._environments: dict[tuple[object, ...], Environment] = {}
        self._points: dict[str, list[dict[str, object]]] = {}
        self._places: dict[str, dict[int, str]] = {}
        self._gathered: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}

    @cached_property
    def workflow(self) -> Workflow:
        """The workflow as submitted."""
        return workflow_from_dict(self.record.body["workflow"])

    @cached_property
    def _common(self) -> str:
        return self.workflow.common_code()

    @cached_property
    def _environ(self) -> tuple[tuple[str, str], ...]:
        return tuple(sorted(self._load(self.record.environment).items()))

    def plans(self) -> list[StepPlan]:
        """Return what the machine needs to know of each step."""
        return [
            StepPlan(
                step.name,
                step.parents,
                step.point_count,
                self.workflow.steps[step.name].retries,
                step.executor,
                step.source,
                self._is_early(step),
                self.workflow.steps[step.name].is_gate_release,
                dict(step.points),
                step.note,
            )
            for step in self.steps.values()
        ]

    def _is_early(self, step: StepBody) -> bool:
        return not self.workflow.steps[step.name].is_gate_release and step.executor in self._ordered and all(
            self.steps[parent].executor == step.executor for parent in step.parents if not self.steps[parent].is_there
        )

    def folder(self, job: Job) -> str:
        """Return the folder of a job, or the one in which an earlier run left what it would have made."""
        return self._folder(job.step, job.point)

    def ticket(self, job: Job, after: tuple[str, ...] = ()) -> Ticket:
        """Return the job's newest attempt as its executor sees it; ``after`` as :class:`kale_magic.abc.Ticket` has it."""
        step = self.steps[job.step]
        return Ticket(
            job.uuid,
            self.record.id,
            job.address,
            (self.record.number, job.index),
            step.demand,
            partial(self.spec, job.step, job.point, job.attempt, job.uuid, job.decision),
            partial(self.environment, job.step),
            job.step,
            job.point,
            job.attempt,
            self.workflow.steps[job.step].resources,
            after,
            self.workflow.steps[job.step].reuse_kernel,
        )

    def environment(self, name: str) -> Environment:
        """Return where a step's code runs; equal ones are the same object within a run."""
        asked = self.workflow.steps[name].resources
        added = (asked.modules, asked.setup, asked.env)
        found = self._environments.get(added)
        if found is None:
            found = self._environments[added] = Environment(self.record.python, self._environ, *added)
        return found

    def spec(
        self, name: str, point: int | None, attempt: int, uuid: str, decision: Mapping[str, str] | None = None
    ) -> JobSpec:
        """Return what the worker of one attempt is to do; ``decision`` is what a person set at a gate before it."""
        step, body = self.workflow.steps[name], self.steps[name]
        values = {**step.params, **(self._sweep(name)[point] if point is not None else {})}
        return JobSpec(
            run=self.record.id,
            step=name,
            point=point,
            attempt=attempt,
            uuid=uuid,
            folder=self._folder(name, point),
            cwd=self.record.workflow_folder,
            kind=step.kind.value,
            code=step.code,
            kernel=step.kernel,
            notebook=step.notebook,
            common=self._common if step.kind == "python" else "",
            description=step.description,
            params={key: to_literal(value, f"{key} of step {name}") for key, value in values.items()} | dict(decision or {}),
            inputs=tuple(self._input(*binding) for binding in body.bindings),
            outputs=step.outputs,
            formats=dict(step.formats),
            files_in=step.files_in,
            files_out=step.files_out,
            env=self._env(name, point),
            limits=self._limits(step, body),
            container=self._container(step),
            is_gate=step.is_gate and not step.is_gate_release,
            hold_s=HOLD_S if step.hold_s is None else step.hold_s,
            hold_on_failure_s=step.hold_on_failure_s if step.hold_on_failure_s and attempt > step.retries else 0,
            warn_s=step.warn_s,
            idle_s=step.idle_s,
            parents=self._parents(body),
        )

    def _container(self, step: Step) -> ContainerSpec | None:
        image = step.resources.container
        return None if image is None else replace(self._site, image=image)

    def _parents(self, body: StepBody) -> tuple[ParentSpec, ...]:
        """Return what the job is to check itself, where the queue starts it."""
        if body.executor not in self._ordered:
            return ()
        names = [name for name in body.parents if not self.steps[name].is_there]
        return tuple(
            ParentSpec(step=name, folder=self._folder(name, None), point_count=self.steps[name].point_count)
            for name in names
        )

    def _env(self, name: str, point: int | None) -> dict[str, str]:
        """Return where a step that is run again finds the checkpoint of the run before."""
        folder = (self.record.body.get("checkpoints") or {}).get(name)
        if folder is None:
            return {}
        return {"KALE_CHECKPOINT": folder if point is None else f"{folder}/{point}"}

    def _limits(self, step: Step, body: StepBody) -> LimitSpec:
        return LimitSpec(
            walltime_s=step.resources.walltime_s,
            memory_bytes=step.resources.memory_bytes,
            cpus=body.demand.cpus,
        )

    def _input(self, name: str, producer: str, output: str, gather: bool) -> InputSpec:
        if producer not in self._gathered:
            count = self.steps[producer].point_count
            points = [None] if count is None else range(count)
            folders = tuple(f"{self._folder(producer, point)}/outputs" for point in points)
            params = tuple(to_literal(point) for point in self._sweep(producer)) if count is not None else ()
            self._gathered[producer] = folders, params
        folders, params = self._gathered[producer]
        return InputSpec(
            name=name,
            producer=producer,
            output=output,
            folders=folders,
            gather=gather,
            gather_params=params if gather else (),
        )

    def _sweep(self, name: str) -> list[dict[str, object]]:
        if name not in self._points:
            self._points[name] = self.workflow.steps[name].points()
        return self._points[name]

    def _folder(self, name: str, point: int | None) -> str:
        source = self.steps[name].source
        if point is not None and (made := self._made(name).get(point)) is not None:
            return made
        folder = source if source is not None else f"{self.record.folder}/steps/{name}"
        return folder if point is None else f"{folder}/{point}"

    def _made(self, name: str) -> dict[int, str]:
        if name not in self._places:
            self._places[name] = dict(self.steps[name].points)
        return self._places[name]
