"""The hand on a step while it runs: metrics, live parameters, checkpoints, pushes, through the real manager."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from kale_magic.api import Workflow, connect
from kale_magic.api.lineage import lineage
from kale_magic.errors import UsageError
from tests import steps
from tests.integration.test_cli import kale as program
from tests.unit.cli_shell import notebook

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


def test_a_pushed_file_replaces_the_one_that_a_step_made_which_is_kept_and_what_read_it_is_stale(tmp_path: Path, kale: Kale) -> None:
    def flow() -> Workflow:
        workflow = Workflow("edit", folder=tmp_path)
        workflow.step("make", "open('out.csv', 'w').write('a,b\\n1,2\\n')\n", files_out=["out.csv"])
        workflow.step("use", "n = len(open('out.csv').read().split())\n", outputs=["n"], after=["make"], files_in=["out.csv"])
        return workflow

    def done() -> Run:
        run = kale.run(flow().submit(client=kale.client).name)
        assert run.wait(timeout=WAIT_S) == "completed"
        return run

    run = done()
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n3,4\n")
    said = json.loads(program(tmp_path, "push", f"{run.name}/make", f"out.csv={tmp_path / 'mine.csv'}", "--json").stdout)
    assert said == {"pushed": ["out.csv"], "edited": True, "stale": ["use"]}
    assert (tmp_path / "out.csv").read_text() == "a,b\n1,2\n3,4\n"
    mark = json.loads((run["make"].folder / "files_edited.json").read_text())["out.csv"]
    assert (run["make"].folder / mark["old"]).read_text() == "a,b\n1,2\n"
    again = done()
    assert again.states() == {"make": "cached", "use": "completed"}
    assert again["use"].pull("n") == 3
    from kale_magic.api.report import report

    assert f"make: file out.csv was edited by {mark['by']}" in report(run.status())
    with pytest.raises(UsageError, match=r"made no file none\.csv\. It made: out\.csv"):
        run["make"].push_files({"none.csv": tmp_path / "mine.csv"})
    with pytest.raises(UsageError, match="There is no file"):
        run["make"].push_files({"out.csv": tmp_path / "nothing"})


LOOP = "import time\nfrom pathlib import Path\ndef main():\n    global n\n    n, secret = 0, 42\n    while not Path('stop').exists():\n        n += 1\n        time.sleep(0.002)\nmain()\n"


def stands_still(step: Step) -> bool:
    before = step.pull("n")
    time.sleep(0.3)
    return step.pull("n") == before


def test_a_paused_step_stands_still_answers_visitors_says_so_and_goes_on(tmp_path: Path, kale: Kale, until: Callable) -> None:
    run = steps.busy(tmp_path, kale, LOOP)
    step = run["md"]
    assert re.search(r"is held at line [678] of main|is held at line \d+$|will be held", step.pause())
    until(lambda: step.state == "paused", "the state")
    assert re.fullmatch(r"held at line \d of main", step.reason)
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


def test_a_step_is_run_again_with_other_parameters_and_what_follows_if_asked(tmp_path: Path, kale: Kale) -> None:
    workflow = Workflow("eos", folder=tmp_path)
    workflow.step("make", "import random\nx = random.random()", outputs=["x"])
    workflow.step("scale", "y = [x * n]", outputs=["y"], params={"n": 2})
    workflow.step("use", "z = y[0] + 1", outputs=["z"])
    run = kale.run(workflow.submit(client=kale.client).name)
    assert run.wait(timeout=WAIT_S) == "completed"
    alone = run["scale"].rerun({"n": 5})
    assert alone.wait(timeout=WAIT_S) == "completed"
    assert alone.states() == {"make": "cached", "scale": "completed"}
    assert alone["scale"].pull("y") == [run["make"].pull("x") * 5]
    again = json.loads(program(tmp_path, "rerun", f"{run.name}/scale", "--params", "n=7", "--downstream", "--json").stdout)["run"]
    assert kale.run(again).wait(timeout=WAIT_S) == "completed"
    assert kale.run(again)["use"].pull("z") == run["make"].pull("x") * 7 + 1
    with pytest.raises(UsageError, match=r"no parameter 'm'. It has: n"):
        run["scale"].rerun({"m": 1})
    lines = program(tmp_path, "runs", "--diff", run.name, again).stdout.splitlines()
    assert f"  rerun_of: None -> {run.name}" in lines
    assert "  scale: parameter n changed: 2 -> 7" in lines
    assert any(line.startswith("  use: output z differs: ") for line in lines)
    assert not any("make" in line for line in lines)


def test_a_point_is_run_again_alone_and_goes_on_from_its_checkpoint(tmp_path: Path, kale: Kale, until: Callable) -> None:
    code = (
        "import time\nfrom pathlib import Path\nfrom kale_magic.inside import checkpoint, metric\nstate = checkpoint.load(i=0)\nprint('from', state['i'], lr)\n"
        "for i in range(state['i'], 10):\n    checkpoint(i=i)\n    metric(step=i)\n    while i == 4 and lr > 1: time.sleep(0.01)\n"
    )
    run = steps.submit(tmp_path, kale, code, each={"lr": [0.5, 5.0]}, hold="1s")
    bad = run["md[lr=5.0]"]
    until(lambda: len(bad.metrics()) == 5, "the point")
    bad.stop()
    assert run.wait(timeout=WAIT_S) in {"cancelled", "failed"}
    with pytest.raises(UsageError, match="Name a point"):
        run["md"].rerun({"lr": 1})
    better = bad.rerun({"lr": 0.75})
    assert better.wait(timeout=WAIT_S) == "completed"
    assert better["md"].logs() == "from 4 0.75\n"
    fresh = bad.rerun({"lr": 0.25}, checkpoint=False)
    assert fresh.wait(timeout=WAIT_S) == "completed"
    assert fresh["md"].logs() == "from 0 0.25\n"


def test_a_gate_waits_with_its_inputs_loaded_and_goes_on_with_what_was_decided(tmp_path: Path, kale: Kale, until: Callable) -> None:
    workflow = Workflow("gated", folder=tmp_path)
    workflow.step("make", "x = [1, 2, 3]", outputs=["x"])
    workflow.step("pick", "chosen = x[index]", outputs=["chosen"], params={"index": 0}, gate=True)
    run = kale.run(workflow.submit(client=kale.client).name)
    step = run["pick"]
    until(lambda: step.state == "gated", "the gate")
    assert step.reason == "waits for a person, with its inputs loaded"
    assert str(step.execute("x[-1]")) == "3"
    assert program(tmp_path, "continue", "pick", "--set", "index=2").stdout.endswith("/pick goes on with index=2\n")
    assert run.wait(timeout=WAIT_S) == "completed"
    assert step.pull("chosen") == 3
    (decided,) = [event for event in events(run, "pick") if event["event"] == "resumed"]
    assert decided["set"] == {"index": "2"}
    assert "@" in decided["by"]
    with pytest.raises(UsageError, match="waits for nobody"):
        step.proceed(index=1)
    again = kale.run(workflow.submit(client=kale.client).name)
    until(lambda: again["pick"].state == "gated", "the gate of the next run, though nothing has changed")
    assert again["make"].state == "cached"
    again.cancel()


def test_input_in_a_step_asks_the_person_and_the_log_keeps_the_answer(tmp_path: Path, kale: Kale, until: Callable) -> None:
    run = steps.submit(tmp_path, kale, "name = input('Which metal? ')\nimport getpass\nsecret = getpass.getpass('Key: ')\nprint(len(secret))", outputs=["name"])
    step = run["md"]
    until(lambda: step.state == "gated", "the question")
    assert step.reason == "asks: Which metal?"
    with pytest.raises(UsageError, match="takes an answer, no variables"):
        step.proceed(x=1)
    step.proceed(answer="Cu")
    until(lambda: step.reason == "asks: Key:", "the next question")
    step.proceed(answer="hidden!")
    assert run.wait(timeout=WAIT_S) == "completed"
    assert step.pull("name") == "Cu"
    assert step.logs() == "Which metal? Cu\nKey: \n7\n"
    assert "hidden!" not in "".join(path.read_text(errors="replace") for path in step.folder.rglob("*") if path.is_file())


def test_a_gate_in_another_kernel_takes_variables_of_its_language(tmp_path: Path, kale: Kale, until: Callable) -> None:
    from kale_proxy.places import jupyter_data_dir

    folder = jupyter_data_dir() / "kernels" / "bash"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "bash", "language": "bash"}))
    run = steps.submit(tmp_path, kale, "echo got $n", kernel="bash", gate=True)
    step = run["md"]
    until(lambda: step.state == "gated", "the gate", timeout=WAIT_S)
    step.proceed(n=5)
    assert run.wait(timeout=WAIT_S) == "completed"
    assert step.logs() == "got 5\n"


def test_run_ends_with_code_five_at_a_gate_unless_it_is_told_to_go_on(tmp_path: Path, kale: Kale) -> None:
    notebook(tmp_path / "w.ipynb", "%kale_workflow w", "%%kale_step pick --gate --params n=1\nprint('n', n)")
    done = program(tmp_path, "run", "w.ipynb", code=5)
    assert "pick is gated (waits for a person" in done.stderr
    assert kale.run().state == "cancelled"
    program(tmp_path, "run", "w.ipynb", "--gates", "continue")
    assert kale.run()["pick"].logs() == "n 1\n"
    program(tmp_path, "run", "w.ipynb", "--gates", "wait", "--timeout", "1", code=4)
    assert kale.run()["pick"].state == "gated"


def test_a_sweep_is_a_table_of_parameters_metrics_results_and_states(tmp_path: Path, kale: Kale) -> None:
    code = "from kale_magic.inside import metric\nfor i in range(3):\n    metric(step=i, loss=n / (i + 1), n=1)\nif n == 3:\n    raise ValueError('bad')\nbest = n * 2\nxs = [n]"
    run = steps.submit(tmp_path, kale, code, each={"n": [1, 2, 3]}, params={"k": "a"}, outputs=["best", "xs"])
    assert run.wait(timeout=WAIT_S) == "failed"
    table = run["md"].table()
    assert list(table.index) == [0, 1, 2]
    assert list(table.n) == [1, 2, 3]
    assert list(table.loss) == [1 / 3, 2 / 3, 1.0]
    assert list(table.state) == ["completed", "completed", "failed"]
    assert list(table.best)[:2] == [2, 4]
    assert (table.seconds >= 0).all()
    assert set(table.columns) == {"n", "k", "state", "seconds", "loss", "metric_n", "best"}
    assert [row["point"] for row in run["md[n=2]"].rows()] == [1]


def test_input_in_a_kernel_of_another_environment_asks_too_and_a_stop_ends_the_question(tmp_path: Path, kale: Kale, until: Callable) -> None:
    from kale_proxy.places import jupyter_data_dir

    folder = jupyter_data_dir() / "kernels" / "other"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "other", "language": "python"}))
    run = steps.submit(tmp_path, kale, "name = input('Which metal? ')\nprint(name * 2)\ninput('More? ')", kernel="other", hold="1s")
    step = run["md"]
    until(lambda: step.state == "gated", "the question", timeout=WAIT_S)
    assert step.reason == "asks: Which metal?"
    step.proceed(answer="Cu")
    until(lambda: step.reason == "asks: More?", "the next question")
    assert step.logs() == "Which metal? Cu\nCuCu\n"
    step.stop()
    assert run.wait(timeout=WAIT_S) == "cancelled"


def test_a_cell_that_waits_asks_what_the_step_asks(
    notebook_runner: Callable, cell_text: Callable, tmp_path: Path, kale: Kale
) -> None:
    cells = notebook_runner([
        "%load_ext kale_magic",
        "import kale_magic.magics.look as look\nlook.ask_here = lambda prompt, is_password: f'{prompt}42'\nfrom kale_magic.magics.session import KaleMagics\nKaleMagics.can_ask = True",
        "%%kale_step ask --outputs n --run\nn = input('n? ')",
        "%kale_pull ask n\nn",
        "%%kale_step pick --gate --outputs m\nm = 1",
        "run = %kale_submit --only pick\nimport time\nwhile run['pick'].state != 'gated': time.sleep(0.05)",
        "%kale_continue pick --set k=3\n%kale_wait --timeout 60",
    ]).cells  # fmt: skip
    assert "n? 42" in cell_text(cells[3])
    assert "goes on with k=3" in cell_text(cells[6])


def test_a_gate_with_release_allocates_nothing_survives_the_manager_and_goes_on_with_what_was_decided(
    tmp_path: Path, kale: Kale, until: Callable
) -> None:
    workflow = Workflow("gated", folder=tmp_path)
    workflow.step("make", "x = 4", outputs=["x"])
    workflow.step("pick", "echo $x times $n", shell=True, inputs=["x"], params={"n": 1}, gate_release=True)
    run = kale.run(workflow.submit(client=kale.client).name)
    until(lambda: run["pick"].state == "gated", "the gate")
    assert run["pick"].reason == "waits for a person; nothing is allocated meanwhile"
    assert not kale.client.queue()
    kale.client.shutdown()
    with pytest.raises(UsageError, match="it has no kernel yet|asks no question"):
        run["pick"].proceed(answer="x")
    assert "goes on with n=7, and is queued" in program(tmp_path, "continue", "pick", "--set", "n=7").stdout
    assert run.wait(timeout=WAIT_S) == "completed"
    assert run["pick"].logs() == "4 times 7\n"
    (decided,) = [event for event in events(run, "pick") if event["event"] == "continued"]
    assert (decided["set"], "@" in decided["by"]) == ({"n": "7"}, True)


def test_a_run_keeps_the_state_of_the_repository_it_was_submitted_in(tmp_path: Path, kale: Kale, until: Callable) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "model.py").write_text("x = 1\n")
    for words in (["init", "-q", "-b", "trunk"], ["add", "model.py"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "model.py").write_text("x = 2\n")
    run = steps.submit(tmp_path, kale, "x = 1")
    found = until(lambda: lineage(run.folder).get("git"), "git's answer")
    assert found == {"commit": commit, "branch": "trunk", "changed": ["model.py"]}
    assert lineage(run.folder)["packages"]["numpy"]
