"""Lines between manager and client."""

import json

import pytest

from kale_magic import protocol
from kale_magic.errors import ManagerError, ProtocolVersionError, SubmitError, from_wire
from kale_magic.model.events import Event, iso


def test_a_line_is_one_line_and_comes_back():
    message = {"text": "a\nb\u2028\udcff é", "n": 1}
    line = protocol.encode(message)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert protocol.decode(line) == message


@pytest.mark.parametrize("line", [b"", b"nonsense", b"[1, 2]", b"\xff"])
def test_what_is_no_object_is_refused(line):
    with pytest.raises(ManagerError, match="A line between client and manager"):
        protocol.decode(line)


def test_an_encoded_result_is_put_in_as_it_is():
    line = protocol.encode_answer(7, protocol.Encoded('{"a":[1]}'))
    assert json.loads(line) == {"id": 7, "ok": True, "result": {"a": [1]}} == json.loads(protocol.encode_answer(7, {"a": [1]}))


def test_hello_of_another_protocol_names_both_versions():
    hello = protocol.Hello(protocol.PROTOCOL_VERSION, "1.0", 5, "here", "now")
    assert protocol.read_hello(hello.to_wire(), version="1.0") == hello
    with pytest.raises(ProtocolVersionError, match=r"Kale 3\.0 \(protocol 4\), this is Kale 1\.0 \(protocol 1\)"):
        protocol.read_hello({"hello": {"protocol": 4, "version": "3.0"}}, version="1.0")
    with pytest.raises(ProtocolVersionError, match=r"jupyter kale doctor --host far --install, then jupyter kale manager stop --host far"):
        protocol.read_hello({"hello": {"protocol": 4, "version": "3.0"}}, version="1.0", host="far")
    with pytest.raises(ManagerError, match="no Kale manager"):
        protocol.read_hello({"welcome": 1}, version="1.0")


def test_errors_come_back_as_their_class():
    refusal = protocol.refusal(1, SubmitError("No room.", "Make some.", transient=True))
    error = from_wire(refusal["error"])
    assert (type(error), str(error), error.transient) == (SubmitError, "No room. Make some.", True)


def test_events_come_back_and_pass_over_what_they_do_not_know():
    event = Event(3, "r", "fit", 2, "now", "state", "running", {"attempt": 1})
    assert Event.from_wire({**event.to_wire(), "colour": "blue"}) == event
    assert Event.from_wire({"seq": 1, "run": "r"}) == Event(1, "r", None, None, "", "note", "", {})


def test_times_are_utc_with_milliseconds():
    assert iso(0.0625) == "1970-01-01T00:00:00.062Z"
