"""The user's own ssh: its masters, one forward per stream, commands. Host key checking is whatever the user's ssh does.

A master of the user's is used where one is up. Else we open one of our own, once, by a session that ends at once: a
connection that never had a session has TCP's delay (some 40 ms per request). It stays ten minutes after its last use. One on
whose line nothing comes any more is left to itself, and another one is opened beside it.
``KALE_SSH`` is the command, ``ssh`` by default; options in it are kept (``ssh -F other_config``).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import select
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kale_proxy.places import private_dir
from kale_proxy.tunnel.errors import AuthenticationError, HostKeyError, TunnelError
from kale_proxy.tunnel.mux import Goal, Mux, MuxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_CHECK_S = 5.0
_CONNECT_S = 10
_KEEP_S = 600
_WORDS_S = 0.5
_DISTRUST_S = 60.0
_LIFE_S = 3.0  # for a round trip, of which most take less than one
_NOWHERE = "/nonexistent/kale"
_QUIET = ("-o", "LogLevel=ERROR", "-o", "PermitLocalCommand=no")
_PLAIN = ("-T", "-a", "-x", "-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes")
_ALIVE = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3", "-o", f"ConnectTimeout={_CONNECT_S}")


class Target(NamedTuple):
    """A host as ssh is told of it: ``host``, and the login host ``via`` through which it goes, if any."""

    host: str
    via: str = ""


class _Master(NamedTuple):
    path: Path
    is_ours: bool

    @property
    def options(self) -> tuple[str, str]:
        """What makes ssh use it."""
        return "-S", os.fspath(self.path)


class OpenSSH:
    """Runs ssh; one object per process, from any thread.

    Parameters
    ----------
    command : sequence of str
        The program and options that stand before ours.
    folder : Path
        For control sockets and forwards: of this user alone, on this machine, with a short path.
    is_interactive : bool
        Whether ssh may ask on the terminal; else what would ask fails.
    askpass : mapping
        Variables by which ssh asks by a program instead, see :mod:`kale_proxy.tunnel.askpass`; empty if it may not.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.command = command
        self.folder = folder
        self.is_interactive = False
        self.askpass: Mapping[str, str] = {}
        self._distrusted: dict[Path, float] = {}
        self._theirs: dict[Target, Path | None] = {}
        self._woken: set[Target] = set()
        self._count = 0

    def forward(self, target: Target, path: str, deadline: float) -> socket.socket:
        """Return a stream to the Unix socket ``path`` of the host, through a master.

        The host may still refuse it: then the stream ends at once.

        Raises
        ------
        TunnelError
            The host can't be reached; HostKeyError, AuthenticationError as they say.
        """
        with self.forwarded(target, path, deadline) as name:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.settimeout(_CHECK_S)
                sock.connect(name)
            except OSError as exc:
                sock.close()
                raise TunnelError(f"ssh's forward to {target.host} does not answer ({exc}).") from exc
        return sock

    @contextlib.contextmanager
    def forwarded(self, target: Target, goal: Goal, deadline: float) -> Iterator[str]:
        """Give a Unix socket here that leads to ``goal``, a Unix socket of the host or a (host, port) seen from there, for as long as it takes to connect.

        A stream lives on without its listener, so nothing is left if we are killed. Errors are those of :meth:`forward`.
        """
        name = self._new_name()
        try:
            master = self._ask_master(target, lambda mux: mux.forward(name, goal), deadline)
            yield name
            with contextlib.suppress(MuxError), Mux(master.path, deadline) as mux:
                mux.cancel(name, goal)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        if not master.is_ours and target not in self._woken:
            self._woken.add(target)  # it may be one without a session, see the module
            self._later(target, ["-o", "BatchMode=yes", *_PLAIN], "true")

    def is_renewed(self, target: Target, deadline: float) -> bool:
        """Log in beside a master on whose line nothing comes any more, as after a laptop's sleep; tell whether that was needed and done.

        Nobody is asked. Where it can't be done, the one there is goes on: its line may come back, and its login may have
        cost a person a code. Others' streams are its own in any case: none is cut here.
        """
        is_cut_before = bool(target.via) and self.is_renewed(Target(target.via), deadline)
        silent = next((master for master in self._masters(target, deadline) if master.path.exists()), None)
        if silent is not None:  # else another thread is at it already
            if not is_cut_before and self._has_life(silent, deadline):
                return False
            self._distrusted[silent.path] = time.monotonic()
        try:
            with self._alone(target, deadline):
                if self._living(target, Mux.check, deadline) is None:
                    self._open(target, deadline, may_ask=False)
        except TunnelError:
            if silent is not None:
                self._distrusted.pop(silent.path, None)
            return False
        return True

    def start(self, target: Target, words: Sequence[str], deadline: float) -> Joined:
        """Run a command on the host, its stdin and stdout joined to the socket that is returned.

        Errors are those of :meth:`forward`, for what fails before the command is started.
        """
        master = self._master(target, deadline)
        return run_joined([*self.command, *_QUIET, "-o", "BatchMode=yes", *_PLAIN, *master.options, target.host, shlex.join(words)])

    def output(self, target: Target, command: str, deadline: float) -> str:
        """Return what a command line prints on the host.

        Raises
        ------
        TunnelError
            As :meth:`forward`; also when the command fails, with its last words.
        """
        master = self._master(target, deadline)
        return self._run(["-o", "BatchMode=yes", *_PLAIN, *master.options, target.host, command], target, deadline)

    def sftp(self, target: Target, lines: Sequence[str], deadline: float) -> None:
        """Have sftp do what ``lines`` say (sftp(1), BATCH); it ends at the first line that fails, unless that begins with ``-``.

        Raises
        ------
        TunnelError
            As :meth:`forward`; also when a line fails, with sftp's words.
        """
        master = self._master(target, deadline)
        program = os.path.join(os.path.dirname(self.command[0]), "sftp")
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="surrogateescape", dir=self.folder) as batch:
            batch.write("\n".join([*lines, ""]))
            batch.flush()
            options = ["-o", "BatchMode=yes", "-o", f"ControlPath={str(master.path).replace('%', '%%')}", "-q", "-b", batch.name]
            self._run([*options, target.host], target, deadline, program=program)

    def has_master(self, target: Target) -> bool:
        """Tell whether a stream to the host needs no login now."""
        return self._living(target, Mux.check, time.monotonic() + _CHECK_S) is not None

    # -- masters

    def _master(self, target: Target, deadline: float) -> _Master:
        return self._ask_master(target, Mux.check, deadline)

    def _ask_master(self, target: Target, request: Callable[[Mux], None], deadline: float) -> _Master:
        """Have a master do what is asked, and return which did; log in if there is none."""
        found = self._living(target, request, deadline)
        if found is not None:
            return found
        with self._alone(target, deadline):  # so that a person is asked once
            found = self._living(target, request, deadline)
            if found is None:
                found = self._open(target, deadline)
                try:
                    with Mux(found.path, deadline) as mux:
                        request(mux)
                except MuxError as exc:
                    raise TunnelError(f"ssh's own connection to {target.host} does not do what it is asked: {exc}.") from exc
        return found

    def _living(self, target: Target, request: Callable[[Mux], None], deadline: float) -> _Master | None:
        """Return the master that is up and has done the request: ours, or the user's; None if neither is."""
        for master in self._masters(target, deadline):
            if master.path.exists():
                with contextlib.suppress(MuxError), Mux(master.path, min(deadline, time.monotonic() + _CHECK_S)) as mux:
                    request(mux)
                    return master
        return None

    def _masters(self, target: Target, deadline: float) -> Iterator[_Master]:
        """Give our masters, then the user's: where that is, is known by a run of ssh, which is spared while ours is up."""
        yield from (_Master(path, is_ours=True) for path in self._our_paths(target) if self._is_trusted(path))
        theirs = self._their_path(target, deadline)
        if theirs is not None and self._is_trusted(theirs):
            yield _Master(theirs, is_ours=False)

    def _is_trusted(self, path: Path) -> bool:
        return time.monotonic() - self._distrusted.get(path, -_DISTRUST_S) >= _DISTRUST_S

    def _has_life(self, master: _Master, deadline: float) -> bool:
        """Tell whether the other end of a master's line answers: by a forward to what is not there, which it refuses."""
        name = self._new_name()
        deadline = min(deadline, time.monotonic() + _LIFE_S)
        with contextlib.suppress(MuxError, OSError), socket.socket(socket.AF_UNIX) as sock:
            try:
                with Mux(master.path, deadline) as mux:
                    mux.forward(name, _NOWHERE)
                sock.connect(name)
                with Mux(master.path, deadline) as mux:  # by the same connection it could come before ssh has accepted ours
                    mux.cancel(name, _NOWHERE)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name)
            return bool(select.select([sock], [], [], max(0.001, deadline - time.monotonic()))[0])
        return False

    def _new_name(self) -> str:
        self._count += 1
        return os.fspath(self.folder / f"f{os.getpid()}-{threading.get_native_id()}-{self._count}")

    def _their_path(self, target: Target, deadline: float) -> Path | None:
        """Return where the user's configuration has the master of a host; asked of ssh once."""
        if target not in self._theirs:
            said = self._run(["-G", target.host], target, min(deadline, time.monotonic() + _CHECK_S))
            found = [line.partition(" ")[2] for line in said.splitlines() if line.startswith("controlpath ")]
            self._theirs[target] = Path(found[0]) if found and found[0] != "none" else None
        return self._theirs[target]

    def _open(self, target: Target, deadline: float, *, may_ask: bool = True) -> _Master:
        """Log in: one handshake, and a session that ends at once."""
        path = next(filter(self._is_trusted, self._our_paths(target)), None)
        if path is None:
            raise TunnelError(f"Nothing comes back from {target.host} by two connections.")
        options = ["-o", "ControlMaster=auto", "-o", f"ControlPath={str(path).replace('%', '%%')}", "-o", f"ControlPersist={_KEEP_S}"]
        may_ask = may_ask and (self.is_interactive or bool(self.askpass))
        if not may_ask:
            options += ["-o", "BatchMode=yes"]
        if target.via:
            options += ["-o", f"ProxyCommand={self._proxy_command(target, deadline)}"]
        self._run([*options, *_ALIVE, *_PLAIN, target.host, "true"], target, deadline, may_ask=may_ask)
        return _Master(path, is_ours=True)

    def _proxy_command(self, target: Target, deadline: float) -> str:
        login = self._master(Target(target.via), deadline)
        words = [*self.command, *_QUIET, "-o", "BatchMode=yes", "-o", "ClearAllForwardings=yes", *login.options]
        return f"{shlex.join(words).replace('%', '%%')} -W [%h]:%p {shlex.quote(target.via)}"

    def _our_paths(self, target: Target) -> tuple[Path, Path]:
        """Return the control socket of our master, and that of one beside it."""
        name = hashlib.sha256(f"{target.via} {target.host} {self.command!r}".encode()).hexdigest()[:16]
        folder = private_dir(self.folder)
        return folder / f"m{name}", folder / f"m{name}b"

    @contextlib.contextmanager
    def _alone(self, target: Target, deadline: float) -> Iterator[None]:
        descriptor = os.open(f"{self._our_paths(target)[0]}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise TunnelError(f"Another program has been logging in to {target.host} all the time.") from None
                    time.sleep(0.02)
            yield
        finally:
            os.close(descriptor)

    # -- the program

    def _run(self, words: Sequence[str], target: Target, deadline: float, *, may_ask: bool = False, program: str = "") -> str:
        """Run ssh, or ``program`` with its options, to its end and return what it printed; raises TunnelError as explain()."""
        argv = [program or self.command[0], *self.command[1:], *_QUIET, *words]
        on_terminal = may_ask and not self.askpass
        left = max(0.1, deadline - time.monotonic())
        # To files: a master that stays in the background would hold pipes open.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=None if on_terminal else subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env={**_environment(), **(self.askpass if may_ask else {})},
                    start_new_session=not on_terminal,
                )
            except OSError as exc:
                raise TunnelError(f"{argv[0]} can't be run ({exc.strerror}).") from exc
            code = _code_of(process, left)
            if code is None:
                raise TunnelError(f"ssh to {target.host} has not done it within {left:.0f} s.")
            out.seek(0)
            err.seek(0)
            printed, said = out.read().decode("utf-8", "replace"), err.read().decode("utf-8", "replace")
        if code != 0:
            raise explain(target.host, code, said, has_asked=may_ask)
        return printed

    def _later(self, target: Target, words: Sequence[str], *command: str) -> None:
        """Run what nobody waits for."""
        process = subprocess.Popen(
            [*self.command, *_QUIET, *words, target.host, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )
        threading.Thread(target=process.wait, daemon=True, name="kale-ssh").start()


def _code_of(process: subprocess.Popen[bytes], timeout: float) -> int | None:
    """Return how a process ended as soon as it did; None if it did not in time, and then it is killed."""
    descriptor = os.pidfd_open(process.pid)  # subprocess looks every few milliseconds
    try:
        has_ended = bool(select.select([descriptor], [], [], timeout)[0])
    finally:
        os.close(descriptor)
        if process.poll() is None and not has_ended:
            process.kill()
        process.wait()
    return process.returncode if has_ended else None


class Joined(NamedTuple):
    """A program whose stdin and stdout are the other end of ``sock``; ``last_words`` gives what it said of errors, once."""

    sock: socket.socket
    last_words: Callable[[], str]


def run_joined(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Joined:
    """Start a program; raises TunnelError if it can't be started."""
    ours, theirs = socket.socketpair()
    said = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the program has ended
    end = theirs.fileno()
    try:
        process = subprocess.Popen(
            argv, stdin=end, stdout=end, stderr=said, env=environ or _environment(), start_new_session=True
        )
    except OSError as exc:
        ours.close()
        said.close()
        raise TunnelError(f"{argv[0]} can't be run ({exc.strerror}).") from exc
    finally:
        theirs.close()
    words: list[str] = []

    def reap() -> None:
        process.wait()
        with said:
            said.seek(0)
            words.append(said.read().decode("utf-8", "replace"))

    reaper = threading.Thread(target=reap, daemon=True, name="kale-pipe")
    reaper.start()

    def last_words() -> str:
        reaper.join(_WORDS_S)
        return "".join(words)

    return Joined(ours, last_words)


def explain(host: str, code: int, said: str, *, has_asked: bool = False) -> TunnelError:
    """Return the error for what ssh said; the words are OpenSSH's, which are not translated."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1].removeprefix("ssh: ") if lines else f"it ended with code {code} and no word"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said or "host key has changed" in said.lower():
        return HostKeyError(
            f"The host key of {host} is not the one that is known, so ssh refuses it: somebody may be listening. "
            f"Ask its administrators. If it was changed for good: ssh-keygen -R {host}, then ssh {host} in a terminal."
        )
    if "Host key verification failed" in said or "host key is known" in said:
        return HostKeyError(
            f"The host key of {host} is not known yet. Log in once in a terminal (ssh {host}) and compare the fingerprint."
        )
    if has_asked and ("Permission denied" in said or "Too many authentication failures" in said):
        return AuthenticationError(f"ssh to {host} was given no right answer ({last}).")
    if "Permission denied" in said or "Too many authentication failures" in said:
        return AuthenticationError(
            f"ssh to {host} needs a password or another answer, and can't ask here ({last}). "
            f"Log in in a terminal, which keeps the connection for us: jupyter kale doctor --host {host}"
        )
    return TunnelError(f"ssh to {host}: {last}".rstrip(".") + ".")


def _environment() -> dict[str, str]:
    """Return the environment without what would open a window to ask."""
    return {name: value for name, value in os.environ.items() if name not in {"DISPLAY", "SSH_ASKPASS", "SSH_ASKPASS_REQUIRE"}}
