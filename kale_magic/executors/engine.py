"""Other workflow software as an executor: ``snakemake`` and ``cwltool`` run the whole workflow, and Kale follows.

The first job of a run starts the engine on an export of it; the engine decides what runs when. What steps tell of themselves
becomes their states, logs and outputs in the run's folder, so status, dashboard and ``pull`` are as for any run. Refuses
what such an engine can't do: a visit, a stop that leaves the kernel, a run of some steps only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic.abc import Executor, QueueLine
from kale_magic.errors import SubmitError
from kale_magic.executors._engine_run import EngineRun
from kale_magic.executors._fate import Fate, find_out
from kale_magic.executors._folder import prepare_folder
from kale_magic.model.run import Demand, Report, ReportKind
from kale_proxy.record import cells_of, new_result, notebook_metadata, write_event, write_result, write_sample
from kale_proxy.recorder import CELL_PREFIX, Recorder
from kale_proxy.shellrun import record_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kale_magic.abc import Clock, Ticket
    from kale_magic.config import Settings
    from kale_magic.model.step import Step
    from kale_proxy.spec import JobResult, JobSpec

_POLL_S = 0.1
_VALUES = "outputs"


def create_snakemake(settings: Settings, clock: Clock) -> EngineExecutor:  # noqa: ARG001 - the registry's form
    """Return the executor that has Snakemake run workflows."""
    return EngineExecutor("snakemake")


def create_cwltool(settings: Settings, clock: Clock) -> EngineExecutor:  # noqa: ARG001
    """Return the executor that has cwltool run workflows."""
    return EngineExecutor("cwltool")


class EngineExecutor(Executor):
    """Runs of one engine; see :class:`kale_magic.abc.Executor` for what each method promises."""

    outlives_host = False

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self._sink: Callable[[Report], None] = lambda _: None
        self._queued: dict[str, Ticket] = {}
        self._taken: dict[str, Ticket] = {}
        self._jobs: dict[str, Ticket] = {}
        self._specs: dict[str, JobSpec] = {}
        self._started_at: dict[str, str] = {}
        self._runs: dict[str, EngineRun] = {}
        self._watch: asyncio.Task[None] | None = None

    async def open(self, sink: Callable[[Report], None]) -> None:
        """Begin."""
        self._sink = sink

    async def close(self) -> None:
        """Stop looking; engines go on."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch

    async def check(self, step: Step) -> Demand:
        """Return what a step asks for; whether there is so much is the engine's to say."""
        if step.idle_s is not None:
            raise SubmitError(f"Step {step.name} is the kernel of a notebook, which {self.engine} can't run.")
        if step.is_gate:
            way_out = "Run it by Kale; or jupyter kale run --gates continue, by which it goes on with its --params."
            raise SubmitError(f"Step {step.name} is a gate, and {self.engine} asks nobody.", way_out)
        if step.resources.container:
            raise SubmitError(f"Step {step.name} asks for a container, which it would not get from {self.engine}.", "Run it by Kale: --executor local or slurm.")
        return Demand(cpus=step.resources.cpus or 1, memory_bytes=step.resources.memory_bytes or 0, gpus=step.resources.gpus or 0)

    def enqueue(self, ticket: Ticket) -> None:
        """Take a job into the queue."""
        self._queued[ticket.uuid] = ticket

    def withdraw(self, uuid: str) -> None:
        """Take a job out of the queue."""
        self._queued.pop(uuid, None)

    def take(self) -> list[str]:
        """Return all jobs: the engine has a queue of its own."""
        self._taken |= self._queued
        found = list(self._queued)
        self._queued.clear()
        return found

    def start(self, uuid: str) -> None:
        """Follow a job, and start the engine with the first of a run."""
        ticket = self._taken.pop(uuid, None)
        if ticket is None:
            return
        spec = self._follow(ticket)
        run = self._runs[ticket.run]
        try:
            prepare_folder(spec, spec.to_json(), ticket.environment())
            run.begin(spec, ticket.environment())
        except OSError as exc:
            self._forget(uuid)
            self._sink(Report(ReportKind.REFUSED, uuid, {"reason": f"{self.engine} could not be started: {exc.strerror or exc}"}))

    def drop(self, uuid: str) -> None:
        """Give up a taken job."""
        self._taken.pop(uuid, None)

    def recover(self, tickets: Iterable[Ticket]) -> None:
        """Follow jobs that may have been started in an earlier life: the journal tells of them from its beginning."""
        for ticket in tickets:
            found = find_out(ticket.spec())
            if found.fate is Fate.OVER:
                self._sink(Report(ReportKind.ENDED, ticket.uuid, found.data))
            else:
                self._follow(ticket)

    def cancel(self, uuid: str) -> None:
        """End the engine of the job's run: one step of it can't be ended alone."""
        ticket = self._jobs.get(uuid)
        if ticket is None:
            return
        self._end(uuid, self._result(uuid, "cancelled", reason=f"cancelled by you; {self.engine} was ended"))
        run = self._runs.get(ticket.run)
        if run is not None:
            run.end()

    def interrupt(self, uuid: str) -> None:
        """Do as :meth:`cancel`: there is no kernel to keep."""
        self.cancel(uuid)

    def release(self, uuid: str) -> None:
        """Do nothing: nothing is held."""

    def reason(self, uuid: str) -> str:
        """Return why a queued job waits."""
        return f"{self.engine} has not started it yet" if uuid in self._queued or uuid in self._taken else ""

    def queue(self) -> list[QueueLine]:
        """Return what runs and what waits."""
        lines = [QueueLine(uuid, "running" if uuid in self._started_at else "queued", "", ticket.demand) for uuid, ticket in self._jobs.items()]
        return lines + [QueueLine(uuid, "queued", self.reason(uuid), ticket.demand) for uuid, ticket in self._queued.items()]

    def describe(self) -> dict[str, Any]:
        """Return how many runs and jobs are followed."""
        return {"engine": self.engine, "runs": len(self._runs), "jobs": len(self._jobs)}

    # -- how ---------------------------------------------------------------------------------------------

    def _follow(self, ticket: Ticket) -> JobSpec:
        spec = ticket.spec()
        self._jobs[ticket.uuid], self._specs[ticket.uuid] = ticket, spec
        steps = 2 if spec.point is None else 3
        folder = Path(spec.folder).parents[steps - 1]
        self._runs.setdefault(ticket.run, EngineRun(folder, self.engine))
        if self._watch is None or self._watch.done():
            self._watch = asyncio.get_running_loop().create_task(self._look())
        return spec

    async def _look(self) -> None:
        """Read the journals while there are jobs."""
        while self._jobs:
            await asyncio.sleep(_POLL_S)
            for name, run in list(self._runs.items()):
                is_alive = run.is_alive()  # asked first: what it wrote before it ended is then read below
                run.read()
                mine = [uuid for uuid, ticket in self._jobs.items() if ticket.run == name]
                for uuid in mine:
                    self._take_events(uuid, run)
                if not is_alive:
                    for uuid in mine:
                        self._abandon(uuid, run)
                if not any(ticket.run == name for ticket in (*self._jobs.values(), *self._queued.values(), *self._taken.values())):
                    self._retire(name, is_alive=is_alive)

    def _retire(self, name: str, *, is_alive: bool) -> None:
        """Let go of a run whose engine has ended; while it lives, more of its jobs will come."""
        if not is_alive:
            self._runs.pop(name, None)

    def _take_events(self, uuid: str, run: EngineRun) -> None:
        for event in run.events(self._specs[uuid]):
            if uuid not in self._jobs:
                return
            place = run.place(event)
            if event["event"] == "running":
                self._begin(uuid, event, place)
            else:
                self._finish(uuid, event, place)

    def _begin(self, uuid: str, event: dict[str, Any], place: Path) -> None:
        spec = self._specs[uuid]
        self._started_at[uuid] = str(event["at"])
        for name in ("stdout.log", "stderr.log"):
            with contextlib.suppress(OSError):
                os.unlink(f"{spec.folder}/{name}")
            with contextlib.suppress(OSError):
                os.link(place / name, f"{spec.folder}/{name}")
        write_event(spec, "running", pid=event.get("pid"))
        self._sink(Report(ReportKind.RUNNING, uuid, {key: event.get(key) for key in ("at", "pid", "node")}))

    def _finish(self, uuid: str, event: dict[str, Any], place: Path) -> None:
        spec = self._specs[uuid]
        code = int(event.get("code") or 0)
        if code:
            reason = str(event.get("reason") or f"it ended with exit code {code}")
            result = self._result(uuid, "failed", exit_code=code, reason=reason)
        else:
            target = Path(spec.folder) / _VALUES
            shutil.rmtree(target, ignore_errors=True)
            with contextlib.suppress(OSError):
                os.replace(place / _VALUES, target)
            result = self._result(uuid, "completed", exit_code=0, outputs=_index(target))
        known: dict[str, Any] = {key: event.get(key) for key in ("cpu_s", "peak_rss_bytes", "pid")}
        shutil.rmtree(place, ignore_errors=True)
        self._end(uuid, replace(result, ended_at=str(event["at"]), node=str(event.get("node") or ""), **known))

    def _abandon(self, uuid: str, run: EngineRun) -> None:
        """End a job whose engine is gone: it failed within the engine, or was never begun by it."""
        if uuid not in self._jobs:
            return
        said = run.last_words()
        if uuid not in self._started_at and run.has_failures:  # cwltool begins nothing more after a failure
            self._end(uuid, self._result(uuid, "cancelled", reason=f"{self.engine} ended without running it, since another step failed"))
            return
        what = "ended it" if uuid in self._started_at else "ended without running it"
        self._end(uuid, self._result(uuid, "failed", exit_code=1, reason=f"{self.engine} {what}" + (f": {said}" if said else "")))

    def _result(self, uuid: str, state: str, **data: Any) -> JobResult:
        found = new_result(self._specs[uuid], state, self._started_at.get(uuid, ""), **data)
        return found if found.started_at else replace(found, started_at=found.ended_at)

    def _end(self, uuid: str, result: JobResult) -> None:
        spec = self._specs[uuid]
        with contextlib.suppress(OSError):  # the report below counts all the same
            _write_record(spec, result)
        self._forget(uuid)
        self._sink(Report(ReportKind.ENDED, uuid, json.loads(result.to_json())))

    def _forget(self, uuid: str) -> None:
        for known in (self._jobs, self._specs, self._started_at):
            known.pop(uuid, None)


def _write_record(spec: JobSpec, result: JobResult) -> None:
    """Write what a step of ours leaves as well: the notebook, a sample, the event, the result."""
    folder = Path(spec.folder)
    recorder = Recorder(folder, cells_of(spec), notebook_metadata(spec), writes_logs=False)
    record_logs(recorder, folder)
    recorder.content(f"{CELL_PREFIX}step-{spec.uuid}", "execute_input", {"execution_count": 1})
    if result.state == "failed":
        recorder.error_output("EngineError", result.reason, [result.reason])
    recorder.save(is_durable=True)
    write_sample(spec, result.cpu_s or 0.0, result.peak_rss_bytes or 0)
    write_event(spec, "ended", state=result.state, reason=result.reason)
    write_result(spec, result)


def _index(folder: Path) -> dict[str, dict[str, Any]]:
    from kale_proxy.values import read_index

    with contextlib.suppress(ValueError):
        return read_index(folder)
    return {}
