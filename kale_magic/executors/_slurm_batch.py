"""What one ``sbatch`` submits: one job, or points of a sweep as an array; and its files, written before it.

The name of the batch is made of the uuid of its first job, so that a manager which was killed between ``sbatch`` and
writing down its answer finds the job again. For an array, a file beside the points says which of them are in it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kale_magic.executors._folder import put_aside, write_private
from kale_magic.executors.slurm_text import ScriptParts, file_name, script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from kale_magic.abc import Environment, Ticket
    from kale_proxy.spec import JobSpec

NAME = "kale-"


@dataclass(slots=True)
class Batch:
    """A submission. ``tickets`` are its jobs by their numbers in the array; that of one job which is no array is None.

    ``first`` is the point whose number in the array is 0. ``native_id`` is Slurm's number once it is known.
    """

    name: str
    tickets: dict[int | None, Ticket]
    first: int = 0
    native_id: str = ""
    is_sending: bool = False

    @property
    def is_array(self) -> bool:
        """Whether it is an array."""
        return None not in self.tickets

    def id_of(self, task: int | None) -> str:
        """Return Slurm's name of one of its jobs."""
        return self.native_id if task is None else f"{self.native_id}_{task}"

    @property
    def any_ticket(self) -> Ticket:
        """One of its jobs: they differ by their points alone."""
        return next(iter(self.tickets.values()))


def batches(tickets: Iterable[Ticket], most: int) -> Iterator[Batch]:
    """Return submissions for jobs in their order: points of a sweep together, at most ``most`` of them and with numbers below that."""
    group: list[Ticket] = []
    for ticket in [*tickets, None]:
        last = group[-1] if group else None
        if ticket is not None and last is not None and ticket.point is not None and _is_like(ticket, last, most):
            group.append(ticket)
            continue
        if group:
            yield _batch(group, most)
        group = [ticket] if ticket is not None else []


def _is_like(ticket: Ticket, last: Ticket, most: int) -> bool:
    return (
        last.point is not None
        and ticket.point is not None
        and (ticket.run, ticket.step, ticket.attempt, ticket.after) == (last.run, last.step, last.attempt, last.after)
        and ticket.point > last.point
        and ticket.point // most == last.point // most
    )


def _batch(group: Sequence[Ticket], most: int) -> Batch:
    name = NAME + group[0].uuid
    if len(group) == 1:
        return Batch(name, {None: group[0]})
    first = (group[0].point or 0) // most * most
    return Batch(name, {(ticket.point or 0) - first: ticket for ticket in group}, first)


def script_of(batch: Batch, environment: Environment) -> str:
    """Return its job script."""
    ticket = batch.any_ticket
    spec = ticket.spec()
    parts = ScriptParts(batch.name, spec, environment, ticket.resources)
    if batch.is_array:
        tasks = tuple(task for task in batch.tickets if task is not None)
        parts = replace(parts, tasks=tasks, base=os.path.dirname(spec.folder), first=batch.first)
    return script(parts)


def write(batch: Batch, environment: Environment, keys: str, specs: Sequence[JobSpec], text_of: Callable[[Batch, Environment], str] = script_of) -> str:
    """Write what the jobs start from; return the path of the script, whose text is that of ``text_of``. Doing it again changes nothing.

    Raises
    ------
    OSError
        A folder can't be written.
    """
    Path(keys).mkdir(mode=0o700, parents=True, exist_ok=True)
    for spec in specs:
        os.makedirs(spec.folder, mode=0o700, exist_ok=True)
        if spec.attempt > 1:
            put_aside(Path(spec.folder), spec.attempt)
        write_private(f"{spec.folder}/{file_name(spec, 'job.json')}", spec.to_json(), 0o600)
    folder = os.path.dirname(specs[0].folder) if batch.is_array else specs[0].folder
    path = f"{folder}/{file_name(specs[0], 'job.sh')}" if not batch.first else f"{folder}/job-{batch.first}.sh"
    write_private(path, text_of(batch, environment), 0o700)
    if batch.is_array:
        known = {"first": batch.first, "tasks": {ticket.uuid: task for task, ticket in batch.tickets.items()}}
        write_private(f"{folder}/{batch.name}.json", json.dumps(known), 0o600)
    return path


def recovered(tickets: Iterable[Ticket]) -> list[Batch]:
    """Return the submissions in which jobs were, by the files beside the points; a job in none may be one by itself."""
    found: dict[str, Batch] = {}
    known: dict[str, dict[str, tuple[str, int, int]]] = {}  # folder -> uuid -> name, task, first
    for ticket in tickets:
        name, task, first = NAME + ticket.uuid, None, 0
        if ticket.point is not None:
            folder = os.path.dirname(ticket.spec().folder)
            if folder not in known:
                known[folder] = _read_arrays(Path(folder))
            name, task, first = known[folder].get(ticket.uuid, (name, task, first))
        found.setdefault(name, Batch(name, {}, first)).tickets[task] = ticket
    return list(found.values())


def _read_arrays(folder: Path) -> dict[str, tuple[str, int, int]]:
    found = {}
    for path in folder.glob(f"{NAME}*.json"):
        try:
            data = json.loads(path.read_bytes())
            found.update({str(uuid): (path.stem, int(task), int(data["first"])) for uuid, task in data["tasks"].items()})
        except (OSError, ValueError, KeyError):
            continue  # half written: then sbatch was not run
    return found
