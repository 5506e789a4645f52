"""What each request of a client does: fields in, result out, mistakes as errors that name the field.

The server calls :meth:`Requests.handle` for every request but ``events``; whatever changes state answers only
after it is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic import protocol
from kale_magic.errors import ManagerError, PoolError, StoreError, SubmitError, UnknownStepError, UsageError
from kale_magic.manager.context import RunContext
from kale_magic.manager.graph import attempt_uuid, expand
from kale_magic.manager.listing import listing, reading, searching
from kale_magic.manager.past import EARLIER_RUNS, Past
from kale_magic.manager.pools import unknown as no_such_pool
from kale_magic.manager.runfolder import add_git_state, note_decision
from kale_magic.manager.submission import Submission
from kale_magic.manager.views import run_line, run_text
from kale_magic.model.run import Job, Verb
from kale_magic.version import __version__
from kale_proxy.wire import CONNECTION_NAME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kale_magic.manager.context import StepBody
    from kale_magic.manager.pools import Pools
    from kale_magic.manager.service import LiveRun, Service
    from kale_magic.model.run import Demand

_MAX_RUNS = 10_000


class Requests:
    """The requests of the protocol on one service.

    Parameters
    ----------
    service : Service
        Opened.
    about : dict
        What ``manager`` answers beside the number of runs: pid, host, version, address, started_at.
    keys : Path, optional
        Where jobs on other hosts tell where their kernels are.
    pools : Pools, optional
        The allocations that are kept open.
    more : mapping, optional
        What others of the manager answer, by the words of the protocol.
    """

    def __init__(
        self, service: Service, about: Mapping[str, Any], keys: Path | None = None, pools: Pools | None = None,
        more: Mapping[str, Callable[[dict[str, Any]], Awaitable[Any]]] | None = None,
    ) -> None:  # fmt: skip
        self._service = service
        self._about = about
        self._keys = keys
        self._pools = pools
        self._past = Past(service)
        self._submitting = asyncio.Lock()
        self._later: set[asyncio.Future[None]] = set()
        self._ops: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {
            protocol.SUBMIT: self._submit,
            protocol.STATUS: self._status,
            protocol.RUNS: self._runs,
            protocol.WHERE: self._where,
            protocol.FIND: self._find,
            protocol.CANCEL: self._cancel,
            protocol.STOP: self._stop,
            protocol.RELEASE: self._release,
            protocol.HOLD: self._hold,
            protocol.FILES: self._files,
            protocol.READ: self._read,
            protocol.SEARCH: self._search,
            protocol.FREEZE: self._freeze,
            protocol.CONTINUE: self._continue,
            protocol.QUEUE: self._queue,
            protocol.MANAGER: self._manager,
            **(pools.ops() if pools is not None else {}),
            **(more or {}),
        }

    async def handle(self, op: str, fields: dict[str, Any]) -> Any:
        """Do what a request asks and return its result; raises KaleError."""
        work = self._ops.get(op)
        if work is None:
            raise ManagerError(f"This manager (Kale {__version__}) does not know the request {op!r}.")
        return await work(fields)

    # -- submit ------------------------------------------------------------------------------------------

    async def _submit(self, fields: dict[str, Any]) -> dict[str, Any]:
        async with self._submitting:  # asked again with the same token, it must find the first
            service = self._service
            submission = Submission(fields)
            if (known := service.store.run_of_token(submission.token)) is not None:
                return {"run": known.id, "folder": known.folder, "seq": 0}
            await asyncio.to_thread(submission.resolve)
            made = self._past.made(submission)
            chosen = submission.chosen(made)
            earlier = self._past.earlier(submission, chosen) if submission.is_cached else {}
            await asyncio.to_thread(submission.decide, chosen, earlier, made)
            demands = await self._demands(submission, chosen)
            if submission.is_dry:
                scripts = self._scripts(submission, submission.bodies(chosen, made, demands))
                return {"folder": str(submission.folder), "steps": _decisions(submission, chosen, scripts)}
            bodies = submission.bodies(chosen, made, demands)
            record = await asyncio.to_thread(submission.record, bodies, service.clock.now())
            seq = service.seq
            try:
                service.add(record, submission.environ)
            except StoreError:
                await asyncio.to_thread(shutil.rmtree, record.folder, ignore_errors=True)
                raise
            task = asyncio.ensure_future(asyncio.to_thread(add_git_state, Path(record.folder), submission.folder))
            self._later.add(task)  # a large repository takes git seconds, for which no submit waits
            task.add_done_callback(self._later.discard)
            return {"run": record.id, "folder": record.folder, "seq": seq}

    def _scripts(self, submission: Submission, bodies: list[StepBody]) -> dict[str, str]:
        """Return the job script of each step that would run; of a sweep, that of its first point."""
        context = RunContext(submission.draft(bodies), lambda _: submission.environ)
        scripts: dict[str, str] = {}
        for job in expand(context.plans()):
            if not job.state.is_final and job.step not in scripts:
                executor = self._service.executors[context.steps[job.step].executor]
                job.uuid = attempt_uuid(context.record.seed, job)
                scripts[job.step] = executor.script(context.ticket(job))
        return scripts

    async def _demands(self, submission: Submission, chosen: list[str]) -> dict[str, Demand]:
        demands = {}
        for name in chosen:
            step = submission.workflow.steps[name]
            executor = self._service.executors.get(submission.executor_of(step))
            if executor is None:
                raise self._no_pool(submission.executor_of(step).removeprefix("pool:"))
            if step.reuse_kernel and not executor.shares_kernels:
                what = f"Step {name}: --reuse-kernel is not for the executor {submission.executor_of(step)}, which starts each point by itself."
                raise SubmitError(what, "Leave it out, or give the step another --executor: local, slurm, a pool.")
            demands[name] = await executor.check(step)
        return demands

    def _no_pool(self, name: str) -> PoolError:
        known = [str(pool["name"]) for pool in self._pools.lines()] if self._pools is not None else []
        return no_such_pool(name, known)

    # -- questions ---------------------------------------------------------------------------------------

    async def _status(self, fields: dict[str, Any]) -> protocol.Encoded:
        run = self._service.find(_text(fields, "run"))
        return protocol.Encoded(run_text(run.record, run.machine.views(), self._service.reason(run), self._service.seq, is_brief=bool(fields.get("brief"))))

    async def _runs(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        limit = fields.get("limit", 100)
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise UsageError(f"runs: limit is a positive number, not {limit!r}.")
        lines = []
        for record in self._service.store.list_runs(_text(fields, "folder"), min(limit, _MAX_RUNS)):
            live = self._service.runs.get(record.id)
            lines.append(run_line(record, live.machine.counts() if live else record.counts))
        return lines

    async def _where(self, fields: dict[str, Any]) -> dict[str, Any]:
        run, step, point = self._target(fields)
        if step is None:
            raise UsageError("where: a step is needed.")
        jobs = run.machine.find(step, point)
        kind = run.context.workflow.steps[step].kind.value
        body = run.context.steps[step]
        answer = {"run": run.record.id, "step": step, "point": point, "kind": kind, "point_count": body.point_count}
        if body.point_count is not None and point is None:
            folder = body.source or f"{run.record.folder}/steps/{step}"
            state = run.machine.state(step).value
            return {**answer, "state": state, "reason": "", "live": None, "folder": folder, "job": None}
        job = jobs[0]
        reason = self._reason(run, job)
        rank = int(fields.get("rank") or 0)
        told = self._told(run, job, rank)
        if rank and job.live is not None and not told:
            ranks = sorted(int(path.stem.partition(".")[2] or 0) for path in (self._keys or Path()).glob(f"{job.uuid}*.json"))
            there = f"It has the ranks {ranks[0]} to {ranks[-1]}." if ranks[1:] else "It has one process: leave --rank out."
            raise UsageError(f"`{job.address}` of run {run.record.id} has no kernel of rank {rank}.", there)
        return {
            **answer,
            "state": job.state.value,
            "reason": reason,
            "live": told.get("live") if rank else self._live(run, job),
            "folder": run.context.folder(job) + (f"/ranks/{rank}" if rank else ""),
            "job": job.uuid or None,
            **_reach(job, told, is_far=bool(fields.get("reach"))),
        }

    def _live(self, run: LiveRun, job: Job) -> str | None:
        """Return the folder of a job's kernel, once the job has told where that is if it is on another host."""
        if job.live is None or not job.node or self._keys is None or (self._keys / f"{self._kernel(run, job)}.json").exists():
            return job.live
        return None

    def _kernel(self, run: LiveRun, job: Job) -> str:
        executor = self._service.executors.get(run.context.steps[job.step].executor)
        return job.uuid if executor is None else executor.kernel_of(job.uuid)

    def _told(self, run: LiveRun, job: Job, rank: int) -> dict[str, Any]:
        """Return what a job on another host tells of its kernel, or of that of one of its ranks."""
        if self._keys is not None and job.live is not None:
            name = f"{job.uuid}.{rank}" if rank else self._kernel(run, job)
            with contextlib.suppress(OSError, ValueError):
                return dict(json.loads((self._keys / f"{name}.json").read_bytes()))
        return {}

    async def _find(self, fields: dict[str, Any]) -> list[dict[str, Any]]:
        """Return where a step is in each live run that has it and in the newest ended one, newest first."""
        step = _text(fields, "step")
        if step is None:
            raise UsageError("find: a step is needed.")
        folder, is_below = _text(fields, "folder"), bool(fields.get("below"))
        workflow = _text(fields, "workflow")
        names = self._service.store.runs_with(step, workflow, folder, is_below=is_below, limit=EARLIER_RUNS)
        found, has_ended = [], False
        for name in names:
            if name in self._service.runs or not has_ended:
                found.append(await self._where({"run": name, "step": step}))
                has_ended = has_ended or name not in self._service.runs
        return found

    async def _queue(self, fields: dict[str, Any]) -> list[dict[str, Any]]:  # noqa: ARG002 - every op has fields
        lines = []
        for name, executor in self._service.executors.items():
            for line in executor.queue():
                found = self._service.job(line.uuid)
                if found is None:
                    continue
                run, job = found
                lines.append({
                    "run": run.record.id,
                    "step": job.step,
                    "point": job.point,
                    "state": job.state.value,
                    "reason": line.reason or job.reason,
                    "cpus": line.demand.cpus,
                    "gpus": line.demand.gpus,
                    "memory_bytes": line.demand.memory_bytes or None,
                    "executor": name,
                    "native_id": line.native_id or None,
                    "node": line.node or None,
                    "starts_at": line.starts_at or None,
                })  # fmt: skip
        return lines

    async def _files(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Tell of files on this host, for a client that has no view of them."""
        patterns = [str(item) for item in fields.get("patterns") or ()]
        found = await asyncio.to_thread(listing, _text(fields, "folder") or "", patterns, makes=bool(fields.get("make")), has_digests=not fields.get("brief"))
        return {"files": found}

    async def _read(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Give what a client elsewhere lacks of files that grow."""
        wanted = [item for item in fields.get("wanted") or () if isinstance(item, dict)]
        return {"files": await asyncio.to_thread(reading, _text(fields, "folder") or "", wanted)}

    async def _search(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Tell where a word stands in a file."""
        at, is_back = fields.get("at"), bool(fields.get("back"))
        folder, name, word = (_text(fields, key) or "" for key in ("folder", "name", "word"))
        start = at if isinstance(at, int) else -1 if is_back else 0
        return {"at": await asyncio.to_thread(searching, folder, name, word, start, is_backward=is_back)}

    async def _manager(self, fields: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - every op has fields
        executors = {name: executor.describe() for name, executor in self._service.executors.items()}
        return {**self._about, "runs": len(self._service.runs), "rss_bytes": _rss_bytes(), "home": os.path.expanduser("~"), "python": sys.executable, "executors": executors}

    # -- deeds -------------------------------------------------------------------------------------------

    async def _cancel(self, fields: dict[str, Any]) -> dict[str, Any]:
        run, step, point = self._target(fields)
        names = self._service.cancel(run, step, point)
        await self._service.committed()
        return {"cancelled": names}

    async def _stop(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {"stopped": await self._ask(fields, Verb.INTERRUPT, "interrupted")}

    async def _release(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {"released": await self._ask(fields, Verb.RELEASE, "released")}

    async def _hold(self, fields: dict[str, Any]) -> dict[str, Any]:
        return {"held": await self._ask(fields, Verb.HOLD, "held")}

    async def _continue(self, fields: dict[str, Any]) -> dict[str, Any]:
        run, step, point = self._target(fields)
        if step is None:
            raise UsageError("continue: a step is needed.")
        decision = {str(name): str(text) for name, text in dict(fields.get("set") or {}).items()}
        by = _text(fields, "by") or ""
        names = self._service.proceed(run, step, point, decision, by)
        if not names:
            raise UsageError(f"`{step}` of run {run.record.id} is {run.machine.state(step).value}: it waits for nobody.")
        await self._service.committed()
        folders = [run.context.folder(job) for job in run.machine.find(step, point) if job.address in names]
        await asyncio.to_thread(note_decision, folders, by, decision)
        return {"continued": names}

    async def _freeze(self, fields: dict[str, Any]) -> dict[str, Any]:
        run, step, _ = self._target(fields)
        name = run.context.steps[step].executor if step is not None else ""
        executor = self._service.executors.get(name)
        if executor is not None and not executor.can_freeze:
            raise UsageError(f"The executor {name} can't freeze the processes of a step.", "Pause it without --freeze.")
        is_on = bool(fields.get("on"))
        names = await self._ask(fields, Verb.FREEZE if is_on else Verb.THAW, "frozen" if is_on else "resumed")
        return {"asked": names}

    async def _ask(self, fields: dict[str, Any], verb: Verb, done: str) -> list[str]:
        run, step, point = self._target(fields)
        if step is None:
            raise UsageError(f"{verb.value}: a step is needed.")
        names = self._service.ask(run, verb, step, point)
        if not names:
            job = run.machine.find(step, point)[0]
            state = run.machine.state(step) if point is None else job.state
            kind = "a step in the queue" if verb is Verb.HOLD else "a running step"
            raise UnknownStepError(f"`{step}` of run {run.record.id} is {state.value}: only {kind} can be {done}.")
        await self._service.committed()
        return names

    def _target(self, fields: dict[str, Any]) -> tuple[LiveRun, str | None, int | None]:
        step, point = _text(fields, "step"), fields.get("point")
        if point is not None and (not isinstance(point, int) or isinstance(point, bool)):
            raise UsageError(f"A point is a number, not {point!r}.")
        if point is not None and step is None:
            raise UsageError("A point is one of a step: name the step too.")
        run = self._service.find(_text(fields, "run"))
        if step is not None:
            run.machine.find(step, point)
        return run, step, point

    def _reason(self, run: LiveRun, job: Job) -> str:
        view = run.machine.view(job.step).build(self._service.reason(run))
        return str((view if job.point is None else view["points"][str(job.point)])["reason"])


def _decisions(submission: Submission, chosen: list[str], scripts: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return what would be done with each step, and its job script, for a dry run."""
    return {
        name: {
            "state": "cached" if found.is_cached else "runs",
            "why": found.why,
            "script": scripts.get(name, ""),
            **({"points": {"runs": found.runs, "cached": len(found.points)}} if found.points and found.runs else {}),
        }
        for name in chosen
        if (found := submission.decisions[name])
    }


def _text(fields: Mapping[str, Any], key: str) -> str | None:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{key} is text, not {type(value).__name__}.")
    return value


def _reach(job: Job, told: Mapping[str, Any], *, is_far: bool) -> dict[str, Any]:
    """Return what a client needs besides the folder to get to a kernel that is not on its own host."""
    here = {"node": "", "job_id": "", "python": sys.executable}
    if told.get("host", socket.gethostname()) != socket.gethostname():
        return {**here, **{name: str(told.get(name) or "") for name in ("node", "job_id", "python", "key")}, "door": told.get("door")}
    return {**here, "key": _key(told.get("live") or job.live)} if is_far else {}


def _key(live: str | None) -> str:
    """Return the key of a kernel on this host, empty while it has none."""
    if live is not None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return str(json.loads(Path(live, CONNECTION_NAME).read_bytes())["key"])
    return ""


def _rss_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
