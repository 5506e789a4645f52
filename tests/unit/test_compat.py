"""The names of 2017-18: what tasks become, and the sentences for what can't be one."""

import pytest

from kale_magic.compat import BatchTask, CommandLineTask, NotebookTask, PythonFunctionTask, WorkerPool, Workflow
from kale_magic.errors import UsageError


def double(x):
    return 2 * x


def add(a, b=0):
    return a + b


def test_params_fill_braces_in_every_text(tmp_path):
    task = CommandLineTask(
        "echo_{i}", 'echo "{word}" ${{HOME}} > {out}', tags=["n{i}"], output_files=["{out}"], readme="Number {i}", params={"i": 3, "word": "hi", "out": "o.txt"}
    )
    assert (task.name, task.command, task.tags, task.output_files, task.readme) == ("echo_3", 'echo "hi" ${HOME} > o.txt', ["n3"], ["o.txt"], "Number 3")
    with pytest.raises(UsageError, match=r"Task a: command has braces.*'nobody'.*\{\{"):
        CommandLineTask("a", "echo {nobody}")


def test_tasks_become_steps_with_their_order(tmp_path):
    wf = Workflow("Droplet Workflow", folder=tmp_path)
    wf.readme = "# Drops"
    first = CommandLineTask("gen-20A", "true", num_cores=2, tags=["gen"], output_files=["a.txt", "/scratch/b.txt"])
    second = CommandLineTask("use 20A", "true", input_files=["a.txt"], readme="Use it")
    wf.add_task(first)
    wf.add_task(second, dependencies=[first])
    model = wf.build().model
    assert model.name == "Droplet_Workflow"
    assert model.steps["gen-20A"].files_out == ("a.txt",)
    assert model.steps["gen-20A"].resources.cpus == 2
    assert model.steps["use_20A"].after == ("gen-20A",)
    assert model.steps["use_20A"].files_in == ("a.txt",)
    assert model.markdown == {"": "# Drops", "use_20A": "Use it\n"}
    assert wf.get_task_by_name("use 20A") is second
    assert first.children[wf] == [second]
    assert wf.tag_dict == {"gen": [first]}


def test_functions_hand_their_result_to_the_tasks_that_take_them():
    wf = Workflow("py")
    one = PythonFunctionTask("one", double, args=[4])
    two = PythonFunctionTask("two", add, args=[one], kwargs={"b": (1, 2)[1]})
    wf.add_task(one)
    wf.add_task(two, dependencies=[one])
    steps = wf.build().model.steps
    assert steps["one"].code.endswith("one_result = double(4)\n")
    assert steps["two"].code.endswith("two_result = add(one_result, b=2)\n")
    assert steps["two"].inputs == ("one.one_result",)
    wf.build().plan()


def test_batch_script_is_read_and_runs_as_it_stands(tmp_path):
    (tmp_path / "a.batch").write_text("#!/bin/bash\n#SBATCH -n 1\nhostname\n")
    (tmp_path / "b.batch").write_text("hostname\n")
    wf = Workflow("b", folder=tmp_path)
    for name in ("a", "b"):
        wf.add_task(BatchTask(name, "{name}.batch", params={"name": name}))
    assert [step.kind for step in wf.build().model.steps.values()] == ["script", "shell"]
    wf.add_task(BatchTask("c", "missing.batch"))
    with pytest.raises(UsageError, match=r"Task c: its batch script .*missing.batch can't be read"):
        wf.build()


def test_notebook_is_a_step_and_an_interactive_one_a_gate(tmp_path):
    (tmp_path / "n.ipynb").write_text("{}")
    wf = Workflow("n", folder=tmp_path)
    wf.add_task(NotebookTask("nb", interactive=False, notebook=tmp_path / "n.ipynb"))
    wf.add_task(NotebookTask("look", notebook="other.ipynb"))
    steps = wf.build().model.steps
    assert (steps["nb"].kind, steps["nb"].notebook, steps["nb"].is_gate) == ("notebook", "n.ipynb", False)
    assert steps["look"].is_gate
    assert steps["look"].description == "Waits for a person. The notebook to work in is other.ipynb."
    wf.add_task(NotebookTask("gone", interactive=False, notebook="gone.ipynb"))
    with pytest.raises(UsageError, match=r"Task gone: its notebook .*gone.ipynb can't be read"):
        wf.build()
    with pytest.raises(UsageError, match="Task look is in no workflow that was run"):
        wf.get_task_by_name("look").continue_workflow()


def test_what_cannot_be_added_says_why():
    wf = Workflow("w")
    task = CommandLineTask("a", "true")
    wf.add_task(task)
    with pytest.raises(ValueError, match="already in workflow w"):
        wf.add_task(task)
    with pytest.raises(ValueError, match="names are unique"):
        wf.add_task(CommandLineTask("A", "true"))
    with pytest.raises(ValueError, match=r"'z'.* is not in workflow w"):
        wf.add_task(CommandLineTask("b", "true"), dependencies=[CommandLineTask("z", "true")])
    with pytest.raises(UsageError, match="lambda"):
        wf.add_task(PythonFunctionTask("l", lambda: 1)) or wf.build()
    with pytest.raises(UsageError, match="'cori'"):
        WorkerPool("p", 2, location="cori")


def test_export_cwl_says_that_nobody_is_asked(tmp_path):
    wf = Workflow("g", folder=tmp_path)
    wf.add_task(NotebookTask("look"))
    assert wf.export_cwl(tmp_path / "g.cwl") == ["CWL can't hold --gate (step look): nobody is asked, they go on by themselves with their --params"]
    assert (tmp_path / "g.cwl").read_text().startswith("#!/usr/bin/env cwl-runner")
