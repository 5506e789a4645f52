"""The batch queues as a widget: who waits, why, on which cluster, and a way to cancel that asks back."""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

from traitlets import Dict, List, Unicode

from kale_magic import config
from kale_magic.errors import KaleError, UsageError
from kale_magic.render import tables
from kale_magic.widgets._page import script
from kale_magic.widgets.far import Far
from kale_magic.widgets.parts import Part
from kale_magic.widgets.rest import EXECUTOR, RestDoor
from kale_magic.widgets.ssh import known_hosts
from kale_magic.widgets.viewmodel.queue import HERE, Place, joined, parse_place, places, table

if TYPE_CHECKING:
    from collections.abc import Hashable

    from kale_magic.client import Client
    from kale_magic.widgets.desk import Desk, Seen


_SURVEY_S = 5.0  # between two questions to a batch system, which others use too
_FAR_S = 3.0
_WHOSE = ("kale", "user", "all")


class Queue(Part):
    """What runs and what waits: Kale's jobs, or the batch systems' own queues; a tab for each executor and each login host."""

    _esm = script("queue")
    title = "Queue"
    table = Dict({"heads": [], "rows": []}).tag(sync=True)
    when = Unicode("").tag(sync=True)
    whose = Unicode("kale").tag(sync=True)
    tabs = List().tag(sync=True)
    tab = Unicode(HERE.key).tag(sync=True)
    hosts = List(Unicode()).tag(sync=True)

    def __init__(self, desk: Desk | None = None, *, run: str | None = None, step: str | None = None) -> None:
        self._read_at = 0.0
        self._far: dict[str, Far] = {}
        self._added = list(config.load().hosts)
        self._door = RestDoor()
        self._executors: dict[str, None] = dict.fromkeys(["slurm"] if shutil.which("squeue") else [])
        super().__init__(desk, run=run, step=step)
        self.hosts = known_hosts()

    @property
    def place(self) -> Place:
        """Whose queue is shown."""
        return parse_place(self.tab)

    def show(self, seen: Seen) -> None:
        """Read the queue anew; say from when it is if it can't be read."""
        if self.place.host:
            self._show_far(seen)
        elif self.whose == "kale" or time.time() - self._read_at >= _SURVEY_S:
            self._show_own(seen)
        own = self.desk.client.host
        self.tabs = [[place.key, place.label(own)] for place in places(self._executors, [host for host in self._added if host != own])]

    def _show_own(self, seen: Seen) -> None:
        try:
            jobs = _jobs(self.desk.client, self.whose, self.place.executor)
            self.table, self._read_at = table(jobs, own=seen.runs), time.time()
            if self._door.look(self.desk.client)["url"]:
                self._executors[EXECUTOR] = None
            self._executors.update(dict.fromkeys(str(job["executor"]) for job in jobs if job.get("executor")))
        except KaleError as exc:
            self.when = f"as of {_clock(self._read_at)}: {exc}" if self._read_at else str(exc)
        else:
            self.when = f"as of {_clock(self._read_at)}"

    def _show_far(self, seen: Seen) -> None:
        far = self._far[self.place.host]
        self.table = table(far.found, own=seen.runs)
        said = f"as of {_clock(far.at)}" if far.at else f"{far.host} is being asked"
        self.when = f"{said}: {far.problem}" if far.problem else said

    def heard(self, message: dict[str, Any]) -> str | None:
        """Cancel a job, or turn to another queue."""
        kind = message.get("t")
        if kind == "whose":
            self._turn(self.tab, str(message.get("whose")))
        elif kind == "tab":
            self._turn(str(message.get("key")), self.whose)
        elif kind == "host":
            self._add(str(message.get("host") or "").strip())
        elif kind == "cancel":
            return self._cancel(str(message.get("run")), str(message.get("step")), message.get("point"))
        elif kind == "end":
            return self._end(str(message.get("executor")), str(message.get("job")))
        return None

    def _end(self, executor: str, job: str) -> str:
        """End a batch job that is not Kale's."""
        far = self._far.get(self.place.host)
        client: Client = far.client if far is not None else self.desk.book.client
        client.end_job(executor, job)
        self._turn(self.tab, self.whose)
        return f"Job {job} of {executor} is cancelled."

    def _cancel(self, run: str, step: str, point: object) -> str:
        far = self._far.get(self.place.host)
        client: Client = far.client if far is not None else self.desk.book.client
        gone = client.cancel(run, step, int(str(point)) if point is not None else None)
        if far is not None:
            far.look_soon()
        self.desk.refresh()
        return f"Cancelled {run}/{', '.join(gone)}." if gone else f"{run}/{step} was over."

    def _add(self, host: str) -> None:
        if not host:
            raise UsageError("Which host?", "Write a Host of your ssh configuration.")
        if host == self.desk.client.host:
            raise UsageError(f"{host} is where this notebook's workflow runs: it is shown already.")
        if host not in self._added:
            self._added.append(host)
        self._turn(Place(host=host).key, self.whose)

    def _turn(self, tab: str, whose: str) -> None:
        place = parse_place(tab)
        if whose not in _WHOSE or (place.host and place.host not in self._added):
            raise UsageError(f"There is no queue {whose!r} of {tab!r}.")
        with self.desk.lock:
            self.tab, self.whose, self._read_at = tab, whose, 0.0
            far = self._far.get(place.host)
            if place.host and (far is None or far.is_over):
                self._far[place.host] = Far(place.host, lambda client: _jobs(client, self.whose, ""), _FAR_S)
            elif far is not None:
                far.look_soon()
            self.show(self.desk.seen)

    def mark(self, _: Seen) -> Hashable:
        """Return what the static form depends on."""
        return json.dumps([self.tab, self.whose, self.table])

    def is_last(self, _: Seen) -> bool:
        """Return False: the queue goes on, whatever the run does."""
        return False

    def text(self) -> str:
        """Return the queue as text."""
        return str(self._table()["text/plain"]) if self.table["rows"] else f"Nothing runs and nothing waits, {self.when}."

    def static(self) -> str:
        """Return the queue as a table."""
        return str(self._table()["text/html"]) if self.table["rows"] else f"<div>Nothing ran and nothing waited {self.when}.</div>"

    def _table(self) -> dict[str, Any]:
        rows = [[row["run"], row["label"], row["state"], *row["cells"], row["reason"]] for row in self.table["rows"]]
        title = f"Queue of {self.place.label(self.desk.client.host)} {self.when}"
        return tables.table(["run", "step", "state", *self.table["heads"], "reason"], rows, title=title)

    def close(self) -> None:
        """Close the widget and hang up."""
        for far in self._far.values():
            far.close()
        super().close()


def _jobs(client: Client, whose: str, executor: str) -> list[dict[str, Any]]:
    """Return Kale's jobs, or those that the batch systems know; of one executor, or of all (empty)."""
    ours = client.queue()
    if whose == "kale":
        return [job for job in ours if executor in {"", job.get("executor")}]
    return joined(client.survey(executor or None, is_all=whose == "all"), ours, client.pools())


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))
