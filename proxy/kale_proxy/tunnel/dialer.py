"""Chooses the way to a socket: this machine, a forward by ssh, a command by ssh, srun, ssh as a library.

A way counts as good when the first byte has come from the other end, as agent and manager speak first. What worked is
tried first the next time, for routes of the same kind, also by other processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shlex
import shutil
import socket
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kale_proxy.places import private_dir, socket_dir
from kale_proxy.tunnel import pipe
from kale_proxy.tunnel.askpass import Questions
from kale_proxy.tunnel.errors import TunnelError
from kale_proxy.tunnel.openssh import OpenSSH, Target, run_joined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kale_proxy.tunnel.library import Ask, Library
    from kale_proxy.tunnel.openssh import Joined
    from kale_proxy.tunnel.route import Door, Route

    Start = Callable[[Target, Sequence[str], float], Joined]

_FIRST_BYTE_S = 10.0
_SUSPECT_S = 2.0  # then the line itself is asked for a sign of life
_MAX_NOISE = 1 << 20
NO_SSH = "Install OpenSSH's client, or pip install 'kale-magic[ssh]'."


class Way(NamedTuple):
    """One way: its name for people, and how to go it before a deadline."""

    name: str
    open: Callable[[float], socket.socket]


class Dialer:
    """See the module; one per process, from any thread.

    Parameters
    ----------
    ssh : OpenSSH or None
        None where there is no ssh.
    memory : Path
        File that tells what worked.
    library : Library, optional
        Tried last.
    """

    def __init__(self, ssh: OpenSSH | None, memory: Path, library: Library | None = None) -> None:
        self.ssh = ssh
        self.library = library
        self._memory = memory

    def open(self, route: Route, deadline: float) -> tuple[socket.socket, str]:
        """Return a stream to the socket, and the name of the way.

        Parameters
        ----------
        route : Route
            Where it is.
        deadline : float
            By ``time.monotonic()``.

        Raises
        ------
        TunnelError
            No way leads there; the message tells what was tried. Its kind is that of the first failure that only a
            person can mend, if there is one.
        """
        ways, failures = self.ways(route), list[tuple[str, TunnelError]]()
        for way in ways:
            if failures and time.monotonic() > deadline:
                break
            try:
                sock = way.open(deadline)
            except TunnelError as exc:
                failures.append((way.name, exc))
                continue
            self._remember(route, way.name)
            sock.setblocking(True)
            return sock, way.name
        if not ways:
            raise TunnelError(f"There is no ssh here by which {route.host} could be reached. {NO_SSH}")
        raise _summed(route.host, failures)

    def output(self, host: str, command: str, deadline: float) -> str:
        """Return what a command line prints on a login host.

        Raises
        ------
        TunnelError
            The host can't be reached, or the command fails: with its last words.
        """
        if self.ssh is None and self.library is None:
            raise TunnelError(f"There is no ssh here by which {host} could be reached. {NO_SSH}")
        if self.ssh is not None:
            try:
                return self.ssh.output(Target(host), command, deadline)
            except TunnelError:
                if self.library is None:
                    raise
        assert self.library is not None
        return self.library.output(host, command)

    def ways(self, route: Route) -> list[Way]:
        """Return the ways to a route in the order in which they are tried."""
        if route.is_here:
            return [Way("this machine", lambda deadline: _local(route, deadline))]
        found = self._doors(route)
        target = _target(route)
        goal = target.host + (f" through {target.via}" if target.via else "")
        if self.ssh is not None and target.host:
            ssh = self.ssh
            found.append(Way(f"ssh to {goal}", lambda deadline: self._forward(ssh, target, route, deadline)))
        shells: list[tuple[str, Start]] = []
        if self.ssh is not None:
            shells.append(("ssh", self.ssh.start))
        if self.library is not None:
            shells.append(("paramiko", self.library.start))
        for name, start in shells:
            found.append(Way(f"{name} to {goal}, a command", self._command(start, target, [], route)))
        if route.job_id and route.login:
            through = Target(route.login)
            found += [Way(f"srun through {route.login} by {name}", self._command(start, through, _srun_words(route), route)) for name, start in shells]
        elif route.job_id and shutil.which("srun") is not None:
            found.append(Way("srun", self._command(_start_here, target, _srun_words(route), route)))
        known = self._read().get(route.kind)
        return sorted(found, key=lambda way: _general(way.name, route) != known)

    # -- the ways

    def _forward(self, ssh: OpenSSH, target: Target, route: Route, deadline: float) -> socket.socket:
        sock = ssh.forward(target, route.socket, deadline)
        try:
            is_renewed = not _has_come(sock, min(_SUSPECT_S, deadline - time.monotonic())) and ssh.is_renewed(target, deadline)
        except BaseException:
            sock.close()
            raise
        if is_renewed:
            sock.close()
            sock = ssh.forward(target, route.socket, deadline)
        return _speaking(sock, deadline, f"{route.host} does not let the socket {route.socket} be forwarded, or nothing listens there.")

    def _doors(self, route: Route) -> list[Way]:
        """Return the way by the step's own TCP port, which it has only if that was asked for."""
        door, node, ssh = route.door, route.node, self.ssh
        if door is None or not node or (route.login and ssh is None):
            return []

        def directly(address: str, deadline: float) -> socket.socket:
            try:
                socket.getaddrinfo(address, door.port)  # ZeroMQ would ask for it again and again
            except OSError as exc:
                raise _SilentError(str(exc)) from exc
            return _knocked(f"tcp://{address}:{door.port}", door, deadline)

        def through(address: str, deadline: float) -> socket.socket:
            assert ssh is not None
            with ssh.forwarded(Target(route.login), (address, door.port), deadline) as path:
                return _knocked(f"ipc://{path}", door, deadline)

        def open_(deadline: float) -> socket.socket:
            for address in (node, *door.addresses):
                with contextlib.suppress(_SilentError):
                    return (through if route.login else directly)(address, deadline)
            raise TunnelError(f"The TCP port {door.port} of {node} can't be reached, or does not take our key.")

        return [Way(f"TCP port of {node}" + (f" through {route.login}" if route.login else ""), open_)]

    @staticmethod
    def _command(start: Start, target: Target, before: Sequence[str], route: Route) -> Callable[[float], socket.socket]:
        def open_(deadline: float) -> socket.socket:
            mark = _mark()
            joined = start(target, [*before, *_pipe_words(route, mark)], deadline)
            return _marked(joined, mark, deadline, route.host)

        return open_

    # -- what worked

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._memory.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _remember(self, route: Route, name: str) -> None:
        known = self._read()
        if route.is_here or known.get(route.kind) == _general(name, route):
            return
        temporary = self._memory.with_name(f"{self._memory.name}.{os.getpid()}.{threading.get_native_id()}")
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(known | {route.kind: _general(name, route)}))
            temporary.replace(self._memory)


class _SilentError(TunnelError):
    """A stream was made, and nothing came."""


@lru_cache(maxsize=1)
def default() -> Dialer:
    """Return this process's dialer: the user's ssh, or that of ``KALE_SSH``; made once.

    ``KALE_SSH=paramiko``, or no ssh at all, takes paramiko if that is installed.
    """
    words = shlex.split(os.environ.get("KALE_SSH", "")) or ["ssh"]
    folder = private_dir(socket_dir() / "s")
    if words[0] != "paramiko" and shutil.which(words[0]):
        return Dialer(OpenSSH(words, folder), folder / "ways.json")
    library = None
    with contextlib.suppress(ImportError):
        from kale_proxy.tunnel.library import Library  # an extra, and slow to load

        library = Library(config=Path(words[1]) if len(words) > 1 else None)
    return Dialer(None, folder / "ways.json", library)


def ask_by(ask: Ask, *, is_terminal: bool) -> None:
    """Let this process's logins ask a person.

    Parameters
    ----------
    ask : callable
        As :class:`kale_proxy.tunnel.library.Library` has it.
    is_terminal : bool
        Whether there is a terminal on which ssh itself may ask.
    """
    dialer = default()
    if dialer.ssh is not None:
        dialer.ssh.is_interactive = is_terminal
    if dialer.library is not None:
        dialer.library.ask = ask


def log_in(host: str, ask: Ask, *, timeout: float) -> str:
    """Connect to a host, asking a person by a callback, and keep the connection; return by what: ``ssh`` or ``paramiko``.

    Parameters
    ----------
    host : str
        A Host of the user's ssh.
    ask : callable
        As :class:`kale_proxy.tunnel.library.Library` has it; with ssh itself, also asked whether a new host key is right.
    timeout : float
        Longest wait, for the person's answers too, in seconds.

    Raises
    ------
    TunnelError
        It did not come about; HostKeyError, AuthenticationError as they say.
    """
    dialer = default()
    deadline = time.monotonic() + timeout
    if dialer.ssh is None:
        if dialer.library is not None:
            dialer.library.ask = ask
        dialer.output(host, "true", deadline)
        return "paramiko"
    with Questions(ask, dialer.ssh.folder) as questions:
        dialer.ssh.askpass = questions.environ
        try:
            dialer.output(host, "true", deadline)
        finally:
            dialer.ssh.askpass = {}
    return "ssh"


def is_up(host: str) -> bool:
    """Whether a connection to a host is open in this process, or for it."""
    dialer = default()
    if dialer.ssh is not None:
        with contextlib.suppress(TunnelError):
            return dialer.ssh.has_master(Target(host))
        return False
    return dialer.library is not None and dialer.library.is_up(host)


def _start_here(_: Target, words: Sequence[str], __: float) -> Joined:
    return run_joined(words, clean(os.environ))


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without a job's own variables, which would lead srun astray."""
    return {name: value for name, value in environ.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}


def _summed(host: str, failures: Sequence[tuple[str, TunnelError]]) -> TunnelError:
    """Return one error for all: the first that a person must mend, else what each way said, the same thing once."""
    for _, exc in failures:
        if not exc.is_transient:
            return exc
    first = {str(exc): name for name, exc in reversed(failures)}
    if len(first) == 1:
        return failures[0][1]
    said = [f"{name}: {words}" for words, name in reversed(first.items())]
    return TunnelError(f"{host} can't be reached. {' '.join(said)}")


def _target(route: Route) -> Target:
    return Target(route.node, route.login) if route.node else Target(route.login)


def _general(name: str, route: Route) -> str:
    """Return a way's name without that of the node, to be known for others of its kind."""
    return name.replace(route.node, "#", 1) if route.node else name


def _srun_words(route: Route) -> list[str]:
    words = ["srun", "--overlap", f"--jobid={route.job_id}", "--nodes=1", "--ntasks=1", "--mpi=none", "--unbuffered"]  # else it waits for a newline
    return words + ([f"--nodelist={route.node}"] if route.node else [])


def _pipe_words(route: Route, mark: str) -> list[str]:
    return [route.python, "-I", "-S", "-c", Path(pipe.__file__).read_text(encoding="utf-8"), route.socket, mark]


def _mark() -> str:
    return f"kale-{secrets.token_hex(8)}\n"


def _local(route: Route, deadline: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        sock.connect(route.socket)
    except OSError as exc:
        sock.close()
        raise TunnelError(f"Nothing listens at {route.socket} ({exc.strerror or exc}).") from exc
    return sock


def _has_come(sock: socket.socket, seconds: float) -> bool:
    """Tell whether something has come, its end too."""
    return bool(select.select([sock], [], [], max(0.001, seconds))[0])


def _speaking(sock: socket.socket, deadline: float, otherwise: str) -> socket.socket:
    """Return the socket when the other end has said something, which stays to be read."""
    left = min(_FIRST_BYTE_S, deadline - time.monotonic())
    try:
        if not _has_come(sock, left):
            raise _SilentError(f"Nothing has come back within {left:.0f} s.")
        if not sock.recv(1, socket.MSG_PEEK):
            raise TunnelError(otherwise)
    except OSError as exc:
        sock.close()
        raise TunnelError(f"{otherwise} ({exc})") from exc
    except BaseException:
        sock.close()
        raise
    return sock


def _knocked(endpoint: str, door: Door, deadline: float) -> socket.socket:
    """Return a stream that has said something; raises _SilentError if it leads nowhere, or to something else."""
    from kale_proxy.tunnel import curve  # few steps have a port

    try:
        return _speaking(curve.dial(endpoint, door.server, door.client), deadline, "It hung up.")
    except TunnelError as exc:
        raise _SilentError(str(exc)) from exc


def _marked(joined: Joined, mark: str, deadline: float, host: str) -> socket.socket:
    """Return the socket of a program when the pipe at its other end is there; what came before it is dropped."""
    sock, last_words = joined
    seen = b""
    try:
        while not seen.endswith(mark.encode()):
            _speaking(sock, deadline, f"The command on {host} ended.")
            ahead = sock.recv(1 << 16, socket.MSG_PEEK)
            at = (seen + ahead).find(mark.encode())
            take = len(ahead) if at < 0 else at + len(mark) - len(seen)
            seen = (seen + sock.recv(take))[-_MAX_NOISE:]
        return _speaking(sock, deadline, f"Nothing listens at the step's socket on {host}.")
    except TunnelError as exc:
        sock.close()
        lines = last_words().strip().splitlines()
        raise TunnelError(f"{exc} {host} said: {lines[-1]}" if lines else str(exc)) from exc
