"""What a step asks for, and the forms in which people write memory and walltime (Slurm's)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from kale_magic.errors import StepSyntaxError

_MEMORY = re.compile(r"(?P<n>\d+(?:\.\d+)?)\s*(?P<u>[kmgt]?)(?:i?b)?", re.IGNORECASE)
_UNIT = {"": 1 << 20, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Resources of one step; ``None`` means the executor's default.

    ``memory_bytes`` is per node. ``env`` and ``setup`` and ``modules`` describe the environment the
    step starts in; ``native`` lines go to the batch system untouched.
    """

    nodes: int | None = None
    ntasks: int | None = None
    cpus: int | None = None
    gpus: int | None = None
    memory_bytes: int | None = None
    walltime_s: int | None = None
    queue: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    native: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=())
    setup: tuple[str, ...] = ()
    container: str | None = None


def parse_memory(text: str) -> int:
    """Return bytes for ``4GB``, ``512M``, ``4096`` (MiB as in Slurm's ``--mem``); powers of 1024.

    Raises
    ------
    StepSyntaxError
        The text is no amount of memory, or is zero.
    """
    match = _MEMORY.fullmatch(text.strip())
    amount = int(float(match["n"]) * _UNIT[match["u"].lower()]) if match else 0
    if amount <= 0:
        raise StepSyntaxError(f"--memory {text!r} is not an amount of memory.", "Write it as 4GB, 512MB or 4096 (MB).")
    return amount


def format_memory(amount: int) -> str:
    """Return the shortest exact form that :func:`parse_memory` reads back."""
    for unit in "TGM":
        if amount % _UNIT[unit.lower()] == 0:
            return f"{amount // _UNIT[unit.lower()]}{unit}B"
    return f"{amount // 1024}KB" if amount % 1024 == 0 else f"{amount / (1 << 20)!r}MB"


def parse_walltime(text: str) -> int:
    """Return seconds for Slurm's forms: ``M``, ``M:S``, ``H:M:S``, ``D-H``, ``D-H:M``, ``D-H:M:S`` (sbatch(1), --time).

    Also ``90s``, ``30m``, ``2h``, ``1d``.

    Raises
    ------
    StepSyntaxError
        The text is no time, or is zero.
    """
    value = text.strip()
    seconds = 0
    if match := re.fullmatch(r"(\d+)([smhd])", value):
        seconds = int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    elif match := re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?(?::(\d+))?", value):
        days, hours, minutes, secs = (int(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + secs
    elif match := re.fullmatch(r"(\d+)(?::(\d+))?(?::(\d+))?", value):
        parts = [int(part) for part in match.groups() if part is not None]
        if len(parts) == 3:
            seconds = (parts[0] * 60 + parts[1]) * 60 + parts[2]
        else:
            seconds = parts[0] * 60 + (parts[1] if len(parts) > 1 else 0)
    if seconds <= 0:
        raise StepSyntaxError(f"--walltime {text!r} is not a time.", "Write it as 00:30:00, 1-12:00:00, or 30 (minutes), as in Slurm.")
    return seconds


def format_walltime(seconds: int) -> str:
    """Return ``[D-]HH:MM:SS``, which :func:`parse_walltime` and Slurm read back."""
    minutes, secs = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours:02d}:{minutes:02d}:{secs:02d}"
    return f"{days}-{clock}" if days else clock
