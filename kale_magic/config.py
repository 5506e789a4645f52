"""Settings: where things are, how long the manager idles, what this machine may be used for.

One small object, read once when a process starts: the defaults, then ``config.toml`` in the state folder,
then environment variables. Used by the manager and by the client that starts it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from kale_magic.errors import ConfigError
from kale_proxy.places import PlaceError, runtime_dir, socket_dir, state_dir

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class HostSettings(NamedTuple):
    """What is to be known of a login host: a Python there, with Kale or to make an environment of, its KALE_HOME, the folders for workflows and environments.

    Empty: as a login finds it, ``~/kale`` and ``~/.local/share/kale``.
    """

    python: str = ""
    home: str = ""
    folder: str = ""
    venvs: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What can be set.

    ``idle_stop_s`` is how long a manager without live runs and clients stays; ``keep_events`` how many events
    can be replayed; ``cpus``, ``memory_bytes`` and ``gpus`` limit what the local executor gives out (None: all
    that the machine lets us use). ``host`` is the login host whose manager is meant, empty for this machine's;
    ``hosts`` what is known of such hosts, by name; ``open_template`` the notebook that ``%kale_open`` begins with
    (None: Kale's own). ``manager_host`` is the login host, of this same home, on which the manager is started (empty: where the
    client is). ``slurm_poll_s`` is how often Slurm's queue is looked at when things happen there,
    ``slurm_grace_s`` how long a job must be missing from it to count as gone, ``slurm_max_jobs`` how many jobs are
    in it at most at once, ``slurm_kernels`` among how many of them a sweep with ``--reuse-kernel`` is shared out, ``slurm_command_s`` how long one of Slurm's commands may take; ``slurm_listen`` whether
    kernels of its jobs listen on TCP too, by CURVE. ``container_runtime`` is the program that runs containers (empty:
    what there is on the node), ``container_bind`` are folders that all of them see.
    """

    state_dir: Path
    socket_dir: Path
    idle_stop_s: float = 900.0
    keep_events: int = 200_000
    cpus: int | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    host: str = ""
    hosts: Mapping[str, HostSettings] = field(default_factory=dict)
    open_template: Path | None = None
    manager_host: str = ""
    slurm_poll_s: float = 1.0
    slurm_grace_s: float = 60.0
    slurm_max_jobs: int = 1000
    slurm_kernels: int = 8
    slurm_command_s: float = 60.0
    slurm_listen: bool = False
    container_runtime: str = ""
    container_bind: tuple[str, ...] = ()

    @property
    def there(self) -> HostSettings:
        """What is known of the host whose manager is meant."""
        return self.hosts.get(self.host) or HostSettings()

    @property
    def database(self) -> Path:
        """The manager's store."""
        return self.state_dir / "kale.db"

    @property
    def manager_file(self) -> Path:
        """Who the manager is: host, pid, address; for clients and people."""
        return self.state_dir / "manager.json"

    @property
    def last_file(self) -> Path:
        """Who the manager was that ended while runs were live; gone when there is one again."""
        return self.state_dir / "manager.last.json"

    @property
    def log_file(self) -> Path:
        """What the manager says about itself."""
        return self.state_dir / "manager.log"

    @property
    def socket(self) -> Path:
        """Where the manager listens."""
        return self.socket_dir / "m"

    @property
    def keys_dir(self) -> Path:
        """Where jobs on other hosts tell where their kernels are, with the keys."""
        return runtime_dir()

    @property
    def workers_dir(self) -> Path:
        """One folder per supervisor of the local executor."""
        return self.socket_dir / "w"


# Each row: section and key of config.toml, variable, field, type (None: an amount of memory; bool: yes or no; else what :func:`_taken` knows)
_KEYS = (
    ("manager", "host", "KALE_MANAGER_HOST", "manager_host", "host"),
    ("manager", "idle_stop_s", "KALE_IDLE_S", "idle_stop_s", float),
    ("manager", "keep_events", "KALE_KEEP_EVENTS", "keep_events", int),
    ("local", "cpus", "KALE_CPUS", "cpus", int),
    ("local", "memory", "KALE_MEMORY", "memory_bytes", None),
    ("local", "gpus", "KALE_GPUS", "gpus", int),
    ("slurm", "poll_s", "KALE_SLURM_POLL_S", "slurm_poll_s", float),
    ("slurm", "grace_s", "KALE_SLURM_GRACE_S", "slurm_grace_s", float),
    ("slurm", "max_jobs", "KALE_SLURM_MAX_JOBS", "slurm_max_jobs", int),
    ("slurm", "kernels", "KALE_SLURM_KERNELS", "slurm_kernels", int),
    ("slurm", "command_s", "KALE_SLURM_COMMAND_S", "slurm_command_s", float),
    ("slurm", "listen", "KALE_SLURM_LISTEN", "slurm_listen", bool),
    ("container", "runtime", "KALE_CONTAINER_RUNTIME", "container_runtime", "runtime"),
    ("container", "bind", "KALE_CONTAINER_BIND", "container_bind", "folders"),
    ("open", "template", "KALE_OPEN_TEMPLATE", "open_template", str),
)


_HOST = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.@:+-]{0,252})?")
_WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False, "": False}
VARIABLES = frozenset(variable for _, _, variable, _, _ in _KEYS)


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of this process; makes the two folders when they are missing.

    Raises
    ------
    ConfigError
        A folder is unusable, the file can't be read, or a value has not the right form.
    """
    environ = os.environ if environ is None else environ
    try:
        settings = Settings(state_dir=state_dir(), socket_dir=socket_dir())
    except PlaceError as exc:
        raise ConfigError(f"Kale has no place for its files: {exc}.") from exc
    path = settings.state_dir / "config.toml"
    table = _read(path)
    values: dict[str, Any] = {}
    for section, key, variable, name, kind in _KEYS:
        raw = table.get(section, {}).pop(key, None)
        source = f"{path}: {section}.{key}"
        if variable in environ:
            raw, source = environ[variable], variable
        if raw is not None:
            values[name] = _taken(raw, kind, path.parent, source)
    values["hosts"] = _hosts(table.pop("hosts", {}), path)
    for section, rest in table.items():
        known = sorted(key for part, key, *_ in _KEYS if part == section)
        for key in rest if isinstance(rest, dict) else [section]:
            sections = ", ".join(dict.fromkeys(part for part, *_ in _KEYS))
            known_text = f"Known in [{section}]: {', '.join(known)}." if known else f"Known sections: {sections}, hosts.NAME."
            raise ConfigError(f"{path}: {section}.{key} is no setting.", known_text)
    return replace(settings, **values)


def _hosts(table: dict[str, Any], path: Path) -> dict[str, HostSettings]:
    """Read ``[hosts.NAME]``."""
    found = {}
    for name, words in table.items():
        try:
            found[name] = HostSettings(**{key: str(value) for key, value in words.items()})
        except (TypeError, AttributeError) as exc:
            raise ConfigError(f"{path}: hosts.{name} has what is no setting.", "Known in [hosts.NAME]: python, home, folder, venvs.") from exc
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise ConfigError(f"{path} can't be read: {exc.strerror}.") from exc
    import tomllib

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is not TOML: {exc}.") from exc
    return {section: dict(part) if isinstance(part, dict) else {section: part} for section, part in table.items()}


def _taken(raw: object, kind: type | str | None, folder: Path, source: str) -> object:
    """Return the value of a setting: of a number's type, None for an amount of memory, str for a file, or a kind that has a name."""
    named = {"runtime": _runtime, "folders": _folders, "host": _host}
    if isinstance(kind, str):
        return named[kind](raw, source)
    return _file(raw, folder, source) if kind is str else _value(raw, kind, source)


def _runtime(raw: object, source: str) -> str:
    from kale_proxy.container import RUNTIMES

    if raw not in RUNTIMES:
        raise ConfigError(f"{source} = {raw!r} is no container runtime.", f"There is: {', '.join(RUNTIMES)}.")
    return str(raw)


def _folders(raw: object, source: str) -> tuple[str, ...]:
    """Read a list of folders, or as a variable has it with colons between them."""
    items = raw.split(":") if isinstance(raw, str) else raw
    if not isinstance(items, list) or not all(isinstance(item, str) and item.startswith("/") for item in items):
        raise ConfigError(f"{source} = {raw!r} is no list of folders.", 'Write bind = ["/scratch", "/data"].')
    return tuple(items)


def _file(raw: object, folder: Path, source: str) -> Path:
    if not isinstance(raw, str) or not raw:
        raise ConfigError(f"{source} = {raw!r} is no file.", "Give its path in quotes; a relative one begins at the state folder.")
    return folder / os.path.expanduser(raw)


def _host(raw: object, source: str) -> str:
    if not isinstance(raw, str) or not _HOST.fullmatch(raw):
        raise ConfigError(f"{source} = {raw!r} is no name of a host.", "Give a Host of your ssh configuration, in quotes.")
    return raw


def _value(raw: object, kind: type | None, source: str) -> object:
    from kale_magic.model.resources import parse_memory

    if kind is bool:
        known = _WORDS.get(str(raw).lower())
        if known is None:
            raise ConfigError(f"{source} = {raw!r} is neither true nor false.")
        return known
    try:
        value = parse_memory(str(raw)) if kind is None else kind(raw)
        if value < 0:
            raise ValueError
    except Exception as exc:
        raise ConfigError(
            f"{source} = {raw!r} is not a usable value.", "Give a number, or an amount such as 4GB for memory."
        ) from exc
    return value
