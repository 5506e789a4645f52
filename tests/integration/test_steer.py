"""The hand on a step while it runs: metrics, live parameters, checkpoints, pushes, through the real manager."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import TYPE_CHECKING

import pytest

from kale_magic.api import Workflow, connect
from kale_magic.errors import UsageError
from tests import steps
from tests.integration.test_cli import kale as program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kale_magic.api import Kale, Run, Step

WAIT_S = 60.0
STEERED = """
import time
from pathlib import Path
from kale_magic.inside import checkpoint, metric, params, progress
n, seen = 0, []
while not Path('stop').exists():
    n += 1
    lr = params.lr
    metric(step=n, loss=1 / n, lr=lr)
    progress(n, 100)
    if not seen or seen[-1][1] != lr:
        seen.append((time.time(), lr))
    time.sleep(0.01)
"""


@pytest.fixture
def kale() -> Iterator[Kale]:
    with steps.private_jupyter(), connect() as kale:
        yield kale


def events(run: Run, step: str) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "steps" / step / "events.jsonl").read_text().splitlines()]


def test_a_parameter_changed_from_outside_is_seen_by_the_next_iteration_and_recorded(
    tmp_path: Path, kale: Kale, until: Callable
) -> None:
    run = steps.busy(tmp_path, kale, STEERED, params={"lr": 0.5})
    step = run["md"]
    until(lambda: step.metrics(), "a metric")
    before = time.time()
    step.push(lr=0.25)
    until(lambda: len(step.pull("seen")) == 2, "the change")
    at, value = step.pull("seen")[1]
    assert value == 0.25
    assert step.pull("lr") == 0.25
    print("seen", at - before, "s after the push began")
    assert step.progress()["of"] == 100
    (event,) = [event for event in events(run, "md") if event["event"] == "params"]
    assert event["changes"] == {"lr": ["0.5", "0.25"]}
    assert "@" in event["by"]
    program(tmp_path, "push", "md", "lr=2")
    until(lambda: step.pull("seen")[-1][1] == 2, "the change from the terminal")
    step.push(anything=[1, 2])
    assert step.pull("anything") == [1, 2]
    (tmp_path / "stop").touch()
    assert run.wait(timeout=WAIT_S) == "completed"
    found = step.metrics()
    assert [item["step"] for item in found] == list(range(1, len(found) + 1))
    assert {item["lr"] for item in found} == {0.5, 0.25, 2}


def test_the_parameters_of_a_shell_step_reach_the_program_it_runs(tmp_path: Path, kale: Kale, until: Callable) -> None:
    (tmp_path / "work.py").write_text(
        "import time\nfrom kale_magic.inside import metric, params\nwhile params.n != 7:\n    metric(n=params.n); time.sleep(0.01)\nprint('got', params.n)\n"
    )
    run = steps.submit(tmp_path, kale, f"{sys.executable} work.py", shell=True, params={"n": 3})
    step = run["md"]
    until(lambda: step.metrics(), "a metric")
    with pytest.raises(UsageError, match="takes its parameters only; other is none"):
        step.push(other=1)
    step.push(n=7)
    assert run.wait(timeout=WAIT_S) == "completed"
    assert step.logs() == "got 7\n"


def test_a_kernel_whose_environment_has_no_kale_has_metrics_parameters_and_checkpoints(
    tmp_path: Path, kale: Kale, until: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kale_proxy.places import jupyter_data_dir

    hidden = "import sys\nsys.path_importer_cache.clear()\nclass No:\n def find_spec(self, name, *_):\n  if name.split('.')[0] in ('kale_magic', 'kale_proxy'): raise ModuleNotFoundError(name)\nsys.meta_path.insert(0, No())\nfrom ipykernel.kernelapp import launch_new_instance\nlaunch_new_instance()"
    folder = jupyter_data_dir() / "kernels" / "other"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-c", hidden, "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "other", "language": "python"}))
    run = steps.submit(tmp_path, kale, STEERED + "checkpoint(n=n)\nprint(checkpoint.load()['n'] == n)", kernel="other", params={"lr": 0.5})
    step = run["md"]
    until(lambda: step.metrics(), "a metric", timeout=WAIT_S)
    step.push(lr=1)
    until(lambda: step.metrics()[-1]["lr"] == 1, "the change")
    (tmp_path / "stop").touch()
    assert run.wait(timeout=WAIT_S) == "completed", step.reason
    assert step.logs() == "True\n"


def test_a_step_that_is_tried_again_goes_on_from_its_checkpoint(tmp_path: Path, kale: Kale) -> None:
    code = (
        "from kale_magic.inside import checkpoint\nstate = checkpoint.load(i=0, total=0)\nprint('from', state['i'])\n"
        "for i in range(state['i'], 6):\n    checkpoint(i=i, total=state['total'])\n    if i == 3 and state['i'] == 0:\n        raise OSError('disk')\n    state['total'] += i\n"
        "total = state['total']"
    )
    run = steps.submit(tmp_path, kale, code, retries=1, outputs=["total"])
    assert run.wait(timeout=WAIT_S) == "completed", run["md"].reason
    assert run["md"].logs() == "from 3\n"
    assert run["md"].pull("total") == 15


def test_a_pushed_output_replaces_the_old_one_which_is_kept_and_names_what_is_stale(tmp_path: Path, kale: Kale) -> None:
    workflow = Workflow("edit", folder=tmp_path)
    workflow.step("make", "x = 1", outputs=["x"])
    workflow.step("use", "y = x + 1", outputs=["y"])
    workflow.step("other", "z = 5", outputs=["z"])
    run = kale.run(workflow.submit(client=kale.client).name)
    assert run.wait(timeout=WAIT_S) == "completed"
    done = run["make"].push(x=[10, 20])
    assert done.is_edit
    assert done.stale == ("use",)
    assert run["make"].pull("x") == [10, 20]
    (info,) = [item for item in run["make"].variables() if item["name"] == "x"]
    assert (run["make"].folder / "outputs" / info["edited"]["old"]).read_text() == "1"
    assert [event["names"] for event in events(run, "make") if event["event"] == "edited"] == [["x"]]
    with pytest.raises(UsageError, match="has left no value `nothing`"):
        run["make"].push(nothing=1)


LOOP = "import time\nfrom pathlib import Path\ndef main():\n    global n\n    n, secret = 0, 42\n    while not Path('stop').exists():\n        n += 1\n        time.sleep(0.002)\nmain()\n"


def stands_still(step: Step) -> bool:
    before = step.pull("n")
    time.sleep(0.3)
    return step.pull("n") == before


def test_a_paused_step_stands_still_answers_visitors_says_so_and_goes_on(tmp_path: Path, kale: Kale, until: Callable) -> None:
    run = steps.busy(tmp_path, kale, LOOP)
    step = run["md"]
    assert re.search(r"is held at .*in main|will be held", step.pause())
    until(lambda: step.state == "paused", "the state")
    assert step.reason.startswith("held in ")
    assert stands_still(step)
    assert str(step.execute("%locals")) == "{'secret': 42}"
    assert "paused" in program(tmp_path, "status").stdout
    assert "goes on" in program(tmp_path, "resume", "md").stdout
    until(lambda: step.state == "running", "the state")
    assert not stands_still(step)
    program(tmp_path, "pause", "md", "--for", "1s")
    until(lambda: step.state == "paused", "the state")
    until(lambda: step.state == "running", "the end of the lease")
    assert [event["event"] for event in events(run, "md")] == ["running", "paused", "resumed", "paused", "resumed"]
    (tmp_path / "stop").touch()
    assert run.wait(timeout=WAIT_S) == "completed"


def test_a_frozen_shell_step_stands_with_all_its_processes_until_it_is_resumed(tmp_path: Path, kale: Kale, until: Callable) -> None:
    run = steps.submit(tmp_path, kale, "for i in $(seq 100000); do echo $i; sleep 0.02; test -e stop && break; done; true", shell=True)
    step = run["md"]
    until(lambda: step.logs(), "output")
    with pytest.raises(UsageError, match="no lines to hold it between"):
        step.pause()
    step.pause(freeze=True)
    until(lambda: step.state == "paused", "the state")
    assert step.reason.startswith("frozen")
    before = step.logs()
    time.sleep(0.4)
    assert step.logs() == before
    step.resume()
    until(lambda: step.logs() != before, "more output")
    assert step.state == "running"
    step.pause(freeze=True)
    until(lambda: step.state == "paused", "the state")
    step.cancel()
    assert run.wait(timeout=WAIT_S) == "cancelled"


def test_a_stopped_step_is_kept_as_long_as_it_asked_and_let_go_by_resume(tmp_path: Path, kale: Kale, until: Callable) -> None:
    run = steps.busy(tmp_path, kale, LOOP, hold="30m")
    step = run["md"]
    step.stop()
    until(lambda: step.state == "paused", "the state")
    assert step.reason == "stopped; its kernel stays open for 1800 s"
    assert step.pull("n") > 0
    step.resume()
    assert run.wait(timeout=WAIT_S) == "cancelled"


def test_the_kernel_of_a_failed_step_is_kept_for_a_look_at_its_frames(tmp_path: Path, kale: Kale, until: Callable) -> None:
    code = "def f(depth):\n    inner = [depth] * 3\n    return 1 / (depth - depth)\nx = 5\nf(7)\n"
    run = steps.submit(tmp_path, kale, code, hold_on_failure="5m")
    step = run["md"]
    until(lambda: step.state == "paused", "the look")
    assert step.reason == "failed (ZeroDivisionError: division by zero); its kernel stays open for 300 s"
    assert step.pull("x") == 5
    assert str(step.execute("%locals")) == "{'depth': 7, 'inner': [7, 7, 7]}"
    assert "in f" in step.execute("%where").text
    step.resume()
    assert run.wait(timeout=WAIT_S) == "failed"
    assert "ZeroDivisionError" in step.reason


def test_a_kernel_without_visits_is_not_held_but_frozen(tmp_path: Path, kale: Kale, until: Callable) -> None:
    from kale_proxy.places import jupyter_data_dir

    folder = jupyter_data_dir() / "kernels" / "bash"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "bash", "language": "bash"}))
    run = steps.submit(tmp_path, kale, "while [ ! -e stop ]; do echo step; sleep 0.02; done", kernel="bash")
    step = run["md"]
    until(lambda: step.logs(), "output", timeout=WAIT_S)
    with pytest.raises(UsageError, match="can't hold its code still"):
        step.pause()
    step.pause(freeze=True)
    until(lambda: step.state == "paused", "the state")
    step.resume()
    until(lambda: step.state == "running", "the state")
    (tmp_path / "stop").touch()
    assert run.wait(timeout=WAIT_S) == "completed"
