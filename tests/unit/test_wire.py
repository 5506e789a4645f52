"""Frames survive any cutting of the stream; bytes that are not of the protocol are a WireError and nothing else."""

from __future__ import annotations

import json
import random

import pytest

from kale_proxy import agent_session, wire
from kale_proxy.wire import Channel, Decoder, Kind, WireError

PARTS = [b'{"msg_id":"1"}', b"{}", b"{}", b'{"code":"1+1"}', b"\x00\xff" * 9, b""]


def stream() -> bytes:
    return b"".join(
        (
            wire.json_frame(Kind.HELLO, {"protocol": 1}),
            wire.frame(Kind.PING, b"12"),
            wire.message_frame(Channel.IOPUB, 7, PARTS),
            wire.ack_frame(7, 3),
            wire.frame(Kind.BYE),
        )
    )


def test_message_comes_back_as_it_went() -> None:
    ((kind, payload),) = Decoder().feed(wire.message_frame(Channel.STDIN, 2**40, PARTS))
    assert kind is Kind.MSG
    assert wire.parse_message(payload) == (Channel.STDIN, 2**40, PARTS)
    assert len(payload) == wire.message_size(PARTS)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 50])
def test_frames_are_the_same_however_the_stream_is_cut(step: int) -> None:
    whole = list(Decoder().feed(stream()))
    assert [kind for kind, _ in whole] == [Kind.HELLO, Kind.PING, Kind.MSG, Kind.ACK, Kind.BYE]
    decoder, got = Decoder(), []
    for at in range(0, len(stream()), step):
        got += decoder.feed(stream()[at : at + step])
    assert got == whole
    assert wire.parse_ack(whole[3][1]) == (7, 3)


def test_unfinished_frame_waits() -> None:
    assert [kind for kind, _ in Decoder().feed(stream()[:-1])] == [Kind.HELLO, Kind.PING, Kind.MSG, Kind.ACK]


@pytest.mark.parametrize(
    ("data", "limit", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", wire.MAX_FRAME, "garbage"),
        (b"\0\0\0\1\0x", wire.MAX_FRAME, "garbage"),
        ((wire.MAX_FRAME + 1).to_bytes(4) + bytes([Kind.MSG]), wire.MAX_FRAME, "oversized"),
        ((wire.MAX_JSON + 1).to_bytes(4) + bytes([Kind.CONTROL]), wire.MAX_FRAME, "oversized"),
        ((wire.MAX_GREETING + 1).to_bytes(4) + bytes([Kind.HELLO]), wire.MAX_GREETING, "oversized"),
    ],
)
def test_bad_frame_is_refused_by_its_head_after_those_before_it(data: bytes, limit: int, code: str) -> None:
    frames = Decoder(limit).feed(wire.frame(Kind.PING) + data)
    assert next(frames) == (Kind.PING, b"")
    with pytest.raises(WireError) as caught:
        next(frames)
    assert caught.value.code == code


def test_limit_can_be_raised_for_a_known_client() -> None:
    decoder = Decoder(10)
    decoder.limit = 100
    assert [payload for _, payload in decoder.feed(wire.frame(Kind.PING, b"x" * 100))] == [b"x" * 100]
    with pytest.raises(WireError):
        list(decoder.feed(wire.frame(Kind.PING, b"x" * 101)))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        wire.message_frame(Channel.SHELL, 0, PARTS)[5:-1],
        wire.message_frame(Channel.SHELL, 0, PARTS)[5:] + b"x",
        wire.message_frame(Channel.SHELL, 0, PARTS[:3])[5:],
        b"\x09" + wire.message_frame(Channel.SHELL, 0, PARTS)[6:],
        b"\0" * 9 + b"\xff\xff",
    ],
)
def test_message_whose_lengths_do_not_fit_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError, match="message"):
        wire.parse_message(payload)


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b"\xff\xfe", b"1", b"[" * 200_000])
def test_json_that_is_no_object_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError, match="JSON"):
        wire.parse_json(payload)


def test_acknowledgement_of_another_length_is_refused() -> None:
    with pytest.raises(WireError, match="acknowledgement"):
        wire.parse_ack(b"1234567")


def test_mutated_streams_give_frames_or_a_wire_error_and_nothing_else() -> None:
    dice = random.Random(1)
    refused: list[str] = []
    for _ in range(3000):
        data = bytearray(stream())
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data))
            if dice.random() < 0.5:
                data[at] = dice.randrange(256)
            else:
                data[at : at + dice.randint(0, 5)] = dice.randbytes(dice.randint(0, 5))
        try:
            for kind, payload in Decoder(1 << 20).feed(bytes(data)):
                if kind is Kind.MSG:
                    wire.parse_message(payload)
                elif kind is Kind.ACK:
                    wire.parse_ack(payload)
                elif kind is Kind.HELLO:
                    agent_session.Hello.parse(wire.parse_json(payload))
        except WireError as exc:
            refused.append(exc.code)
    assert set(refused) == {"garbage", "oversized"}
    assert 1000 < len(refused) < 3000


def test_proofs_depend_on_key_nonce_greeting_and_side() -> None:
    given = wire.client_proof(b"key", "nonce", b"hello")
    others = [
        wire.client_proof(b"kex", "nonce", b"hello"),
        wire.client_proof(b"key", "nonc", b"hello"),
        wire.client_proof(b"key", "nonce", b"hellp"),
        wire.agent_proof(b"key", "nonce", b"hello"),
    ]
    assert wire.is_same(given, wire.client_proof(b"key", "nonce", b"hello"))
    assert not any(wire.is_same(other, given) for other in others)
    assert not wire.is_same(None, given)
    assert not wire.is_same("\ud800", given)


HELLO = {"protocol": 1, "client": "c" * 32, "since": None, "visit": {"mode": "visit"}}


def test_hello_is_taken_with_its_defaults() -> None:
    assert agent_session.Hello.parse(HELLO) == ("c" * 32, "visit", None, 0, False, (), False)
    assert agent_session.Hello.parse(HELLO | {"since": 9, "replies": 2, "iopub": "all"})[2:] == (9, 2, True, (), False)
    assert agent_session.Hello.parse(HELLO | {"owner": True}).is_owner


@pytest.mark.parametrize(
    "change",
    [
        {"client": "short"},
        {"client": 'c" or "' + "c" * 20},
        {"client": 7},
        {"visit": None},
        {"visit": {"mode": "rule"}},
        {"visit": {"mode": []}},
        {"since": -1},
        {"since": True},
        {"since": "1"},
        {"since": 2**70},
        {"replies": None},
        {"iopub": "some"},
        {"iopub": ["own"]},
    ],
)
def test_hello_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(WireError, match="HELLO"):
        agent_session.Hello.parse(HELLO | change)


def test_message_too_long_for_a_frame_is_replaced_by_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_session, "MAX_FRAME", 2 << 20)
    parts = [b'{"msg_type":"display_data","msg_id":"d"}', b'{"msg_id":"p"}', b"{}", b"x" * (3 << 20)]
    ((_, payload),) = Decoder().feed(agent_session._fitting_frame(Channel.IOPUB, 4, parts))
    message = wire.parse_message(payload)
    assert message.seq == 4
    assert json.loads(message.parts[0])["msg_type"] == "stream"
    assert json.loads(message.parts[1]) == {"msg_id": "p"}
    assert "3 MiB" in json.loads(message.parts[3])["text"]
    ((_, payload),) = Decoder().feed(agent_session._fitting_frame(Channel.SHELL, 4, parts))
    assert json.loads(wire.parse_message(payload).parts[3])["status"] == "error"
