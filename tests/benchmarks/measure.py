"""Figures with their targets, medians, and the table they are printed in."""

from __future__ import annotations

import os
import platform
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured number; ``target`` is None for what is only told (peers, spreads)."""

    what: str
    value: float
    unit: str
    target: float | None = None
    is_floor: bool = False  # whether more is better
    note: str = ""

    @property
    def is_met(self) -> bool:
        if self.target is None:
            return True
        return self.value >= self.target if self.is_floor else self.value <= self.target


def median(values):
    return statistics.median(values)


def spread(values, unit):
    """Say how far single measurements lay apart, and how many there were."""
    return f"{min(values):.3g} to {max(values):.3g} {unit}, n={len(values)}"


@contextmanager
def stopwatch():
    """Give a function that returns the seconds since the start (until the end, once that is reached)."""
    start = time.perf_counter()
    end = None

    def seconds():
        return (end or time.perf_counter()) - start

    yield seconds
    end = time.perf_counter()


def machine_line():
    model = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    load = os.getloadavg()[0]
    return (
        f"{len(os.sched_getaffinity(0))} cores ({model}), {memory:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, load {load:.2f} at the start"
    )


def print_table(title, figures):
    """Print one part: measured, target, whether it is met, and what else is worth knowing."""
    rows = [("", "measured", "target", "", "")]
    for figure in figures:
        target = ""
        if figure.target is not None:
            target = f"{'>=' if figure.is_floor else '<='} {figure.target:g} {figure.unit}"
        verdict = "" if figure.target is None else "ok" if figure.is_met else "MISSED"
        rows.append((figure.what, f"{figure.value:.4g} {figure.unit}", target, verdict, figure.note))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    print(f"\n{title}", flush=True)
    for what, value, target, verdict, note in rows:
        line = f"  {what:<{widths[0]}}  {value:>{widths[1]}}  {target:>{widths[2]}}  {verdict:<{widths[3]}}  {note}"
        print(line.rstrip(), flush=True)
