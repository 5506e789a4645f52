"""The commands of the kernel ``kale``: what each does. A mistake of a person's is a KaleError with one sentence."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from kale_magic.dsl.options import HelpRequested
from kale_magic.errors import JobTimeout, StepFailed, UsageError
from kale_magic.kernels import front_words as words
from kale_magic.kernels.front_answers import content_with
from kale_magic.kernels.front_lookup import find_target, let_go_on, running, tasks
from kale_magic.kernels.front_seat import Part
from kale_magic.kernels.seek import ask
from kale_proxy.wire import Channel

if TYPE_CHECKING:
    from types import SimpleNamespace

    from kale_magic.kernels.front import Switch
    from kale_magic.kernels.front_cell import Cell
    from kale_magic.kernels.front_seat import Visit
    from kale_proxy.relay_front import FrontEnd
    from kale_proxy.relay_ledger import Request
    from kale_proxy.relay_role import Standing

_ATTACH_S = 600.0
_EVERYWHERE_S = 60.0
_TOLD_S = 0.7
_POLL_S = 0.02
_LANGUAGE_S = 0.5  # a kernel that is joined says at once what it speaks
_SHOWN = 4
NOTHING = "Nothing is attached. %kale_tasks lists the steps that run, %kale_attach STEP attaches to one."


class Run(NamedTuple):
    """A cell that begins with commands, and the request it came in."""

    request: Request
    parts: list[bytes]
    content: dict[str, Any]
    cell: Cell


class Output:
    """What a command shows under its cell."""

    def __init__(self, front: FrontEnd, request: Request) -> None:
        self._front = front
        self._parent = request.header
        self.waiting: list[tuple[str, Part]] = []  # of a cell that runs in many steps, what is not shown yet

    def say(self, text: str, stream: str = "stdout") -> None:
        """Print a text."""
        self._publish("stream", {"name": stream, "text": f"{text}\n"})

    def show(self, bundle: dict[str, Any]) -> None:
        """Show a table."""
        self._publish("display_data", {"data": bundle, "metadata": {}, "transient": {}})

    def progress(self, open_ids: set[str]) -> None:
        """Show the parts that are done, in order, up to the first that is not."""
        while self.waiting and self.waiting[0][0] not in open_ids:
            self.waiting.pop(0)[1].show()

    def late(self, msg_id: str, name: str, timeout: float) -> None:
        """Say that a cell is ended."""
        sentence = f"was not done within {timeout:g} s, and is ended"
        part = next((part for waiting, part in self.waiting if waiting == msg_id), None)
        if part is None:
            self.say(f"Kale: {name}: the cell {sentence}.", "stderr")
        else:
            part.failure, part.is_late = f"TimeoutError: {sentence}", True

    def _publish(self, kind: str, content: dict[str, Any]) -> None:
        self._front.publish(kind, self._front.made(kind, self._parent, content))


class Commands:
    """The commands, on one switch."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch

    async def run(self, run: Run) -> bool:
        """Do what a cell's lines say, in order; return whether a relay answers the cell.

        Raises
        ------
        KaleError
            One of them can't be done; those after it are not.
        """
        output = Output(self._switch.front, run.request)
        for command in run.cell.commands:
            if command.is_question or not command.name:
                output.say(words.help_on(command))
                continue
            try:
                name, options = words.name_of(command), words.parse(command)
            except HelpRequested as help_:
                output.say(str(help_))
                continue
            if name == "on":
                return await self._on(run, options, output)
            await self._do(name, options, output)
        return False

    async def _do(self, name: str, options: SimpleNamespace, output: Output) -> None:
        if name == "tasks":
            output.show(await ask(options.host or "", tasks))
        elif name == "attach":
            await self._attach(options, output)
        elif name == "detach":
            await self._detach(options, output)
        elif name == "continue":
            await self._continue(options, output)
        else:
            output.say(self._status())

    # -- attach, detach, status

    async def _attach(self, options: SimpleNamespace, output: Output) -> None:
        host = options.host or ""
        target = await ask(host, lambda client: find_target(client, options.step))
        before, known = self._switch.current, set(self._switch.visits.values())
        visit = self._switch.visit(str(target), _mode(options), host)
        try:
            standing = await _joined(visit, _ATTACH_S if options.timeout is None else options.timeout, output)
        except BaseException:
            if visit not in known:
                self._switch.drop(visit)
            raise
        self._switch.attach(visit, options.step)
        if before is not None and before is not visit:
            await self._switch.close(before)
        speaks = f" ({standing.language})" if standing.language else ""
        output.say(f"Attached to {visit.name}{speaks}: cells run in its kernel, {_beside(standing)}. %kale_detach leaves it.")

    async def _detach(self, options: SimpleNamespace, output: Output) -> None:
        switch = self._switch
        if options.step is None:
            leaving = [] if switch.current is None else [switch.current]
        elif options.step == "*":
            leaving = list(switch.visits.values())
        else:
            leaving = [visit for visit in switch.visits.values() if _is_called(visit, options.step)]
            if not leaving:
                raise UsageError(f"There is no visit to {options.step}.", "%kale_status lists them.")
        await asyncio.gather(*(switch.close(visit) for visit in leaving))
        names = ", ".join(dict.fromkeys(visit.name for visit in leaving))
        output.say(f"Detached from {names}; the code there goes on." if leaving else "Nothing is attached.")

    def _status(self) -> str:
        current = self._switch.current
        lines = [NOTHING] if current is None else [f"Attached to {_described(current)}"]
        others = [visit for visit in self._switch.visits.values() if visit is not current]
        return "\n".join([*lines, *(f"Visited by %%kale_on: {_described(visit)}" for visit in others)])

    async def _continue(self, options: SimpleNamespace, output: Output) -> None:
        current = self._switch.current
        if options.step is None and current is None:
            raise UsageError("%kale_continue needs a step, for nothing is attached.", "Write %kale_continue STEP.")
        host, name, _ = (options.host or "", options.step, "") if options.step or current is None else current.key
        output.say(await ask(host, lambda client: let_go_on(client, name, options.set, options.answer)))

    # -- one cell elsewhere

    async def _on(self, run: Run, options: SimpleNamespace, output: Output) -> bool:
        host, text = options.host or "", options.step
        if text == "*" or text.endswith("/*"):
            await self._everywhere(run, options, output)
            return False
        target = await ask(host, lambda client: find_target(client, text))
        visit = self._switch.visit(str(target), _mode(options), host)
        self._switch.call(visit, text)
        parts = content_with(run.parts, {**run.content, "code": run.cell.rest})
        self._switch.pass_on(visit, run.request, parts, run.content)
        if options.timeout is not None:
            await self._switch.finish({run.request.header["msg_id"]: visit}, options.timeout, output)
        return True

    async def _everywhere(self, run: Run, options: SimpleNamespace, output: Output) -> None:
        host = options.host or ""
        of_run = options.step.removesuffix("*").rstrip("/") or None
        targets = await ask(host, lambda client: running(client, of_run))
        cells: dict[str, Visit] = {}
        content = {**run.content, "code": run.cell.rest, "allow_stdin": False, "stop_on_error": False}
        for target in targets:
            visit = self._switch.visit(str(target), _mode(options), host)
            header = run.request.header | {"msg_id": uuid.uuid4().hex}
            parts = [json.dumps(header).encode(), *content_with(run.parts, content)[1:]]
            request = self._switch.ledger.take(Channel.SHELL, run.request.identities, header, parts, time.monotonic())
            part = visit.seat.parts[header["msg_id"]] = Part(self._switch.front, visit.name, run.request.header)
            output.waiting.append((header["msg_id"], part))
            cells[header["msg_id"]] = visit
            self._switch.pass_on(visit, request, parts, content)
        every = [part for _, part in output.waiting]
        await self._switch.finish(cells, _EVERYWHERE_S if options.timeout is None else options.timeout, output)
        if self._switch.was_interrupted:
            raise asyncio.CancelledError
        if failed := [f"{part.name} ({part.failure})" for part in every if part.failure]:
            more = f" and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
            raise StepFailed(f"The cell failed in {len(failed)} of {len(every)} steps: {', '.join(failed[:_SHOWN])}{more}.")


async def _joined(visit: Visit, timeout: float, output: Output) -> Standing:
    """Wait until a visit is open, and say what for."""
    begun_at, told = time.monotonic(), ""
    while not (standing := visit.relay.standing()).is_joined:
        waited = time.monotonic() - begun_at
        if standing.over:
            raise UsageError(standing.over)
        if waited > timeout:
            raise JobTimeout(f"{visit.name} {standing.doing or 'does not answer'}, still after {timeout:g} s.", "Give a longer --timeout.")
        if waited > _TOLD_S and standing.doing not in {"", told}:
            told = standing.doing
            output.say(f"Kale: {visit.name} {told}; %kale_attach waits.", "stderr")
        await asyncio.sleep(_POLL_S)
    known_by = time.monotonic() + _LANGUAGE_S
    while not standing.language and time.monotonic() < known_by:
        await asyncio.sleep(_POLL_S)
        standing = visit.relay.standing()
    return standing


def _mode(options: SimpleNamespace) -> str:
    return "main" if options.main else "write" if options.write else "visit"


def _beside(standing: Standing) -> str:
    if standing.mode == "main":
        return "after its code"
    names = "become the step's" if standing.mode == "write" else "stay yours"
    return f"beside its code; names that you assign {names}"


def _described(visit: Visit) -> str:
    standing = visit.relay.standing()
    host, name, _ = visit.key
    since = datetime.fromtimestamp(visit.began_at).astimezone().strftime("%H:%M:%S")
    where = f" of {host}" if host else ""
    if standing.over:
        return f"{name}{where} since {since}, which is over: {standing.over}"
    if not standing.is_joined:
        away = f"{time.monotonic() - standing.away_since:.0f} s"
        return f"{name}{where} since {since}, but there is no link now, for {away}: it {standing.doing or 'is being connected'}."
    way = f"by {standing.way}" if standing.way else "on this machine"
    speaks = f"{standing.language}, " if standing.language else ""
    return f"{name}{where} since {since}, {way} ({speaks}{_beside(standing)})."


def _is_called(visit: Visit, text: str) -> bool:
    return text in {visit.name, visit.name.rpartition("/")[2]}
