"""The classic example workflows, written against the names of 2017-18, run on this engine."""

import time
from pathlib import Path

import nbformat
import pytest

from kale_magic import connect
from kale_magic.compat import BatchTask, CommandLineTask, NotebookTask, PythonFunctionTask, WorkerPool, Workflow
from kale_magic.errors import UsageError, WorkflowError

DEADLINE_S = 60.0


def _hello():
    import os

    return os.getpid() > 0


def _echo(number, before):
    assert before is True
    return [f"Hello #{number}: {j}" for j in range(2)]


def _join(*lists):
    return [line for one in lists for line in one]


def test_map_reduce_echo_of_five_steps(kale_home, tmp_path):
    wf = Workflow("example_wf", folder=tmp_path)
    wf.readme = "<h1>Example Workflow</h1>"
    out = {"out_file": "out.txt"}
    pwd = CommandLineTask(name="pwd_task", command="echo \"Hello from '`pwd`'.\" > {out_file}", output_files=["{out_file}"], log_path="{out_file}", tags=["pwd"], params=out)
    echoes = [
        CommandLineTask(
            name="echo_task_{i}", command='for j in {{1..{n_echos}}}; do echo "Hello #{i}: $j" >> {out_file}; done',
            output_files=["{out_file}"], tags=["echo"], params={**out, "i": i, "n_echos": 2},
        )
        for i in range(3)
    ]  # fmt: skip
    done = CommandLineTask(name="done_task", command="echo 'Done!' >> {out_file}", params=out)
    wf.add_task(pwd)
    for task in echoes:
        wf.add_task(task, dependencies=[pwd])
    wf.add_task(done, dependencies=echoes)
    pool = WorkerPool("pool", 2)
    assert pool.fw_run(wf).state == "completed"
    lines = (tmp_path / "out.txt").read_text().splitlines()
    assert lines[0] == f"Hello from '{tmp_path}'."
    assert sorted(lines[1:-1]) == [f"Hello #{i}: {j}" for i in range(3) for j in (1, 2)]
    assert lines[-1] == "Done!"


def test_functions_give_their_values_to_futures(kale_home, tmp_path):
    wf = Workflow("example_wf_py", folder=tmp_path)
    first = PythonFunctionTask("pwd_task", _hello)
    echoes = [PythonFunctionTask("echo_task_{i}", _echo, args=[i, first], params={"i": i}) for i in range(3)]
    done = PythonFunctionTask("done_task", _join, args=echoes)
    wf.add_task(first)
    for task in echoes:
        wf.add_task(task, dependencies=[first])
    wf.add_task(done, dependencies=echoes)
    WorkerPool("pool", 3, wf_executor="parsl").parsl_run(wf)
    assert wf.get_future(4).result(timeout=DEADLINE_S) == [f"Hello #{i}: {j}" for i in range(3) for j in range(2)]
    assert wf.get_future(0).done()


def test_diamond_of_four_steps(kale_home, tmp_path):
    wf = Workflow("diamond", folder=tmp_path)
    top = CommandLineTask("top", "echo 1 > top.txt", output_files=["top.txt"])
    left = CommandLineTask("left", "sed s/1/2/ top.txt > left.txt", input_files=["top.txt"], output_files=["left.txt"])
    right = CommandLineTask("right", "sed s/1/3/ top.txt > right.txt", input_files=["top.txt"], output_files=["right.txt"])
    bottom = CommandLineTask("bottom", "cat left.txt right.txt > bottom.txt", input_files=["left.txt", "right.txt"], output_files=["bottom.txt"])
    wf.add_task(top)
    wf.add_task(left, dependencies=[top])
    wf.add_task(right, dependencies=[top])
    wf.add_task(bottom, dependencies=[left, right])
    WorkerPool("one", 1).fw_run(wf)
    assert (tmp_path / "bottom.txt").read_text() == "2\n3\n"


def test_batch_then_a_notebook_that_waits_then_a_command(kale_home, tmp_path):
    (tmp_path / "melt.batch").write_text("#!/bin/bash\n#SBATCH -n 1\necho molten > melt.txt\n")
    wf = Workflow("lammps_wf", folder=tmp_path)
    melt = BatchTask(name="lammps_task", batch_script="melt.batch", output_files=["melt.txt"])
    look = NotebookTask(name="analysis_nb", notebook="Analysis.ipynb")
    after = CommandLineTask(name="after", command="cp melt.txt seen.txt", output_files=["seen.txt"])
    wf.add_task(melt)
    wf.add_task(look, dependencies=[melt])
    wf.add_task(after, dependencies=[look])
    run = WorkerPool("p", 2).parsl_run(wf)
    _until(lambda: run.states()["analysis_nb"] == "gated")
    assert (tmp_path / "melt.txt").read_text() == "molten\n"
    assert run.states()["after"] == "waiting"
    look.continue_workflow(cutoff=3)
    assert run.wait(timeout=DEADLINE_S) == "completed"
    assert (tmp_path / "seen.txt").exists()
    assert "cutoff" in (Path(run.folder) / "steps/analysis_nb/events.jsonl").read_text()


def test_tasks_run_in_a_pool_of_their_own_which_closes_when_they_have_ended(kale_home, tmp_path):
    pool = WorkerPool("my pool", 1)
    wf = Workflow("two", folder=tmp_path)
    for name in ("a", "b"):
        wf.add_task(CommandLineTask(name, f"date +%s%N > {name}.begin; sleep 0.3; date +%s%N > {name}.end"))
    run = pool.parsl_run(wf)
    kale = connect()
    (line,) = kale.pools()
    assert (line["name"], line["executor"]) == ("my_pool", "local")
    assert run.wait(timeout=DEADLINE_S) == "completed"
    times = {path.name: int(path.read_text()) for path in tmp_path.glob("[ab].*")}
    assert times["a.end"] <= times["b.begin"] or times["b.end"] <= times["a.begin"]
    pool.fw_run(wf)
    assert len(kale.pools()) == 1
    pool.close()
    _until(lambda: kale.pools() == [])
    assert pool.fw_run(wf).state == "completed"
    del pool
    _until(lambda: kale.pools() == [])


def test_a_pool_that_is_open_is_used_and_stays(kale_home, tmp_path):
    kale = connect()
    kale.open_pool("mine", "local", cpus=1)
    wf = Workflow("one", folder=tmp_path)
    wf.add_task(CommandLineTask("a", "true"))
    pool = WorkerPool("mine", 1)
    run = pool.fw_run(wf)
    assert run["a"].status()["executor"] == "pool:mine"
    pool.close()
    assert [line["name"] for line in kale.pools()] == ["mine"]
    with pytest.raises(UsageError, match="waits for nobody"):
        run["a"].proceed()


def test_a_notebook_is_run_from_its_first_cell_to_its_last(kale_home, tmp_path):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("a = 1"), nbformat.v4.new_code_cell("open('seen.txt', 'w').write(str(a + 1))")]), tmp_path / "n.ipynb")
    wf = Workflow("nb", folder=tmp_path)
    wf.add_task(NotebookTask("look", interactive=False, notebook="n.ipynb", output_files=["seen.txt"]))
    WorkerPool("p", 1).fw_run(wf)
    assert (tmp_path / "seen.txt").read_text() == "2"


def test_a_task_that_fails_is_named(kale_home, tmp_path):
    wf = Workflow("bad", folder=tmp_path)
    bad = CommandLineTask("bad", "exit 3")
    wf.add_task(bad)
    wf.add_task(CommandLineTask("next", "true"), dependencies=[bad])
    with pytest.raises(WorkflowError, match="bad failed, next cancelled"):
        WorkerPool("p", 1).fw_run(wf)


def droplet(folder, radii=(20, 30, 40, 50, 60, 100), parts=3):
    """Return the droplet workflow, 63 steps: a substrate, and for each radius a droplet, a simulation, parts of it, sums."""
    wf = Workflow("Droplet Workflow", folder=folder)
    mica = CommandLineTask("gen_mica_{nx}x{ny}", "echo mica {nx} {ny} > {out}", output_files=["{out}"], params={"nx": 10, "ny": 10, "out": "mica.data"})
    wf.add_task(mica)
    sums = []
    for r in radii:
        given = {"radius": r}
        drop = CommandLineTask("gen_droplet-{radius}A", "echo drop {radius} > drop_{radius}A.txt", output_files=["drop_{radius}A.txt"], params=given)
        both = CommandLineTask("combine-{radius}A", "cat mica.data drop_{radius}A.txt > both_{radius}A.data",
                               input_files=["mica.data", "drop_{radius}A.txt"], output_files=["both_{radius}A.data"], params=given)  # fmt: skip
        (folder / f"simulate_{r}A.batch").write_text(
            f"#!/bin/bash\n#SBATCH -n {parts}\nfor i in $(seq {parts}); do (cat both_{r}A.data; echo part $i) > atom_{r}A_$i; done\n"
        )
        atoms = [f"atom_{r}A_{part}" for part in range(1, parts + 1)]
        simulate = BatchTask("simulate-{radius}A", "simulate_{radius}A.batch", input_files=["both_{radius}A.data"], output_files=atoms, params=given)
        wf.add_task(drop)
        wf.add_task(both, dependencies=[mica, drop])
        wf.add_task(simulate, dependencies=[both])
        analysed = []
        for part in range(1, parts + 1):
            given = {"radius": r, "part": part}
            parse = CommandLineTask("parse-{radius}A_atom{part}", "wc -l < atom_{radius}A_{part} > waters_{radius}A_{part}.txt",
                                    input_files=["atom_{radius}A_{part}"], output_files=["waters_{radius}A_{part}.txt"], params=given)  # fmt: skip
            analyse = CommandLineTask("analyze-{radius}A_atom{part}", "echo $(( $(cat waters_{radius}A_{part}.txt) * {radius} * {part} )) > calc_{radius}A_{part}.txt",
                                      input_files=["waters_{radius}A_{part}.txt"], output_files=["calc_{radius}A_{part}.txt"], params=given)  # fmt: skip
            wf.add_task(parse, dependencies=[simulate])
            wf.add_task(analyse, dependencies=[parse])
            analysed.append(analyse)
        combine = CommandLineTask("combine_parts-{radius}A", "cat {files} > combined_{radius}A.txt", input_files=[t.output_files[0] for t in analysed],
                                  output_files=["combined_{radius}A.txt"], params={"radius": r, "files": " ".join(t.output_files[0] for t in analysed)})  # fmt: skip
        wf.add_task(combine, dependencies=analysed)
        sums.append(combine)
    all_of_them = CommandLineTask("combine_sims", "cat {files} > allResults.txt", input_files=[t.output_files[0] for t in sums],
                                  output_files=["allResults.txt"], params={"files": " ".join(t.output_files[0] for t in sums)})  # fmt: skip
    wf.add_task(all_of_them, dependencies=sums)
    wf.add_task(NotebookTask("analysis_notebook", interactive=False), dependencies=[all_of_them])
    return wf


@pytest.mark.slow
def test_droplet_of_63_tasks_runs_to_its_sums(kale_home, tmp_path):
    wf = droplet(tmp_path)
    plan = wf.build().plan()
    assert (len(plan.order), sum(len(step.parents) for step in plan.steps.values())) == (63, 79)
    WorkerPool("p", 2).fw_run(wf)
    wanted = [3 * r * part for r in (20, 30, 40, 50, 60, 100) for part in (1, 2, 3)]
    assert (tmp_path / "allResults.txt").read_text().split() == [str(number) for number in wanted]


def _until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
