"""What is stored of a pool: a file per pool in the manager's state folder, by which the next manager takes it up.

Written before each deed that must not be forgotten or done twice. Owner only: the environment of the pilot is in it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from kale_magic.model.resources import Resources
from kale_proxy.places import private_dir
from kale_proxy.values import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

PREFIX = "pool:"  # of the name of a pool's executor
JOB_PREFIX = "kale-pool-"
_log = logging.getLogger(__name__)


@dataclass(kw_only=True, slots=True)
class PoolRecord:
    """One pool. ``pilot`` names its newest allocation, ``native_id`` is the batch system's number of that once it is known.

    ``is_over`` says that the allocation has ended and none is wanted until there is work, ``words`` why; ``has_failed`` that
    none will be asked for until a person opens the pool again.
    """

    name: str
    executor: str
    resources: Resources
    python: str
    environ: dict[str, str] = field(repr=False)
    opened_at: str
    pilot: str
    native_id: str = ""
    is_closing: bool = False
    is_over: bool = False
    has_failed: bool = False
    words: str = ""

    @property
    def job_name(self) -> str:
        """The name under which its pilot is with the batch system."""
        return JOB_PREFIX + self.pilot


class PoolBook:
    """The records of all pools, in ``folder``."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir / "pools"
        self.tag = hashlib.sha256(os.path.realpath(state_dir).encode()).hexdigest()[:8]

    def new_pilot(self) -> str:
        """Return a name for an allocation: no other has it, and it begins with what tells our home from others."""
        return self.tag + secrets.token_hex(12)

    def file(self, name: str, suffix: str = ".json") -> Path:
        """Return a file of a pool."""
        return self.folder / f"{name}{suffix}"

    def save(self, record: PoolRecord) -> None:
        """Write a record durably; raises OSError."""
        private_dir(self.folder)
        write_atomic(self.file(record.name), json.dumps(asdict(record), indent=1).encode(), is_durable=True)

    def remove(self, record: PoolRecord) -> None:
        """Forget a pool."""
        for suffix in (".json", ".sh", ".log"):
            self.file(record.name, suffix).unlink(missing_ok=True)

    def load(self) -> list[PoolRecord]:
        """Return what is stored; a file that can't be read is left where it is, and said in the log."""
        found = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                found.append(_read(json.loads(path.read_bytes())))
            except (OSError, ValueError, TypeError, KeyError) as exc:
                _log.error("the pool in %s can't be read: %s", path, exc)
        return found


def _read(data: dict[str, Any]) -> PoolRecord:
    known = {item.name for item in fields(PoolRecord)}
    asked: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data["resources"].items()}
    return PoolRecord(**{**{key: value for key, value in data.items() if key in known}, "resources": Resources(**asked)})
