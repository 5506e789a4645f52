"""What need not run again: unchanged steps are cached, and a dry run says why each of the others would run."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from kale_magic.api import Workflow, connect
from kale_magic.cli import gc
from kale_magic.model.codec import workflow_to_dict
from tests import steps
from tests.integration.test_cli import kale as program
from tests.unit.cli_shell import notebook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kale_magic.api import Kale, Run

WAIT_S = 60.0


@pytest.fixture
def kale() -> Iterator[Kale]:
    with steps.private_jupyter(), connect() as kale:
        yield kale


def flow(folder: Path, *, n: int = 2, curve: str = "y = k * n\n", fit: str = "total = sum(y)\n", common: str = "") -> Workflow:
    workflow = Workflow("eos", folder=folder)
    if common:
        workflow.common(common)
    workflow.step("curve", curve, outputs=["y"], params={"n": n}, each={"k": [1, 2, 3]})
    workflow.step("fit", fit, outputs=["total"])
    workflow.step("side", "z = 1\n", outputs=["z"])
    return workflow


def done(kale: Kale, workflow: Workflow, **options) -> Run:
    run = kale.run(workflow.submit(client=kale.client, **options).name)
    assert run.wait(timeout=WAIT_S) == "completed"
    return run


def rewrite(path: Path, text: str) -> None:
    """Change a file so that it is clear that no step has written it."""
    path.write_text(text)
    os.utime(path, (time.time() + 10,) * 2)


def why(kale: Kale, workflow: Workflow, folder: Path, **options) -> dict[str, str]:
    found = kale.client.submit(workflow_to_dict(workflow.model), folder=folder, dry=True, **options)["steps"]
    return {name: f"{step['state']}: {step['why']}" for name, step in found.items()}


def test_what_is_unchanged_is_cached_with_its_outputs_and_a_change_reruns_what_depends_on_it(tmp_path: Path, kale: Kale) -> None:
    assert set(why(kale, flow(tmp_path), tmp_path).values()) == {"runs: never ran", "runs: never ran; `curve` before it runs"}
    first = done(kale, flow(tmp_path))
    second = done(kale, flow(tmp_path))
    assert second.states() == {"curve": "cached", "fit": "cached", "side": "cached"}
    assert second["fit"].pull("total") == 12
    assert second["curve"].pull("y") == [2, 4, 6]
    third = done(kale, flow(tmp_path, fit="# again\ntotal = sum(y) + 1\n"))
    assert third.states() == {"curve": "cached", "fit": "completed", "side": "cached"}
    assert third["fit"].pull("total") == 13
    assert why(kale, flow(tmp_path, n=3), tmp_path) == {
        "curve": "runs: parameter n changed: 2 -> 3",
        "fit": "runs: code changed: line 1; `curve` before it runs",
        "side": f"cached: unchanged since {third.name}",
    }
    back = done(kale, flow(tmp_path))  # an older result counts too
    assert back.states() == {"curve": "cached", "fit": "cached", "side": "cached"}
    assert back["fit"].pull("total") == 12
    assert first.name != back.name
    assert done(kale, flow(tmp_path), cache=False).states() == {"curve": "completed", "fit": "completed", "side": "completed"}


def test_each_kind_of_change_is_told(tmp_path: Path, kale: Kale) -> None:
    done(kale, flow(tmp_path, common="import math\n"))
    assert "common code changed: line 2" in why(kale, flow(tmp_path, common="import math\nx = 1\n"), tmp_path)["side"]
    assert "environment changed: OMP_NUM_THREADS" in why(
        kale, flow(tmp_path, common="import math\n"), tmp_path, environ={**os.environ, "OMP_NUM_THREADS": "3"}
    )["side"]
    changed = flow(tmp_path, common="import math\n")
    changed.step("side", "z = 1\n", outputs=["z"], no_cache=True)
    assert why(kale, changed, tmp_path)["side"] == "runs: it is to run (--no-cache)"
    for path in tmp_path.glob(".kale/runs/*/steps/side/outputs/z.json"):
        path.unlink()
    assert why(kale, flow(tmp_path, common="import math\n"), tmp_path)["side"] == "runs: output `z` is no longer there"


def test_an_edited_output_makes_what_used_it_run_again_and_not_its_own_step(tmp_path: Path, kale: Kale) -> None:
    run = done(kale, flow(tmp_path))
    kale.run(run.name)["curve[1]"].push(y=100)
    assert "input `y` changed" in why(kale, flow(tmp_path), tmp_path)["fit"]
    again = done(kale, flow(tmp_path))
    assert again.states() == {"curve": "cached", "fit": "completed", "side": "cached"}
    assert again["fit"].pull("total") == 108
    assert done(kale, flow(tmp_path)).states() == {"curve": "cached", "fit": "cached", "side": "cached"}


def test_modules_scripts_and_data_that_a_step_names_count(tmp_path: Path, kale: Kale) -> None:
    (tmp_path / "helper.py").write_text("import deeper\ndef f(x): return deeper.g(x)\n")
    (tmp_path / "deeper.py").write_text("def g(x): return x + 1\n")
    (tmp_path / "data.csv").write_text("1\n")
    (tmp_path / "declared.txt").write_text("1\n")
    (tmp_path / "work.sh").write_text("echo 1 > made.txt\n")

    def workflow() -> Workflow:
        found = Workflow("named", folder=tmp_path)
        found.step("py", "import sys\nsys.path.insert(0, '.')\nimport helper\nx = helper.f(int(open('data.csv').read()))\nopen('own.txt', 'w').write('x')", outputs=["x"])
        found.step("sh", "bash work.sh", shell=True, files_in=["declared.*"], files_out=["made.txt"])
        return found

    done(kale, workflow())
    assert set(done(kale, workflow()).states().values()) == {"cached"}  # own.txt, which it wrote, is no reason
    (tmp_path / "deeper.py").write_text("def g(x): return x + 2\n")
    assert why(kale, workflow(), tmp_path)["py"] == "runs: file deeper.py changed"
    (tmp_path / "deeper.py").write_text("def g(x): return x + 1\n")
    rewrite(tmp_path / "data.csv", "2\n")
    assert why(kale, workflow(), tmp_path)["py"] == "runs: file data.csv changed"
    rewrite(tmp_path / "declared.txt", "2\n")
    assert why(kale, workflow(), tmp_path)["sh"] == "runs: file declared.txt changed"
    (tmp_path / "declared.txt").write_text("1\n")
    (tmp_path / "made.txt").unlink()
    assert why(kale, workflow(), tmp_path)["sh"] == "runs: file made.txt is no longer there"


def test_the_command_line_says_why_and_runs_all_if_asked(tmp_path: Path, kale: Kale) -> None:
    notebook(tmp_path / "w.ipynb", "%kale_workflow w", "%%kale_step a --outputs x\nx = 1", "%%kale_step b\nprint(x)")
    program(tmp_path, "run", "w.ipynb")
    found = json.loads(program(tmp_path, "run", "w.ipynb", "--dry-run", "--json").stdout)["steps"]
    assert {name: step["state"] for name, step in found.items()} == {"a": "cached", "b": "cached"}
    program(tmp_path, "run", "w.ipynb")
    assert kale.run().states() == {"a": "cached", "b": "cached"}
    assert program(tmp_path, "logs", "b").stdout == "1\n"
    program(tmp_path, "run", "w.ipynb", "--no-cache")
    assert kale.run().states() == {"a": "completed", "b": "completed"}


def test_gc_keeps_the_run_whose_outputs_a_later_one_uses(tmp_path: Path, kale: Kale) -> None:
    first = done(kale, flow(tmp_path, n=1))
    second = done(kale, flow(tmp_path, n=2))
    third = done(kale, flow(tmp_path, n=2))
    assert third["curve"].state == "cached"
    folder = second.folder
    removed = json.loads(program(tmp_path, "gc", "--older-than", "0", "--yes", "--json").stdout)["removed"]
    assert {item["run"] for item in removed} == {first.name, second.name, third.name}
    fourth = done(kale, flow(tmp_path, n=2))
    assert set(fourth.states().values()) == {"completed"}  # what is gone is not taken for unchanged
    assert not folder.exists()
    fifth = done(kale, flow(tmp_path, n=2))
    old = [{"folder": str(fourth.folder)}, {"folder": str(first.folder)}]
    assert gc.unused(old, [{"folder": str(fifth.folder)}]) == [{"folder": str(first.folder)}]


def test_a_step_that_is_used_as_it_was_though_it_has_changed_since_says_so(tmp_path: Path, kale: Kale) -> None:
    first = done(kale, flow(tmp_path))
    changed = flow(tmp_path, curve="# again\ny = k * n + 1\n")
    words = "`curve` is used as it was, though its code changed: line 1"
    assert why(kale, changed, tmp_path, only=["fit"])["fit"] == f"cached: unchanged since {first.name}; {words}"
    run = done(kale, changed, only=["fit"], cache=False)
    assert run.status()["steps"]["curve"]["points"]["1"]["reason"] == f"its outputs are those of {first.name}, but since then: code changed: line 1"
    assert run["fit"].pull("total") == 12
    assert words not in str(why(kale, flow(tmp_path), tmp_path, only=["fit"]))
