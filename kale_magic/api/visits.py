"""Visits to steps from this process: wait for the kernel, run code in it.

One visitor is kept open per step, so that the next visit takes a few milliseconds and finds the names of
the one before. Belongs to one thread.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kale_magic.api.find import Asks, Target, refuse_without_kernel, where_in
from kale_magic.errors import JobError, StepFailed, UsageError
from kale_proxy.wire import AgentGone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from kale_proxy.tunnel.route import Reach
    from kale_proxy.visitor import OnInput, OnMessage, Visitor

_POLL_S = 0.1
_PULL_S = 600.0
_CONNECT_S = 20.0


@dataclass(kw_only=True, slots=True)
class Execution:
    """What code that ran in a step's kernel has shown: printed text, and displayed bundles in order."""

    text: str = ""
    bundles: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the printed text, then the plain form of what was displayed."""
        shown = [str(bundle.get("text/plain", "")) for bundle in self.bundles]
        return self.text + "\n".join(filter(None, shown))

    def __repr__(self) -> str:
        return str(self)

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        rich = self.bundles[-1] if self.bundles and not self.text else {}
        return {**rich, "text/plain": str(self)}


class Visits:
    """The open visitors of this process, by step.

    Attributes
    ----------
    client : Client
        Asked where steps are.
    """

    def __init__(self, client: Asks) -> None:
        self.client = client
        self._visitors: dict[tuple[str, str], Visitor] = {}
        self._names_seen: dict[str, set[str]] = {}  # by live folder

    def close(self) -> None:
        """End all visits."""
        for key in list(self._visitors):
            self._visitors.pop(key).close()

    def __del__(self) -> None:
        # A Run that a program simply drops is no leak worth a ResourceWarning.
        for visitor in self._visitors.values():
            visitor.drop()

    def wait_for_kernel(
        self, target: Target, timeout: float, on_wait: Callable[[Target], None] | None = None
    ) -> Target:
        """Return the step as it is when its kernel can be visited.

        Parameters
        ----------
        target : Target
            One job.
        timeout : float
            Longest wait for its start, in seconds.
        on_wait : callable, optional
            Called with the target whenever its state or the reason for waiting changes.

        Raises
        ------
        UsageError
            It is over, or never has a kernel.
        TimeoutError
            It has not started by then.
        """
        deadline = time.monotonic() + timeout
        said: tuple[str, str] | None = None
        while True:
            refuse_without_kernel(target)
            if target.kernel is not None:
                return target
            if on_wait is not None and said != (target.state, target.reason):
                said = (target.state, target.reason)
                on_wait(target)
            if time.monotonic() > deadline:
                why = f" ({target.reason})" if target.reason else ""
                raise TimeoutError(f"{target} is still {target.state} after {timeout:g} s{why}.")
            time.sleep(_POLL_S)
            target = where_in(self.client, target.run, target.step, target.point, target.rank)

    def wait_for_names(
        self, target: Target, names: Iterable[str], timeout: float, on_wait: Callable[[str], None] | None = None
    ) -> bool:
        """Wait until a running Python step has all of ``names``, since one that has just begun has none; say whether.

        Parameters
        ----------
        target : Target
            One job whose kernel is there.
        names : iterable of str
            Names that the step's code assigns.
        timeout : float
            Longest wait in seconds.
        on_wait : callable, optional
            Called once with what is waited for.
        """
        seen = self._names_seen.setdefault(str(target.live), set())
        missing = sorted(set(names) - seen)
        deadline = time.monotonic() + timeout
        is_said = False
        while missing:
            text = self.ask(target, f"print(*[name for name in {missing!r} if name not in globals()])")
            seen.update(set(missing) - set(text.split()))
            missing = text.split()
            if missing and time.monotonic() > deadline:
                return False
            if missing and on_wait is not None and not is_said:
                is_said = True
                on_wait(", ".join(f"`{name}`" for name in missing))
            time.sleep(_POLL_S if missing else 0)
        return True

    def execute(
        self,
        target: Target,
        code: str,
        *,
        mode: str = "visit",
        on_message: OnMessage | None = None,
        on_input: OnInput | None = None,
        on_note: Callable[[str], None] | None = None,
        timeout: float | None = None,
        is_silent: bool = False,
    ) -> dict[str, Any]:
        """Run code in the step's kernel and return the content of its reply.

        Parameters
        ----------
        target : Target
            One job whose kernel is there.
        code : str
            A cell.
        mode : str
            ``visit``, ``write`` or ``main``, as :meth:`kale_proxy.visitor.Visitor.connect` has them.
        on_message, on_input : callable, optional
            As :meth:`kale_proxy.visitor.Visitor.execute` has them.
        on_note : callable, optional
            Called with a sentence when a visit to this kernel is less than usual.
        timeout : float, optional
            Seconds; the code goes on after it.
        is_silent : bool
            Whether the code is ours and leaves no trace in the visit's history.

        Raises
        ------
        UsageError
            The step ended meanwhile.
        TimeoutError
            The code was not done in time.
        KeyboardInterrupt
            After the code, and nothing else, was interrupted.
        """
        live = live_folder(target)
        key = (str(live), mode)
        for is_fresh in (key not in self._visitors, True):
            try:
                visitor = self._visitor(target.kernel or live, key, on_note)
                return visitor.execute(
                    code,
                    on_message=on_message,
                    on_input=on_input,
                    timeout=timeout,
                    silent=is_silent,
                    store_history=not is_silent,
                )
            except AgentGone as exc:
                self._drop(key)
                now = where_in(self.client, target.run, target.step, target.point)
                if is_fresh or now.live != live:
                    refuse_without_kernel(now)
                    raise JobError(f"{now} {now.doing} and can't be visited: {exc}") from exc
            except TimeoutError as exc:
                self._drop(key)  # ends its cell too: nobody waits for it any more
                raise TimeoutError(f"{target.label}: the visitor's code was not done within {timeout} s; it was ended.") from exc
            except BaseException:
                self._drop(key)
                raise
        raise AssertionError(key)  # not reached: the second round returns or raises

    def run(self, target: Target, code: str, *, timeout: float) -> Execution:
        """Run code in the step's kernel and return what it showed; raises StepFailed if it raised."""
        shown = Execution()

        def collect(msg_type: str, content: dict[str, Any], _metadata: dict[str, Any], _buffers: list[bytes]) -> None:
            if msg_type == "stream":
                shown.text += content["text"]
            elif msg_type in {"execute_result", "display_data"}:
                shown.bundles.append(content["data"])

        reply = self.execute(target, code, on_message=collect, timeout=timeout)
        if reply.get("status") != "ok":
            raise StepFailed(f"In {target}: {_error_of(reply)}")
        return shown

    def ask_kernel(self, target: Target, content: Mapping[str, object], *, timeout: float = 10.0) -> dict[str, Any] | None:
        """Ask a step's kernel what :mod:`kale_proxy.visits` lists and return its reply; None if it knows no visits.

        Raises
        ------
        UsageError
            The step ended meanwhile.
        TimeoutError
            The kernel does not answer.
        """
        key = (str(live_folder(target)), "visit")
        try:
            visitor = self._visitor(target.kernel or live_folder(target), key, None)
            if visitor.note:  # it says that visits here are less than usual
                return None
            return visitor.request("kale_visit_request", dict(content), "control", timeout=timeout)
        except AgentGone as exc:
            self._drop(key)
            refuse_without_kernel(where_in(self.client, target.run, target.step, target.point))
            raise JobError(f"{target} can't be reached: {exc}") from exc
        except TimeoutError as exc:
            raise TimeoutError(f"The kernel of {target} has not answered within {timeout:g} s; is it frozen, or in a long call?") from exc

    def ask_agent(self, target: Target, op: str, **fields: Any) -> dict[str, Any]:
        """Ask a step's agent itself and return its answer; raises UsageError if the step ended meanwhile."""
        key = (str(live_folder(target)), "visit")
        try:
            return self._visitor(target.kernel or live_folder(target), key, None).control(op, **fields)
        except AgentGone as exc:
            self._drop(key)
            refuse_without_kernel(where_in(self.client, target.run, target.step, target.point))
            raise JobError(f"{target} can't be reached: {exc}") from exc

    def ask(self, target: Target, code: str) -> str:
        """Run code of ours in a running step's kernel and return what it printed; raises UsageError if it fails."""
        printed: list[str] = []

        def collect(msg_type: str, content: dict[str, Any], _metadata: dict[str, Any], _buffers: list[bytes]) -> None:
            if msg_type == "stream" and content.get("name") == "stdout":
                printed.append(content["text"])

        reply = self.execute(target, code, on_message=collect, timeout=_PULL_S, is_silent=True)
        if reply.get("status") != "ok":
            if reply.get("ename") == "NameError" and "__import__" not in str(reply.get("evalue")):
                from kale_magic.api.handover import variables  # only for a name that is none

                known = ", ".join(item["name"] for item in variables(self, target)[:12])
                missing = str(reply.get("evalue")).split("'")[1::2]
                raise UsageError(
                    f"{target.label} has no variable `{''.join(missing[:1])}` (yet).", f"It has: {known}." if known else ""
                )
            raise UsageError(f"{target.label}: {_error_of(reply)}")
        return "".join(printed)

    def _visitor(self, where: Path | Reach, key: tuple[str, str], on_note: Callable[[str], None] | None) -> Visitor:
        visitor = self._visitors.get(key)
        if visitor is None:
            from kale_proxy.visitor import Visitor

            gone = [old for old, visitor in self._visitors.items() if not visitor.way and not os.path.isdir(old[0])]
            for old in gone:  # their steps are over
                self._names_seen.pop(old[0], None)
                self._drop(old)
            visitor = self._visitors[key] = Visitor.connect(where, mode=key[1], timeout=_CONNECT_S)
            if visitor.note and on_note is not None:
                on_note(visitor.note)
        return visitor

    def _drop(self, key: tuple[str, str]) -> None:
        visitor = self._visitors.pop(key, None)
        if visitor is not None:
            with contextlib.suppress(Exception):  # it is gone either way
                visitor.close()


def live_folder(target: Target) -> Path:
    """Return the folder of a step's kernel; raises UsageError if it has none now."""
    refuse_without_kernel(target)
    if target.live is None:
        raise UsageError(f"{target} {target.doing}: it has no kernel yet.")
    return target.live


def _error_of(reply: dict[str, Any]) -> str:
    kind, value = reply.get("ename") or reply.get("status"), reply.get("evalue")
    return f"{kind}: {value}" if value else str(kind)
