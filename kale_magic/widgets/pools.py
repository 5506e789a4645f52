"""Pools as a widget: a form that opens one, how each is, what runs in it, and a way to close it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from traitlets import Dict, List, Unicode

from kale_magic.api.pools import open_pool
from kale_magic.client import Client
from kale_magic.errors import KaleError, UsageError
from kale_magic.render.pools import NONE
from kale_magic.render.tables import table
from kale_magic.widgets._page import script
from kale_magic.widgets.far import Far
from kale_magic.widgets.parts import Part
from kale_magic.widgets.ssh import known_hosts
from kale_magic.widgets.viewmodel import pools

if TYPE_CHECKING:
    from collections.abc import Hashable

    from kale_magic.widgets.desk import Desk, Seen

_BETWEEN_S = 0.9
_EXECUTORS = ("slurm", "local")


class Pools(Part):
    """Allocations that are kept open: of the notebook's manager, and of other login hosts once they are asked for."""

    _esm = script("pools")
    title = "Pools"
    heads = List(Unicode()).tag(sync=True)
    rows = List().tag(sync=True)
    when = Unicode("").tag(sync=True)
    offer = Dict({"executors": list(_EXECUTORS), "hosts": [], "host": ""}).tag(sync=True)

    def __init__(self, desk: Desk | None = None, *, run: str | None = None, step: str | None = None) -> None:
        self._read_at = 0.0
        self._problem = ""
        self._own: list[dict[str, Any]] = []
        self._far: dict[str, Far] = {}
        super().__init__(desk, run=run, step=step)
        self.heads = list(pools.HEADS)
        self.offer = {**self.offer, "hosts": known_hosts(), "host": self.desk.client.host}

    def show(self, _: Seen) -> None:
        """Read the list anew, now and then."""
        now = time.time()
        if now - self._read_at >= _BETWEEN_S:
            self._read()
        self.rows = [*self._own, *(row for far in self._far.values() for row in pools.rows(far.found, far.host))]
        self.when = self._when()

    def _read(self) -> None:
        try:
            client = self.desk.client
            self._own, self._read_at, self._problem = pools.rows(client.pools(), client.host), time.time(), ""
        except KaleError as exc:
            self._problem = str(exc)

    def _when(self) -> str:
        words = [self._problem, *(f"{far.host}: {far.problem or 'is being asked'}" for far in self._far.values() if far.problem or not far.at)]
        moments = [self._read_at, *(far.at for far in self._far.values() if far.at)]
        at = time.strftime("%H:%M:%S", time.localtime(min(moments)))
        return " · ".join(filter(None, [f"as of {at}" if min(moments) else "", *words]))

    def heard(self, message: dict[str, Any]) -> str | None:
        """Open or close a pool, or look at another host's."""
        kind, host = message.get("t"), str(message.get("host") or "").strip()
        if kind == "open":
            return self._open(dict(message.get("fields") or {}), host)
        if kind == "close":
            return self._close_pool(str(message.get("name")), host, is_now=bool(message.get("now")))
        if kind == "look":
            if not host:
                raise UsageError("Which host's pools?", "Write a Host of your ssh configuration.")
            self._client_of(host)
            return f"The pools of {host} are shown too."
        return None

    def _open(self, fields: dict[str, Any], host: str) -> str:
        asked, executor = pools.asked(fields), str(fields.get("executor") or _EXECUTORS[0])
        found = open_pool(self._client_of(host), str(fields["name"]).strip(), executor, **asked)
        self._look_soon()
        job = f", job {found['native_id']}" if found.get("native_id") else ""
        return f"Pool {found['name']} is asked for{job}. Steps go into it by: %kale_submit --pool {found['name']}"

    def _close_pool(self, name: str, host: str, *, is_now: bool) -> str:
        found = self._client_of(host).close_pool(name, is_now=is_now)
        self._look_soon()
        gone = found.get("cancelled") or []
        waits = not is_now and (found.get("running") or found.get("waiting"))
        cancelled = f" Cancelled: {', '.join(gone[:8])}." if gone else ""
        return f"Pool {name} closes{' when what was submitted to it has ended' if waits else ''}.{cancelled}"

    def _client_of(self, host: str) -> Client:
        """Return the manager of a host, and show its pools from now on."""
        own: Client = self.desk.book.client
        if host == own.host:
            return own
        Client.connect(host=host).close()  # starts one there; raises what is wrong for the person
        with self.desk.lock:
            if host not in self._far or self._far[host].is_over:
                self._far[host] = Far(host, Client.pools, 2 * _BETWEEN_S)
            return self._far[host].client

    def _look_soon(self) -> None:
        for far in self._far.values():
            far.look_soon()
        with self.desk.lock:
            self._read_at = 0.0
            self.show(self.desk.seen)

    def mark(self, _: Seen) -> Hashable:
        """Return what the static form depends on."""
        return pools.mark(self.rows)

    def is_last(self, _: Seen) -> bool:
        """Return False: pools come and go, whatever the run does."""
        return False

    def text(self) -> str:
        """Return the table as text."""
        return str(self._table()["text/plain"]) if self.rows else NONE

    def static(self) -> str:
        """Return the table."""
        return str(self._table()["text/html"]) if self.rows else f"<div>No pool was open {self.when}.</div>"

    def _table(self) -> dict[str, Any]:
        lines = [[row["name"], row["state"], *row["cells"], row["reason"]] for row in self.rows]
        return table([*pools.HEADS, "reason"], lines, title=f"Pools {self.when}")

    def close(self) -> None:
        """Close the widget and hang up."""
        for far in self._far.values():
            far.close()
        super().close()
