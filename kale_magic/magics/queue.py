"""``%kale_queue``, ``%kale_hold``, ``%kale_release``: the queue, and what a person does in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.api.hold import hold as hold_step
from kale_magic.api.hold import release as release_step
from kale_magic.render import text
from kale_magic.render.tables import table

if TYPE_CHECKING:
    from kale_magic.magics.door import Request
    from kale_magic.magics.session import KaleMagics

_COLUMNS = ("run", "step", "state", "cpus", "memory", "job", "node", "reason")
_SURVEYED = ("job", "name", "user", "state", "partition", "nodes", "node", "time left", "reason")


def queue(session: KaleMagics, request: Request) -> None:
    """Show what runs and what waits of our runs, or the whole queue of the batch system."""
    if request.args.all:
        found = session.client.survey(session.executor if session.executor != "local" else None, is_all=True)
        if not found:
            print("No batch system's queue is known here, or it is empty. Name the executor: %kale_workflow NAME --executor slurm")
            return
        rows = [list(text.survey_row(line)) for line in found]
        session.show(table(list(_SURVEYED), rows, text=text.survey_table(found)))
        return
    jobs = session.client.queue()
    if not jobs:
        print("Nothing runs and nothing waits.")
        return
    lines: list[list[Any]] = []
    for job in jobs:
        point = job.get("point")
        memory = text.format_bytes(job["memory_bytes"]) if job.get("memory_bytes") else ""
        label = job["step"] if point is None else f"{job['step']}[{point}]"
        lines.append([
            job["run"], label, job["state"], job.get("cpus") or "", memory,
            job.get("native_id") or "", job.get("node") or "", job.get("reason") or "",
        ])  # fmt: skip
    session.show(table(list(_COLUMNS), lines, text=text.queue_table(jobs)))


def hold(session: KaleMagics, request: Request) -> None:
    """Keep a step in the queue from starting."""
    target = session.find(request.args.step, is_acting=True)
    hold_step(session.client, target)
    print(f"{target} is held. Let it go on: %kale_release {target}")


def release(session: KaleMagics, request: Request) -> None:
    """Let a held step go on."""
    target = session.find(request.args.step, is_acting=True)
    release_step(session.client, target)
    print(f"{target} is released")
