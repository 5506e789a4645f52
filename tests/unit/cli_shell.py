"""What tests of the command line share: a manager in memory, and notebooks made of cells."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Self

from kale_magic.model.events import Event
from tests.fakes.manager_client import FakeClient

if TYPE_CHECKING:
    from pathlib import Path

MANAGER = {
    "pid": 7, "host": "login", "version": "0.1.0", "address": "/tmp/kale-7/m", "started_at": "2026-11-22T10:00:00Z",
    "runs": 1, "rss_bytes": 25 << 20,
}  # fmt: skip


class Stream:
    """Gives the scripted events of a client in order; each comes with the change that it tells of."""

    seq = 0

    def __init__(self, client: TerminalClient) -> None:
        self._client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def next(self, timeout: float | None) -> Event | None:
        if not self._client.script:
            assert timeout is not None, "nothing more will come: this would wait for ever"
            return None
        step, point, kind, state, reason = self._client.script.popleft()
        self._client.apply(step, point, state, reason)
        self.seq += 1
        return Event(self.seq, "", step, point, "", kind, state, {"reason": reason})


class TerminalClient(FakeClient):
    """``script`` holds (step, point, kind, state, reason): what happens, one line per event that is read."""

    def __init__(self, folder: str, submitted_state: str = "waiting") -> None:
        super().__init__(folder, submitted_state)
        self.script: deque[tuple[str | None, int | None, str, str, str]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def events(self, since: int = 0, run: str | None = None) -> Stream:
        return Stream(self)

    def apply(self, step: str | None, point: int | None, state: str, reason: str) -> None:
        """Change the newest run."""
        status = next(iter(self.runs_by_id.values()))
        item = status if step is None else status["steps"][step]
        if point is not None:
            item = item["points"][str(point)]
        item.update(state=state, reason=reason)

    def manager(self) -> dict[str, object]:
        return MANAGER


def notebook(path: Path, *cells: str) -> Path:
    """Write a notebook of code cells."""
    made = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "outputs": [], "execution_count": None, "source": text}
        for n, text in enumerate(cells)
    ]
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": made}))
    return path
