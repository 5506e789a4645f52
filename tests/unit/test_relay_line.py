"""A line comes back by itself, notices that it has gone dead, and leaves a refused login to a person. No sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kale_proxy import relay_line
from kale_proxy.relay_line import Line, Place
from kale_proxy.tunnel.errors import AuthenticationError, TunnelError
from kale_proxy.wire import AgentGone, Kind, frame

LIVE = Path("/live")


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.passed = 1000.0
        self.slept = 0.0

    def monotonic(self) -> float:
        return self.passed

    def time(self) -> float:
        return 1e9 + self.passed + self.slept


class Link:
    """A link that hears what a test lets it hear."""

    def __init__(self, clock: Clock) -> None:
        self.ended: asyncio.Future[AgentGone] = asyncio.get_running_loop().create_future()
        self.heard_at = clock.monotonic()
        self.is_held = False
        self.sent: list[bytes] = []

    def start(self) -> None: ...

    def send(self, data: bytes) -> None:
        self.sent.append(data)

    def give_up(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result(AgentGone(why))


class World:
    """Everything around a line: places to find, links to get, a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, way: str = "ssh to login") -> None:
        self.clock = Clock()
        self.links: list[Link] = []
        self.dials: list[Any] = []  # errors to raise in turn, then links
        self.doing: list[str] = []
        self.over_: list[str] = []
        self.places: list[Place] = []
        self.sought = 0
        self.way = way
        monkeypatch.setattr(relay_line, "time", self.clock)
        monkeypatch.setattr(relay_line.AgentLink, "open", self._open)
        monkeypatch.setattr(relay_line.asyncio, "sleep", self._sleep)
        self._real_sleep = asyncio.sleep

    async def _sleep(self, seconds: float) -> None:
        self.clock.passed += seconds
        await _turn()

    async def _open(self, *_: Any) -> Link:
        self.links.append(Link(self.clock))
        return self.links[-1]

    def dial(self, _where: Any, _deadline: float) -> Any:
        if self.dials:
            raise self.dials.pop(0)
        return None, b"", self.way

    async def seek(self) -> Place:
        self.sought += 1
        return self.places.pop(0) if self.places else Place(where=LIVE)

    def line(self) -> Line:
        return Line(self.seek, self, self.doing.append, self.dial)

    # -- the owner's part

    def hello(self) -> dict[str, Any]:
        return {}

    def on_frame(self, kind: Kind, payload: bytes) -> None: ...

    def joined(self, link: Any) -> None: ...

    def parted(self) -> None: ...

    def over(self, advice: str) -> None:
        self.over_.append(advice)

    def forget(self, reason: str) -> None: ...


async def _turn() -> None:
    """Let others run."""
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    await future


async def until(condition: Any, what: str) -> None:
    for _ in range(20_000):
        if condition():
            return
        await _turn()
    pytest.fail(f"{what} did not come")


def running(world: World, scenario: Any) -> None:
    async def main() -> None:
        line = world.line()
        task = asyncio.ensure_future(line.run())
        try:
            await scenario(line, task)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_quiet_line_is_asked_for_a_sign_of_life_and_given_up_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)

    async def scenario(_line: Line, _task: Any) -> None:
        await until(lambda: world.links and world.links[0].sent, "a ping")
        asked = world.clock.passed - world.links[0].heard_at
        assert relay_line.PING_S <= asked <= relay_line.PING_S + 2
        assert world.links[0].sent == [frame(Kind.PING)]
        await until(lambda: len(world.links) == 2, "the next link")
        assert world.clock.passed - 1000.0 > relay_line.QUIET_S

    running(world, scenario)


def test_line_that_answers_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)

    async def scenario(_line: Line, _task: Any) -> None:
        await until(lambda: world.links, "a link")
        link = world.links[0]
        for count in range(1, 6):
            await until(lambda count=count: len(link.sent) == count, "a ping")
            link.heard_at = world.clock.passed + 0.001
        assert len(world.links) == 1

    running(world, scenario)


def test_after_sleep_it_is_asked_at_once_and_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)

    async def scenario(_line: Line, _task: Any) -> None:
        await until(lambda: world.links, "a link")
        await until(lambda: world.clock.passed > 1001.5, "a beat")
        begun = world.clock.passed
        world.clock.slept += 3600  # the wall clock goes on, the other stands still
        await until(lambda: world.links[0].sent, "a ping")
        assert world.clock.passed - begun <= 2.0
        await until(lambda: len(world.links) == 2, "the next link")
        assert world.clock.passed - begun <= relay_line.WOKEN_S + 4

    running(world, scenario)


def test_clock_that_is_set_back_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)

    async def scenario(_line: Line, _task: Any) -> None:
        await until(lambda: world.links, "a link")
        await until(lambda: world.clock.passed > 1001.5, "a beat")
        world.clock.slept -= 7200
        begun = world.clock.passed
        await until(lambda: world.clock.passed > begun + 1.5, "some time")
        assert not world.links[0].sent
        assert len(world.links) == 1

    running(world, scenario)


def test_held_line_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)

    async def scenario(_line: Line, _task: Any) -> None:
        await until(lambda: world.links, "a link")
        world.links[0].is_held = True  # we don't read: its signs of life wait too
        begun = world.clock.passed
        await until(lambda: world.clock.passed > begun + 10 * relay_line.QUIET_S, "much time")
        assert len(world.links) == 1

    running(world, scenario)


def test_line_on_this_machine_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, way="")

    async def scenario(_line: Line, _task: Any) -> None:
        await until(lambda: world.links, "a link")
        for _ in range(200):
            await _turn()
        assert world.links[0].sent == []

    running(world, scenario)


def test_broken_line_is_dialled_again_before_the_manager_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)

    async def scenario(_line: Line, _task: Any) -> None:
        await until(lambda: world.links, "a link")
        assert world.sought == 1
        world.links[0].give_up("gone")
        await until(lambda: len(world.links) == 2, "the next link")
        assert world.sought == 1
        world.dials = [TunnelError("no way")]
        world.links[1].give_up("gone")
        await until(lambda: len(world.links) == 3, "the next link")
        assert world.sought == 2
        assert "is out of reach: no way" in world.doing

    running(world, scenario)


def test_refused_login_is_not_repeated_until_somebody_does_something(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.dials = [AuthenticationError("no")]

    async def scenario(line: Line, _task: Any) -> None:
        await until(lambda: world.doing, "a word")
        for _ in range(500):
            await _turn()
        assert world.sought == 1
        line.nudge()
        await until(lambda: world.links, "a link")

    running(world, scenario)


def test_back_off_grows_and_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.dials = [TunnelError("no way") for _ in range(12)]

    async def scenario(_line: Line, _task: Any) -> None:
        await until(lambda: world.links, "a link")
        assert 10 < world.clock.passed - 1000 < 60

    running(world, scenario)


def test_step_that_is_over_ends_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    world.places = [Place(doing="is queued"), Place(advice="It has failed.")]

    async def scenario(_line: Line, task: Any) -> None:
        await until(task.done, "the end")
        assert world.over_ == ["It has failed."]
        assert world.doing == ["is queued"]

    running(world, scenario)
