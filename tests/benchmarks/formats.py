"""How long a workflow of 1,000 steps takes to leave Kale in each format, and to come in again."""

from __future__ import annotations

from pathlib import Path

from measure import Figure, median, spread, stopwatch

STEPS = 1000
REPEATS = 5


def _workflow():
    from kale_magic import Workflow

    workflow = Workflow("thousand")
    workflow.common("import math\n\ndef f(x):\n    return math.sqrt(x)\n")
    for number in range(STEPS):
        before = f"x{number - 1}" if number % 10 else "n"
        code = f"x{number} = f({before} + 1)\nprint('step', x{number})\n"
        params = {} if number % 10 else {"n": number, "name": f"chain {number}"}
        workflow.step(f"s{number}", code, outputs=[f"x{number}"], params=params, cpus=1, walltime="00:10:00")
    return workflow


def _times(function):
    found = []
    for number in range(REPEATS):
        with stopwatch() as seconds:
            function(number)
        found.append(seconds())
    return found


def formats():
    """A workflow of 1,000 steps to each format (a new folder each time), and from the formats that are read."""
    from kale_magic.formats.export import export
    from kale_magic.formats.load import load
    from kale_magic.model.formats import FORMATS

    workflow = _workflow().model
    figures = []
    for name in FORMATS:
        found = _times(lambda number, name=name: export(workflow, Path(f"out-{name}-{number}"), name))
        figures.append(Figure(f"export of {STEPS:,} steps: {name}", median(found), "s", 1.0, note=spread(found, "s")))
    found = _times(lambda number: export(workflow, Path(f"out-{number}.cwl"), "cwl"))
    figures.append(Figure(f"export of {STEPS:,} steps: cwl, one file", median(found), "s", 1.0, note=spread(found, "s")))
    found = _times(lambda number: load(f"out-kale-{number}"))
    figures.append(Figure(f"import of {STEPS:,} steps: kale", median(found), "s", 2.0, note=spread(found, "s")))
    found = _times(lambda number: load(f"out-wfformat-{number}"))
    figures.append(Figure(f"import of {STEPS:,} steps: wfformat", median(found), "s", 2.0, note=spread(found, "s")))
    return figures
