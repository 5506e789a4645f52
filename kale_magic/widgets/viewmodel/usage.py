"""Samples of what a job, its node and this host use, as lines over time: rates from counters, bytes in the unit that fits."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from kale_magic.render.view import parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Line = list[tuple[float, float]]
Charts = dict[str, dict[str, Line]]
_GB, _MB = float(1 << 30), float(1 << 20)
_LEAST_S = 0.05  # between two samples that give a rate


def charts(samples: Sequence[Mapping[str, Any]]) -> Charts:
    """Return what ``resources.jsonl`` says: title -> line name -> ``(seconds since the start, value)``."""
    times = [parse_time(sample.get("at")) for sample in samples]
    zero = next((at for at in times if at is not None), None)
    if zero is None:
        return {}
    rows = [((at - zero).total_seconds(), sample) for at, sample in zip(times, samples, strict=True) if at is not None]
    nodes = [(at, sample["node"]) for at, sample in rows if isinstance(sample.get("node"), dict)]
    found: Charts = {
        "job: cores busy": {"cores": _rates(rows, "cpu_s")},
        "job: memory, GB": {"resident": _values(rows, "rss_bytes", _GB)},
        "job: disk, MB/s": {"read": _rates(rows, "read_bytes", _MB), "written": _rates(rows, "written_bytes", _MB)},
        "node: cores busy": {"cores": _rates(nodes, "cpu_busy_s"), "load": _values(nodes, "load")},
        "node: memory, GB": {"used": _values(nodes, "memory_used_bytes", _GB), "there is": _values(nodes, "memory_total_bytes", _GB)},
        "node: network, MB/s": {"received": _rates(nodes, "net_received_bytes", _MB), "sent": _rates(nodes, "net_sent_bytes", _MB)},
        "node: disk, MB/s": {"read": _rates(nodes, "disk_read_bytes", _MB), "written": _rates(nodes, "disk_written_bytes", _MB)},
        **_gpu_charts(nodes, "node"),
    }
    return _filled(found)


def host_charts(samples: Sequence[Mapping[str, Any]]) -> Charts:
    """Return what this host uses; ``at`` is in seconds, and the newest sample stands at 0."""
    if not samples:
        return {}
    last = samples[-1]
    rows = [(sample["at"] - last["at"], sample) for sample in samples]
    return _filled({
        "this host: processors, %": {"busy": _rates(rows, "cpu_busy_s", (last.get("cpus") or 1) / 100)},
        "this host: memory, %": {"used": _values(rows, "memory_percent")},
        "this host: network, MB/s": {"received": _rates(rows, "net_received_bytes", _MB), "sent": _rates(rows, "net_sent_bytes", _MB)},
        "this host: disk, MB/s": {"read": _rates(rows, "disk_read_bytes", _MB), "written": _rates(rows, "disk_written_bytes", _MB)},
        **_gpu_charts(rows, "this host"),
    })


def _gpu_charts(rows: Sequence[tuple[float, Mapping[str, Any]]], whose: str) -> Charts:
    """Return a line for each GPU: how busy it is, its memory, its power."""
    by_index: dict[int, list[tuple[float, Mapping[str, Any]]]] = {}
    for at, sample in rows:
        for gpu in sample.get("gpus") or ():
            by_index.setdefault(int(gpu["index"]), []).append((at, gpu))
    lines = [(f"gpu {index}", seen) for index, seen in sorted(by_index.items())]
    return {
        f"{whose}: GPUs busy, %": {name: _values(seen, "busy_percent") for name, seen in lines},
        f"{whose}: GPU memory, GB": {name: _values(seen, "memory_used_bytes", _GB) for name, seen in lines},
        f"{whose}: GPU power, W": {name: _values(seen, "power_w") for name, seen in lines},
    }


def _filled(found: Charts) -> Charts:
    kept = {title: {name: line for name, line in lines.items() if line} for title, lines in found.items()}
    return {title: lines for title, lines in kept.items() if lines}


def _values(rows: Sequence[tuple[float, Mapping[str, Any]]], key: str, unit: float = 1.0) -> Line:
    return [(at, float(sample[key]) / unit) for at, sample in rows if isinstance(sample.get(key), int | float)]


def _rates(rows: Sequence[tuple[float, Mapping[str, Any]]], key: str, unit: float = 1.0) -> Line:
    known = _values(rows, key, unit)
    return [(after[0], max(0.0, (after[1] - before[1]) / (after[0] - before[0]))) for before, after in pairwise(known) if after[0] - before[0] > _LEAST_S]
