"""The Python API's waiting: results of steps and runs, blocking and in an event loop."""

import asyncio
import time

import pytest

from kale_magic import Workflow
from kale_magic.errors import JobCancelled, StepFailed

DEADLINE_S = 60.0


def _workflow(folder):
    wf = Workflow("w", folder=folder)

    @wf.step
    def first(n=3):
        """Makes two."""
        x, y = n, "two"  # noqa: F841

    wf.step("first", "x, y = 3, 'two'", outputs=["x", "y"])
    wf.step("sweep", "z = x * k", outputs=["z"], each={"k": [1, 2]})
    wf.step("quiet", "print(y)")
    return wf


def test_results_are_values_tuples_and_lists(kale_home, tmp_path):
    run = _workflow(tmp_path).submit()
    assert run["first"].result(timeout=DEADLINE_S) == (3, "two")
    assert run["sweep"].result(timeout=DEADLINE_S) == [3, 6]
    assert run["sweep[1]"].result(timeout=DEADLINE_S) == 6
    assert run.result(timeout=DEADLINE_S) == {"sweep": [3, 6], "quiet": None}
    bundle = run["first"]._repr_mimebundle_()
    assert "completed" in bundle["text/plain"]
    assert "x, y" in bundle["text/html"]


def test_what_failed_or_was_cancelled_raises_with_its_reason(kale_home, tmp_path):
    wf = Workflow("bad", folder=tmp_path)
    wf.step("a", "x = 1 / 0", outputs=["x"])
    wf.step("b", "print(x)")
    run = wf.submit()
    with pytest.raises(StepFailed, match="Step a of run .* failed: ZeroDivisionError"):
        run.result(timeout=DEADLINE_S)
    with pytest.raises(JobCancelled, match="Step b"):
        run["b"].result(timeout=DEADLINE_S)


def test_an_event_loop_goes_on_while_runs_are_awaited(kale_home, tmp_path):
    wf = Workflow("slow", folder=tmp_path)
    wf.step("a", "import time; time.sleep(1)\nx = 1", outputs=["x"])
    run = wf.submit()

    async def both():
        ticks, waiting = 0, asyncio.ensure_future(run.result_async(DEADLINE_S))
        while not waiting.done():
            ticks += 1
            await asyncio.sleep(0.02)
        return ticks, await waiting, await run, await run["a"]

    ticks, result, state, step = asyncio.run(both())
    assert ticks > 10
    assert (result, state, step) == ({"a": 1}, "completed", "completed")


def test_a_wait_that_is_too_short_says_so_and_the_step_goes_on(kale_home, tmp_path):
    wf = Workflow("long", folder=tmp_path)
    wf.step("a", "import time; time.sleep(600)")
    run = wf.submit()
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="step a of run .* has not ended within 0.2 s"):
        run["a"].wait(timeout=0.2)
    assert time.monotonic() - start < 10
    run.cancel()
    with pytest.raises(JobCancelled):
        run["a"].result(timeout=DEADLINE_S)
