"""Where a step's socket is, and what is known of the way. Pure data."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kale_proxy.wire import SOCKET_NAME

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


class Door(NamedTuple):
    """A TCP port that leads to a step's socket, its public key, the secret key that it lets in, and its host's addresses; see :mod:`kale_proxy.door`."""

    port: int
    server: str
    client: str
    addresses: tuple[str, ...] = ()

    @classmethod
    def of(cls, said: Mapping[str, Any] | None) -> Door | None:
        """Return what a job tells of it; None if that is nothing, or of no use."""
        try:
            where = tuple(str(ipaddress.ip_address(text)) for text in said.get("addresses") or ()) if said else ()
            door = cls(int(said["port"]), str(said["server"]), str(said["client"]), where) if said else None
        except (KeyError, ValueError):
            return None
        return door if door is not None and 0 < door.port < 1 << 16 and len(door.server) == len(door.client) == _Z85_KEY else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """A Unix socket on some host.

    Attributes
    ----------
    socket : str
        Its path there.
    login : str
        Name by which ssh reaches the cluster from here (a Host of ``~/.ssh/config``); empty when this machine is of it.
    node : str
        Name of the machine by which its cluster knows it; empty for the login host itself.
    job_id : str
        Slurm's number of the job that runs there, by which ``srun`` can get in; empty if there is none.
    python : str
        An interpreter there, of version 3.6 or newer.
    door : Door or None
        Its TCP port, if it has one.
    """

    socket: str
    login: str = ""
    node: str = ""
    job_id: str = ""
    python: str = "python3"
    door: Door | None = None

    def __post_init__(self) -> None:
        """Refuse names that ssh or srun would take for an option, or a shell for more than a name."""
        for name in (self.login, self.node, self.job_id):
            if name and not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a host or job.")

    @property
    def is_here(self) -> bool:
        """Whether the socket is on this very machine."""
        return not self.login and self.node in {"", socket.gethostname()}

    @property
    def host(self) -> str:
        """The machine, for a sentence."""
        return self.node or self.login or "this machine"

    @property
    def kind(self) -> str:
        """Routes of one kind go the same way: names of nodes that differ by their numbers alone."""
        return f"{self.login}/{re.sub('[0-9]+', '#', self.node)}"


class Reach(NamedTuple):
    """What a visitor needs to get to a step: the way to its agent, and the key of its kernel.

    ``folder`` is the step's live folder on its own host.
    """

    folder: Path
    route: Route
    key: str

    @classmethod
    def of(cls, folder: str | os.PathLike[str], key: str, *, door: Door | None = None, **names: str) -> Reach:
        """Return the reach of the step whose live folder is ``folder`` on the host that ``names`` (of Route) say."""
        path = Path(folder)
        return cls(folder=path, route=Route(socket=str(path / SOCKET_NAME), door=door, **names), key=key)


_Z85_KEY = 40  # characters of a CURVE key (ZeroMQ RFC 32)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:+-]{0,252}")
