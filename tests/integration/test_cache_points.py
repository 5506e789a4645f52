"""A sweep is cached point by point: what is the same by its parameters does not run again, whatever became of the others."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from kale_magic.api import Workflow, connect
from kale_magic.cli import gc
from tests import steps
from tests.integration.test_cache import done, why
from tests.integration.test_cli import kale as program
from tests.unit.cli_shell import notebook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kale_magic.api import Kale

RAN = "open('ran.txt', 'a').write(f'{k}\\n')\n"


@pytest.fixture
def kale() -> Iterator[Kale]:
    with steps.private_jupyter(), connect() as kale:
        yield kale


def flow(folder: Path, points: Any, *, n: int = 2, code: str = "y = k * n\n", **options: Any) -> Workflow:
    workflow = Workflow("eos", folder=folder)
    workflow.step("curve", RAN + code, outputs=["y"], params={"n": n}, **{"each": {"k": points}, **options})
    workflow.step("fit", "total, where = sum(y), y_params\n", outputs=["total", "where"])
    return workflow


def ran(folder: Path) -> list[str]:
    """What has run since the last look."""
    path = folder / "ran.txt"
    found = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return sorted(found, key=float)


@pytest.mark.parametrize("is_warm", [False, True])
def test_only_the_point_that_was_added_changed_or_lost_runs_and_the_others_are_cached(tmp_path: Path, kale: Kale, is_warm: bool) -> None:
    first = done(kale, flow(tmp_path, [1, 2, 3], reuse_kernel=is_warm))
    assert ran(tmp_path) == ["1", "2", "3"]
    more = flow(tmp_path, [1, 2, 3, 7], reuse_kernel=is_warm)
    assert why(kale, more, tmp_path)["curve"] == f"runs: point 3 (k=7) never ran with these parameters; 3 of 4 cached since {first.name}"
    second = done(kale, more)
    assert ran(tmp_path) == ["7"]
    assert second["curve"].status()["counts"] == {"cached": 3, "completed": 1}
    assert second.states() == {"curve": "completed", "fit": "completed"}
    status = second["curve"].status()
    assert (status["outputs"], status["exit_code"], bool(status["ended_at"])) == (["y"], 0, True)
    assert "4/4, 3 cached" in program(tmp_path, "status", second.name).stdout
    assert second["fit"].pull("total") == 26
    assert second["curve"].pull("y") == [2, 4, 6, 14]
    assert [second[f"curve[{n}]"].pull("y") for n in range(4)] == [2, 4, 6, 14]
    assert second["curve[1]"].status()["reason"] == f"its outputs are those of {first.name}"
    third = done(kale, more)  # from two runs: nothing runs, and what depends on it does not either
    assert third.states() == {"curve": "cached", "fit": "cached"}
    assert third["curve"].pull("y") == [2, 4, 6, 14]
    assert ran(tmp_path) == []
    turned = done(kale, flow(tmp_path, [7, 9, 1], reuse_kernel=is_warm))  # one is new, the order another
    assert ran(tmp_path) == ["9"]
    assert turned["curve"].pull("y") == [14, 18, 2]
    assert turned["fit"].pull("total", "where") == (34, [{"k": 7}, {"k": 9}, {"k": 1}])
    fewer = done(kale, flow(tmp_path, [9, 7], reuse_kernel=is_warm))
    assert ran(tmp_path) == []
    assert fewer.states() == {"curve": "cached", "fit": "completed"}
    assert fewer["curve"].pull("y") == [18, 14]
    assert done(kale, flow(tmp_path, [9, 7], reuse_kernel=is_warm)).states() == {"curve": "cached", "fit": "cached"}
    assert [row["y"] for row in fewer["curve"].rows()] == [18, 14]
    assert [row["state"] for row in turned["curve"].rows()] == ["cached", "completed", "cached"]


def test_what_is_another_for_all_points_runs_all_of_them_and_is_told_once(tmp_path: Path, kale: Kale) -> None:
    done(kale, flow(tmp_path, [1, 2, 3]))
    assert why(kale, flow(tmp_path, [1, 2, 3], n=5), tmp_path)["curve"] == "runs: parameter n changed: 2 -> 5"
    assert why(kale, flow(tmp_path, [1, 2], code="y = 0\n"), tmp_path)["curve"] == "runs: code changed: line 2"
    assert why(kale, flow(tmp_path, [4, 5]), tmp_path)["curve"] == "runs: never ran with these parameters"
    assert why(kale, flow(tmp_path, [1.0, True]), tmp_path)["curve"] == "runs: never ran with these parameters"  # 1 == 1.0 == True


def test_points_that_completed_are_kept_though_another_failed(tmp_path: Path, kale: Kale) -> None:
    code = "import os\nif k == 2 and not os.path.exists(''.join(['men', 'ded'])): raise ValueError('not yet')\ny = k\n"
    run = kale.run(flow(tmp_path, [1, 2, 3], code=code).submit(client=kale.client).name)
    assert run.wait(timeout=60) == "failed"
    ran(tmp_path)
    said = why(kale, flow(tmp_path, [1, 2, 3], code=code), tmp_path)["curve"]
    assert said == f"runs: point 1 (k=2) did not complete in {run.name}; 2 of 3 cached since {run.name}"
    (tmp_path / "mended").touch()
    again = done(kale, flow(tmp_path, [1, 2, 3], code=code))
    assert ran(tmp_path) == ["2"]
    assert again["fit"].pull("total") == 6


def test_a_value_that_is_gone_runs_its_point_and_an_edited_one_what_used_it(tmp_path: Path, kale: Kale) -> None:
    first = done(kale, flow(tmp_path, [1, 2, 3]))
    (first.folder / "steps" / "curve" / "1" / "outputs" / "y.json").unlink()
    said = why(kale, flow(tmp_path, [1, 2, 3]), tmp_path)["curve"]
    assert said == f"runs: point 1 (k=2) output `y` is no longer there; 2 of 3 cached since {first.name}"
    second = done(kale, flow(tmp_path, [1, 2, 3]))
    pushed = second["curve[0]"].push(y=100)  # it is cached: the value is the first run's
    assert "fit" in pushed.stale
    third = done(kale, flow(tmp_path, [1, 2, 3]))
    assert third.states() == {"curve": "cached", "fit": "completed"}
    assert third["fit"].pull("total") == 110
    assert third["curve"].pull("y") == [100, 4, 6]


def test_a_point_that_was_run_again_by_itself_counts(tmp_path: Path, kale: Kale) -> None:
    run = done(kale, flow(tmp_path, [1, 2, 3]))
    ran(tmp_path)
    again = run["curve[1]"].rerun(params={"k": 5})
    assert again.wait(timeout=60) == "completed"
    assert ran(tmp_path) == ["5"]
    found = done(kale, flow(tmp_path, [1, 5, 3]))
    assert ran(tmp_path) == []
    assert found["curve"].pull("y") == [2, 10, 6]


def test_products_and_later_steps_alone_use_points_of_several_runs(tmp_path: Path, kale: Kale) -> None:
    def product(a: list[int], *, last: str = "t = sum(z)\n") -> Workflow:
        workflow = Workflow("grid", folder=tmp_path)
        workflow.step("cell", "open('ran.txt', 'a').write(f'{a}{b}\\n')\nz = 10 * a + b\n", outputs=["z"], each={"a": a, "b": [1, 2]})
        workflow.step("sum", last, outputs=["t"])
        return workflow

    done(kale, product([1, 2]))
    ran(tmp_path)
    second = done(kale, product([1, 3, 2]))
    assert ran(tmp_path) == ["31", "32"]
    assert second["sum"].pull("t") == 11 + 12 + 31 + 32 + 21 + 22
    only = done(kale, product([1, 3, 2], last="t = z[::-1]\n"), only=["sum"])
    assert only["sum"].pull("t") == [22, 21, 32, 31, 12, 11]
    assert only["cell"].pull("z") == [11, 12, 31, 32, 21, 22]


def test_thousands_are_told_in_groups_and_decided_fast(tmp_path: Path, kale: Kale) -> None:
    def many(points: str) -> Workflow:
        workflow = Workflow("many", folder=tmp_path)
        workflow.step("p", "y = k\n", outputs=["y"], each={"k": points}, reuse_kernel=True)
        workflow.step("all", "t = sum(y)\n", outputs=["t"])
        return workflow

    first = done(kale, many("range(6000)"))
    started = time.monotonic()
    said = why(kale, many("range(-10, 6005)"), tmp_path)["p"]
    assert time.monotonic() - started < 5
    assert said == f"runs: points 0-9, 6010-6014 never ran with these parameters; 6000 of 6015 cached since {first.name}"
    second = done(kale, many("range(-10, 6005)"))
    assert second["p"].status()["counts"] == {"cached": 6000, "completed": 15}
    assert second["all"].pull("t") == sum(range(-10, 6005))
    files = [path for path in (second.folder / "steps" / "p").rglob("*") if path.is_file()]
    assert len(files) < 20
    assert second["p[5]"].pull("y") == -5
    assert second["p[500]"].pull("y") == 490


def test_the_command_line_and_the_report_know_them_and_gc_keeps_what_they_use(tmp_path: Path, kale: Kale) -> None:
    notebook(tmp_path / "w.ipynb", "%kale_workflow w", "%%kale_step a --each k=[1,2] --outputs x\nx = k\nprint('at', k)", "%%kale_step b --outputs s\ns = sum(x)")
    program(tmp_path, "run", "w.ipynb")
    first = kale.run()
    notebook(tmp_path / "w.ipynb", "%kale_workflow w", "%%kale_step a --each k=[1,2,3] --outputs x\nx = k\nprint('at', k)", "%%kale_step b --outputs s\ns = sum(x)")
    found = json.loads(program(tmp_path, "run", "w.ipynb", "--dry-run", "--json").stdout)["steps"]["a"]
    assert (found["state"], found["points"]) == ("runs", {"runs": 1, "cached": 2})
    assert "point 2 (k=3) never ran" in program(tmp_path, "run", "w.ipynb", "--dry-run").stdout
    program(tmp_path, "run", "w.ipynb")
    second = kale.run()
    assert program(tmp_path, "logs", "a[0]").stdout == "at 1\n"
    assert program(tmp_path, "logs", "a[2]").stdout == "at 3\n"
    program(tmp_path, "report", second.name, "-o", "run.html")
    assert "at 3" in (tmp_path / "run.html").read_text()
    old = [{"folder": str(first.folder)}]
    assert gc.unused(old, [{"folder": str(second.folder)}]) == []
