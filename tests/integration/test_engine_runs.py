"""`jupyter kale run --engine`: Snakemake and cwltool run the workflow; states, logs, outputs and files are the run's as ever."""

import json
import os
import signal
import time
from pathlib import Path

import nbformat
import pytest

from kale_magic import Workflow
from tests.integration.test_cli import kale
from tests.integration.test_engines import BIN, ours, workflow

DEADLINE_S = 90.0
ENGINES = pytest.mark.parametrize("engine", ["snakemake", "cwltool"])


@pytest.fixture
def place(kale_home, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
    folder = tmp_path / "wf"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@ENGINES
@pytest.mark.slow
def test_a_run_by_an_engine_leaves_what_a_run_of_ours_leaves(place, engine):
    wf = workflow(place)
    wanted = ours(wf)
    for path in [*place.glob("out_*"), place / "made.txt"]:
        path.unlink()
    wf.to_yaml(place / "eos.yaml")
    found = json.loads(kale(place, "run", "eos.yaml", "--engine", engine, "--json", "--timeout", "90").stdout)
    assert found["state"] == "completed"
    assert found["executor"] == engine
    assert {step["state"] for step in found["steps"].values()} == {"completed"}
    assert found["steps"]["curve"]["points"]["3"]["started_at"] <= found["steps"]["curve"]["points"]["3"]["ended_at"]
    steps = place / ".kale/runs" / found["run"] / "steps"
    made = {"/".join([*path.relative_to(steps).parts[:-2], path.name]): path.read_bytes() for path in steps.rglob("outputs/*") if path.name != "index.json"}
    assert made == wanted
    assert (place / "out_Al_0.5.txt").read_text() == "Al"
    assert (place / "made.txt").read_text() == "1,2\n"
    assert "hi x 'y'" in (steps / "relax/stdout.log").read_text()
    assert json.loads((steps / "relax/step.ipynb").read_text())["cells"][-1]["outputs"][0]["text"][0].startswith("hi x 'y'")


@ENGINES
@pytest.mark.slow
def test_logs_are_live_and_a_failure_is_told_while_the_rest_goes_on(place, engine):
    wf = Workflow("live", folder=place)
    wf.step("slow", "import time, os\nprint('begun')\nwhile not os.path.exists(flag):\n    time.sleep(0.05)\nx = 1", params={"flag": str(place / "flag")}, outputs=["x"])
    wf.step("breaks", "raise ValueError('no good')")
    wf.step("after_it", "print('never')", after=["breaks"])
    wf.step("end", "print(x)")
    run = wf.submit(executor=engine)
    until(lambda: run.states()["slow"] == "running" and "begun" in run["slow"].logs())
    until(lambda: run.states()["breaks"] == "failed")
    assert "ValueError: no good" in run["breaks"].reason
    assert "ValueError: no good" in run["breaks"].logs(is_stderr=True)
    (place / "flag").touch()
    assert run.wait(timeout=DEADLINE_S) == "failed"
    end = {"snakemake": "completed", "cwltool": "cancelled"}[engine]  # cwltool begins nothing more after a failure
    assert run.states() == {"slow": "completed", "breaks": "failed", "after_it": "cancelled", "end": end}
    assert run["slow"].pull("x") == 1


def is_alive(pid):
    """Whether a process is there; one that nobody has reaped yet is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


@ENGINES
@pytest.mark.slow
def test_cancel_ends_the_engine_and_its_steps(place, engine):
    wf = Workflow("long", folder=place)
    wf.step("loop", "import os, time\nprint(os.getpid())\ntime.sleep(600)")
    run = wf.submit(executor=engine)
    pid = int(until(lambda: run.states()["loop"] == "running" and run["loop"].logs()))
    of_engine = json.loads((place / ".kale/runs" / run.name / "engine/process.json").read_text())["pid"]
    run.cancel()
    assert run.wait(timeout=DEADLINE_S) == "cancelled"
    os.kill(json.loads(kale(place, "manager", "status", "--json").stdout)["pid"], signal.SIGKILL)  # who cancelled it may be gone
    until(lambda: not any(is_alive(number) for number in (pid, of_engine)))


@pytest.mark.slow
def test_a_run_by_an_engine_survives_the_manager(place, kale_home):
    wf = Workflow("live", folder=place)
    wf.step("slow", "import time, os\nwhile not os.path.exists(flag):\n    time.sleep(0.05)\nx = 1", params={"flag": str(place / "flag")}, outputs=["x"])
    wf.step("end", "y = x + 1", outputs=["y"])
    name = wf.submit(executor="snakemake").name
    until(lambda: json.loads(kale(place, "status", name, "--json").stdout)["steps"]["slow"]["state"] == "running")
    pid = json.loads(kale(place, "manager", "status", "--json").stdout)["pid"]
    os.kill(pid, signal.SIGKILL)
    (place / "flag").touch()
    until(lambda: json.loads(kale(place, "status", name, "--json").stdout)["state"] == "completed")
    assert json.loads((place / ".kale/runs" / name / "steps/end/outputs/y.json").read_text()) == 2


def test_what_an_engine_cannot_do_is_refused_before_anything_starts(place):
    wf = Workflow("w", folder=place)
    wf.step("a", "x = 1")
    wf.step("b", "x = 1", executor="local")
    wf.to_yaml(place / "w.yaml")
    for words, said in (
        (("--only", "a"), "snakemake runs the whole workflow. Leave out --only"),
        (("--executor", "local"), "exclude each other"),
        ((), "Step b has --executor local"),
    ):
        assert said in kale(place, "run", "w.yaml", "--engine", "snakemake", *words, code=2).stderr


@pytest.mark.slow
def test_an_engine_asks_nobody_at_a_gate_and_runs_notebooks(place):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("y = x + 1")]), place / "other.ipynb")
    wf = Workflow("w", folder=place)
    wf.step("look", "x = n", gate=True, params={"n": 3}, outputs=["x"])
    wf.step("book", notebook="other.ipynb", inputs=["x"], outputs=["y"])
    wf.to_yaml(place / "w.yaml")
    assert "Step look is a gate, and snakemake asks nobody. Run it by Kale" in kale(place, "run", "w.yaml", "--engine", "snakemake", code=1).stderr
    found = json.loads(kale(place, "run", "w.yaml", "--engine", "snakemake", "--gates", "continue", "--json").stdout)
    assert {name: step["state"] for name, step in found["steps"].items()} == {"look": "completed", "book": "completed"}
    assert json.loads((place / ".kale/runs" / found["run"] / "steps/book/outputs/y.json").read_text()) == 4


def test_an_engine_that_is_not_there_fails_the_run_with_the_way_out(place, monkeypatch):
    kale(place, "manager", "start")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr("sys.executable", "/usr/bin/python3")
    wf = Workflow("w", folder=place)
    wf.step("a", "x = 1")
    run = wf.submit(executor="snakemake")
    assert run.wait(timeout=DEADLINE_S) == "failed"
    assert "pip install snakemake" in run["a"].reason
