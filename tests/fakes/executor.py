"""An executor in memory that a test plays: it takes what it is allowed to, and says what it is told to say."""

from __future__ import annotations

from collections import deque

from kale_magic.abc import Executor, QueueLine
from kale_magic.model.run import Demand, Report, ReportKind


class FakeClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self):
        return self.time

    def monotonic(self):
        return self.time


class FakeExecutor(Executor):
    def __init__(self, slots=2):
        self.slots = slots
        self.waiting = deque()
        self.started = []
        self.recovered = []
        self.cancelled = []
        self.running = set()
        self.tickets = {}
        self.on_start = lambda ticket: None

    async def open(self, sink):
        self.sink = sink

    async def close(self):
        pass

    async def check(self, step):
        return Demand()

    def enqueue(self, ticket):
        self.tickets[ticket.uuid] = ticket
        self.waiting.append(ticket.uuid)

    def withdraw(self, uuid):
        if uuid in self.waiting:
            self.waiting.remove(uuid)

    def take(self):
        taken = []
        while self.waiting and len(self.running) < self.slots:
            taken.append(self.waiting.popleft())
            self.running.add(taken[-1])
        return taken

    def start(self, uuid):
        self.on_start(self.tickets[uuid])
        self.started.append(self.tickets[uuid].address)

    def drop(self, uuid):
        self.running.discard(uuid)

    def recover(self, tickets):
        self.recovered += [ticket.address for ticket in tickets]

    def cancel(self, uuid):
        self.cancelled.append(uuid)

    def interrupt(self, uuid):
        pass

    def release(self, uuid):
        pass

    def reason(self, uuid):
        return "waits for its turn" if uuid in self.waiting else ""

    def queue(self):
        return [QueueLine(uuid, "queued", "waits for its turn", Demand()) for uuid in self.waiting]

    def describe(self):
        return {}

    def end(self, address, state="completed"):
        """Say that a job has ended."""
        uuid = next(uuid for uuid, ticket in self.tickets.items() if ticket.address == address and uuid in self.running)
        self.running.discard(uuid)
        self.sink(Report(ReportKind.ENDED, uuid, {"state": state}))
