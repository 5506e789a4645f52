"""A step's TCP port: bytes both ways through CURVE, a window, ends, and who is kept out."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import threading
import time
from typing import TYPE_CHECKING

import pytest
import zmq

from kale_proxy import door
from kale_proxy.tunnel import curve, flow
from kale_proxy.tunnel.route import Door

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Place:
    """A live folder with something that listens at its socket, and the port that leads there."""

    def __init__(self, live: Path) -> None:
        self.live = live
        self.opened: list[socket.socket] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(live / "a"))
        self.listener.listen(8)
        self.listener.settimeout(10)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.listener.close()
                door.run(live)
            finally:
                os._exit(0)
        self.keys = Door.of(door.known(live))
        assert self.keys is not None

    def dial(self, client: str = "", server: str = "") -> socket.socket:
        assert self.keys is not None
        sock = curve.dial(f"tcp://127.0.0.1:{self.keys.port}", server or self.keys.server, client or self.keys.client)
        sock.settimeout(10)
        self.opened.append(sock)
        return sock

    def joined(self) -> tuple[socket.socket, socket.socket]:
        ours = self.dial()
        theirs, _ = self.listener.accept()
        theirs.settimeout(10)
        self.opened.append(theirs)
        return ours, theirs


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for sock in (*made.opened, made.listener):
        sock.close()
    (tmp_path / "a").unlink(missing_ok=True)  # by which the port knows that it is over
    assert os.waitpid(made.pid, 0)[1] == 0


def received(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (more := sock.recv(1 << 20)):
        data += more
    return bytes(data)


def test_bytes_go_both_ways_and_keep_their_order(place: Place) -> None:
    ours, theirs = place.joined()
    data = os.urandom(30 << 20)
    for one, other in ((ours, theirs), (theirs, ours)):
        sender = threading.Thread(target=one.sendall, args=(data,))
        sender.start()
        assert hashlib.sha256(received(other, len(data))).digest() == hashlib.sha256(data).digest()
        sender.join()


def test_a_reader_that_does_not_read_holds_the_writer_up_and_loses_nothing(place: Place) -> None:
    ours, theirs = place.joined()
    theirs.setblocking(False)
    data, sent, quiet_since = os.urandom(1 << 20), 0, time.monotonic()
    while time.monotonic() - quiet_since < 0.5:
        try:
            sent += theirs.send(data)
            quiet_since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
        assert sent < flow.WINDOW + (16 << 20)
    assert sent > flow.WINDOW
    assert len(received(ours, sent)) == sent


def test_each_end_ends_the_other_after_what_was_on_its_way(place: Place) -> None:
    for last in (0, 1):
        pair = place.joined()
        pair[last].sendall(b"x" * 3_000_000)
        pair[last].close()
        assert len(received(pair[1 - last], 1 << 30)) == 3_000_000


def test_who_has_not_the_key_gets_no_byte(place: Place) -> None:
    _, other = zmq.curve_keypair()
    assert place.dial(client=other.decode()).recv(1) == b""
    public, _ = zmq.curve_keypair()
    assert place.dial(server=public.decode()).recv(1) == b""
    assert place.keys is not None
    place.opened.append(plain := socket.create_connection(("127.0.0.1", place.keys.port), timeout=10))
    plain.sendall(b"\xff" + b"\0" * 8 + b"\x7f\x03\x00NULL" + b"\0" * 16 + b"\0" * 31 + b"\x04\x19\x05READY")
    with contextlib.suppress(ConnectionResetError):
        while plain.recv(4096):  # its greeting, then it hangs up
            pass
    place.listener.settimeout(0.2)
    with pytest.raises(TimeoutError):
        place.listener.accept()


def test_keys_are_the_users_alone(place: Place) -> None:
    assert stat.S_IMODE((place.live / door.NAME).stat().st_mode) == 0o600


def test_garbage_of_a_client_with_the_key_harms_no_other(place: Place) -> None:
    ours, theirs = place.joined()
    assert place.keys is not None
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.CURVE_SERVERKEY, place.keys.server.encode())
        dealer.setsockopt(zmq.CURVE_SECRETKEY, place.keys.client.encode())
        dealer.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(place.keys.client.encode()))
        dealer.connect(f"tcp://127.0.0.1:{place.keys.port}")
        for message in ([b"D" + b"x"], [b""], [b"A"], [b"P"], [b"A\xff\xff\xff\xff"], [b"?", b"more"], [b"D" * 2_000_000]):
            dealer.send_multipart(message)
        time.sleep(0.3)
    theirs.sendall(b"still there")
    assert ours.recv(100) == b"still there"


def test_a_port_without_an_agent_ends_the_stream(place: Place) -> None:
    place.listener.close()
    assert place.dial().recv(1) == b""


def test_what_is_no_port_is_none() -> None:
    assert Door.of(None) is None
    assert Door.of({"port": "x", "server": "", "client": ""}) is None
    assert Door.of({"port": 70000, "server": "a" * 40, "client": "b" * 40}) is None
