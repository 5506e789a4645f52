"""A visit can't disturb the step: each test shows one way in which a bare subshell does (``KALE_TEST_BARE=1``)."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kale_proxy.visits import bootstrap_source

from ._kernel import IS_BARE, Kernel, Late

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._kernel import Visitor

SOURCE = bootstrap_source()
ENDS_WITHIN_S = 8.0


@pytest.fixture
def own_kernel() -> Iterator[Kernel]:
    """A kernel that the test may end."""
    kernel = Kernel()
    try:
        kernel.install(SOURCE)
        yield kernel
    finally:
        print(kernel.log.read_text())
        kernel.stop()


@pytest.fixture(scope="module")
def shared_kernels() -> Iterator[list[Kernel]]:
    kernels: list[Kernel] = []
    yield kernels
    for kernel in kernels:
        kernel.stop()


@pytest.fixture
def kernel(shared_kernels: list[Kernel], request: pytest.FixtureRequest) -> Iterator[Kernel]:
    """A kernel shared by the tests that leave it as it was; a failed test's is not used again."""
    if not shared_kernels:
        shared_kernels.append(Kernel())
        shared_kernels[0].install(SOURCE)
    kernel = shared_kernels[0]
    failed = request.session.testsfailed
    yield kernel
    if IS_BARE or request.session.testsfailed > failed:
        print(kernel.log.read_text())
        shared_kernels.clear()
        kernel.stop()
        return
    for visitor in kernel.clients[1:]:
        visitor.leave()  # type: ignore[attr-defined]
        visitor.close()
    del kernel.clients[1:]
    kernel.run("%reset -f\n%matplotlib inline" if "figure" in request.node.name else "%reset -f")


def wait_for(visitor: Visitor, code: str, wanted: str, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while visitor.value(code) != wanted:
        assert time.monotonic() < deadline, f"{code} never became {wanted}"
        time.sleep(0.02)


# What a bare subshell does to the step


def test_interrupt_ends_the_visitors_loop_and_not_the_step(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin("import time\nn = 0\nwhile n < 30: n += 1; time.sleep(.05)\nprint('step done')")
    cell = visitor.start("spins = 0\nwhile True: spins += 1")
    visitor.wait_busy(cell)
    time.sleep(0.2)
    visitor.interrupt()
    reply, _ = visitor.finish(cell, 3)
    assert reply["ename"] == "KeyboardInterrupt"
    reply, output = kernel.end()
    assert (reply["status"], output.text) == ("ok", "step done\n")
    assert visitor.value("spins > 0") == "True"


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_after_a_visitors_cell_the_step_can_be_traced(own_kernel: Kernel, is_interrupted: bool) -> None:
    """With the interpreter's eval breaker left set, a traced function of Python 3.11 never begins."""
    visitor = own_kernel.visit()
    visitor.run("1 + 1")
    if is_interrupted:
        msg_id = visitor.start("print('in', flush=True)\nwhile True: pass")
        visitor.wait_busy(msg_id)
        while visitor.interrupt()["how"] != "raised":
            time.sleep(0.01)
        assert visitor.finish(msg_id)[0]["ename"] == "KeyboardInterrupt"
    code = "import sys\ndef f(): return 42\nsys.settrace(lambda *_: None)\nfound = f()\nsys.settrace(None)\nprint(found)"
    assert own_kernel.run(code) == "42\n"
    assert visitor.value("found") == "42"


def test_interrupt_ends_a_visitors_await(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin("import time\nfor _ in range(30): time.sleep(.05)")
    cell = visitor.start("import asyncio\nawait asyncio.sleep(60)")
    visitor.wait_busy(cell)
    time.sleep(0.3)
    visitor.interrupt()
    reply, _ = visitor.finish(cell, 3)
    assert reply["ename"] in {"KeyboardInterrupt", "CancelledError"}
    assert visitor.value("1 + 1") == "2"
    assert kernel.end()[0]["status"] == "ok"


def test_a_visitors_loop_variable_is_not_the_steps(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin(
        "import time\nchanged = 0\nfor i in range(15):\n    j = i; time.sleep(.06); changed += i != j\nprint(changed)"
    )
    wait_for(visitor, "'i' in globals() and i > 1", "True")
    visitor.run("for i in [99]: pass")
    assert visitor.value("i") == "99"
    assert kernel.end()[1].text == "0\n"


def test_a_visitors_cell_neither_shows_nor_closes_the_steps_figure(kernel: Kernel) -> None:
    kernel.run("%matplotlib inline\nimport matplotlib.pyplot as plt")
    visitor = kernel.visit()
    kernel.begin(
        "fig = plt.figure(); plt.plot([1, 2]); drawn = True\nimport time; time.sleep(.8)\n"
        "plt.plot([3, 4]); print(len(plt.gcf().axes[0].lines), plt.gcf() is fig)"
    )
    wait_for(visitor, "'drawn' in globals()", "True")
    _, seen = visitor.run("1 + 1")
    _, output = kernel.end()
    assert (output.text, output.images) == ("2 True\n", 1)
    assert seen.kinds == ["execute_input", "execute_result"]


def test_a_visitors_figure_is_shown_to_the_visitor_only(kernel: Kernel) -> None:
    kernel.run("import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as plt")
    visitor = kernel.visit()
    kernel.begin(
        "fig = plt.figure(); plt.plot([1, 2]); drawn = True\nimport time; time.sleep(.8)\n"
        "print(len(plt.gcf().axes[0].lines), plt.get_fignums()); plt.close(fig)"
    )
    wait_for(visitor, "'drawn' in globals()", "True")
    _, seen = visitor.run("plt.plot([5, 6]); plt.title('mine'); print(plt.get_fignums(), plt.gcf() is fig)")
    assert (seen.text, seen.images) == ("[1] False\n", 1)
    assert visitor.value("plt.get_fignums()") == "[]"
    _, output = kernel.end()
    assert (output.text, output.images) == ("1 [1]\n", 0)


def test_a_figure_of_the_step_made_current_by_a_visitor_stays_open(kernel: Kernel) -> None:
    kernel.run("%matplotlib inline\nimport matplotlib.pyplot as plt")
    visitor = kernel.visit()
    kernel.begin(
        "fig, ax = plt.subplots(); ax.plot([1, 2])\nimport time; time.sleep(.8)\nprint(plt.get_fignums(), plt.gcf() is fig)"
    )
    wait_for(visitor, "'ax' in globals()", "True")
    _, seen = visitor.run("plt.sca(ax); plt.show()")
    assert seen.images == 1
    _, output = kernel.end()
    assert (output.text, output.images) == ("[1] True\n", 1)


@pytest.mark.skipif(IS_BARE, reason="a bare subshell has no plots of its own; run without KALE_TEST_BARE")
def test_a_visitor_who_imports_pyplot_first_leaves_inline_plots_to_the_step(own_kernel: Kernel) -> None:
    own_kernel.run("import os; os.environ['MPLBACKEND'] = 'module://matplotlib_inline.backend_inline'")
    visitor = own_kernel.visit()
    own_kernel.begin("import time; time.sleep(2.5)\nimport matplotlib.pyplot as plt; plt.plot([1, 2]);")
    _, seen = visitor.run(
        "%matplotlib inline\nimport matplotlib.pyplot as plt; plt.plot([3, 4]); plt.show(); print('after')", 30
    )
    assert seen.images == 1
    assert seen.kinds.index("display_data") < seen.kinds.index("stream")
    _, output = own_kernel.end()
    assert output.images == 1
    assert visitor.value("len(plt.get_fignums())") == "0"


def test_what_c_code_of_the_step_writes_stays_the_steps(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin("import os, time\nfor q in range(10):\n    os.write(1, b'c line %d\\n' % q); time.sleep(.06)")
    wait_for(visitor, "'q' in globals() and q > 2", "True")
    assert kernel.end()[1].text.count("c line") == 10


def test_what_threads_of_the_step_print_stays_the_steps(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin(
        "import threading, time\nq = 0\ndef work():\n    global q\n    for q in range(10): print('line', q); time.sleep(.06)\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()"
    )
    wait_for(visitor, "'q' in globals() and q > 2", "True")
    assert kernel.end()[1].text.count("line") == 10


def test_closing_a_visit_frees_what_it_looked_at(kernel: Kernel) -> None:
    kernel.run("import weakref, gc\nclass Big: pass\nbig = Big(); ref = weakref.ref(big)")
    visitor = kernel.visit()
    visitor.run("big", store_history=True)
    visitor.run("1 / 0 if big else 0")
    visitor.run("async def f(): return big\nmine = big; await f()", store_history=True)
    visitor.leave()
    visitor.close()
    kernel.clients.remove(visitor)
    kept = "[name for name in ('_1', '_2', '_3', 'mine') if name in globals()]"
    assert kernel.run(f"del big; gc.collect(); print(ref() is None, {kept})") == "True []\n"


def test_a_visitors_stdin_does_not_make_the_steps_input_hang(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin(
        "go = []\nimport time\nwhile not go: time.sleep(.01)\n"
        "try: input('?')\nexcept Exception as exc: print(type(exc).__name__)"
    )
    visitor.run("go.append(1)", allow_stdin=True)
    try:
        output = kernel.end(3)[1].text
    except Late:
        output = "it hangs"
    assert output == "StdinNotImplementedError\n"


def test_the_step_and_a_visitor_ask_at_the_same_time(own_kernel: Kernel) -> None:
    visitor, owner = own_kernel.visit(), own_kernel.owner
    own_kernel.begin("print('step', input('of the step? '))", allow_stdin=True)
    assert owner.receive("stdin")["content"]["prompt"] == "of the step? "
    cell = visitor.start("print('visitor', input('of the visitor? '))", allow_stdin=True)
    assert visitor.receive("stdin")["content"]["prompt"] == "of the visitor? "
    owner.send("stdin", "input_reply", {"value": "one"})
    visitor.send("stdin", "input_reply", {"value": "two"})
    assert visitor.finish(cell, 5)[1].text == "visitor two\n"
    assert own_kernel.end(5)[1].text == "step one\n"


def test_interrupt_ends_a_visitors_input_while_the_step_asks(own_kernel: Kernel) -> None:
    visitor, owner = own_kernel.visit(), own_kernel.owner
    own_kernel.begin("print('step', input('of the step? '))", allow_stdin=True)
    owner.receive("stdin")
    cell = visitor.start("input('of the visitor? ')", allow_stdin=True)
    visitor.receive("stdin")
    visitor.interrupt()
    assert visitor.finish(cell, 5)[0]["ename"] == "KeyboardInterrupt"
    owner.send("stdin", "input_reply", {"value": "one"})
    assert own_kernel.end(5)[1].text == "step one\n"


def test_a_bad_repr_in_a_visit_does_not_fail_the_step(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin("import time; time.sleep(.5); print('fine')")
    _, seen = visitor.run("class Bad:\n    def __repr__(self): raise ValueError('bad repr')\nBad()")
    assert "error" in seen.kinds
    assert kernel.end()[0]["status"] == "ok"


def test_a_visitors_future_import_is_not_the_steps(kernel: Kernel) -> None:
    visitor = kernel.visit()
    visitor.run("from __future__ import annotations")
    assert kernel.run("def f(a) -> 1 + 1: pass\nprint(repr(f.__annotations__['return']))") == "2\n"
    assert visitor.value("def f(a) -> 1 + 1: pass\nf.__annotations__['return']") == "'1 + 1'"


@pytest.mark.parametrize("leave", ["exit", "quit()", "get_ipython().kernel.do_shutdown(False)"])
def test_a_visitors_exit_does_not_end_the_kernel(own_kernel: Kernel, leave: str) -> None:
    visitor = own_kernel.visit()
    own_kernel.begin("import time; time.sleep(.3)")
    visitor.run(leave)
    own_kernel.end()
    time.sleep(0.3)  # ipykernel stops its loop 0.1 s after exit
    assert own_kernel.run("print('alive')") == "alive\n"


def test_deleting_a_busy_subshell_does_not_freeze_the_control_channel(own_kernel: Kernel) -> None:
    visitor = own_kernel.visit()
    own_kernel.begin("import time\nfor _ in range(30): time.sleep(.1)")
    cell = visitor.start("import time as clock\nend = clock.time() + 8\nwhile clock.time() < end: pass")
    visitor.wait_busy(cell)
    visitor.send("control", "delete_subshell_request", visitor.header)
    own_kernel.owner.control("kernel_info_request", {}, timeout=2)


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time; time.sleep(60)", "import asyncio\nawait asyncio.sleep(60)"]
)
def test_shutdown_does_not_wait_for_a_visitor(own_kernel: Kernel, code: str) -> None:
    visitor = own_kernel.visit()
    visitor.wait_busy(visitor.start(code))
    time.sleep(0.2)
    own_kernel.owner.send("control", "shutdown_request", {"restart": False})
    try:
        own_kernel.process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        pytest.fail("the kernel did not end")


def test_a_visitor_in_a_c_call_is_abandoned_and_seen_off_later(own_kernel: Kernel) -> None:
    visitor = own_kernel.visit()
    cell = visitor.start("import time; time.sleep(4)")
    visitor.wait_busy(cell)
    assert visitor.leave(4)["how"] == "abandoned"
    assert own_kernel.run("print('alive')") == "alive\n"
    deadline = time.monotonic() + 10
    while own_kernel.owner.control("list_subshell_request", {})["subshell_id"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_visitor_who_swallows_interrupts_is_ended_by_leaving(own_kernel: Kernel) -> None:
    visitor = own_kernel.visit()
    own_kernel.run("spins = [0]")
    cell = visitor.start(
        "while True:\n    try:\n        while spins[0] < 1e12: spins[0] += 1\n    except BaseException: pass"
    )
    visitor.wait_busy(cell)
    assert visitor.leave(5)["how"] in {"abandoned", "deleted"}
    assert own_kernel.owner.control("kernel_info_request", {}, timeout=2)["status"] == "ok"
    assert own_kernel.run("print('alive')") == "alive\n"


def test_a_visitor_prints_past_the_steps_redirect(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin(
        "import io, contextlib, time\nfile = io.StringIO()\n"
        "with contextlib.redirect_stdout(file):\n    inside = 1; time.sleep(.5)\nprint(repr(file.getvalue()))"
    )
    wait_for(visitor, "'inside' in globals()", "True")
    assert visitor.run("print('from the visitor')")[1].text == "from the visitor\n"
    assert kernel.end()[1].text == "''\n"


def test_a_visit_during_the_steps_cell_leaves_its_streams_as_they_were(kernel: Kernel) -> None:
    kernel.run("import sys")
    visitor = kernel.visit()
    kernel.begin("import time; time.sleep(.4)", store_history=True)
    cell = visitor.start("import time; time.sleep(.8); print('visitor')", store_history=True)
    kernel.end()
    assert visitor.finish(cell)[1].text == "visitor\n"
    write = "sys.stdout.write.__qualname__, sys.stderr.write.__qualname__"
    reply, _ = kernel.owner.run("", user_expressions={"write": write})  # outside of a cell: IPython swaps it in one
    assert reply["user_expressions"]["write"]["data"]["text/plain"] == "('OutStream.write', 'OutStream.write')"


def test_a_captured_step_keeps_its_output_and_a_visitor_its_own(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin("%%capture caught\nimport time\nprint('of the step'); time.sleep(.6)\n'value of the step'")
    _, seen = visitor.run("print('mine'); 40 + 2")
    assert (seen.text, seen.result) == ("mine\n", "42")
    kernel.end()
    assert kernel.run("print(repr(caught.stdout), [o.data['text/plain'] for o in caught.outputs])") == (
        "'of the step\\n' [\"'value of the step'\"]\n"
    )


def test_a_visitors_results_and_counts_are_not_the_steps(kernel: Kernel) -> None:
    before = int(kernel.run("print(len(In))"))
    kernel.run("'of the step'", store_history=True)
    visitor = kernel.visit()
    visitor.run("1 + 1", store_history=True)
    visitor.run("2 + 2", store_history=True)
    assert visitor.value("_, Out[1], len(In)") == "(4, 2, 3)"
    assert kernel.run("print(_, len(In))").split() == ["of", "the", "step", str(before + 1)]


def test_an_error_in_a_visit_is_not_the_steps_last_error(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.run("import sys; last = getattr(sys, 'last_value', None)")
    assert visitor.run("1 / 0")[0]["ename"] == "ZeroDivisionError"
    assert kernel.run("print(getattr(sys, 'last_value', None) is last)") == "True\n"
    assert "error" in visitor.run("%tb")[1].kinds


def test_a_visitors_delete_and_function_globals_stay_the_visitors(kernel: Kernel) -> None:
    kernel.run("x = 1\ndef get(): return x")
    visitor = kernel.visit()
    visitor.run("def set():\n    global x\n    x = 2\nset()")
    assert visitor.value("x, get()") == "(2, 1)"
    visitor.run("del x")
    assert visitor.value("x") == "1"
    assert visitor.run("del x")[0]["ename"] == "NameError"
    assert kernel.run("print(x)") == "1\n"


@pytest.mark.parametrize("magic", ["%cd /", "%env KALE_X=1", "%run x.py", "%%capture\n1"])
def test_magics_that_change_the_process_are_refused(kernel: Kernel, magic: str) -> None:
    visitor = kernel.visit()
    kernel.run("import os; here = os.getcwd()")
    _, seen = visitor.run(magic)
    assert "changes the whole process" in seen.text
    assert kernel.run("print(here == os.getcwd(), 'KALE_X' in os.environ)") == "True False\n"


def test_a_growing_namespace_and_dict_do_not_break_a_visit(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin(
        "import time\nd = {}; n = 0; end = time.time() + 2\nwhile time.time() < end:\n    n += 1; d[n] = n\n"
        "    globals()['v%d' % (n % 3000)] = n\n    if n % 5000 == 0: d.clear()\nprint('ok')"
    )
    for _ in range(5):
        assert visitor.run("%who_ls")[0]["status"] == "ok"
        assert visitor.value("len(list(d.items())) >= 0 and len(dict(globals())) > 0") == "True"
        assert visitor.ask("complete_request", {"code": "v1", "cursor_pos": 2})["status"] == "ok"
    reply, output = kernel.end()
    assert (reply["status"], output.text) == ("ok", "ok\n")


def test_two_visitors_do_not_see_each_others_names(kernel: Kernel) -> None:
    one, two = kernel.visit(), kernel.visit()
    one.run("x = 1; 'one'", store_history=True)
    two.run("x = 2; 'two'", store_history=True)
    assert (one.value("x, _"), two.value("x, _")) == ("(1, 'one')", "(2, 'two')")


def test_a_step_that_reads_main_finds_its_own_names(kernel: Kernel) -> None:
    kernel.run("import __main__, sys\nx = 'of the step'")
    visitor = kernel.visit()
    assert visitor.value("x = 'mine'; import __main__; __main__.x") == "'mine'"
    visitor.run("__main__.y = 1")
    assert visitor.value("y") == "1"
    assert (
        kernel.run("print(__main__.x, hasattr(__main__, 'y'), vars(__main__) is globals())")
        == "of the step False True\n"
    )


# A visit opened for writing


@pytest.mark.skipif(IS_BARE, reason="a bare subshell always writes; run without KALE_TEST_BARE")
def test_a_writing_visit_changes_the_steps_names(kernel: Kernel) -> None:
    visitor = kernel.visit(write=True)
    kernel.begin(
        "import time\nstop = False; n = 0\nwhile not stop and n < 200: n += 1; time.sleep(.05)\n"
        "print(stop, new, [x for x in ('_1', '_i1', '__kale_show__') if x in globals()])"
    )
    wait_for(visitor, "'n' in globals() and n > 2", "True")
    visitor.run("def f():\n    global stop\n    stop = True\nnew = 3; f(); 5", store_history=True)
    assert visitor.value("_, Out[1]") == "(5, 5)"
    assert kernel.end()[1].text == "True 3 []\n"


# The whole of a notebook works in a visit


@pytest.fixture
def busy(kernel: Kernel) -> Iterator[Visitor]:
    """A visitor of a step that has names and is computing until the test ends."""
    kernel.run(
        "import time\nalpha_step = [1, 2, 3]\ngo_on = [1]\ndef sf(x):\n    'doc of sf'\n    return alpha_step[x]"
    )
    visitor = kernel.visit()
    kernel.begin("while go_on: time.sleep(.01)")
    visitor.run("beta = 5\ndef g(n): return n + beta + len(alpha_step)")
    yield visitor
    visitor.run("go_on.clear()")
    assert kernel.end()[0]["status"] == "ok"
    if not IS_BARE:
        names = "('beta', 'g', 'C', 'D', 'name', 'q1', 'zz', 'plt', 'slider')"
        assert kernel.run(f"print([n for n in {names} if n in globals()])") == "[]\n"


VALUES = {
    "functions": ("g(1), [alpha_step[q] + beta for q in range(3)], sf(1)", "(9, [6, 7, 8], 2)"),
    "class": ("class C:\n    a: int = 1\n    def m(self): return bool(super().__hash__()), g(1)\nC().m()", "(True, 9)"),
    "class body": ("class C:\n    m = alpha_step[0]\n    n = beta\nC.m, C.n", "(1, 5)"),
    "await": ("import asyncio\nasync def h(): await asyncio.sleep(.01); return beta\nawait h()", "5"),
    "gather": ("import asyncio\nasync def h(): return beta\nr = await asyncio.gather(h(), h()); r", "[5, 5]"),
    "time": ("%time zz = alpha_step[0]\nzz", "1"),
    "capture of a command": ("o = !echo a {beta}\no[0]", "'a 5'"),
    "underscore": ("_ if 0 else 22", "22"),
    "exec and eval": ("exec('q1 = alpha_step[0]'); eval('q1 + beta')", "6"),
    "globals": ("sorted(n for n in globals() if n in ('alpha_step', 'beta'))", "['alpha_step', 'beta']"),
    "name": ("__name__", "'__main__'"),
    "dataclass": ("from dataclasses import dataclass\n@dataclass\nclass D:\n    a: 'int' = 1\nD()", "D(a=1)"),
    "pickle": (
        "import pickle\nclass D: a = 1\npickle.loads(pickle.dumps([D, g])) == [D, g], pickle.loads(pickle.dumps(D())).a",
        "(True, 1)",
    ),
    "pickle of the step's": ("import pickle\npickle.loads(pickle.dumps(sf)) is sf", "True"),
    "type hints": ("import typing\nclass C: pass\ndef f(c: 'C'): pass\ntyping.get_type_hints(f)['c'] is C", "True"),
    "threads": (
        "from concurrent.futures import ThreadPoolExecutor\nlist(ThreadPoolExecutor(2).map(g, [1, 2]))",
        "[9, 10]",
    ),
    "except": ("try:\n    alpha_step.foo\nexcept AttributeError as e: err = str(e)\n'foo' in err", "True"),
    "star import": ("from math import *\nsqrt(4), 'sqrt' in globals()", "(2.0, True)"),
    "own shell": (
        "from IPython import get_ipython as gi\ngi() is get_ipython(), gi().user_ns is globals()",
        "(True, True)",
    ),
    "reset": (
        "kept = 1\nget_ipython().reset()\n'kept' in globals(), alpha_step, print is not None",
        "(False, [1, 2, 3], True)",
    ),
}


@pytest.mark.parametrize("case", VALUES)
def test_code_gives_its_value(busy: Visitor, case: str) -> None:
    code, wanted = VALUES[case]
    assert busy.value(code) == wanted


def test_magics_print(busy: Visitor) -> None:
    names = busy.run("%who")[1].text
    assert "alpha_step" in names
    assert "beta" in names
    assert "per loop" in busy.run("%timeit -n1 -r1 beta + alpha_step[0]")[1].text
    assert "hello 5 5" in busy.run("!echo hello {beta} $beta")[1].text
    assert "script" in busy.run("%%bash\necho script")[1].text


def test_completion_knows_both_namespaces(busy: Visitor) -> None:
    for text, wanted in (("alpha_st", "alpha_step"), ("bet", "beta"), ("alpha_step.app", "append")):
        matches = busy.ask("complete_request", {"code": text, "cursor_pos": len(text)})["matches"]
        assert any(wanted in match for match in matches), text


def test_inspection_finds_the_steps_and_the_visitors(busy: Visitor) -> None:
    found = busy.ask("inspect_request", {"code": "sf", "cursor_pos": 2, "detail_level": 0})
    assert "doc of sf" in found["data"]["text/plain"]
    reply, _ = busy.run("g?")
    assert "g(n)" in reply["payload"][0]["data"]["text/plain"]
    history = {"hist_access_type": "tail", "n": 5, "raw": True, "output": False}
    assert busy.ask("history_request", history)["status"] == "ok"
    assert busy.ask("is_complete_request", {"code": "for i in x:"})["status"] == "incomplete"


def test_a_traceback_shows_the_visitors_lines(busy: Visitor) -> None:
    reply, output = busy.run("def boom(): return 1 / 0\nboom()")
    assert reply["ename"] == "ZeroDivisionError"
    assert "boom()" in re.sub(r"\x1b\[[\d;]*m", "", "".join(reply["traceback"]))
    assert "__kale_show__" not in "".join(reply["traceback"])
    assert "error" in output.kinds


def test_a_visitor_is_asked_for_input(busy: Visitor) -> None:
    cell = busy.start("name = input('who? ')\nname", allow_stdin=True)
    assert busy.receive("stdin")["content"]["prompt"] == "who? "
    busy.send("stdin", "input_reply", {"value": "zoe"})
    assert busy.finish(cell)[1].result == "'zoe'"


def test_rich_output_and_results_are_kept(busy: Visitor) -> None:
    _, output = busy.run("from IPython.display import HTML\nhandle = display(HTML('<b>x</b>'), display_id=True)")
    assert output[1]["content"]["data"]["text/html"] == "<b>x</b>"
    assert "update_display_data" in busy.run("handle.update(HTML('y'))")[1].kinds
    busy.run("42", store_history=True)
    assert busy.value("_, Out[1], In[1], _1") == "(42, 42, '42', 42)"
    assert busy.run("43;", store_history=True)[1].result is None
    reply, _ = busy.run("pass", user_expressions={"v": "alpha_step", "w": "beta", "bad": "1/0"})
    found = reply["user_expressions"]
    assert (found["v"]["data"]["text/plain"], found["w"]["status"], found["bad"]["status"]) == (
        "[1, 2, 3]",
        "ok",
        "error",
    )
    assert busy.run("from IPython.display import clear_output; clear_output()")[1].kinds[-1] == "clear_output"


def test_a_printer_that_the_step_registers_is_used_in_visits(kernel: Kernel) -> None:
    visitor = kernel.visit()
    assert visitor.value("1") == "1"
    kernel.run(
        "class Big: pass\nget_ipython().display_formatter.formatters['text/plain'].for_type(Big, lambda o, p, c: p.text('big'))"
    )
    assert visitor.value("Big()") == "big"


def test_a_visitors_widget_talks_to_the_visitor(busy: Visitor) -> None:
    reply, output = busy.run(
        "import ipywidgets\nslider = ipywidgets.IntSlider(3); seen = []\nslider.observe(lambda c: seen.append(c['new']), 'value')\nslider"
    )
    if reply.get("ename") == "ModuleNotFoundError":
        pytest.skip("needs ipywidgets: pip install ipywidgets")
    opened = [m for m in output if m["msg_type"] == "comm_open"]
    assert opened
    assert any("application/vnd.jupyter.widget-view+json" in m["content"].get("data", {}) for m in output)
    model = busy.value("slider.model_id").strip("'")
    data = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    busy.send("shell", "comm_msg", {"comm_id": model, "data": data}, **busy.header)
    assert busy.value("slider.value, seen") == "(7, [7])"


@pytest.mark.skipif(IS_BARE, reason="a request of visits; run without KALE_TEST_BARE")
def test_where_shows_the_steps_line_and_locals(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin("import time\ndef main():\n    secret = 42\n    for _ in range(20): time.sleep(.05)\nmain()")
    wait_for(visitor, "'main' in globals()", "True")
    where = visitor.control("kale_visit_request", {"op": "where"})["where"]
    assert "in main" in where[-1]
    assert "in main" in visitor.run("%where")[1].text
    assert visitor.value("found = %locals\nfound['secret']") == "42"
    assert "there is no frame" in visitor.run("%locals 9")[1].text
    kernel.end()
    assert visitor.control("kale_visit_request", {"op": "where"})["where"] == ["(the step is not running code)\n"]


# Requests that make no sense


@pytest.mark.skipif(IS_BARE, reason="a request of visits; run without KALE_TEST_BARE")
def test_requests_that_make_no_sense_get_one_sentence(kernel: Kernel) -> None:
    def ask(**content: object) -> dict[str, str]:
        return kernel.owner.control("kale_visit_request", dict(content))

    assert "unknown op 'fly'" in ask(op="fly")["evalue"]
    assert "needs a subshell_id" in ask(op="close")["evalue"]
    assert "gone" in ask(op="close", subshell_id="gone")["evalue"]
    assert ask(op="interrupt", subshell_id="gone")["how"] == "unknown"
    visitor = kernel.visit()
    assert ask(op="interrupt", subshell_id=visitor.subshell_id)["how"] in {"idle", "unknown"}
    assert visitor.value("1") == "1"
    assert ask(op="interrupt", subshell_id=visitor.subshell_id)["how"] == "idle"
    assert ask(op="close", subshell_id=visitor.subshell_id) == {"status": "ok", "how": "deleted"}
    visitor.close()
    kernel.clients.remove(visitor)


@pytest.mark.skipif(IS_BARE, reason="a request of visits; run without KALE_TEST_BARE")
def test_shutdown_request_of_a_visiting_notebook_ends_the_visit_only(kernel: Kernel) -> None:
    visitor = kernel.visit()
    kernel.begin("import time; time.sleep(.3); print('done')")
    visitor.run("1")
    assert visitor.control("shutdown_request", {"restart": False}, **visitor.header)["status"] == "ok"
    assert kernel.end()[1].text == "done\n"
    assert visitor.subshell_id not in kernel.owner.control("list_subshell_request", {})["subshell_id"]
    visitor.close()
    kernel.clients.remove(visitor)


@pytest.mark.skipif(IS_BARE, reason="it is about the installation; run without KALE_TEST_BARE")
def test_visits_installed_before_the_fork_work_in_the_child() -> None:
    kernel = Kernel([sys.executable, str(Path(__file__).with_name("_forked_kernel.py"))])
    try:
        visitor, writer = kernel.visit(), kernel.visit(write=True)
        kernel.begin(
            "import time\nstop = 0\nfor i in range(400):\n    time.sleep(.01)\n    if stop: break\nprint(i < 99, stop)\n7"
        )
        visitor.run("for i in [99]: import pickle\nclass D: pass")
        assert visitor.value("pickle.loads(pickle.dumps(D)) is D, i") == "(True, 99)"
        _, seen = visitor.run("import matplotlib.pyplot as plt; plt.plot([1]); print('mine')", 60)
        assert (seen.text, seen.images) == ("mine\n", 1)
        cell = visitor.start("while True: pass")
        visitor.wait_busy(cell)
        assert visitor.interrupt()["how"] == "raised"
        assert visitor.finish(cell)[0]["ename"] == "KeyboardInterrupt"
        writer.run("stop = 1")
        _, output = kernel.end()
        assert (output.text.split()[1], output.result, output.images) == ("1", "7", 0)
        assert visitor.leave()["how"] == "deleted"
        names = "[n for n in globals() if n.endswith('s__') and n != '__builtins__']"
        assert kernel.run(f"print({names})") == "[]\n"
    finally:
        print(kernel.log.read_text())
        kernel.stop()


@pytest.mark.skipif(IS_BARE, reason="it is about the installation; run without KALE_TEST_BARE")
def test_installing_leaves_no_name_and_twice_is_once(kernel: Kernel) -> None:
    before = kernel.run("print(sorted(globals()))")
    kernel.install(SOURCE)
    assert kernel.run("print(sorted(globals()))") == before
    assert kernel.run("import sys; print('kale_proxy' in sys.modules)") == "False\n"
    assert kernel.visit().value("1 + 1") == "2"
