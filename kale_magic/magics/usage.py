"""The table of ``%kale_resources``: what a step uses now and has used at most, and how busy its node is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.render.tables import table
from kale_magic.render.text import format_bytes
from kale_magic.render.view import format_duration, parse_time

if TYPE_CHECKING:
    from collections.abc import Sequence

_LAST = 10


def usage_bundle(samples: Sequence[dict[str, Any]], title: str) -> dict[str, Any]:
    """Return the last samples of a step and the peaks of all as a mime bundle.

    Parameters
    ----------
    samples : sequence of dict
        Lines of ``resources.jsonl``, oldest first; what one lacks is left empty.
    title : str
        The step and its state.
    """
    rates = [_cores(before, after) for before, after in zip([None, *samples[:-1]], samples, strict=True)]
    shown = list(zip(samples, rates, strict=True))[-_LAST:]
    columns = {
        "time": [_clock(sample) for sample, _ in shown],
        "cores": ["" if rate is None else f"{rate:.2f}" for _, rate in shown],
        "CPU time": [format_duration(sample.get("cpu_s")) for sample, _ in shown],
        "memory": [_bytes(sample, "rss_bytes") for sample, _ in shown],
        "read": [_bytes(sample, "read_bytes") for sample, _ in shown],
        "written": [_bytes(sample, "write_bytes", "written_bytes") for sample, _ in shown],
        "processes": [str(sample.get("processes", "")) for sample, _ in shown],
        "node": [_node(sample) for sample, _ in shown],
    }
    bundle = table(list(columns), [list(row) for row in zip(*columns.values(), strict=True)], title=title)
    peak = _peaks(samples, rates)
    bundle["text/plain"] += f"\n{peak}"
    bundle["text/html"] += f"<div>{peak}</div>"
    return bundle


def _peaks(samples: Sequence[dict[str, Any]], rates: Sequence[float | None]) -> str:
    memory = max((int(sample.get("rss_bytes") or 0) for sample in samples), default=0)
    busy = max((rate for rate in rates if rate is not None), default=None)
    cpu = format_duration(max((float(sample.get("cpu_s") or 0) for sample in samples), default=0.0))
    cores = "" if busy is None else f", {busy:.2f} cores"
    return f"peak: {format_bytes(memory)} of memory{cores}; CPU time {cpu}; {len(samples)} samples"


def _cores(before: dict[str, Any] | None, after: dict[str, Any]) -> float | None:
    """Return how many cores were busy between two samples."""
    start, end = parse_time((before or {}).get("at")), parse_time(after.get("at"))
    if before is None or start is None or end is None or (seconds := (end - start).total_seconds()) <= 0.05:
        return None
    return max(0.0, (float(after.get("cpu_s") or 0) - float(before.get("cpu_s") or 0)) / seconds)


def _clock(sample: dict[str, Any]) -> str:
    at = parse_time(sample.get("at"))
    return at.astimezone().strftime("%H:%M:%S") if at else ""


def _bytes(sample: dict[str, Any], *names: str) -> str:
    found = next((sample[name] for name in names if sample.get(name) is not None), None)
    return "" if found is None else format_bytes(found)


def _node(sample: dict[str, Any]) -> str:
    node: dict[str, Any] = sample.get("node") or {}
    used, total = node.get("memory_used_bytes"), node.get("memory_total_bytes")
    parts = [f"load {node['load']}" if "load" in node else "", f"of {node['cpus']} CPUs" if "cpus" in node else ""]
    if used is not None and total:
        parts.append(f"memory {used / total:.0%}")
    return " ".join(filter(None, parts))
