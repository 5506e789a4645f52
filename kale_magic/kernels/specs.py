"""The kernelspecs ``kale-RUN-STEP``: made, listed, removed. A kernelspec is a folder with ``kernel.json`` that Jupyter reads.

Owns those folders whose ``kernel.json`` says in ``metadata.kale`` that they are ours; touches no other.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kale_magic.errors import UsageError
from kale_magic.kernels import first
from kale_proxy.places import jupyter_data_dir

if TYPE_CHECKING:
    from kale_magic.api.find import Target

MODES = ("visit", "write", "main")
_KNOWN_RUNS = 1000


class Lists(Protocol):
    """The part of :class:`kale_magic.client.Client` that is used here."""

    @property
    def host(self) -> str:
        """The login host whose manager this is; empty for this machine's."""

    def runs(self, folder: str | Path | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Return runs, newest first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """One kernelspec: ``name`` is what front ends take, ``step`` is ``RUN/STEP``, ``path`` its folder."""

    name: str
    path: Path
    step: str
    run: str
    mode: str
    home: str | None
    host: str = ""

    @classmethod
    def read(cls, folder: Path) -> Spec | None:
        """Return the kernelspec in a folder; None if there is none of ours."""
        try:
            kale = json.loads((folder / "kernel.json").read_bytes())["metadata"]["kale"]
            words = {name: kale[name] for name in ("step", "run", "mode", "home")}
            return cls(name=folder.name, path=folder, host=kale.get("host", ""), **words)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def display_name(self) -> str:
        """What a person chooses in a front end."""
        where = f" on {self.host}" if self.host else ""
        return f"Kale: {self.step}{where}" + ("" if self.mode == "visit" else f" ({self.mode})")

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``kernel.json``."""
        option = [] if self.mode == "visit" else [f"--{self.mode}"]
        if self.host:
            option += ["--host", self.host]
        return {
            "argv": [*first.command(), "attach", self.step, "-f", "{connection_file}", *option],
            "display_name": self.display_name,
            "language": "python",
            "interrupt_mode": "message",
            "env": _environment(self.home),
            "metadata": {
                "kale": {"step": self.step, "run": self.run, "mode": self.mode, "home": self.home, "host": self.host},
                "supported_encryption": ["curve"],
            },
        }


def kernels_folder(prefix: str | Path | None = None) -> Path:
    """Return where Jupyter looks for kernelspecs: the user's folder, or that of an environment."""
    return (jupyter_data_dir() if prefix is None else Path(prefix) / "share" / "jupyter") / "kernels"


def install(client: Lists, target: Target, *, mode: str = "visit", prefix: str | Path | None = None) -> Spec:
    """Make the kernelspec of a step, or make it anew; those whose run is over are swept on the way.

    Parameters
    ----------
    client : Client
        Asked which runs there are.
    target : Target
        One job.
    mode : str
        ``visit``, ``write`` or ``main``.
    prefix : path, optional
        An environment to install into (``sys.prefix``); the user's Jupyter folder if none is given.

    Raises
    ------
    UsageError
        The folder can't be written.
    """
    folder = kernels_folder(prefix)
    remove_stale(client, prefix)
    step, home = str(target), _home()
    name = _name(target)
    other = Spec.read(folder / name)
    is_others = other is not None and (other.step, other.home, other.host) != (step, home, client.host)
    if is_others or (other is None and (folder / name).exists()):
        name += "-" + hashlib.sha256(f"{home} {client.host} {step}".encode()).hexdigest()[:6]  # a-b/c and a/b-c
    spec = Spec(name=name, path=folder / name, step=step, run=target.run, mode=mode, home=home, host=client.host)
    try:
        spec.path.mkdir(parents=True, exist_ok=True)
        temporary = spec.path / f"kernel.json.{os.getpid()}"
        temporary.write_text(json.dumps(spec.to_json(), indent=1) + "\n", encoding="utf-8")
        temporary.replace(spec.path / "kernel.json")
    except OSError as exc:
        raise UsageError(f"The kernel can't be installed in {folder}: {exc.strerror}.", "Give another --prefix.") from exc
    return spec


def installed(prefix: str | Path | None = None) -> list[Spec]:
    """Return the kernelspecs of steps there are, by name."""
    folder = kernels_folder(prefix)
    try:
        folders = sorted(folder.iterdir())
    except OSError:
        return []
    return [spec for path in folders if (spec := Spec.read(path)) is not None]


def remove(name: str, prefix: str | Path | None = None) -> Spec:
    """Remove a kernelspec by its name or its step.

    Raises
    ------
    UsageError
        There is none of ours that is called so.
    """
    known = installed(prefix)
    for spec in known:
        if name in {spec.name, spec.step}:
            _delete(spec)
            return spec
    names = ", ".join(spec.name for spec in known[:8])
    raise UsageError(f"There is no kernel {name!r} of a step.", f"There are: {names}." if names else "There are none.")


def remove_stale(client: Lists, prefix: str | Path | None = None) -> list[Spec]:
    """Remove the kernelspecs of runs that are over or gone, and return them; those of another KALE_HOME or host stay."""
    mine = [spec for spec in installed(prefix) if (spec.home, spec.host) == (_home(), client.host)]
    if not mine:
        return []
    live = {str(run["run"]) for run in client.runs(None, _KNOWN_RUNS) if run.get("state") == "running"}
    stale = [spec for spec in mine if spec.run not in live]
    for spec in stale:
        _delete(spec)
    return stale


def _delete(spec: Spec) -> None:
    try:
        shutil.rmtree(spec.path)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise UsageError(f"The kernel {spec.name} can't be removed: {exc.strerror} ({spec.path}).") from exc


def _name(target: Target) -> str:
    """Return a name that Jupyter takes; a point follows a dot, which no step's name has."""
    point = "" if target.point is None else f".{target.point}"
    return f"kale-{target.run}-{target.step}{point}".lower()


def _environment(home: str | None) -> dict[str, str]:
    """Return what the kernel needs of this environment: front ends may start it from another."""
    ssh = os.environ.get("KALE_SSH")
    return ({} if home is None else {"KALE_HOME": home}) | ({"KALE_SSH": ssh} if ssh else {})


def _home() -> str | None:
    home = os.environ.get("KALE_HOME")
    return os.path.abspath(home) if home else None
