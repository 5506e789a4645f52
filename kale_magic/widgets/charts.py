"""What jobs measure of themselves and what they use, as charts that are drawn here and sent when they changed.

A drawing has at most 600 points a line, so it costs the page the same however long a job has run; it is made at most
twice a second, and takes at most a tenth of the time.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from traitlets import Dict, Unicode

from kale_magic.api import files
from kale_magic.render.chart import chart_svg, chart_text
from kale_magic.render.words import escape
from kale_magic.widgets._page import script
from kale_magic.widgets.jobs import JobPart
from kale_magic.widgets.viewmodel import usage
from kale_proxy.gpus import GpuWatch

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

    from kale_magic.widgets.desk import Seen
    from kale_magic.widgets.viewmodel.focus import Job

_BETWEEN_S = 0.5
_SHARE = 10
_HISTORY = 600
_HOST_S = 1.0  # between two looks at this host


class Charts(JobPart):
    """A part that draws."""

    _esm = script("job", "charts")
    part = Unicode("").tag(sync=True)
    html = Unicode("").tag(sync=True)
    choice = Dict().tag(sync=True)

    def __init__(self, *args: Any, **options: Any) -> None:
        self._next = 0.0
        super().__init__(*args, **options)

    def begin(self, _: Job | None, __: Path | None) -> None:
        """Draw another job."""
        self._next = 0.0
        self.html = self.draw()

    def go_on(self, _: Seen) -> None:
        """Draw it anew, now and then."""
        started = time.monotonic()
        if started < self._next:
            return
        self.html = self.draw()
        now = time.monotonic()
        self._next = now + max(_BETWEEN_S, _SHARE * (now - started))

    def draw(self) -> str:
        """Return the charts as HTML."""
        raise NotImplementedError

    def mark(self, seen: Seen) -> Hashable:
        """Return what the static form depends on."""
        return (super().mark(seen), self.html)

    def static(self) -> str:
        """Return the charts for the saved notebook."""
        return f"<div><b>{escape(self.job.get('label'))}</b></div><div>{self.html}</div>"


class Resources(Charts):
    """What a job uses, what its node uses, and what this host uses."""

    title = "Resources"

    def __init__(self, *args: Any, **options: Any) -> None:
        self._host: deque[dict[str, Any]] = deque(maxlen=_HISTORY)
        self._gpus = GpuWatch()
        self._said = ""
        super().__init__(*args, **options)
        self.part = "resources"

    def draw(self) -> str:
        """Return the charts."""
        samples = files.samples(self.folder) if self.folder is not None else []
        if not self._host or time.time() - self._host[-1]["at"] > _HOST_S:
            self._host.append(_sample() | {"gpus": self._gpus.look()})
        job, host = usage.charts(samples), usage.host_charts(self._host)
        self._said = "\n".join(f"{title}\n{chart_text(lines)}" for title, lines in (job | host).items())
        drawn = [chart_svg(lines, title=title, x="seconds since it began", has_zero=True) for title, lines in job.items()]
        drawn += [chart_svg(lines, title=title, x="seconds ago", has_zero=True) for title, lines in host.items()]
        return "".join(drawn)

    def text(self) -> str:
        """Return the charts as text."""
        return f"{self.job.get('label') or ''}\n{self._said}"


def _sample() -> dict[str, float]:
    network, disk, times = psutil.net_io_counters(), psutil.disk_io_counters(), psutil.cpu_times()
    return {
        "at": time.time(),
        "cpus": psutil.cpu_count() or 1,
        "cpu_busy_s": times.user + times.nice + times.system,  # not cpu_percent, which begins anew in each thread
        "memory_percent": psutil.virtual_memory().percent,
        "net_received_bytes": network.bytes_recv if network else 0,
        "net_sent_bytes": network.bytes_sent if network else 0,
        "disk_read_bytes": disk.read_bytes if disk else 0,
        "disk_written_bytes": disk.write_bytes if disk else 0,
    }
