"""A notebook as a step: papermill's convention, any kernel, values in and out, and the executed notebook as the record."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import nbformat
import pytest

from kale_magic.api import Workflow, connect
from kale_magic.errors import StepSyntaxError, SubmitError
from tests import steps
from tests.integration.test_cli import kale as program
from tests.unit.cli_shell import notebook as notebook_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kale_magic.api import Kale

WAIT_S = 60.0


@pytest.fixture
def kale() -> Iterator[Kale]:
    with steps.private_jupyter(), connect() as kale:
        yield kale


def write(path: Path, *cells: tuple[str, list[str]], kernel: str = "python3") -> None:
    """Write a notebook that knows nothing of Kale; a cell is text and tags, Markdown if it begins with #."""
    made = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": kernel, "display_name": kernel}, "mine": {"kept": 1}})
    for text, tags in cells:
        new = nbformat.v4.new_markdown_cell if text.startswith("# ") else nbformat.v4.new_code_cell
        made.cells.append(new(text, metadata={"tags": tags} if tags else {}))
    nbformat.write(made, path)


def executed(folder: Path) -> nbformat.NotebookNode:
    return nbformat.read(folder / "step.ipynb", as_version=4)


def test_parameters_are_injected_after_the_tagged_cell_and_values_go_in_and_out(tmp_path: Path, kale: Kale) -> None:
    write(
        tmp_path / "fit.ipynb",
        ("# A fit", []),
        ("n = 1\nscale = 10", ["parameters"]),
        ("total = sum(xs) * n * scale\nprint(total)", []),
        ("1 / 0", ["raises-exception"]),
        ("raise SystemError('not run')", ["skip-execution"]),
        ("total + 1", []),
    )
    workflow = Workflow("nb", folder=tmp_path)
    workflow.step("make", "xs = [1, 2, 3]", outputs=["xs"])
    workflow.step("fit", notebook="fit.ipynb", params={"n": 5}, inputs=["xs"], outputs=["total"])
    workflow.step("use", "print(total)")
    run = kale.run(workflow.submit(client=kale.client).name)
    assert run.wait(timeout=WAIT_S) == "completed", run["fit"].reason
    assert run["fit"].pull("total") == 300
    assert run["use"].logs() == "300\n"
    record = executed(run["fit"].folder)
    nbformat.validate(record)
    assert [cell.metadata.get("tags", []) for cell in record.cells[:4]] == [[], ["parameters"], ["injected-parameters"], []]
    assert record.cells[2].source == "# Parameters\nn = 5"
    assert record.cells[-1].outputs[0].data["text/plain"] == "301"
    assert record.cells[4].outputs[0].ename == "ZeroDivisionError"
    assert record.metadata.mine == {"kept": 1}
    assert json.loads((run["fit"].folder / "notebook.ipynb").read_text())["cells"][1]["source"]
    again = kale.run(workflow.submit(client=kale.client).name)
    assert again.wait(timeout=WAIT_S) == "completed"
    assert set(again.states().values()) == {"cached"}
    write(tmp_path / "fit.ipynb", ("total = 0", []))
    changed = kale.run(workflow.submit(client=kale.client).name)
    assert changed.wait(timeout=WAIT_S) == "completed"
    assert changed["fit"].state == "completed"


def test_the_cell_that_fails_is_named_and_those_before_are_in_the_record(tmp_path: Path, kale: Kale) -> None:
    write(tmp_path / "bad.ipynb", ("print('one')", []), ("1 / 0", []), ("print('three')", []))
    workflow = Workflow("nb", folder=tmp_path)
    workflow.step("bad", notebook="bad.ipynb")
    run = kale.run(workflow.submit(client=kale.client).name)
    assert run.wait(timeout=WAIT_S) == "failed"
    assert run["bad"].reason == "cell 2: ZeroDivisionError: division by zero"
    outputs = [cell.outputs for cell in executed(run["bad"].folder).cells]
    assert [len(found) for found in outputs] == [1, 1, 0]


def test_a_notebook_of_another_language_gets_its_parameters_in_that_language(tmp_path: Path, kale: Kale) -> None:
    from kale_proxy.places import jupyter_data_dir

    folder = jupyter_data_dir() / "kernels" / "bash"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "bash", "language": "bash"}))
    write(tmp_path / "sh.ipynb", ("n=1", ["parameters"]), ("echo n is $n", []), kernel="bash")
    workflow = Workflow("nb", folder=tmp_path)
    workflow.step("sh", notebook="sh.ipynb", params={"n": 7})
    run = kale.run(workflow.submit(client=kale.client).name)
    assert run.wait(timeout=WAIT_S) == "completed", run["sh"].reason
    assert run["sh"].logs() == "n is 7\n"
    assert executed(run["sh"].folder).cells[1].source == "n=7"


def test_a_running_notebook_is_visited_as_any_step(tmp_path: Path, kale: Kale, until: Callable) -> None:
    write(tmp_path / "loop.ipynb", (steps.COUNTER, []))
    workflow = Workflow("nb", folder=tmp_path)
    workflow.step("loop", notebook="loop.ipynb")
    run = kale.run(workflow.submit(client=kale.client).name)
    assert str(run["loop"].execute("1 + 1", timeout=WAIT_S)) == "2"
    run["loop"].pause()
    until(lambda: run["loop"].state == "paused", "the pause")
    run["loop"].resume()
    (tmp_path / "stop").touch()
    assert run.wait(timeout=WAIT_S) == "completed"


def test_mistakes_are_told_before_anything_runs(tmp_path: Path, kale: Kale) -> None:
    workflow = Workflow("nb", folder=tmp_path)
    workflow.step("a", notebook="missing.ipynb")
    with pytest.raises(SubmitError, match=r"there is no notebook .*missing.ipynb"):
        workflow.submit(client=kale.client)
    with pytest.raises(StepSyntaxError, match="leaves the workflow's folder"):
        workflow.step("b", notebook="../x.ipynb")
    notebook_file(tmp_path / "w.ipynb", "%kale_workflow w", "%%kale_step a --notebook x.ipynb\nx = 1")
    assert "may have a description, but no code" in program(tmp_path, "run", "w.ipynb", code=1).stderr
