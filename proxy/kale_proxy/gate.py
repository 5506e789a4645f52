"""A step that waits for a person: before its code (``--gate``), or where the code asks ``input()``.

Two files in the step's live folder: ``gated`` says what is asked while somebody is waited for, ``continue.json`` is what
was decided, written whole by the agent for a client. The step reads and removes both, and writes who decided what
into its events. Used by the processes that run steps, and by the agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from kale_proxy.record import write_event
from kale_proxy.values import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kale_proxy.spec import JobSpec

MARK = "gated"
DECISION = "continue.json"
AT_GATE = "waits for a person, with its inputs loaded"
_POLL_S = 0.05


class Gate:
    """The gates of one attempt.

    Parameters
    ----------
    spec : JobSpec
        The attempt.
    live : Path
        Its live folder.
    tell : callable
        Called with state and reason whenever they change, for the supervisor.
    """

    def __init__(self, spec: JobSpec, live: Path, tell: Callable[[str, str], None]) -> None:
        self._spec = spec
        self._live = live
        self._tell = tell

    async def wait(self) -> dict[str, str]:
        """Wait at a ``--gate``; return the literals of what was decided, by name."""
        with self._closed("gate", AT_GATE) as decision:
            while not decision():  # noqa: ASYNC110 - what is waited for is a file
                await asyncio.sleep(_POLL_S)
            return dict(decision().get("set") or {})

    def wait_in_thread(self, idle: Callable[[], None]) -> dict[str, str]:
        """Do what :meth:`wait` does, where there is no event loop; ``idle`` is called meanwhile."""
        with self._closed("gate", AT_GATE) as decision:
            while not decision():
                idle()
                time.sleep(_POLL_S)
            return dict(decision().get("set") or {})

    def ask(self, prompt: str, *, is_password: bool, idle: Callable[[], None] = lambda: None) -> str:
        """Ask the person what the code asks; ``idle`` is called meanwhile, and may end it by raising.

        Raises
        ------
        EOFError
            The person let the step go on without an answer.
        """
        words = prompt.strip() or "input"
        with self._closed("input", f"asks: {words}", prompt=prompt, password=is_password) as decision:
            while not decision():
                idle()
                time.sleep(_POLL_S)
            answer = decision().get("answer")
        if answer is None:
            raise EOFError
        return str(answer)

    @contextlib.contextmanager
    def _closed(self, kind: str, reason: str, **asked: Any) -> Iterator[Callable[[], dict[str, Any]]]:
        """Be gated; give a function that returns the decision, empty before there is one."""
        found: dict[str, Any] = {}

        def decision() -> dict[str, Any]:
            if not found:
                with contextlib.suppress(OSError, ValueError):
                    found.update(json.loads((self._live / DECISION).read_bytes()))
            return found

        (self._live / DECISION).unlink(missing_ok=True)
        write_atomic(self._live / MARK, json.dumps({"kind": kind, "reason": reason, **asked}).encode())
        write_event(self._spec, "gated", reason=reason)
        self._tell("gated", reason)
        try:
            yield decision
        finally:
            for name in (MARK, DECISION):
                (self._live / name).unlink(missing_ok=True)
            is_secret = bool(asked.get("password"))
            decided = {key: value for key, value in found.items() if key in {"by", "set", "answer"} and not (is_secret and key == "answer")}
            write_event(self._spec, "resumed", reason="", **decided)
            self._tell("running", "")


def look(live: Path) -> dict[str, Any] | None:
    """Return what a step asks: ``kind`` (gate or input), ``reason``, ``prompt``, ``password``; None: it is at no gate."""
    try:
        found: dict[str, Any] = json.loads((live / MARK).read_bytes())
    except (OSError, ValueError):
        return None
    return found


def decide(live: Path, decision: dict[str, Any]) -> bool:
    """Let a step go on with ``set`` (name -> literal) or ``answer``, and ``by``; False if it is at no gate."""
    if look(live) is None:
        return False
    kept = {key: decision[key] for key in ("by", "set", "answer") if key in decision}
    write_atomic(live / DECISION, json.dumps({"by": "", **kept}).encode())
    return True
