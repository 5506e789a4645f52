"""The step's iopub thread: what it sends by itself keeps its place behind what others have sent before."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import zmq

from kale_proxy.stepkernel import JournalThread

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import pytest


def test_text_flushed_by_the_clock_does_not_overtake(monkeypatch: pytest.MonkeyPatch, until: Callable[..., Any]) -> None:
    sent: list[bytes] = []
    monkeypatch.setattr(JournalThread, "_really_send", lambda _, parts: sent.extend(parts))
    with zmq.Context() as context:
        thread = JournalThread(context.socket(zmq.PUB), pipe=False)
        thread.start()
        begun, go = threading.Event(), threading.Event()
        thread.schedule(lambda: (begun.set(), go.wait(20)))  # in one, so that nothing else gets a turn between them
        assert begun.wait(20)
        thread.io_loop.add_callback(thread.send_multipart, [b"printed later"])
        thread.send_multipart([b"idle"])
        go.set()
        until(lambda: len(sent) == 2, "both")
        thread.stop()
        thread.close()
    assert sent == [b"idle", b"printed later"]
