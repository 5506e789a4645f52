"""The switch of the kernel ``kale``: which cell goes where and when, with relays and a front end that are fakes."""

import asyncio
import json

import pytest

from kale_magic.errors import UnknownStepError
from kale_magic.kernels import front, front_commands
from kale_magic.kernels.front import Switch
from kale_magic.kernels.front_seat import Seat
from kale_proxy.relay_role import Standing
from kale_proxy.wire import Channel


class FakeFront:
    """Keeps what is sent to the front end."""

    is_full = False

    def __init__(self):
        self.sent = []

    def made(self, kind, parent, content):
        return [json.dumps(part).encode() for part in ({"msg_type": kind}, parent, {}, content)]

    def publish(self, kind, parts):
        self.sent.append((kind, json.loads(parts[1]).get("msg_id"), json.loads(parts[3])))

    def reply(self, channel, identities, parts):
        self.publish(json.loads(parts[0])["msg_type"], parts)

    def kinds(self, msg_id):
        return [kind for kind, parent, _ in self.sent if parent == msg_id]

    def reply_to(self, msg_id):
        return next((content for kind, parent, content in self.sent if parent == msg_id and kind.endswith("_reply")), None)

    def printed(self, msg_id):
        return "".join(content["text"] for kind, parent, content in self.sent if parent == msg_id and kind == "stream")


class FakeRelay:
    """Keeps what it is given; a test answers in its name."""

    comes_at_once = True

    def __init__(self, seat):
        self.seat = seat
        self.taken = []
        self.interrupts = 0
        self.is_joined = FakeRelay.comes_at_once
        self.over = ""
        self.is_stopped = asyncio.Event()

    async def run(self):
        await self.is_stopped.wait()

    def stop(self):
        self.is_stopped.set()

    def standing(self):
        return Standing(self.is_joined, "visit", "", 0.0, "is queued", self.over, "python")

    def take(self, channel, identities, parts):
        self.taken.append((json.loads(parts[0]), json.loads(parts[3])))

    def interrupt(self):
        self.interrupts += 1

    def go_on(self):
        pass

    def codes(self):
        return [content.get("code") for _, content in self.taken]

    def answer(self, text="", *, error="", at=-1):
        """Answer the cell that was taken last, as a kernel does."""
        header = self.taken[at][0]
        made = FakeFront().made
        self.seat.publish("status", made("status", header, {"execution_state": "busy"}))
        if text:
            self.seat.publish("stream", made("stream", header, {"name": "stdout", "text": text}))
        content = {"status": "error", "ename": error, "evalue": "no"} if error else {"status": "ok"}
        self.seat.reply(Channel.SHELL, [], made("execute_reply", header, content))
        self.seat.publish("status", made("status", header, {"execution_state": "idle"}))


class FakeVisit:
    def __init__(self, key, seat, _seek):
        self.key, self.seat, self.began_at = key, seat, 0.0
        self.name = key[1]
        self.relay = FakeRelay(seat)


class Desk:
    """A switch with its front end, in a running loop."""

    def __init__(self):
        self.front = FakeFront()
        self.switch = Switch(self.front)
        self.count = 0

    def send(self, kind, content, channel=Channel.SHELL):
        self.count += 1
        header = {"msg_id": f"m{self.count}", "msg_type": kind, "session": "s"}
        self.switch.take(channel, [b"id"], [json.dumps(part).encode() for part in (header, {}, {}, content)])
        return header["msg_id"]

    def cell(self, code, **options):
        return self.send("execute_request", {"code": code, **options})

    def relay(self, name):
        return next(visit.relay for visit in self.switch.visits.values() if visit.name == name)

    async def until(self, condition):
        async with asyncio.timeout(5):
            while not condition():  # noqa: ASYNC110 - a test polls
                await asyncio.sleep(0)

    async def done(self, msg_id):
        await self.until(lambda: self.front.reply_to(msg_id) is not None and self.switch._job is None)
        return self.front.reply_to(msg_id)

    async def attach(self, name):
        assert (await self.done(self.cell(f"%kale_attach {name}")))["status"] == "ok"
        return self.relay(f"r/{name}")


@pytest.fixture(autouse=True)
def _fakes(monkeypatch):
    monkeypatch.setattr(front, "Visit", FakeVisit)
    monkeypatch.setattr(front_commands, "_POLL_S", 0)

    def find(_, text):
        if text == "nope":
            raise UnknownStepError("No step nope.", "There are: a, b.")
        return f"r/{text}"

    async def ask(_host, question):
        await asyncio.sleep(0)
        return question(None)

    monkeypatch.setattr(front_commands, "find_target", find)
    monkeypatch.setattr(front_commands, "running", lambda *_: ["r/a", "r/b", "r/c"])
    monkeypatch.setattr(front_commands, "ask", ask)


def in_a_loop(work):
    """Run a test's coroutine with a desk."""

    async def whole():
        desk = Desk()
        running = asyncio.ensure_future(desk.switch.run())
        await work(desk)
        desk.switch.stop()
        await running

    def run():
        asyncio.run(whole())

    run.__name__ = work.__name__
    return run


@in_a_loop
async def test_cell_with_nothing_attached_says_how_to_attach(desk):
    reply = await desk.done(desk.cell("x = 1"))
    assert reply["ename"] == "NotAttached"
    assert "%kale_attach STEP" in reply["evalue"]
    assert (await desk.done(desk.cell("# a remark\n")))["status"] == "ok"


@in_a_loop
async def test_what_is_not_kales_reaches_the_relay_byte_for_byte(desk):
    relay = await desk.attach("a")
    content = {"code": "x = 1\n%kale_detach", "silent": True, "user_expressions": {"y": "z"}}
    desk.send("execute_request", content)
    desk.send("history_request", {"hist_access_type": "tail"})
    desk.send("usage_request", {}, Channel.CONTROL)
    desk.send("comm_msg", {"comm_id": "c"})
    assert (relay.taken[0][0]["msg_id"], relay.taken[0][1]) == ("m2", content)
    assert [header["msg_type"] for header, _ in relay.taken] == ["execute_request", "history_request", "usage_request", "comm_msg"]


@in_a_loop
async def test_lines_at_the_top_are_run_and_the_rest_goes_to_the_step_that_is_attached_then(desk):
    msg_id = desk.cell("%kale_attach a\n%kale_status\nn + 1")
    await desk.until(lambda: desk.switch.current is not None and desk.switch.current.relay.taken)
    relay = desk.relay("r/a")
    assert relay.codes() == ["\n\nn + 1"]
    assert relay.taken[0][0]["msg_id"] == msg_id
    relay.answer("2\n")
    assert (await desk.done(msg_id))["status"] == "ok"
    assert desk.front.printed(msg_id).startswith("Attached to r/a")
    assert desk.front.printed(msg_id).endswith("2\n")


@in_a_loop
async def test_attach_waits_for_the_cell_that_runs_and_cells_after_it_wait_for_the_attach(desk):
    first = await desk.attach("a")
    running, switching, after = desk.cell("slow"), desk.cell("%kale_attach b"), desk.cell("quick")
    await asyncio.sleep(0.01)
    assert first.codes() == ["slow"]
    assert desk.front.reply_to(switching) is None
    first.answer()
    await desk.done(switching)
    assert desk.front.reply_to(running)["status"] == "ok"
    assert first.is_stopped.is_set()
    second = desk.relay("r/b")
    await desk.until(lambda: second.taken)
    assert second.codes() == ["quick"]
    assert second.taken[0][0]["msg_id"] == after


@in_a_loop
async def test_mistake_leaves_what_is_attached_and_ends_the_cells_that_were_sent_behind_it(desk):
    relay = await desk.attach("a")
    wrong, behind = desk.cell("%kale_attach nope"), desk.cell("delete_everything()")
    reply = await desk.done(wrong)
    assert (reply["ename"], reply["evalue"]) == ("UnknownStepError", "No step nope. There are: a, b.")
    assert (await desk.done(behind))["status"] == "aborted"
    assert relay.taken == []
    assert desk.switch.current.relay is relay


@in_a_loop
async def test_error_in_the_kernel_ends_the_commands_behind_it_unless_the_cell_says_otherwise(desk):
    relay = await desk.attach("a")
    desk.cell("1/0")
    behind = desk.cell("%kale_detach")
    relay.answer(error="ZeroDivisionError")
    assert (await desk.done(behind))["status"] == "aborted"
    desk.cell("1/0", stop_on_error=False)
    behind = desk.cell("%kale_detach")
    relay.answer(error="ZeroDivisionError")
    assert (await desk.done(behind))["status"] == "ok"
    assert desk.switch.current is None


@pytest.fixture
def _queued(monkeypatch):
    monkeypatch.setattr(FakeRelay, "comes_at_once", False)


@pytest.mark.usefixtures("_queued")
@in_a_loop
async def test_interrupt_ends_a_waiting_attach_and_nothing_is_attached(desk):
    waiting = desk.cell("%kale_attach a")
    await desk.until(lambda: desk.switch.visits)
    relay = desk.relay("r/a")
    desk.send("interrupt_request", {}, Channel.CONTROL)
    assert (await desk.done(waiting))["ename"] == "KeyboardInterrupt"
    assert relay.is_stopped.is_set()
    assert desk.switch.current is None


@in_a_loop
async def test_interrupt_goes_to_the_kernel_that_runs_the_cell_and_to_no_other(desk):
    relay = await desk.attach("a")
    msg_id = desk.cell("%%kale_on b\nloop()")
    await desk.until(lambda: len(desk.switch.visits) == 2 and desk.relay("r/b").taken)
    desk.send("interrupt_request", {}, Channel.CONTROL)
    assert (relay.interrupts, desk.relay("r/b").interrupts) == (0, 1)
    desk.relay("r/b").answer(error="KeyboardInterrupt")
    assert (await desk.done(msg_id))["status"] == "error"


@in_a_loop
async def test_plain_cell_waits_for_a_cell_that_runs_elsewhere(desk):
    relay = await desk.attach("a")
    desk.cell("%%kale_on b\none")
    desk.cell("two")
    await desk.until(lambda: len(desk.switch.visits) == 2 and desk.relay("r/b").taken)
    assert relay.taken == []
    desk.relay("r/b").answer()
    await desk.until(lambda: relay.taken)
    assert relay.codes() == ["two"]


@in_a_loop
async def test_output_of_all_comes_in_the_order_of_steps_and_one_failure_stops_no_other(desk):
    msg_id = desk.cell("%%kale_on *\nn")
    await desk.until(lambda: len(desk.switch.visits) == 3 and all(visit.relay.taken for visit in desk.switch.visits.values()))
    desk.relay("r/c").answer("3\n")
    desk.relay("r/b").answer("2\n", error="NameError")
    await asyncio.sleep(0.01)
    assert "r/c" not in desk.front.printed(msg_id)
    desk.relay("r/a").answer("1\n")
    reply = await desk.done(msg_id)
    assert desk.front.printed(msg_id) == "── r/a\n1\n── r/b\n2\nNameError: no\n── r/c\n3\n"
    assert reply["evalue"] == "The cell failed in 1 of 3 steps: r/b (NameError: no)."
    assert desk.front.kinds(msg_id).count("execute_reply") == 1
    assert [content["allow_stdin"] for _, content in desk.relay("r/a").taken] == [False]


@pytest.fixture
def _impatient(monkeypatch):
    monkeypatch.setattr(front, "_GRACE_S", 0.02)


@pytest.mark.usefixtures("_impatient")
@in_a_loop
async def test_deadline_of_all_ends_those_that_are_late_and_gives_up_one_that_does_not_end(desk):
    msg_id = desk.cell("%%kale_on * --timeout 0.02\nn")
    await desk.until(lambda: len(desk.switch.visits) == 3 and all(visit.relay.taken for visit in desk.switch.visits.values()))
    late, deaf = desk.relay("r/b"), desk.relay("r/c")
    desk.relay("r/a").answer("1\n")
    await desk.until(lambda: late.interrupts)
    late.answer(error="KeyboardInterrupt")
    reply = await desk.done(msg_id)
    assert "failed in 2 of 3 steps: r/b (TimeoutError: was not done within 0.02 s" in reply["evalue"]
    assert deaf.is_stopped.is_set()
    assert [visit.name for visit in desk.switch.visits.values()] == ["r/a", "r/b"]


@in_a_loop
async def test_comm_goes_to_the_kernel_that_has_it_whatever_is_attached(desk):
    first = await desk.attach("a")
    desk.cell("%%kale_on b\nshow()")
    await desk.until(lambda: len(desk.switch.visits) == 2 and desk.relay("r/b").taken)
    second = desk.relay("r/b")
    parts = FakeFront().made("comm_open", second.taken[0][0], {"comm_id": "theirs"})
    second.seat.publish("comm_open", parts)
    second.answer()
    desk.send("comm_msg", {"comm_id": "theirs", "data": {}})
    desk.send("comm_msg", {"comm_id": "unknown", "data": {}})
    assert [content["comm_id"] for header, content in second.taken if header["msg_type"] == "comm_msg"] == ["theirs"]
    await desk.until(lambda: first.taken)
    assert [content["comm_id"] for header, content in first.taken if header["msg_type"] == "comm_msg"] == ["unknown"]


@in_a_loop
async def test_shutdown_is_answered_here_and_no_relay_hears_of_it(desk):
    relay = await desk.attach("a")
    msg_id = desk.send("shutdown_request", {"restart": True}, Channel.CONTROL)
    assert desk.front.reply_to(msg_id) == {"status": "ok", "restart": True}
    assert relay.taken == []


@in_a_loop
async def test_kernel_info_is_the_attached_kernels_and_until_then_this_ones(desk):
    msg_id = desk.send("kernel_info_request", {})
    assert desk.front.reply_to(msg_id)["implementation"] == "kale"
    relay = await desk.attach("a")
    desk.send("kernel_info_request", {})
    assert relay.taken[-1][0]["msg_type"] == "kernel_info_request"


@in_a_loop
async def test_questions_about_kales_lines_are_answered_here_and_others_by_the_kernel_they_are_for(desk):
    asked = desk.send("complete_request", {"code": "%kale_sta", "cursor_pos": 9})
    assert (await desk.done(asked))["matches"] == ["%kale_status"]
    asked = desk.send("inspect_request", {"code": "%kale_tasks", "cursor_pos": 3})
    assert "%kale_tasks" in (await desk.done(asked))["data"]["text/plain"]
    for code, status in (("%kale_tasks", "complete"), ("%%kale_on a", "incomplete"), ("%%kale_on a\nx", "incomplete"), ("%%kale_on a\nx\n", "complete")):
        assert (await desk.done(desk.send("is_complete_request", {"code": code})))["status"] == status
    assert (await desk.done(desk.send("complete_request", {"code": "x.", "cursor_pos": 2})))["matches"] == []
    relay = await desk.attach("a")
    desk.send("complete_request", {"code": "%kale_tasks\nx.", "cursor_pos": 14})
    assert relay.taken[-1][1] == {"code": " " * 11 + "\nx.", "cursor_pos": 14}
    desk.send("complete_request", {"code": "x.", "cursor_pos": 2})
    assert relay.codes()[-1] == "x."


@in_a_loop
async def test_relay_that_ends_by_itself_answers_its_cell_and_is_not_attached_any_more(desk):
    relay = await desk.attach("a")
    msg_id = desk.cell("x")
    relay.stop()
    assert (await desk.done(msg_id))["ename"] == "VisitEnded"
    assert desk.switch.current is None


@in_a_loop
async def test_question_that_the_old_kernel_has_not_answered_is_answered_when_it_is_left(desk):
    relay = await desk.attach("a")
    asked = desk.send("complete_request", {"code": "x.", "cursor_pos": 2})
    info = desk.send("kernel_info_request", {})
    assert relay.taken[-1][0]["msg_id"] == info
    await desk.attach("b")
    assert desk.front.reply_to(asked)["matches"] == []
    assert desk.front.reply_to(info)["implementation"] == "kale"
    relay.seat.reply(Channel.SHELL, [], FakeFront().made("complete_reply", relay.taken[0][0], {"matches": ["late"]}))
    assert desk.front.kinds(asked).count("complete_reply") == 1


@in_a_loop
async def test_what_a_seat_passes_on_is_untouched(desk):
    seat = Seat(desk.front, lambda *_: None, lambda *_: None)
    parts = [b'{"msg_type": "display_data"}', b'{"msg_id": "x"}', b"{}", b'{"data":  {}}', b"\x00buffer"]
    passed = []
    desk.front.publish = lambda kind, parts: passed.append((kind, parts))
    seat.publish("display_data", parts)
    assert passed == [("display_data", parts)]
    assert passed[0][1] is parts
