"""A Kale on a host that has nothing but Python: an environment made there from wheels that this machine brings along.

By the user's own ssh alone, so it works where the host, or its compute nodes, have no internet. The client finds what was
made by itself (:func:`kale_magic._remote.line_there`). Called by ``doctor --host H --install``.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_magic._remote import environment_name, environments_folder
from kale_magic.api import mirror, provision_there, wheels
from kale_magic.errors import UsageError
from kale_magic.version import __version__
from kale_proxy.tunnel.dialer import default
from kale_proxy.tunnel.errors import TunnelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from kale_magic.config import Settings

LEAST_PYTHON = (3, 11)
_LOOK_S = 120.0
_MAKE_S = 2700.0
_TAKES = 6  # times the wheels' size: unpacked, compiled, and the wheels themselves
_CANDIDATES = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")
_IS_NEW = f"import sys; sys.exit(sys.version_info < {LEAST_PYTHON})"
_VERSION = "import sys; print('\\n" + provision_there.MARK + "{\"python\": [%d, %d, %d], \"executable\": \"%s\"}' % (sys.version_info[:3] + (sys.executable,)))"


@dataclass(frozen=True, kw_only=True, slots=True)
class There:
    """What a host's Python and folders are like; see :func:`kale_magic.api.provision_there.look`.

    ``python`` is empty if there is none; the rest is known only of one that is new enough.
    """

    python: tuple[int, ...] = ()
    executable: str = ""
    about: dict[str, Any]

    @property
    def version(self) -> str:
        """The Python's version."""
        return ".".join(map(str, self.python))

    @property
    def is_new_enough(self) -> bool:
        """Whether Kale runs with it."""
        return self.python[:2] >= LEAST_PYTHON

    @property
    def record(self) -> dict[str, Any]:
        """What is known of the environment of this version that is there; empty if there is none."""
        return dict(self.about.get("record") or {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """An environment on a host: its ``path``; whether it was there before; how many wheels, and bytes that had to go; those of the same version beside it."""

    path: str
    was_there: bool
    count: int = 0
    sent_bytes: int = 0
    others: tuple[str, ...] = ()


def look(settings: Settings) -> There:
    """Return what ``settings.host`` has; raises UsageError if it can't be asked."""
    found = _ask(settings, "look", {"base": environments_folder(settings), "name": environment_name()}, _LOOK_S)
    python = tuple(int(part) for part in found.get("python") or ())
    if not python and settings.there.python:
        raise UsageError(f"{settings.there.python}, which [hosts.{settings.host}] python names, is no Python on {settings.host}.", _name_another(settings))
    return There(python=python, executable=str(found.get("executable") or ""), about=found)


def make(settings: Settings, requirements: Sequence[str], say: Callable[[str], None]) -> Made:
    """Have an environment of this very Kale on ``settings.host``; one that is there already is left alone.

    Parameters
    ----------
    requirements : sequence of str
        Packages that it has besides, such as ``numpy`` or ``scipy>=1.14``; what an earlier call asked for stays.
    say : callable
        Gets a line before each part that takes long.

    Raises
    ------
    UsageError
        The host's Python won't do, it has no room, or the wheels can't be had or brought there.
    """
    wheels.check_requirements(requirements)
    if default().ssh is None:
        raise UsageError(f"An environment is brought to {settings.host} by OpenSSH's sftp, which is not here.", "Install OpenSSH's client.")
    there = look(settings)
    platform = platform_of(settings, there)
    wanted = list(dict.fromkeys([*there.record.get("requirements", ()), *requirements]))
    say(f"bringing the packages for {platform} together")
    found = wheels.bundle(platform, wanted, settings.state_dir / "wheels")
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
    mark = hashlib.sha256(json.dumps([sorted(digests.items()), there.executable, there.version]).encode()).hexdigest()[:8]
    if there.record.get("mark") == mark:
        return Made(path=str(there.record["path"]), was_there=True, count=len(found))
    size = sum(path.stat().st_size for path in found)
    _check_room(settings, there, size * _TAKES)
    folder = f"{there.about['base']}/wheels-{mark}"
    say(f"sending {len(found)} wheels, {size / 1e6:.0f} MB")
    try:
        sent = mirror.upload(_Place(settings), folder, {path.name: path for path in found})
    except UsageError:
        _check_room(settings, look(settings), 0)
        raise
    say(f"making the environment on {settings.host}")
    record = {"version": __version__, "mark": mark, "requirements": wanted, "python": there.version}
    asked = {"base": there.about["base"], "name": environment_name(), "digest": mark, "wheels": folder, "names": sorted(digests), "requirements": [f"kale-magic=={__version__}", *wanted], "record": record}
    made = _ask(settings, "make", asked, _MAKE_S)
    if made.get("error") == "full":
        raise _is_full(settings, str(there.about["base"]))
    if made.get("error"):
        raise UsageError(f"The environment on {settings.host} could not be made: {made['error']}.", "What has arrived is kept: ask again.")
    return Made(path=str(made["path"]), was_there=False, count=len(found), sent_bytes=sent, others=tuple(made["others"]))


def platform_of(settings: Settings, there: There) -> wheels.Platform:
    """Return the platform of the wheels for what :func:`look` has found; raises UsageError if no environment can be made of it."""
    least = ".".join(map(str, LEAST_PYTHON))
    host, about = settings.host, there.about
    if not there.python:
        raise UsageError(f"{host} has no Python on the path of a login shell; Kale needs {least} or newer.", _name_another(settings))
    if not there.is_new_enough:
        raise UsageError(f"The Python on {host} is {there.version} ({there.executable}); Kale needs {least} or newer.", _name_another(settings))
    libc = list(about["libc"])
    if about["system"] != "linux" or about["implementation"] != "cpython" or libc[0] != "glibc":
        kind = f"{about['implementation']} on {about['system']} with {libc[0] or 'another C library'}"
        raise UsageError(f"{there.executable} on {host} is {kind}; wheels are brought along for CPython on Linux with glibc alone.", f"Install Kale there by hand. {_name_another(settings)}")
    if not about["has_venv"]:
        raise UsageError(f"{there.executable} on {host} lacks the module venv, which makes environments.", f"Ask its administrators for it (Debian: python3-venv). {_name_another(settings)}")
    glibc = [int(part) for part in str(libc[1]).split(".")[:2]]
    return wheels.Platform(python=(there.python[0], there.python[1], there.python[2]), machine=str(about["machine"]), glibc=(glibc[0], glibc[1]), abiflags=str(about["abiflags"]))


def _check_room(settings: Settings, there: There, least: int) -> None:
    base, trouble = str(there.about["base"]), str(there.about["trouble"])
    if trouble == "full" or int(there.about["free_bytes"]) < least:
        raise _is_full(settings, base, least, int(there.about["free_bytes"]))
    if trouble:
        raise UsageError(f"{base} on {settings.host} can't be written: {trouble}.", _elsewhere(settings))


def _is_full(settings: Settings, base: str, least: int = 0, free: int = 0) -> UsageError:
    sizes = f" ({free / 1e6:.0f} MB are free, some {least / 1e6:.0f} are needed)" if least else ""
    return UsageError(f"There is no room for an environment in {base} on {settings.host}{sizes}.", f"Make room there. {_elsewhere(settings)}")


def _elsewhere(settings: Settings) -> str:
    return f'Or name another folder in {settings.state_dir / "config.toml"}: [hosts.{settings.host}] venvs = "/scratch/me/kale"'


def _name_another(settings: Settings) -> str:
    return f'Name another Python in {settings.state_dir / "config.toml"}: [hosts.{settings.host}] python = "/path/to/python"'


def _ask(settings: Settings, operation: str, asked: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Do one thing with the newest Python there is on the host, or the one that the configuration names, and return its answer."""
    pythons = [settings.there.python] if settings.there.python else list(_CANDIDATES)
    text = Path(provision_there.__file__).read_text(encoding="utf-8")
    tests = [f'if {shlex.join([python, "-c", _IS_NEW])} 2>/dev/null; then exec {shlex.join([python, "-I", "-S", "-c", text, operation, json.dumps(asked)])}; fi' for python in pythons]
    others = [f"{shlex.join([python, '-c', _VERSION])} 2>/dev/null && exit 0" for python in pythons]
    nothing = shlex.join(["printf", r"\n%s\n", f"{provision_there.MARK}{{}}"])
    line = "\n".join([*tests, *others, nothing])
    try:
        said = default().output(settings.host, f"exec sh -lc {shlex.quote(line)}", time.monotonic() + timeout)
        return dict(json.loads(said.rpartition(f"\n{provision_there.MARK}")[2]))
    except TunnelError as exc:
        raise UsageError(f"{settings.host} can't be looked at: {exc}") from exc
    except (ValueError, TypeError) as exc:
        raise UsageError(f"{settings.host} answered in a way that is not understood: {said[-200:]!r}.") from exc


class _Place:
    """A host without a manager, for :func:`kale_magic.api.mirror.upload`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def host(self) -> str:
        return self._settings.host

    def files(self, folder: str, patterns: Iterable[str], *, makes: bool = False) -> dict[str, dict[str, Any]]:
        """List files there; the folder is made in any case."""
        del makes
        found = _ask(self._settings, "files", {"folder": folder, "patterns": list(patterns)}, _LOOK_S)
        return {str(name): dict(item) for name, item in found["files"].items()}
