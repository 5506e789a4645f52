"""What is measured of steering: the cache, a metric, a live parameter, a pause."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from measure import Figure, median, spread, stopwatch

STEERED = """
import time
from kale_magic.inside import params
seen, n, end = [], 0, time.time() + 600
while time.time() < end:
    n += 1
    if not seen or seen[-1][1] != params.lr:
        seen.append((time.time(), params.lr))
    sum(range(1000))
"""


def _linked(count):
    from kale_magic import Workflow

    workflow = Workflow("cached")
    for number in range(count):
        code = f"x{number} = x{number - 1} + 1\n" if number % 10 else f"x{number} = 1\n"
        workflow.step(f"s{number}", code, outputs=[f"x{number}"])
    return workflow


def cache():
    """1,000 steps in chains of ten, submitted again: from submit to the end of the run, all of it cached."""
    first = _linked(1000).submit()
    if first.wait(timeout=300) != "completed":
        sys.exit(f"{first.name} {first.state}")
    took = []
    for _ in range(5):
        workflow = _linked(1000)
        with stopwatch() as seconds:
            run = workflow.submit()
            run.wait(timeout=60)
        took.append(seconds())
        if set(run.states().values()) != {"cached"}:
            sys.exit(f"{run.name}: {run.states()}")
    return [Figure("1,000 unchanged steps, all cached", median(took), "s", 2, note=spread(took, "s"))]


def inside():
    """A metric in a loop, and how soon a step sees what is changed from outside, and stands still."""
    return [_metric(), *_live()]


def _metric():
    from kale_proxy import inside as names

    count = 200_000
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KALE_STEP_FOLDER"] = folder
        try:
            with stopwatch() as seconds:
                for number in range(count):
                    names.metric(step=number, loss=number * 0.5, acc=0.25)
                names._flush_at_end()
            took = seconds() / count * 1e6
            if len(Path(folder, names.METRICS).read_bytes().splitlines()) != count:
                sys.exit("metrics were lost")
        finally:
            del os.environ["KALE_STEP_FOLDER"]
            names._begin_anew()
    return Figure("a metric of two values", took, "us", 20, note=f"amortised over {count}, written out")


def _live():
    from kale_magic import Workflow

    workflow = Workflow("steered")
    workflow.step("loop", STEERED, params={"lr": 0.0})
    run = workflow.submit(cache=False)
    step = run["loop"]
    step.execute("None", timeout=60)
    while str(step.execute("bool(globals().get('seen'))")) != "True":
        time.sleep(0.05)
    changes, pauses, answers = [], [], []
    for number in range(1, 21):
        begun = time.time()
        step.push(lr=float(number))
        while len(seen := step.pull("seen")) <= number:
            time.sleep(0.01)
        changes.append((seen[number][0] - begun) * 1e3)
    for _ in range(20):
        with stopwatch() as seconds:
            said = step.pause()
            while "is held" not in said:
                said = step.pause()
            pauses.append(seconds() * 1e3)
        with stopwatch() as seconds:
            step.execute("n")
            answers.append(seconds() * 1e3)
        step.resume()
        while str(step.execute("get_ipython().kernel._kale.pause.is_held")) == "True" or step.state != "running":
            time.sleep(0.01)
    run.cancel()
    run.wait(timeout=30)
    return [
        Figure("a parameter pushed, seen by the next iteration", median(changes[1:]), "ms", 100, note=spread(changes[1:], "ms")),
        Figure("the first one", changes[0], "ms"),
        Figure("a Python loop paused: from the call to held", median(pauses), "ms", 100, note=spread(pauses, "ms")),
        Figure("a visitor's cell while it is", median(answers), "ms", note=spread(answers, "ms")),
    ]
