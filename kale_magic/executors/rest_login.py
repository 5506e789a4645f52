"""The authenticator of Slurm's REST service: where ``slurmrestd`` is, who asks, and the token by which it believes that.

The token (a JWT, by ``scontrol token``) is kept in memory and in one file of mode 0600 beside the other keys, so that the next
manager goes on; it is sent to that one address alone, never along a redirect, and stands in no message, log or run folder.
Headers: https://slurm.schedmd.com/rest.html . Claims (RFC 7519): ``exp`` when it ends, ``sun`` whose it is.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kale_magic.errors import ExecutorError, UsageError
from kale_proxy.places import private_dir
from kale_proxy.values import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

API = "/slurm/v0.0.38"  # of Slurm 22.05 to 23.11
_LOG_IN = "Log in: %kale_dashboard ssh, the way REST."
_MOST_BYTES = 256 << 20


class Silence(Exception):  # noqa: N818 - a state of the service
    """The service did not answer, or does not take the token; the message says which."""


class Refused(Exception):  # noqa: N818 - an answer
    """The service answered that it will not; the message has Slurm's words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Login:
    """One login. ``until`` is when the token ends, in seconds since the epoch; None if it does not say."""

    url: str
    user: str
    token: str = field(repr=False)
    until: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the token has ended."""
        return self.until is not None and self.until <= time.time()


class Authenticator:
    """Holds the login of this user, and asks the service in its name.

    Parameters
    ----------
    file : Path
        Where the login is kept.
    timeout_s : float
        How long one answer may take.
    """

    def __init__(self, file: Path, timeout_s: float) -> None:
        self._file, self._timeout_s = file, timeout_s
        self.login: Login | None = self._read()

    async def log_in(self, url: str, user: str, token: str) -> Login:
        """Try a login, and keep it if the service takes it.

        Raises
        ------
        UsageError
            The address, the user or the token is none.
        ExecutorError
            The service can't be reached, is of another version, or does not take the token.
        """
        login = _checked(url, user, token)
        try:
            found = await self._ask(login, "GET", "/ping")
            if not any(ping.get("ping") == "UP" for ping in found.get("pings") or ()):
                raise Silence(f"{login.url} answers, and Slurm behind it does not")
        except (Silence, Refused) as exc:
            raise ExecutorError(f"No login by REST: {exc}.", "Check the address and the user; a new token: scontrol token") from None
        self.login = login
        try:
            private_dir(self._file.parent)
            write_atomic(self._file, json.dumps(asdict(login)).encode())
            self._file.chmod(0o600)
        except OSError as exc:
            raise ExecutorError(f"The login holds until this manager ends: {self._file} can't be written ({exc.strerror or exc}).") from None
        return login

    def forget(self) -> None:
        """Forget the login."""
        self.login = None
        self._file.unlink(missing_ok=True)

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the service answers; raises Silence and Refused."""
        return await self._ask(self.current(), method, path, body)

    def current(self) -> Login:
        """Return the login; raises Silence if there is none, or its token has ended."""
        if self.login is None:
            raise Silence(f"there is no login to a REST service. {_LOG_IN}")
        if self.login.is_over:
            raise Silence(f"the token of {self.login.user} for {self.login.url} has ended. {_LOG_IN}")
        return self.login

    async def _ask(self, login: Login, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return await asyncio.to_thread(_send, login, method, path, body, self._timeout_s)

    def _read(self) -> Login | None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            info = self._file.stat()
            if info.st_uid == os.getuid() and not info.st_mode & 0o077:
                return Login(**json.loads(self._file.read_bytes()))
        return None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none: the token is for one address."""


def _send(login: Login, method: str, path: str, body: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
    headers = {"X-SLURM-USER-NAME": login.user, "X-SLURM-USER-TOKEN": login.token, "Content-Type": "application/json", "Accept": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(login.url + API + path, data=data, headers=headers, method=method)  # noqa: S310 - http or https, see _checked
    try:
        with urllib.request.build_opener(_NoRedirect).open(asked, timeout=timeout_s) as answer:
            return _object(answer.read(_MOST_BYTES))
    except urllib.error.HTTPError as exc:
        with exc:
            raise _refusal(login, exc.code, exc.read(1 << 20)) from None
    except (OSError, http.client.HTTPException) as exc:
        reason = getattr(exc, "reason", None) or exc
        raise Silence(f"{login.url} does not answer: {getattr(reason, 'strerror', None) or reason}") from None


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        raise Silence("what answered is no slurmrestd") from None
    return found if isinstance(found, dict) else {}


def _refusal(login: Login, code: int, text: bytes) -> Exception:
    try:
        words = said(json.loads(text))
    except (ValueError, AttributeError):
        words = ""
    if code in {401, 403}:
        return Silence(f"{login.url} does not take the token of {login.user}")
    if code == 404 or not words:
        return Silence(f"{login.url} has no {API} of slurmrestd (HTTP {code})")
    if code == 400:
        return Refused(words)
    if "Unspecified error" in words or "Zero Bytes" in words or "authentication" in words.lower():
        return Silence(f"Slurm does not take the token of {login.user}, or does not answer {login.url}: {words}")
    return Refused(words)


def said(answer: dict[str, Any]) -> str:
    """Return the errors in an answer, on one line."""
    words = [": ".join(filter(None, [str(item.get("description") or ""), str(item.get("error") or "")])) for item in answer.get("errors") or ()]
    return "; ".join(dict.fromkeys(filter(None, words)))


def _checked(url: str, user: str, token: str) -> Login:
    parts = urllib.parse.urlsplit(url.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise UsageError(f"{url!r} is no address of a REST service.", "Write it as https://HOST:6820")
    if not user or not user.isprintable() or any(char.isspace() for char in user):
        raise UsageError("Whose token is it?", "Write the user's name on the cluster.")
    token = token.strip().removeprefix("SLURM_JWT=")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("There is no token.", "Make one on the cluster: scontrol token lifespan=3600")
    claims = _claims(token)
    until, owner = claims.get("exp"), claims.get("sun") or claims.get("username")
    login = Login(url=url.strip().rstrip("/"), user=user, token=token, until=float(until) if isinstance(until, int | float) else None)
    if owner and owner != user:
        raise UsageError(f"The token is that of {owner}, not of {user}.")
    if login.is_over:
        raise UsageError("The token has ended.", "Make another one on the cluster: scontrol token lifespan=3600")
    return login


def _claims(token: str) -> dict[str, Any]:
    """Return what a JWT says of itself, unchecked: that is the service's business; empty if it is none."""
    with contextlib.suppress(ValueError, IndexError):
        part = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return found if isinstance(found, dict) else {}
    return {}
