"""Files of a workflow on a login host: what a step reads goes up before a submit, what it leaves comes back when it is looked at.

By sftp over the user's own ssh connection. A file that is the same at the other end is not sent; one of which a part is
there is gone on with; its digest is compared before it takes its name.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kale_magic.errors import UsageError
from kale_proxy.places import private_dir
from kale_proxy.tunnel.errors import TunnelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kale_magic.api.find import Asks
    from kale_magic.client import Client

_PART = "kale-part"
_BLOCK = 1 << 20
_DEADLINE_S = 6 * 3600.0
_NOTICED_S = 1.0  # a folder that was looked at so lately is not looked at again
SMALL = ("*", "*/*.json")  # of a step's folder: all but the values it left
_seen: dict[tuple[str, str, tuple[str, ...]], float] = {}


class Place(Protocol):
    """A host that tells which files it has."""

    @property
    def host(self) -> str:
        """A Host of the user's ssh."""

    def files(self, folder: str, patterns: Iterable[str], *, makes: bool = False) -> dict[str, dict[str, Any]]:
        """As :meth:`kale_magic.client.Client.files`."""


def upload(client: Place, folder: str, files: Mapping[str, Path]) -> int:
    """Bring files into a folder of the host; return how many bytes had to go.

    Parameters
    ----------
    client : Place
        The host, or its manager.
    folder : str
        Absolute, made if it is missing.
    files : mapping of str to Path
        By their names there, relative to the folder.

    Raises
    ------
    UsageError
        They can't be brought there.
    """
    digests = {name: _digest(path) for name, path in files.items()}
    parts = {name: f"{name}.{_PART}-{digest[:12]}" for name, digest in digests.items()}
    there = client.files(folder, [glob.escape(name) for name in (*files, *parts.values())], makes=True)
    due = {name: (files[name], digest) for name, digest in digests.items() if there.get(name, {}).get("digest") != digest}
    if not due:
        return 0
    folders = sorted({parent for name in due for parent in _parents(name)})
    lines = [f"-mkdir {_quoted(f'{folder}/{parent}')}" for parent in folders]
    for name, (path, digest) in due.items():
        part = there.get(parts[name], {})
        if part.get("digest") == digest:  # cut before it had its name
            continue
        put = "put -a" if 0 < part.get("size", 0) < path.stat().st_size else "put"  # -a goes on with what is there, and wants that something is missing
        lines.append(f"{put} {_quoted(str(path))} {_quoted(f'{folder}/{parts[name]}')}")
    if lines:
        _sftp(client.host, lines)
    arrived = client.files(folder, [glob.escape(parts[name]) for name in due])
    wrong = [name for name, (_, digest) in due.items() if arrived.get(parts[name], {}).get("digest") != digest]
    if wrong:  # a part of something else: away with it, so that the next time it begins anew
        _sftp(client.host, [f"-rm {_quoted(f'{folder}/{parts[name]}')}" for name in wrong])
        raise UsageError(f"{wrong[0]} did not arrive whole on {client.host}.", "Ask again.")
    _sftp(client.host, [f"rename {_quoted(f'{folder}/{parts[name]}')} {_quoted(f'{folder}/{name}')}" for name in due])
    return sum(path.stat().st_size for path, _ in due.values())


def fetch(client: Client, folder: str, patterns: Sequence[str], *, is_fresh: bool = False) -> Path:
    """Bring those files of a folder of the host here that match, and return the folder here that has them.

    A folder that was looked at within the last second is not looked at again, unless ``is_fresh``.

    Raises
    ------
    UsageError
        They can't be fetched.
    """
    here = _place(client, folder)
    key = (client.host, folder, tuple(patterns))
    if not is_fresh and time.monotonic() - _seen.get(key, -_NOTICED_S) < _NOTICED_S:
        return here
    there = client.files(folder, list(patterns))
    outside = [name for name in there if os.path.isabs(name) or ".." in Path(name).parts]
    if outside:
        raise UsageError(f"{client.host} names a file outside of {folder}: {outside[0]!r}. Nothing was fetched.", "Ask its administrators what answers there.")
    open_to_others = [name for name, item in there.items() if _may_be_unpickled(name) and not item["is_own"]]
    if open_to_others:  # it would be unpickled here
        raise UsageError(f"{open_to_others[0]} of {folder} on {client.host} is not yours alone, so it is not taken.", "There: chmod go-w")
    due = {name: item for name, item in there.items() if item["digest"] and not _is_here(here / name, item)}
    if due:
        _download(client.host, folder, here, due)
    now = time.monotonic()
    for old in [known for known, at in _seen.items() if now - at >= _NOTICED_S]:
        del _seen[old]
    _seen[key] = now
    return here


def _may_be_unpickled(name: str) -> bool:
    path = Path(name)
    return bool({"outputs", "values"} & set(path.parts)) or path.name.startswith("points-")


def run_folder(client: Asks, folder: str, *patterns: str) -> Path:
    """Return the folder of a run, to read from: itself, or a copy here of those files of it, on a login host, that match.

    Raises
    ------
    UsageError
        They can't be fetched.
    """
    return fetch(client, folder, patterns) if client.host else Path(folder)  # type: ignore[arg-type]


def _download(host: str, folder: str, here: Path, due: Mapping[str, Mapping[str, Any]]) -> None:
    lines, parts = [], {}
    for name, item in due.items():
        path = here / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        parts[name] = path.with_name(f"{path.name}.{_PART}-{item['digest'][:12]}")
        had = parts[name].stat().st_size if parts[name].exists() else 0
        if had == item["size"] and _digest(parts[name]) == item["digest"]:  # cut before it had its name
            continue
        get = "get -a" if 0 < had < item["size"] else "get"
        lines.append(f"{get} {_quoted(f'{folder}/{name}')} {_quoted(str(parts[name]))}")
    if lines:
        _sftp(host, lines)
    for name, item in due.items():
        if _digest(parts[name], item["size"]) != item["digest"]:  # a log may have grown meanwhile
            parts[name].unlink(missing_ok=True)
            raise UsageError(f"{name} of {folder} on {host} changed while it was fetched.", "Ask again.")
        parts[name].chmod(0o600)
        os.replace(parts[name], here / name)


def _is_here(path: Path, item: Mapping[str, Any]) -> bool:
    with suppress(OSError):
        return bool(path.stat().st_size == item["size"] and _digest(path) == item["digest"])
    return False


def _place(client: Client, folder: str) -> Path:
    """Return the folder here that mirrors one there."""
    base = private_dir(client.state_dir / "hosts" / f"{client.host}.files")
    path = base / folder.strip("/")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _sftp(host: str, lines: Iterable[str]) -> None:
    from kale_proxy.tunnel.dialer import default
    from kale_proxy.tunnel.openssh import Target

    ssh = default().ssh
    if ssh is None:
        raise UsageError(f"Files go to and from {host} by OpenSSH's sftp, which is not here.", "Install OpenSSH's client.")
    try:
        ssh.sftp(Target(host), list(lines), time.monotonic() + _DEADLINE_S)
    except TunnelError as exc:
        raise UsageError(f"Files can't be exchanged with {host}: {exc}", "What has arrived is kept: ask again.") from exc


def _digest(path: Path, size: int | None = None) -> str:
    """Return the SHA-256 of a file, or of its first ``size`` bytes."""
    try:
        with path.open("rb") as stream:
            if size is None:
                return hashlib.file_digest(stream, "sha256").hexdigest()
            found, left = hashlib.sha256(), size
            while left > 0 and (block := stream.read(min(left, _BLOCK))):
                found.update(block)
                left -= len(block)
            return found.hexdigest()
    except OSError as exc:
        raise UsageError(f"{path} can't be read: {exc.strerror}.") from exc


def _parents(name: str) -> list[str]:
    return [str(parent) for parent in reversed(Path(name).parents) if str(parent) != "."]


def _quoted(text: str) -> str:
    """Return a path as a line of sftp's batch has it: in quotes, within which patterns are only letters."""
    if "\n" in text:
        raise UsageError(f"{text!r} can't be brought over: its name has a line break.")
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
