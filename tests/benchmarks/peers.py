"""The same kind of work given to other tools, in an environment of their own, in the same session."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import Figure, stopwatch

_PAPERMILL = """
import sys, papermill
for number in sys.argv[1:]:
    papermill.execute_notebook("empty.ipynb", f"done-{number}.ipynb", progress_bar=False, kernel_name="python3")
"""


def papermill(peers):
    """20 notebooks with one empty cell each, two processes side by side."""
    cell = {"cell_type": "code", "id": "a", "source": "pass", "metadata": {}, "outputs": [], "execution_count": None}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    with tempfile.TemporaryDirectory(prefix="kale-bench-") as folder:
        Path(folder, "empty.ipynb").write_text(json.dumps(notebook))
        command = [str(peers / "python"), "-W", "ignore", "-c", _PAPERMILL]
        with stopwatch() as seconds:
            numbers = [str(number) for number in range(20)]
            halves = [
                subprocess.Popen([*command, *half], cwd=folder, stderr=subprocess.PIPE, text=True)
                for half in (numbers[::2], numbers[1::2])
            ]
            for half in halves:
                _, error = half.communicate(timeout=300)
                if half.returncode:
                    sys.exit(f"papermill failed:\n{error}")
        made = len(list(Path(folder).glob("done-*.ipynb")))
    return [Figure("papermill, 20 empty notebooks", made / seconds(), "steps/s", note="two processes side by side")]


def snakemake(peers):
    """200 rules that run `true`, two at a time."""
    rules = [f"rule r{number}:\n    output: touch('done/{number}')\n    shell: 'true'\n" for number in range(200)]
    everything = "rule all:\n    input: expand('done/{n}', n=range(200))\n"
    with tempfile.TemporaryDirectory(prefix="kale-bench-") as folder:
        Path(folder, "Snakefile").write_text("\n".join([everything, *rules]))
        with stopwatch() as seconds:
            result = subprocess.run(
                [str(peers / "snakemake"), "--cores", "2", "--quiet", "all"],
                cwd=folder, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
        if result.returncode:
            sys.exit(f"snakemake failed:\n{result.stderr[-2000:]}")
    return [Figure("Snakemake, 200 rules `true`", 200 / seconds(), "steps/s", note="no kernels, no notebooks")]
