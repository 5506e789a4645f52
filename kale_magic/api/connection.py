"""The way in for programs: reach the manager, list runs, take up a run of another session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from kale_magic.api.find import Scope, find_run
from kale_magic.api.run import Run
from kale_magic.api.visits import Visits

if TYPE_CHECKING:
    from pathlib import Path

    from kale_magic.client import Client


class Kale:
    """A connection to the manager of this user; made by :func:`connect`, closed by ``with`` or :meth:`close`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._visits = Visits(client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, name: str | None = None) -> Run:
        """Return a run by its id, or by a beginning of it that no other run has; None is the newest.

        Raises
        ------
        UnknownRunError
            There is none.
        """
        return Run(find_run(self.client, name, Scope()), self.client, self._visits)

    def runs(self, folder: str | Path | None = None, limit: int = 100) -> list[Run]:
        """Return runs, newest first: those of one workflow folder, or all."""
        return [Run(str(run["run"]), self.client, self._visits) for run in self.client.runs(folder, limit)]

    def queue(self) -> list[dict[str, Any]]:
        """Return what runs and what waits on this machine, with the reason for waiting."""
        return self.client.queue()

    def open_pool(self, name: str, executor: str = "slurm", **asked: Any) -> dict[str, Any]:
        """Open an allocation into which steps go without queueing; see :func:`kale_magic.api.pools.open_pool`."""
        from kale_magic.api.pools import open_pool

        return open_pool(self.client, name, executor, **asked)

    def pools(self) -> list[dict[str, Any]]:
        """Return every pool: state, reason, nodes, time_left_s, what runs in it."""
        return self.client.pools()

    def close_pool(self, name: str, *, now: bool = False) -> None:
        """Close a pool when what was submitted to it has ended, or cancel that ``now``; raises PoolError."""
        self.client.close_pool(name, is_now=now)

    def close(self) -> None:
        """End the visits of this connection and hang up; runs go on."""
        self._visits.close()
        self.client.close()


def connect(*, host: str = "", start: bool = True) -> Kale:
    """Return a connection to the manager of this user.

    Parameters
    ----------
    host : str
        A Host of your ssh configuration whose manager is meant; empty: this machine's. Its runs can be looked at and
        their running steps visited; ``Workflow(host=...)`` submits there.
    start : bool
        Whether to start a manager when none runs.

    Raises
    ------
    ManagerUnavailable
        None runs, or it could not be started.
    """
    from kale_magic.client import Client

    return Kale(Client.connect(host=host, start=start))
