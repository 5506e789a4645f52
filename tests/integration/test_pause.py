"""A paused step holds still, its names and locals can be looked at, and it goes on by itself when the lease ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from kale_proxy.visits import bootstrap_source

from ._kernel import IS_BARE, Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._kernel import Visitor

pytestmark = pytest.mark.skipif(IS_BARE, reason="a bare subshell can't pause; run without KALE_TEST_BARE")
LOOP = "import time\nstop = []; n = 0\ndef main():\n    global n\n    secret = 42\n    while not stop: n += 1\n"


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    kernel = Kernel()
    try:
        kernel.install(bootstrap_source())
        yield kernel
    finally:
        print(kernel.log.read_text())
        kernel.stop()


def ask(kernel: Kernel, op: str, **content: Any) -> dict[str, Any]:
    reply = kernel.owner.control("kale_visit_request", {"op": op, **content})
    assert reply["status"] == "ok", reply
    return reply


def is_held(kernel: Kernel) -> bool:
    return bool(ask(kernel, "where")["held"])


def wait_until(kernel: Kernel, *, held: bool, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while is_held(kernel) is not held:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stands_still(visitor: Visitor, name: str = "n") -> bool:
    before = visitor.value(name)
    time.sleep(0.2)
    return visitor.value(name) == before


def test_a_loop_is_held_looked_at_and_goes_on(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin(LOOP + "main(); print('done', n > seen)")
    reply = ask(kernel, "pause", lease_s=30)
    assert reply["state"] == "held"
    assert "in main" in reply["where"][-1]
    assert stands_still(visitor)
    assert visitor.value("found = %locals\nfound") == "{'secret': 42}"
    assert "while not stop" in visitor.run("%where")[1].text
    ask(kernel, "resume")
    wait_until(kernel, held=False)
    assert not stands_still(visitor)
    writer = kernel.visit(write=True)
    writer.run("seen = n; time.sleep(.2); stop.append(1)")
    assert kernel.end()[1].text == "done True\n"


def test_the_step_goes_on_when_the_lease_ends_unless_it_is_renewed(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin(LOOP + "main()")
    assert ask(kernel, "pause", lease_s=0.5)["state"] == "held"
    assert ask(kernel, "pause", lease_s=1.0)["state"] == "held"
    time.sleep(0.6)
    assert is_held(kernel)
    wait_until(kernel, held=False)
    assert not stands_still(visitor)
    visitor.run("stop.append(1)")
    assert kernel.end()[0]["status"] == "ok"


def test_an_interrupt_of_the_step_ends_its_pause(kernel: Kernel) -> None:
    kernel.begin(LOOP + "main()")
    assert ask(kernel, "pause", lease_s=30)["state"] == "held"
    kernel.owner.control("interrupt_request", {})
    reply, _ = kernel.end()
    assert reply["ename"] == "KeyboardInterrupt"
    assert not is_held(kernel)


@pytest.mark.parametrize("call", ["time.sleep(1.5)", "import subprocess; subprocess.run(['sleep', '1.5'])"])
def test_a_call_is_held_when_it_returns(kernel: Kernel, call: str) -> None:
    visitor = kernel.visit()
    kernel.begin(f"import time\nbegan = 1\n{call}\nfor n in range(50): time.sleep(.01)\nprint('done')")
    deadline = time.monotonic() + 5
    while visitor.value("'began' in globals()") != "True":
        assert time.monotonic() < deadline
    assert ask(kernel, "pause", lease_s=30)["state"] == "armed"
    assert visitor.value("1 + 1") == "2"
    wait_until(kernel, held=True)
    assert stands_still(visitor, "globals().get('n')")
    ask(kernel, "resume")
    assert kernel.end()[1].text == "done\n"


def test_a_cell_that_awaits_is_held_in_its_loop(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin(
        "import asyncio\nn = 0\nasync def work():\n    global n\n    mine = 7\n    while n < 300: n += 1; await asyncio.sleep(.01)\n"
        "await work()\nprint('done')"
    )
    assert ask(kernel, "pause", lease_s=30)["state"] == "held"
    assert stands_still(visitor)
    assert "in work" in "".join(ask(kernel, "where")["where"])
    ask(kernel, "resume")
    wait_until(kernel, held=False)
    assert kernel.end()[1].text == "done\n"


def test_a_step_that_logs_is_not_held_with_the_logs_lock(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin(
        "import logging, os\nlog = logging.getLogger('x'); log.setLevel(10); log.propagate = False\n"
        "log.addHandler(logging.StreamHandler(open(os.devnull, 'w')))\nstop = []; n = 0\n"
        "while not stop: n += 1; log.info('%d', n); sum(range(10000))"
    )
    for _ in range(8):
        reply = ask(kernel, "pause", lease_s=30)
        if reply["state"] == "armed":
            wait_until(kernel, held=True, timeout=30)
        assert visitor.run("log.info('from the visitor'); print('ok')", 3)[1].text == "ok\n"
        ask(kernel, "resume")
        wait_until(kernel, held=False)
    visitor.run("stop.append(1)")
    assert kernel.end()[0]["status"] == "ok"


def test_a_kernel_that_runs_no_step_is_armed_and_answers_its_owner(kernel: Kernel) -> None:
    assert ask(kernel, "pause", lease_s=0.8) == {
        "status": "ok",
        "state": "armed",
        "where": ["(the step is not running code)\n"],
    }
    ask(kernel, "resume")
    assert kernel.run("print(1)") == "1\n"


def test_shutdown_ends_a_pause(kernel: Kernel) -> None:
    kernel.begin("import time\nwhile True: time.sleep(.01)")
    ask(kernel, "pause", lease_s=30)
    wait_until(kernel, held=True)
    kernel.owner.control("shutdown_request", {"restart": False})
    deadline = time.monotonic() + 20
    while kernel.is_alive():  # the step runs on until it is interrupted, as it does without a pause
        kernel.process.send_signal(2)
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_lease_that_makes_no_sense_is_refused(kernel: Kernel) -> None:
    for lease in (0, -1, 1e9, "soon"):
        reply = kernel.owner.control("kale_visit_request", {"op": "pause", "lease_s": lease})
        assert reply["status"] == "error"
    assert (
        "a pause lasts between" in kernel.owner.control("kale_visit_request", {"op": "pause", "lease_s": 0})["evalue"]
    )
