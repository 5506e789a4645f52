"""What the kernel ``kale`` answers besides cells: to Tab, to questions about a line, and to all while nothing is attached."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from kale_magic.client import Client
from kale_magic.errors import KaleError, UsageError
from kale_magic.kernels import front_words as words
from kale_magic.kernels.front_cell import line_at, read_cell, read_command, without_commands
from kale_magic.kernels.front_lookup import rows
from kale_magic.version import __version__
from kale_proxy import relay_answers as answers
from kale_proxy.wire import Channel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kale_magic.kernels.front_seat import Visit
    from kale_proxy.relay_desk import Desk
    from kale_proxy.relay_ledger import Ledger, Request

_NAMES_S = 0.5
_HELP_S = 1.0
_BANNER = "Kale: attaches to a step that runs. %kale_tasks lists them, %kale_attach STEP attaches, %kale says more.\n"
_BY_LINE = frozenset({"complete_request", "inspect_request", "is_complete_request"})


def content_with(parts: list[bytes], content: dict[str, Any]) -> list[bytes]:
    """Return the parts of a message with another content."""
    return [*parts[:3], json.dumps(content).encode(), *parts[4:]]


def kernel_info() -> dict[str, Any]:
    """Return what this kernel is while nothing is attached; most steps speak Python, so cells are coloured as that."""
    own = {"implementation": "kale", "implementation_version": __version__, "banner": _BANNER}
    return answers.stand_in("") | own


class Local:
    """Answers, or hands on to a visit.

    Parameters
    ----------
    desk : Desk
        Sends answers.
    ledger : Ledger
        In which they are noted.

    Attributes
    ----------
    called : dict
        Visits, by what a person called the step.
    """

    def __init__(self, desk: Desk, ledger: Ledger) -> None:
        self.called: dict[str, Visit] = {}
        self._desk = desk
        self._ledger = ledger
        self._given: dict[str, Visit] = {}  # who answers, by the request's id
        self._names: list[str] = []
        self._asking: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ask nobody any more."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    def left(self, visit: Visit) -> None:
        """Forget a visit, and answer what it was asked and has not answered."""
        self.called = {text: known for text, known in self.called.items() if known is not visit}
        for msg_id in [msg_id for msg_id, asked in self._given.items() if asked is visit]:
            request = self._ledger.find(msg_id)
            if request is not None and request.kind == "kernel_info_request":
                self._desk.settle(request, kernel_info())
            elif request is not None:
                self._desk.fail(request, "VisitEnded", f"The visit to {visit.name} has ended.")

    def settle(
        self, channel: Channel, identities: list[bytes], header: dict[str, Any], parts: list[bytes], content: dict[str, Any]
    ) -> None:
        """Answer a request in the kernel's manner."""
        self._desk.settle(self._entered(channel, identities, header, parts), content)

    def take(
        self,
        channel: Channel,
        identities: list[bytes],
        header: dict[str, Any],
        parts: list[bytes],
        content: dict[str, Any],
        current: Visit | None,
    ) -> None:
        """Take a request that is no cell."""
        kind = str(header["msg_type"])
        visit, body = current, content
        if channel is Channel.SHELL and kind in _BY_LINE:
            request = self._by_line(channel, identities, header, parts, content, current)
            if request is not None:
                return
            visit, body = self._addressee(content, current)
        if visit is not None:
            self._given = {msg_id: asked for msg_id, asked in self._given.items() if self._ledger.find(msg_id)}
            self._given[self._entered(channel, identities, header, parts).header["msg_id"]] = visit
            visit.relay.take(channel, identities, parts if body is content else content_with(parts, body))
        elif kind.endswith("_request"):
            self.settle(channel, identities, header, parts, self._without_kernel(channel, kind, content))

    def _entered(self, channel: Channel, identities: list[bytes], header: dict[str, Any], parts: list[bytes]) -> Request:
        return self._ledger.take(channel, identities, header, parts, time.monotonic())

    def _without_kernel(self, channel: Channel, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        if kind == "kernel_info_request":
            return kernel_info()
        if kind == "is_complete_request":
            return {"status": "complete"}
        sentence = "Nothing is attached."
        return answers.refusal(channel, kind, "visit") or answers.without_kernel(kind, content, "NotAttached", sentence)

    # -- lines of Kale's

    def _by_line(
        self,
        channel: Channel,
        identities: list[bytes],
        header: dict[str, Any],
        parts: list[bytes],
        content: dict[str, Any],
        current: Visit | None,
    ) -> Request | None:
        """Answer what is asked about one of Kale's lines; None if the cursor is on none."""
        code, at = str(content.get("code", "")), content.get("cursor_pos")
        if header["msg_type"] == "is_complete_request":
            cell = read_cell(code)
            if not cell.commands or cell.has_rest:
                return None
            is_open = cell.takes_all and not (cell.rest.strip() and code.endswith("\n"))
            request = self._entered(channel, identities, header, parts)
            self._desk.settle(request, {"status": "incomplete", "indent": ""} if is_open else {"status": "complete"})
            return request
        at = at if isinstance(at, int) and 0 <= at <= len(code) else len(code)
        found = line_at(code, at, is_attached=current is not None)
        if found is None:
            return None
        request = self._entered(channel, identities, header, parts)
        if header["msg_type"] == "inspect_request":
            self._desk.settle(request, _about(code, found[1]))
        else:
            task = asyncio.ensure_future(self._complete(request, found[0], at))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        return request

    async def _complete(self, request: Request, typed: str, at: int) -> None:
        names = self._names
        if words.wants_step(typed):
            try:
                async with asyncio.timeout(_HELP_S):
                    names = self._names = await asyncio.get_running_loop().run_in_executor(None, _step_names)
            except TimeoutError:
                names = self._names
        matches, length = words.complete(typed, names)
        content = {"status": "ok", "matches": matches, "cursor_start": at - length, "cursor_end": at, "metadata": {}}
        self._desk.settle(request, content)

    def _addressee(self, content: dict[str, Any], current: Visit | None) -> tuple[Visit | None, dict[str, Any]]:
        """Return who is asked about code, and the content for it: what stands below ``%%kale_on STEP`` is that step's."""
        cell = read_cell(str(content.get("code", "")))
        if not cell.commands:
            return current, content
        if cell.takes_all:
            name = cell.commands[-1].line.split()
            current = self.called.get(name[0]) if name else None
        return current, {**content, "code": without_commands(str(content["code"]))}


def _about(code: str, start: int) -> dict[str, Any]:
    command = read_command(code[start:].split("\n", 1)[0])
    try:
        text = "" if command is None else words.help_on(command)
    except UsageError:
        text = ""
    return {"status": "ok", "found": bool(text), "data": {"text/plain": text} if text else {}, "metadata": {}}


def _step_names() -> list[str]:
    """Return what a person may call the steps that can be attached, if a manager is up and answers at once; none is started."""
    try:
        with Client.connect(start=False, timeout=_NAMES_S) as client:
            found = [row for row in rows(client) if row.is_one]
    except KaleError:
        return []
    return list(_names_of((row.run, row.step) for row in found))


def _names_of(steps: Iterable[tuple[str, str]]) -> list[str]:
    known = list(steps)
    short = [step for _, step in known]
    return [step for step in short if short.count(step) == 1] + [f"{run}/{step}" for run, step in known]
