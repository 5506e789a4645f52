"""Routing of a relay, without sockets: what is open, what may be repeated, what visitors may ask, whose comms are whose."""

import json

import pytest

from kale_proxy import relay_answers as answers
from kale_proxy.comms import OwnComms, known
from kale_proxy.relay_ledger import Ledger, Parents, execute_reply
from kale_proxy.wire import Channel

CLIENT = "c" * 32


def take(ledger, msg_id, kind="execute_request", channel=Channel.SHELL, **more):
    header = {"msg_id": msg_id, "msg_type": kind, "session": "front", **more}
    return ledger.take(channel, [b"who"], header, [json.dumps(header).encode(), b"{}", b"{}", b"{}"], 0.0)


def status(ledger, msg_id, state):
    ledger.printed(msg_id, "status", json.dumps({"execution_state": state}).encode())


def sent(ledger, *msg_ids, **more):
    requests = [take(ledger, msg_id, **more) for msg_id in msg_ids]
    for request in requests:
        request.is_sent = True
    return requests


@pytest.fixture
def ledger():
    return Ledger(CLIENT)


def test_request_goes_out_marked_and_comes_back_as_it_was(ledger):
    request = take(ledger, "a", subshell_id="theirs", extra=1)
    marked = json.loads(request.parts[0])
    assert marked["kale"] == CLIENT
    assert marked["extra"] == 1
    assert "subshell_id" not in marked
    parent = Parents().clean(json.dumps(marked | {"subshell_id": "ours"}).encode())
    assert (parent.msg_id, parent.session) == ("a", "front")
    assert json.loads(parent.header) == {"msg_id": "a", "msg_type": "execute_request", "session": "front", "extra": 1}


@pytest.mark.parametrize("order", [("reply", "idle"), ("idle", "reply")])
def test_request_is_open_until_reply_and_idle(ledger, order):
    sent(ledger, "a")
    for sign in order:
        assert ledger.find("a") is not None
        if sign == "reply":
            ledger.answered("a")
        else:
            status(ledger, "a", "busy")
            status(ledger, "a", "idle")
    assert ledger.find("a") is None


def test_second_reply_is_nobodys(ledger):
    sent(ledger, "a")
    assert ledger.answered("a") is not None
    assert ledger.answered("a") is None
    assert ledger.answered("unknown") is None


def test_comm_message_waits_for_idle_only_and_control_for_its_reply_only(ledger):
    sent(ledger, "m", kind="comm_msg")
    status(ledger, "m", "idle")
    sent(ledger, "u", kind="usage_request", channel=Channel.CONTROL)
    ledger.answered("u")
    assert len(ledger) == 0


def test_to_the_same_agent_only_what_nothing_was_heard_of_is_repeated(ledger):
    sent(ledger, "running", "silent")
    take(ledger, "waiting")
    status(ledger, "running", "busy")
    assert [r.header["msg_id"] for r in ledger.unsure()] == ["silent"]
    assert [r.header["msg_id"] for r in ledger.unsent()] == ["waiting"]
    assert ledger.find("running").parts == []


def test_after_a_probe_cells_that_ran_are_answered_and_those_never_begun_are_lost(ledger):
    sent(ledger, "ran", "lost", "answered")
    take(ledger, "waiting")
    status(ledger, "ran", "busy")
    status(ledger, "ran", "idle")
    ledger.answered("answered")
    settled = ledger.after_probe()
    assert [r.header["msg_id"] for r in settled.unanswered] == ["ran"]
    assert [r.header["msg_id"] for r in settled.lost] == ["lost"]
    assert [r.header["msg_id"] for r in settled.without_idle] == ["answered"]


def test_later_reply_overtakes_the_lost_one_of_a_cell_that_has_ended(ledger):
    sent(ledger, "ended", "running", "now")
    status(ledger, "ended", "idle")
    status(ledger, "running", "busy")
    assert [r.header["msg_id"] for r in ledger.overtaken(ledger.find("now"))] == ["ended"]


def test_lost_reply_is_made_of_what_the_cell_printed(ledger):
    good, bad = sent(ledger, "good", "bad")
    ledger.printed("good", "execute_input", b'{"execution_count": 7}')
    error = {"ename": "ValueError", "evalue": "no", "traceback": ["t"]}
    ledger.printed("bad", "error", json.dumps(error).encode())
    assert execute_reply(good) == {"status": "ok", "execution_count": 7, "user_expressions": {}, "payload": []}
    assert execute_reply(bad) == {"status": "error", "execution_count": 0, "user_expressions": {}, "payload": [], **error}


@pytest.mark.parametrize(
    ("channel", "kind", "passes"),
    [
        (Channel.SHELL, "execute_request", True),
        (Channel.SHELL, "comm_info_request", True),
        (Channel.CONTROL, "usage_request", True),
        (Channel.CONTROL, "execute_request", False),
        (Channel.CONTROL, "kale_visit_request", False),
        (Channel.SHELL, "kale_visit_request", False),
        (Channel.CONTROL, "debug_request", False),
        (Channel.CONTROL, "create_subshell_request", False),
    ],
)
def test_what_a_visitor_may_ask(channel, kind, passes):
    refused = answers.refusal(channel, kind, "visit")
    assert (refused is None) == passes
    assert passes or (refused["status"] == "error" and refused["evalue"])


def test_questions_a_front_end_asks_by_itself_are_answered_quietly_without_a_kernel():
    for kind in ("complete_request", "inspect_request", "history_request", "comm_info_request"):
        assert answers.without_kernel(kind, {"cursor_pos": 3}, "StepEnded", "over")["status"] == "ok"
    cell = answers.without_kernel("execute_request", {}, "StepEnded", "over")
    assert (cell["status"], cell["evalue"]) == ("error", "over")


def test_main_mode_has_the_debugger_on_control_only():
    assert answers.refusal(Channel.CONTROL, "debug_request", "main") is None
    assert answers.refusal(Channel.SHELL, "debug_request", "main") is not None
    assert answers.refusal(Channel.CONTROL, "debug_request", "write") is not None
    info = answers.kernel_info({"supported_features": ["debugger", "kernel subshells"]}, "r/s", "main")
    assert (info["debugger"], info["supported_features"]) == (True, ["debugger"])
    assert not answers.kernel_info({"supported_features": []}, "r/s", "main")["debugger"]


def test_kernel_info_hides_what_visitors_do_not_get():
    info = answers.kernel_info({"supported_features": ["debugger", "kernel subshells", "x"], "debugger": True}, "r/s", "visit")
    assert info["supported_features"] == ["x"]
    assert not info["debugger"]
    assert "r/s" in info["banner"]


def message(kind, **content):
    return [json.dumps({"msg_type": kind}).encode(), b"{}", b"{}", json.dumps(content).encode()]


def test_comms_are_own_from_open_to_close_and_known_to_the_next_agent():
    comms = OwnComms()
    comms.follow(message("comm_open", comm_id="a"))
    assert comms.has(message("comm_msg", comm_id="a"))
    assert not comms.has(message("comm_msg", comm_id="b"))
    assert not comms.has(message("stream", comm_id="a"))
    later = OwnComms()
    later.add(known([*comms, 3, "x" * 1000]))
    assert list(later) == ["a"]
    later.follow(message("comm_close", comm_id="a"))
    assert not later.has(message("comm_msg", comm_id="a"))
    assert known("a") == ()
    assert not comms.has([b'{"msg_type": "comm_msg"}', b"{}", b"{}", b"[]"])
