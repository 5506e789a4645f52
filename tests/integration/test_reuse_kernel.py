"""Sweeps with ``--reuse-kernel``: many points in few warm kernels, each point durable on its own."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from kale_magic import config
from kale_magic.api import Workflow, connect
from kale_magic.api.find import Scope, find_step
from kale_magic.errors import StepFailed, SubmitError, UsageError
from kale_magic.model.codec import workflow_to_dict
from tests import steps
from tests.integration.test_cli import kale as program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kale_magic.api import Kale, Run

WAIT_S = 90.0
NOTE = "import os\nopen('ran', 'a').write(f'{n}\\n')\n"  # appended whole: a line for each point that was run to its end


@pytest.fixture
def kale() -> Iterator[Kale]:
    with steps.private_jupyter(), connect() as kale:
        yield kale


def sweep(folder: Path, code: str, count: int = 12, **options: Any) -> Workflow:
    workflow = Workflow("many", folder=folder)
    if common := options.pop("common", ""):
        workflow.common(common)
    workflow.step("fit", code, **({"each": {"n": f"range({count})"}, "reuse_kernel": True} | options))
    return workflow


def start(kale: Kale, workflow: Workflow, **options: Any) -> Run:
    return kale.run(workflow.submit(client=kale.client, **options).name)


def done(kale: Kale, workflow: Workflow, state: str = "completed", **options: Any) -> Run:
    run = start(kale, workflow, **options)
    assert run.wait(timeout=WAIT_S) == state
    return run


def fit(run: Run) -> dict[str, Any]:
    return run["fit"].status()


def folder_of(run: Run) -> Path:
    return Path(run.folder) / "steps" / "fit"


def comes(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def is_at(run: Run, point: int) -> Callable[[], bool]:
    return lambda: run[f"fit[{point}]"].state == "running" and run[f"fit[{point}]"].target().live is not None


def finished(folder: Path) -> int:
    return len((folder / "ran").read_text().splitlines()) if (folder / "ran").exists() else 0


def manager_pid() -> int:
    return int(json.loads(config.load().manager_file.read_text())["pid"])


def kernels(run: Run) -> list[int]:
    lines = [json.loads(line) for line in (folder_of(run) / "events.jsonl").read_text().splitlines()]
    return [line["pid"] for line in lines if line["event"] == "running"]


# -- what a sweep is ------------------------------------------------------------------------------------------


def test_values_logs_and_a_table_are_as_of_any_sweep_and_files_are_few(kale, tmp_path):
    code = "import numpy as np\nfrom kale_magic.inside import metric\nmetric(loss=n / 2, step=0)\nmetric(loss=n / 4, step=1)\nprint('point', n)\ny, big = n * n, np.full(5000, n)\nb'kept'\n"
    workflow = sweep(tmp_path, code, 240, outputs=["y", "big"])
    workflow.step("total", "t, last, p = sum(y), float(big[-1].sum()), y_params[7]\n", outputs=["t", "last", "p"])
    run = done(kale, workflow)
    assert run["total"].pull("t", "last", "p") == (sum(n * n for n in range(240)), 239 * 5000.0, {"n": 7})
    assert run["fit"].pull("y") == [n * n for n in range(240)]
    assert run["fit[9]"].pull("big").tolist() == [9] * 5000
    assert run["fit[239]"].logs() == "point 239\n"
    assert [line["loss"] for line in run["fit[3]"].metrics()] == [1.5, 0.75]
    assert fit(run)["counts"] == {"completed": 240}
    row = run["fit"].rows()[5]
    assert (row["point"], row["n"], row["state"], row["loss"], row["y"]) == (5, 5, "completed", 1.25, 25)
    files = [path for path in folder_of(run).rglob("*") if path.is_file()]
    assert len(files) <= 10 + 2 * len(kernels(run)), files
    assert not any(path.name.isdigit() for path in folder_of(run).iterdir())
    assert "==> fit[3] (n=3) <==\npoint 3\n" in (folder_of(run) / "stdout.log").read_text()
    record = json.loads((folder_of(run) / "step.ipynb").read_text())
    assert any("point 3" in "".join(map(str, cell.get("outputs", ()))) for cell in record["cells"])


def test_a_point_finds_nothing_of_the_one_before_but_imports(kale, tmp_path):
    code = (
        "import os, sys\n"
        "assert 'left' not in globals() and 'LEFT' not in os.environ and base == [], (base, sorted(globals()))\n"
        "assert os.getcwd() == home and KEPT == 1\n"
        "left, KEPT, os.environ['LEFT'] = n, 2, 'x'\n"
        "os.chdir('/')\n"
        "x = [*base, n]\n"
    )
    run = done(kale, sweep(tmp_path, code, 30, outputs=["x"], common="import os\nhome, KEPT = os.getcwd(), 1\nbase = []\n"))
    assert run["fit"].pull("x") == [[n] for n in range(30)]
    assert len(set(kernels(run))) < 30


def test_a_changed_input_is_whole_again_for_the_next_point(kale, tmp_path):
    workflow = Workflow("many", folder=tmp_path)
    workflow.step("first", "data = [1, 2]\n", outputs=["data"])
    workflow.step("fit", "data.append(n)\nk = len(data)\n", each={"n": "range(10)"}, outputs=["k"], reuse_kernel=True)
    assert done(kale, workflow)["fit"].pull("k") == [3] * 10


def test_products_zip_and_the_class_of_the_common_cell(kale, tmp_path):
    workflow = sweep(
        tmp_path, "z = Box(a, b)\n", each={"a": [1, 2], "b": [10, 20]}, zip=True, outputs=["z"], common="class Box:\n    def __init__(self, *v):\n        self.v = v\n"
    )
    workflow.step("after", "v = [item.v for item in z]\n", outputs=["v"])
    assert done(kale, workflow)["after"].pull("v") == [(1, 10), (2, 20)]


# -- what goes wrong ------------------------------------------------------------------------------------------


def test_a_failing_point_does_not_stop_the_others(kale, tmp_path):
    code = "import sys\nprint('at', n)\nif n == 3: raise ValueError('no three')\nif n == 5: sys.exit(7)\n" + NOTE
    workflow = sweep(tmp_path, code)
    workflow.step("after", "1\n", after=["fit"])
    run = done(kale, workflow, "failed")
    assert fit(run)["counts"] == {"completed": 10, "failed": 2}
    assert run["fit[3]"].reason == "ValueError: no three"
    assert run["fit[3]"].logs() == "at 3\n"
    assert "no three" in "".join(run["fit[3]"].status()["error"]["traceback"])
    assert run["fit[5]"].status()["exit_code"] == 7
    assert run["after"].state == "cancelled"
    with pytest.raises(StepFailed, match="no three"):
        run["fit[3]"].result()


@pytest.mark.parametrize(("way", "words"), [("os._exit(3)", "os._exit"), ("os.kill(os.getpid(), 9)", "SIGKILL"), ("import ctypes; ctypes.string_at(0)", "SIGSEGV")])
def test_a_point_that_ends_its_kernel_fails_alone(kale, tmp_path, way, words):
    run = done(kale, sweep(tmp_path, f"import os\nprint('at', n, flush=True)\nif n == 4: {way}\n{NOTE}"), "failed")
    assert fit(run)["counts"] == {"completed": 11, "failed": 1}
    assert words in run["fit[4]"].reason
    assert run["fit[4]"].logs() == "at 4\n"
    assert Counter((tmp_path / "ran").read_text().split()) == Counter(str(n) for n in range(12) if n != 4)


def test_a_point_is_tried_again_and_the_newest_attempt_counts(kale, tmp_path):
    code = "from pathlib import Path\nmark = Path(f'tried-{n}')\nif n % 4 == 0 and not mark.exists():\n    mark.touch()\n    print('once')\n    raise RuntimeError\nprint('good')\ny = n\n"
    run = done(kale, sweep(tmp_path, code, outputs=["y"], retries=1))
    assert run["fit"].pull("y") == list(range(12))
    assert run["fit[4]"].status()["attempt"] == 2
    assert run["fit[4]"].logs() == "good\n"


def test_the_common_cell_that_fails_fails_each_point(kale, tmp_path):
    run = done(kale, sweep(tmp_path, "1\n", common="1 / 0\n"), "failed")
    assert fit(run)["counts"] == {"failed": 12}
    assert "in %%kale_common: ZeroDivisionError" in run["fit[7]"].reason


def test_walltime_is_that_of_each_point(kale, tmp_path):
    code = f"import time\ntime.sleep(30 if n == 2 else 0.4)\n{NOTE}"
    run = done(kale, sweep(tmp_path, code, 10, walltime="00:00:02", cpus=2), "failed")
    assert fit(run)["counts"] == {"completed": 9, "failed": 1}
    assert "walltime" in run["fit[2]"].reason


def test_an_output_that_is_missing_or_cannot_be_saved_is_named(kale, tmp_path):
    code = "if n != 1: y = n\nif n == 2: y = (i for i in [1])\n"
    run = done(kale, sweep(tmp_path, code, 4, outputs=["y"]), "failed")
    assert fit(run)["counts"] == {"completed": 2, "failed": 2}
    assert "never assigned" in run["fit[1]"].reason
    assert "generator" in run["fit[2]"].reason


# -- kill -9 --------------------------------------------------------------------------------------------------


def once_each(run: Run, folder: Path, count: int, *, but: int = 0) -> None:
    """No point has completed twice; at most ``but`` were begun once more."""
    ran = Counter((folder / "ran").read_text().split())
    assert set(ran) == {str(n) for n in range(count)}
    assert sum(ran.values()) - count <= but, ran
    ends = Counter()
    for path in folder_of(run).glob("points-*.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            ends[record.get("end")] += "end" in record and record["result"]["state"] == "completed"
    assert all(number == 1 for point, number in ends.items() if point is not None), ends


def test_a_manager_that_is_killed_is_followed_by_one_that_knows_all(kale, tmp_path):
    run = start(kale, sweep(tmp_path, f"import time\ntime.sleep(0.02)\n{NOTE}", 200))
    for _ in range(3):
        before = finished(tmp_path)
        comes(lambda: finished(tmp_path) > before + 15)  # noqa: B023 - called at once
        os.kill(manager_pid(), signal.SIGKILL)
        time.sleep(0.3)
        with connect() as again:
            again.client.runs(None)
    with connect() as last:
        assert last.run(run.name).wait(timeout=WAIT_S) == "completed"
        assert last.run(run.name)["fit"].status()["counts"] == {"completed": 200}
    once_each(run, tmp_path, 200)


def test_a_kernel_that_is_killed_loses_the_point_it_was_at(kale, tmp_path):
    run = start(kale, sweep(tmp_path, f"import time\ntime.sleep(0.02)\n{NOTE}", 120, retries=1))
    comes(lambda: finished(tmp_path) > 20)
    for pid in kernels(run):
        os.kill(pid, signal.SIGKILL)
    assert run.wait(timeout=WAIT_S) == "completed"
    once_each(run, tmp_path, 120, but=2)


def test_a_supervisor_that_is_killed_loses_nothing(kale, tmp_path):
    run = start(kale, sweep(tmp_path, f"import time\ntime.sleep(0.02)\n{NOTE}", 120))
    comes(lambda: finished(tmp_path) > 20)
    supervisor = psutil.Process(kernels(run)[0]).ppid()
    os.kill(supervisor, signal.SIGKILL)
    assert run.wait(timeout=WAIT_S) == "completed"
    once_each(run, tmp_path, 120)


def test_all_killed_at_once_loses_the_points_in_flight(kale, tmp_path):
    run = start(kale, sweep(tmp_path, f"import time\ntime.sleep(0.02)\n{NOTE}", 120))
    comes(lambda: finished(tmp_path) > 20)
    pids = kernels(run)
    for pid in (manager_pid(), psutil.Process(pids[0]).ppid(), *pids):
        os.kill(pid, signal.SIGKILL)
    with connect() as again:
        assert again.run(run.name).wait(timeout=WAIT_S) == "completed"
    once_each(run, tmp_path, 120, but=len(pids))


# -- a person -------------------------------------------------------------------------------------------------


def test_one_point_is_stopped_and_others_cancelled_while_the_rest_runs(kale, tmp_path):
    code = f"import time\nwhile n < 2 and not __import__('os').path.exists(f'go-{{n}}'):\n    time.sleep(0.01)\n{NOTE}"
    run = start(kale, sweep(tmp_path, code, 8))
    comes(is_at(run, 0))
    assert str(run["fit[0]"].execute("n", timeout=WAIT_S)) == "0"
    kale.client.cancel(run.name, "fit", 6)
    comes(lambda: run["fit[6]"].state == "cancelled")
    kale.client.stop(run.name, "fit", 0)
    comes(lambda: run["fit[0]"].state == "cancelled")
    assert run["fit[0]"].reason == "stopped by the user"
    (tmp_path / "go-1").touch()
    run.wait(timeout=WAIT_S)
    assert fit(run)["counts"] == {"completed": 6, "cancelled": 2}
    assert sorted((tmp_path / "ran").read_text().split()) == ["1", "2", "3", "4", "5", "7"]


def test_a_point_that_will_not_be_interrupted_is_ended_with_its_kernel(kale, tmp_path):
    code = f"import time\nwhile n == 1:\n    try:\n        time.sleep(1)\n    except KeyboardInterrupt:\n        pass\n{NOTE}"
    run = start(kale, sweep(tmp_path, code, 6))
    comes(is_at(run, 1))
    kale.client.cancel(run.name, "fit", 1)
    assert run.wait(timeout=WAIT_S) == "cancelled"
    assert fit(run)["counts"] == {"completed": 5, "cancelled": 1}


def test_a_cancelled_run_ends_at_once(kale, tmp_path):
    run = start(kale, sweep(tmp_path, "import time\ntime.sleep(0.2)\n", 500))
    comes(lambda: fit(run)["counts"].get("completed"))
    run.cancel()
    assert run.wait(timeout=WAIT_S) == "cancelled"
    assert fit(run)["counts"]["cancelled"] > 400
    assert comes(lambda: not any(psutil.pid_exists(pid) for pid in kernels(run)))


def test_a_point_asks_is_paused_and_steered(kale, tmp_path):
    code = "import time\nfrom kale_magic.inside import params\nif n == 0:\n    while params.n == 0:\n        time.sleep(0.01)\n    answer = input('how many? ')\n    print(params.n)\nelse:\n    answer = ''\n"
    run = start(kale, sweep(tmp_path, code, 3, outputs=["answer"]))
    comes(is_at(run, 0))
    run["fit[0]"].pause()
    comes(lambda: run["fit[0]"].state == "paused")
    run["fit[0]"].resume()
    comes(lambda: run["fit[0]"].state == "running")
    run["fit[0]"].push(n=5)
    comes(lambda: run["fit[0]"].state == "gated")
    assert "how many?" in run["fit[0]"].reason
    run["fit[0]"].proceed(answer="42")
    assert run.wait(timeout=WAIT_S) == "completed"
    assert run["fit[0]"].pull("answer") == "42"
    assert run["fit[0]"].logs() == "how many? 42\n5\n"


def test_a_point_is_held_and_released(kale, tmp_path):
    code = "import time\nfrom pathlib import Path\nwhile not Path('go').exists():\n    time.sleep(0.01)\n"
    run = start(kale, sweep(tmp_path, code, 40))
    comes(is_at(run, 0))
    kale.client.hold(run.name, "fit", 39)
    comes(lambda: run["fit[39]"].state == "held")
    (tmp_path / "go").touch()
    comes(lambda: fit(run)["counts"].get("completed") == 39)
    kale.client.release(run.name, "fit", 39)
    assert run.wait(timeout=WAIT_S) == "completed"


def test_a_checkpoint_is_of_its_point_and_a_rerun_of_one_point_finds_it(kale, tmp_path):
    code = "from kale_magic.inside import checkpoint\nseen = checkpoint.load(i=-1)['i']\ncheckpoint(i=n)\n"
    run = done(kale, sweep(tmp_path, code, 5, outputs=["seen"]))
    assert run["fit"].pull("seen") == [-1] * 5
    again = run["fit[3]"].rerun()
    assert again.wait(timeout=WAIT_S) == "completed"
    assert again["fit"].pull("seen") == 3


# -- later ----------------------------------------------------------------------------------------------------


def test_unchanged_it_is_cached_and_an_edited_point_makes_what_used_it_stale(kale, tmp_path):
    def flow() -> Workflow:
        workflow = sweep(tmp_path, "y = n\n", 20, outputs=["y"])
        workflow.step("total", "t = sum(y)\n", outputs=["t"])
        return workflow

    run = done(kale, flow())
    again = done(kale, flow())
    assert again.states() == {"fit": "cached", "total": "cached"}
    assert again["fit[4]"].pull("y") == 4
    pushed = again["fit[4]"].push(y=1000)
    assert (pushed.is_edit, pushed.stale) == (True, ("total",))
    assert run["fit[4]"].pull("y") == 1000
    third = done(kale, flow())
    assert third.states() == {"fit": "cached", "total": "completed"}
    assert third["total"].pull("t") == sum(range(20)) - 4 + 1000


def test_a_point_is_found_though_another_was_run_again_since(kale, tmp_path):
    run = done(kale, sweep(tmp_path, "import time\ntime.sleep(1.5 if n == 1 else 0)\ny = n\n", 3, outputs=["y"]))
    again = run["fit[2]"].rerun()
    assert again.wait(timeout=WAIT_S) == "completed"
    found = find_step(kale.client, "fit[1]", Scope(workflow="many", folder=tmp_path))
    assert (found.run, found.point) == (run.name, 1)
    assert find_step(kale.client, "fit", Scope(workflow="many", folder=tmp_path)).run == again.name
    samples = run["fit[1]"].resources()
    assert samples
    assert len({sample["kernel"] for sample in samples}) == 1
    assert "A kernel for the points of step fit" in run["fit[1]"].script()
    scripts = kale.client.submit(workflow_to_dict(sweep(tmp_path, "2\n").model), folder=tmp_path, dry=True)["steps"]
    assert "A kernel for the points of step fit" in scripts["fit"]["script"]


def test_a_step_of_another_run_and_other_kinds_of_steps_gather_it(kale, tmp_path):
    def flow(shell: str = 'echo "$y" > seen\n') -> Workflow:
        workflow = sweep(tmp_path, "y = n\n", 5, outputs=["y"])
        workflow.step("show", shell, shell=True, inputs=["y"])
        return workflow

    done(kale, flow())
    assert json.loads((tmp_path / "seen").read_text()) == [0, 1, 2, 3, 4]
    (tmp_path / "seen").unlink()
    done(kale, flow('echo "$y" > seen  # again\n'), only=["show"])
    assert json.loads((tmp_path / "seen").read_text()) == [0, 1, 2, 3, 4]


def test_a_brief_status_has_all_counts_and_only_the_points_that_one_wants_to_see(kale, tmp_path):
    run = done(kale, sweep(tmp_path, "if n == 70: 1 / 0\n", 120), "failed")
    brief, whole = (kale.client.status(run.name, brief=is_brief)["steps"]["fit"] for is_brief in (True, False))
    assert list(brief["points"]) == ["70"]
    assert brief["points"]["70"] == whole["points"]["70"]
    assert {**brief, "points": 0} == {**whole, "points": 0}
    assert brief["counts"] == {"completed": 119, "failed": 1}


def test_the_command_line_shows_it(kale, tmp_path):
    run = done(kale, sweep(tmp_path, "import sys\nif n % 5 == 0: print('five', n)\n", 12))
    out = program(tmp_path, "logs", f"{run.name}/fit[5]").stdout
    assert out == "five 5\n"
    out = program(tmp_path, "logs", f"{run.name}/fit").stdout
    assert [line for line in out.splitlines() if line.startswith("five")] == ["five 0", "five 5", "five 10"]
    assert "fit[1]" not in out
    assert "12" in program(tmp_path, "status", run.name).stdout


def test_where_it_cannot_be_is_said_at_submit_or_before(kale, tmp_path):
    with pytest.raises(UsageError, match="Step a: --reuse-kernel is for the points of a sweep"):
        Workflow("x", folder=tmp_path).step("a", "1\n", reuse_kernel=True)
    with pytest.raises(UsageError, match="is for Python cells"):
        Workflow("x", folder=tmp_path).step("a", "true\n", shell=True, reuse_kernel=True, each={"n": [1]})
    with pytest.raises(SubmitError, match="--reuse-kernel is not for the executor snakemake, which starts each point by itself"):
        kale.client.submit(workflow_to_dict(sweep(tmp_path, "1\n", executor="snakemake").model), folder=tmp_path)
