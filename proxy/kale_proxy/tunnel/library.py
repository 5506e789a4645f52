"""ssh without a program: paramiko, where there is no OpenSSH, or where a password or OTP must be asked by a callback.

A host key must be known, as ssh would know it; a changed or unknown one is refused. Streams are the pipe's, run on the
host by a command. Not sshtunnel: it forwards TCP ports alone, and does not look at host keys.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko

from kale_proxy.tunnel.errors import AuthenticationError, HostKeyError, TunnelError
from kale_proxy.tunnel.openssh import Joined

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kale_proxy.tunnel.openssh import Target

    Ask = Callable[[str, bool], str | None]

_CONNECT_S = 10.0
_ALIVE_S = 5
_BLOCK = 1 << 16
_TRIES = 3


class Library:
    """Connections by paramiko, one per host, kept; from any thread.

    Parameters
    ----------
    ask : callable or None
        Called as ``ask(prompt, is_shown)`` for each thing the host wants to know; None as its answer gives up.
        Without it only keys and the agent are tried.
    config : Path, optional
        The user's ssh configuration, of which HostName, User, Port, IdentityFile and UserKnownHostsFile count.
    """

    def __init__(self, ask: Ask | None = None, config: Path | None = None) -> None:
        self.ask = ask
        self._config = paramiko.SSHConfig()
        path = config or Path("~/.ssh/config").expanduser()
        if path.exists():
            self._config = paramiko.SSHConfig.from_path(str(path))
        self._transports: dict[tuple[str, str], paramiko.Transport] = {}
        self._lock = threading.Lock()

    def start(self, target: Target, words: Sequence[str], deadline: float) -> Joined:  # noqa: ARG002 - each step has its own
        """Run a command on a host, its stdin and stdout joined to the socket that is returned.

        Parameters
        ----------
        target : Target
            The host.
        words : sequence of str
            The command.
        deadline : float
            As :meth:`kale_proxy.tunnel.openssh.OpenSSH.start`; here each part of it has a time of its own.

        Raises
        ------
        TunnelError
            The host can't be reached; HostKeyError, AuthenticationError as they say.
        """
        try:
            channel = self._transport(target.host, target.via).open_session(timeout=_CONNECT_S)
            channel.exec_command(shlex.join(words))
        except (paramiko.SSHException, OSError, EOFError) as exc:
            raise TunnelError(f"ssh to {target.host}: {exc}.") from exc
        ours, theirs = socket.socketpair()
        for carry in (_to_channel, _from_channel):
            threading.Thread(target=carry, args=(channel, theirs), daemon=True, name="kale-paramiko").start()
        return Joined(ours, lambda: _errors(channel))

    def output(self, host: str, command: str) -> str:
        """Return what a command line prints on the host; errors as :meth:`start`, also when it fails."""
        channel = self._transport(host, "").open_session(timeout=_CONNECT_S)
        channel.exec_command(command)
        channel.settimeout(6 * _CONNECT_S)
        try:
            printed = channel.makefile("rb").read()
            said = channel.makefile_stderr("rb").read().decode("utf-8", "replace").strip()
        except TimeoutError as exc:
            raise TunnelError(f"The command on {host} has not ended.") from exc
        if channel.recv_exit_status() != 0:
            raise TunnelError(f"ssh to {host}: {said.splitlines()[-1] if said else 'the command failed without a word'}.")
        return str(printed.decode("utf-8", "replace"))

    def is_up(self, host: str) -> bool:
        """Whether a connection to a host is open."""
        with self._lock:
            return any(name == host and transport.is_active() for (name, _), transport in self._transports.items())

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            for transport in self._transports.values():
                transport.close()
            self._transports.clear()

    def _transport(self, host: str, via: str) -> paramiko.Transport:
        with self._lock:  # so that a person is asked once
            found = self._transports.get((host, via))
            if found is not None and found.is_active():
                return found
        login = self._transport(via, "") if via else None
        with self._lock:
            found = self._transports.get((host, via))
            if found is None or not found.is_active():
                found = self._transports[host, via] = self._open(host, login)
            return found

    def _open(self, host: str, login: paramiko.Transport | None) -> paramiko.Transport:
        known = self._config.lookup(host)
        name, port = known.get("hostname", host), int(known.get("port", 22))
        try:
            if login is None:
                stream: Any = socket.create_connection((name, port), _CONNECT_S)
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            else:
                stream = login.open_channel("direct-tcpip", (name, port), ("127.0.0.1", 0), timeout=_CONNECT_S)
            transport = paramiko.Transport(stream)
        except (paramiko.SSHException, OSError, EOFError) as exc:
            raise TunnelError(f"ssh to {host}: {exc}.") from exc
        try:
            self._check_host_key(transport, host, name, port, known.get("userknownhostsfile", ""))
            self._log_in(transport, host, known)
        except BaseException:
            transport.close()
            raise
        transport.set_keepalive(_ALIVE_S)
        return transport

    def _check_host_key(self, transport: paramiko.Transport, host: str, name: str, port: int, files: str) -> None:
        """Connect, and compare the host's key with those that ssh knows of it."""
        keys = paramiko.HostKeys()
        for file in [*files.split(), "~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts"]:
            with contextlib.suppress(OSError):
                keys.load(os.path.expanduser(file))
        label = name if port == 22 else f"[{name}]:{port}"
        expected = keys.lookup(label)
        if expected:
            options = transport.get_security_options()
            options.key_types = sorted(options.key_types, key=lambda kind: kind not in expected)
        try:
            transport.start_client(timeout=_CONNECT_S)
        except (paramiko.SSHException, OSError, EOFError) as exc:
            raise TunnelError(f"ssh to {host}: {exc}.") from exc
        if not expected:
            raise HostKeyError(f"The host key of {host} is not known yet. Log in once in a terminal (ssh {host}) and compare the fingerprint.")
        given = transport.get_remote_server_key()
        if expected.get(given.get_name()) != given:
            raise HostKeyError(f"The host key of {host} is not the one that is known: somebody may be listening. Ask its administrators.")

    def _log_in(self, transport: paramiko.Transport, host: str, known: dict[str, Any]) -> None:
        """Go through what the host asks for: keys, then each prompt by the callback; a host may want several in turn."""
        user = known.get("user") or getpass.getuser()
        try:
            transport.auth_none(user)
            allowed: list[str] = []
        except paramiko.BadAuthenticationType as exc:
            allowed = exc.allowed_types
        except paramiko.SSHException as exc:
            raise AuthenticationError(f"{host} refuses {user}: {exc}.") from exc
        if "publickey" in allowed:
            allowed = self._offer_keys(transport, user, known.get("identityfile", []), allowed)
        for _ in range(_TRIES):
            if transport.is_authenticated():
                return
            if self.ask is None:
                break
            try:
                if "keyboard-interactive" in allowed:
                    allowed = transport.auth_interactive(user, self._answer)
                elif "password" in allowed:
                    allowed = transport.auth_password(user, self._answer("", "", [(f"Password of {user} on {host}: ", False)])[0], fallback=False)
                else:
                    break
            except paramiko.AuthenticationException:
                continue
            except (paramiko.SSHException, OSError, EOFError) as exc:
                raise TunnelError(f"ssh to {host}: {exc}.") from exc
        if not transport.is_authenticated():
            how = "needs a password or another answer, and nobody can be asked here" if self.ask is None else "was given no right answer"
            raise AuthenticationError(f"ssh to {host} as {user} {how}.")

    def _offer_keys(self, transport: paramiko.Transport, user: str, files: Sequence[str], allowed: list[str]) -> list[str]:
        keys: list[paramiko.PKey] = []
        for file in files or ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"):
            with contextlib.suppress(OSError, paramiko.SSHException, ValueError, TypeError):  # missing, or with a passphrase
                keys.append(paramiko.PKey.from_path(os.path.expanduser(file)))
        with contextlib.suppress(paramiko.SSHException):
            keys += paramiko.Agent().get_keys()
        for key in keys:
            with contextlib.suppress(paramiko.AuthenticationException):
                return list(transport.auth_publickey(user, key))
        return allowed

    def _answer(self, title: str, instructions: str, prompts: list[tuple[str, bool]]) -> list[str]:
        assert self.ask is not None
        answers = []
        for prompt, is_shown in prompts:
            heading = " ".join(filter(None, (title.strip(), instructions.strip())))
            answer = self.ask(f"{heading} {prompt}".strip() + " ", is_shown)
            if answer is None:
                raise AuthenticationError("The login was given up.")
            answers.append(answer)
        return answers


def _to_channel(channel: paramiko.Channel, sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := sock.recv(_BLOCK):
            channel.sendall(data)
    with contextlib.suppress(OSError, EOFError):
        channel.shutdown_write()


def _from_channel(channel: paramiko.Channel, sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := channel.recv(_BLOCK):
            sock.sendall(data)
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
    channel.close()


def _errors(channel: paramiko.Channel) -> str:
    said = b""
    while channel.recv_stderr_ready():
        said += channel.recv_stderr(_BLOCK)
    return said.decode("utf-8", "replace")
