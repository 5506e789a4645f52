"""A session without a kernel: what it does when the journal has let records go, or a client takes no more; and the watches."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from kale_proxy import doorbell, wire
from kale_proxy.agent_session import MAX_KEPT_REPLIES, Hello, Session, Step
from kale_proxy.agent_visit import Visit
from kale_proxy.journal import JournalWriter
from kale_proxy.visitor import Visitor
from kale_proxy.visitor_stream import Stream
from kale_proxy.wire import Channel, Decoder, Kind, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIENT = "c" * 32
OWN = json.dumps({"msg_id": "m", "session": CLIENT}).encode()
OTHER = json.dumps({"msg_id": "m", "session": "d" * 32}).encode()


class Taker:
    """A client that takes ``room`` bytes and then no more."""

    def __init__(self, room: float = float("inf")) -> None:
        self.room = room
        self.decoder = Decoder()
        self.frames: list[tuple[Kind, bytes]] = []
        self.errors: list[str] = []

    @property
    def is_blocked(self) -> bool:
        return self.room <= 0

    def write(self, data: bytes) -> None:
        self.room -= len(data)
        self.frames += self.decoder.feed(data)

    def fail(self, code: str, sentence: str) -> None:
        self.errors.append(code)

    def seqs(self) -> list[int]:
        return [wire.parse_message(payload).seq for kind, payload in self.frames if kind is Kind.MSG]


@pytest.fixture
def live() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="kas-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def hello(since: int | None = None, iopub: str = "all", replies: int = 0) -> Hello:
    fields = {"client": CLIENT, "visit": {"mode": "main"}, "since": since, "iopub": iopub, "replies": replies}
    return Hello.parse(fields)


def in_session(live: Path, work: Callable[[Session], Any]) -> None:
    """Run ``work(session)``, which may be a coroutine function, with a session whose kernel does not exist."""

    async def main() -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        connection = {"transport": "ipc", "ip": str(live / "k"), "key": "k"}
        connection |= {f"{name}_port": n for n, name in enumerate(("shell", "stdin", "control"))}
        session = Session(Step(live, connection, context, os.getpid()), CLIENT, None, lambda: None)
        try:
            result = work(session)
            if result is not None:
                await result
        finally:
            session.cut()
            context.destroy(0)

    asyncio.run(main())


def record(writer: JournalWriter, text: bytes = b"{}", parent: bytes = OWN) -> int:
    return writer.append([b"topic", b"<IDS|MSG>", b"signature", b'{"msg_type":"stream"}', parent, b"{}", text])


def test_records_that_are_no_longer_kept_are_told_as_a_gap(live: Path) -> None:
    writer = JournalWriter(live, segment_bytes=0)
    for _ in range(10):
        record(writer)

    def work(session: Session) -> None:
        taker = Taker()
        assert session.place(hello(since=2)) == {"seq": 2, "replies": 0}
        session.attach(taker)
        assert taker.frames[0][0] is Kind.GAP
        assert json.loads(taker.frames[0][1]) == {"first": 3, "last": 6}
        assert taker.seqs() == [7, 8, 9, 10]

    in_session(live, work)


def test_new_client_gets_only_new_messages_and_own_means_its_own(live: Path) -> None:
    writer = JournalWriter(live)
    record(writer)

    def work(session: Session) -> None:
        taker = Taker()
        assert session.place(hello(iopub="own"))["seq"] == 1
        session.attach(taker)
        record(writer, parent=OTHER)
        own = record(writer)
        session.pump()
        assert taker.seqs() == [own]

    in_session(live, work)


def test_numbers_of_another_life_are_cut_to_what_there_is(live: Path) -> None:
    record(JournalWriter(live))

    def work(session: Session) -> None:
        assert session.place(hello(since=50, replies=9)) == {"seq": 1, "replies": 0}

    in_session(live, work)


def test_known_client_goes_on_after_what_it_acknowledged(live: Path) -> None:
    writer = JournalWriter(live)
    for _ in range(5):
        record(writer)

    def work(session: Session) -> None:
        session.place(hello(since=0))
        session.attach(Taker())
        session.acknowledge(3, 0)
        again = Taker()
        assert session.place(hello())["seq"] == 3
        session.attach(again)
        assert again.seqs() == [4, 5]

    in_session(live, work)


def test_blocked_client_is_written_nothing_and_goes_on_where_it_stopped(live: Path) -> None:
    writer = JournalWriter(live)
    for _ in range(300):
        record(writer, b"x" * 10_000)

    async def work(session: Session) -> None:
        taker = Taker(room=600_000)
        session.place(hello(since=0))
        session.attach(taker)
        await asyncio.sleep(0.05)
        taken = len(taker.frames)
        assert 60 <= taken < 120
        assert not session.is_drained()
        session.pump()
        assert len(taker.frames) == taken
        taker.room = float("inf")
        session.pump()
        await asyncio.sleep(0.2)
        assert taker.seqs() == list(range(1, 301))
        assert session.is_drained()

    in_session(live, work)


def test_replies_are_numbered_kept_until_acknowledged_and_sent_again(live: Path) -> None:
    def work(session: Session) -> None:
        first = Taker()
        session.place(hello())
        session.attach(first)
        for _ in range(3):
            session._from_kernel(Channel.SHELL, [b"{}", OWN, b"{}", b"{}"])
        assert first.seqs() == [1, 2, 3]
        again = Taker()
        assert session.place(hello(replies=1)) == {"seq": 0, "replies": 1}
        session.attach(again)
        assert first.errors == ["replaced"]
        assert again.seqs() == [2, 3]
        session.acknowledge(0, 3)
        third = Taker()
        session.place(hello(replies=1))
        session.attach(third)
        assert third.seqs() == []

    in_session(live, work)


def test_client_that_never_acknowledges_is_dropped(live: Path) -> None:
    def work(session: Session) -> None:
        taker = Taker()
        session.place(hello())
        session.attach(taker)
        for _ in range(MAX_KEPT_REPLIES):
            session._from_kernel(Channel.SHELL, [b"{}", OWN, b"{}", b"{}"])
        assert taker.errors == []
        session._from_kernel(Channel.SHELL, [b"{}", OWN, b"{}", b"{}"])
        assert taker.errors == ["unacknowledged"]
        assert len(session._kept) == MAX_KEPT_REPLIES

    in_session(live, work)


def test_visitor_does_not_wait_for_an_idle_that_is_lost(live: Path) -> None:
    """The reply has come, and a GAP may have held the rest: what is behind it tells, and is waited for."""
    (live / "kernel.json").write_text('{"key": "k"}')
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(live / "a"))
    listener.listen()

    def serve() -> None:
        accepted, _ = listener.accept()
        decoder, frames = Decoder(), list[tuple[Kind, bytes]]()

        def next_frame() -> bytes:
            while not frames:
                frames.extend(decoder.feed(accepted.recv(1 << 16)))
            return frames.pop(0)[1]

        def next_message() -> wire.Message:
            while True:
                while not frames:
                    frames.extend(decoder.feed(accepted.recv(1 << 16)))
                kind, payload = frames.pop(0)
                if kind is Kind.MSG:  # no acknowledgement
                    return wire.parse_message(payload)

        with accepted:
            accepted.sendall(wire.json_frame(Kind.CHALLENGE, {"protocol": wire.PROTOCOL, "nonce": "n"}))
            greeting = next_frame()
            next_frame()
            welcome = {"proof": wire.agent_proof(b"k", "n", greeting), "mode": "visit", "note": "", "resumed": False}
            accepted.sendall(wire.json_frame(Kind.WELCOME, welcome | {"seq": 0, "replies": 0}))
            request = next_message()
            reply = [b'{"msg_type":"execute_reply"}', request.parts[0], b"{}", b'{"status":"ok"}']
            accepted.sendall(wire.message_frame(Channel.SHELL, 1, reply))
            accepted.sendall(wire.json_frame(Kind.GAP, {"first": 1, "last": 9}))
            probe = next_message()
            for seq, kind, of, content in ((10, "stream", request, '{"name": "stdout", "text": "late"}'), (11, "status", probe, '{"execution_state": "idle"}')):
                accepted.sendall(wire.message_frame(Channel.IOPUB, seq, [f'{{"msg_type": "{kind}"}}'.encode(), of.parts[0], b"{}", content.encode()]))
            accepted.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with listener, Visitor.connect(live) as visitor:
        shown: list[Any] = []
        assert visitor.execute("1", timeout=10, on_message=lambda kind, content, *_: shown.append((kind, content["text"]))) == {"status": "ok"}
        assert (visitor.lost, visitor.last_seq, shown) == (9, 11, [("stream", "late")])
    thread.join(10)


@pytest.mark.parametrize("way", ["srun through login by ssh", "ssh to node1 through login"])
def test_what_comes_by_srun_is_acknowledged_while_more_is_waited_for(way: str) -> None:
    """And not once all has come: an acknowledgement that nothing answers would itself hold up the next request."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    decoder = Decoder()

    def came() -> list[tuple[Kind, bytes]]:
        return list(decoder.feed(theirs.recv(1 << 16)))

    def printed(seq: int, kind: str, content: str) -> bytes:
        return wire.message_frame(Channel.IOPUB, seq, [f'{{"msg_type": "{kind}"}}'.encode(), request.parts[0], b"{}", content.encode()])

    visitor = Visitor(Stream(ours), "c" * 8, {"mode": "visit", "note": "", "resumed": False, "seq": 0, "replies": 0, "way": way})
    thread = threading.Thread(target=visitor.execute, args=("1",), kwargs={"timeout": 10})
    thread.start()
    with theirs:
        request = wire.parse_message(came()[0][1])
        for seq in (1, 2):
            theirs.sendall(printed(seq, "status", '{"execution_state": "busy"}'))
            theirs.settimeout(10 if "srun" in way else 0.2)
            with contextlib.nullcontext() if "srun" in way else pytest.raises(TimeoutError):
                assert came() == [(Kind.ACK, wire.ack_frame(seq, 0)[5:])]
        reply = wire.message_frame(Channel.SHELL, 1, [b'{"msg_type":"execute_reply"}', request.parts[0], b"{}", b'{"status":"ok"}'])
        theirs.sendall(printed(3, "status", '{"execution_state": "idle"}') + reply)
        thread.join(10)
        theirs.settimeout(0.2)
        with pytest.raises(TimeoutError):
            came()
    visitor.drop()


# -- visits, with a kernel of few words


class Kernel:
    """Stands for the link: gives each request the answer of its kind, or none in time."""

    def __init__(self, **answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def ask(self, kind: str, content: dict[str, Any], *, deadline_s: float) -> dict[str, Any]:
        self.asked.append(kind)
        if kind not in self.answers:
            raise TimeoutError
        return self.answers[kind]


def test_kernel_that_refuses_a_visit_is_quoted() -> None:
    kernel: Any = Kernel(kale_visit_request={"status": "error", "evalue": "no more threads"})
    with pytest.raises(WireError, match="no more threads") as caught:
        asyncio.run(Visit.open(kernel, "visit", {"kale_visits": True}))
    assert caught.value.code == "kernel_refused"


def test_kernel_that_says_nothing_about_itself_counts_as_one_without_subshells() -> None:
    kernel: Any = Kernel()
    visit = asyncio.run(Visit.open(kernel, "visit", {}))
    assert (visit.mode, visit.subshell_id) == ("main", None)
    assert "waits" in visit.note


def test_busy_bare_subshell_is_left_alone_because_deleting_it_would_stop_the_control_channel() -> None:
    for is_busy, asked in ((True, []), (False, ["delete_subshell_request"])):
        kernel: Any = Kernel(delete_subshell_request={"status": "ok"})
        visit = Visit("visit", "s1")
        asyncio.run(visit.close(kernel, is_busy=is_busy))
        asyncio.run(visit.close(kernel, is_busy=is_busy))
        assert kernel.asked == asked
        assert visit.is_over


# -- the watches, with what Linux offers and without


@pytest.mark.parametrize("has_inotify", [True, False])
def test_folder_watch_rings_after_a_write(live: Path, monkeypatch: pytest.MonkeyPatch, has_inotify: bool) -> None:
    if not has_inotify:
        monkeypatch.setattr(doorbell, "_inotify", lambda folder: -1)

    async def main() -> None:
        rung = asyncio.Event()
        watch = doorbell.FolderWatch(live, rung.set)
        assert (watch._fd >= 0) is has_inotify
        with (live / "file").open("wb", buffering=0) as file:
            for _ in range(3):
                await asyncio.sleep(0.05)
                rung.clear()
                file.write(b"x")
                await asyncio.wait_for(rung.wait(), 5)
        watch.close()

    asyncio.run(main())


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_process_watch_sees_the_end_though_nobody_has_collected_it(
    monkeypatch: pytest.MonkeyPatch, has_pidfd: bool
) -> None:
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open")

    async def main(process: subprocess.Popen[bytes]) -> None:
        gone = asyncio.Event()
        watch = doorbell.ProcessWatch(process.pid, gone.set)
        await asyncio.sleep(0.3)
        assert not gone.is_set()
        process.kill()
        await asyncio.wait_for(gone.wait(), 5)
        watch.close()
        process.wait()
        late = asyncio.Event()
        doorbell.ProcessWatch(process.pid, late.set)
        await asyncio.wait_for(late.wait(), 5)

    asyncio.run(main(subprocess.Popen(["sleep", "60"])))


def test_zombie_does_not_count_as_running() -> None:
    process = subprocess.Popen(["true"])
    deadline = time.monotonic() + 10
    while doorbell.is_running(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert Path(f"/proc/{process.pid}").exists()
    process.wait()
    assert not doorbell.is_running(process.pid)
    assert doorbell.is_running(os.getpid())
