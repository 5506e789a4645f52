"""The Python interface: declaring from text and functions, submitting, views of runs and steps."""

from __future__ import annotations

from pathlib import Path

import pytest

import kale_magic
from kale_magic.api import Run, Workflow
from kale_magic.api.find import Scope, find_run, find_step, one_job
from kale_magic.errors import StepSyntaxError, UnknownRunError, UnknownStepError, UsageError, WorkflowError
from kale_magic.model.step import StepKind
from kale_proxy import values
from tests.fakes.manager_client import FakeClient


@pytest.fixture
def client(tmp_path: Path) -> FakeClient:
    return FakeClient(str(tmp_path))


def test_public_names_are_there() -> None:
    assert kale_magic.Workflow is Workflow
    assert callable(kale_magic.connect)
    with pytest.raises(AttributeError, match="nothing_like_this"):
        kale_magic.nothing_like_this  # noqa: B018


def test_step_from_text_is_the_step_of_a_cell() -> None:
    wf = Workflow("eos", executor="local", description="x")
    step = wf.step("relax", "    a = 1\n", outputs=["a"], cpus=4, memory="4GB", walltime="00:10:00", each={"m": ["Al", "Cu"]})
    assert (step.code, step.outputs, step.point_count) == ("a = 1\n", ("a",), 2)
    assert (step.resources.cpus, step.resources.memory_bytes, step.resources.walltime_s) == (4, 4 << 30, 600)
    assert wf.step("sh", "echo 1", shell=True).kind is StepKind.SHELL
    assert wf.step("job", "#!/bin/bash\n#SBATCH -n 1\n").kind is StepKind.SCRIPT
    assert list(wf.plan().steps) == ["relax", "sh", "job"]


def test_function_that_returns_is_called_in_the_cell() -> None:
    wf = Workflow("eos")

    @wf.step(outputs=["e", "v"])
    def relax(atoms, n=10, name="Al"):
        """Relax it."""
        return len(atoms) * n, name

    step = wf.model.steps["relax"]
    assert step.description == "Relax it."
    assert step.inputs == ("atoms",)
    assert step.params == {"n": 10, "name": "Al"}
    namespace = {"atoms": [1, 2], **step.params}
    exec(step.code, namespace)
    assert (namespace["e"], namespace["v"]) == (20, "Al")
    assert relax([1]) == (10, "Al")


def test_function_without_return_is_the_cell_itself() -> None:
    wf = Workflow("eos")

    @wf.step("fit", outputs=["b"], cpus=2)
    def anything(a):
        """Fit."""
        for i in range(3):
            b = a + i  # noqa: F841 - an output of the step

    step = wf.model.steps["fit"]
    assert step.code.startswith("for i in range(3):\n    b = a + i")
    assert step.resources.cpus == 2


@pytest.mark.parametrize(
    ("name", "code", "options", "word"),
    [
        ("1x", "a = 1", {}, "'1x'"),
        ("a", "   ", {}, "no code"),
        ("a", "a = = 1", {}, "line 1"),
        ("a", "a = 1", {"outputs": ["b"]}, "never assigns `b`"),
        ("a", "a = 1", {"cpu": 1}, "no option 'cpu'"),
        ("a", "a = 1", {"cpus": 0}, "cpus=0"),
        ("a", "a = 1", {"each": {"m": []}}, "no values"),
        ("a", "a = 1", {"each": {"m": [1], "n": [1, 2]}, "zip": True}, "same length"),
        ("a", "a = 1", {"params": {"f": print}}, "no literal"),
        ("a", "a = 1", {"files_out": ["/etc/x"]}, "leaves the workflow's folder"),
        ("a", "a = 1", {"shell": True, "kernel": "ir"}, "Leave one"),
    ],
)
def test_step_that_can_t_be_is_refused_at_declaration(name, code, options, word) -> None:
    with pytest.raises((StepSyntaxError, UsageError, WorkflowError), match=word):
        Workflow("eos").step(name, code, **options)


def test_names_that_differ_in_case_are_refused() -> None:
    wf = Workflow("eos")
    wf.step("fit", "a = 1")
    with pytest.raises(WorkflowError, match="only in case"):
        wf.step("Fit", "a = 1")


def test_submit_hands_over_and_views_ask_anew(client: FakeClient, tmp_path: Path) -> None:
    wf = Workflow("eos", folder=tmp_path)
    wf.common("import math")
    wf.step("relax", "a = math.pi * n", outputs=["a"], params={"n": 2})
    wf.step("fit", "b = a", outputs=["b"])
    run = wf.submit(params={"n": (1, 2)}, only="relax", client=client)
    _, workflow, fields = client.asked[-1]
    assert workflow["common"] == {"common": "import math\n"}
    assert (fields["params"], fields["only"], fields["folder"]) == ({"n": "(1, 2)"}, ("relax",), tmp_path)
    assert run.states() == {"relax": "waiting"}
    client.runs_by_id[run.name]["steps"]["relax"]["state"] = "running"
    assert run["relax"].state == "running"
    with pytest.raises(TimeoutError):
        run.wait(timeout=0.01)
    client.runs_by_id[run.name]["state"] = "completed"
    assert run.wait(timeout=1) == "completed"
    assert run.is_over
    assert f"{run.name} completed" in repr(run)
    assert 'data-kale-step="relax"' in run._repr_mimebundle_()["text/html"]


def test_submit_of_what_does_not_fit_asks_nobody(client: FakeClient) -> None:
    wf = Workflow("eos")
    wf.step("fit", "b = a")
    with pytest.raises(WorkflowError, match="`a`"):
        wf.submit(client=client)
    with pytest.raises(UsageError, match="No step has a parameter 'n'"):
        Workflow("eos").submit(params={"n": 1}, client=client)
    assert client.asked == []


def test_finished_step_gives_values_logs_and_resources(client: FakeClient) -> None:
    run = Run("eos-1", client)
    client.add("eos-1", {"fit": {"state": "completed"}, "curve": {"state": "completed", "points": {"0": {}, "1": {}}}})
    folder = Path(client.where("eos-1", "fit")["folder"])
    values.save_all({"e0": 1.5, "names": ["a"]}, folder / "outputs")
    (folder / "stdout.log").write_text("one\ntwo\nthree\n")
    (folder / "resources.jsonl").write_text('{"cpu_s": 1}\n{"cpu_')
    assert run["fit"].pull("e0") == 1.5
    assert run["fit"].pull("names", "e0") == (["a"], 1.5)
    assert run["fit"].outputs == ["e0", "names"]
    assert run["fit"].logs() == "one\ntwo\nthree\n"
    assert run["fit"].logs(tail=1) == "three\n"
    assert run["fit"].logs(is_stderr=True) == ""
    assert run["fit"].resources() == [{"cpu_s": 1}]
    assert [item["name"] for item in run["fit"].variables()] == ["e0", "names"]
    with pytest.raises(UsageError, match=r"kernel is gone.*kale_pull eos-1/fit e0 names"):
        run["fit"].execute("1")
    with pytest.raises(UsageError):
        run["fit"].connection_file()


def test_sweep_gives_a_list_in_point_order(client: FakeClient) -> None:
    count = 11
    points = {str(n): {"state": "completed"} for n in range(count)}
    client.add("eos-1", {"curve": {"state": "completed", "points": points}})
    for n in range(count):
        values.save_all({"e": n}, Path(client.where("eos-1", "curve", n)["folder"]) / "outputs")
    assert Run("eos-1", client)["curve"].pull("e") == list(range(count))


def test_table_of_many_steps_keeps_those_that_need_a_person(client: FakeClient) -> None:
    steps = {f"s{n}": {"state": "completed"} for n in range(1000)}
    steps["s777"] = {"state": "failed", "reason": "ValueError: no"}
    client.add("big-1", steps, state="failed")
    text = Run("big-1", client)._repr_mimebundle_()["text/plain"]
    assert "999 of 1000 steps completed, 1 failed" in text
    assert "ValueError: no" in text
    assert text.endswith("... and 940 more steps")
    assert len(text.splitlines()) == 63


def test_workflow_goes_to_a_file_and_back(tmp_path: Path) -> None:
    wf = Workflow("eos", description="E(V)")
    wf.step("relax", "a = 1", outputs=["a"], each={"m": "range(3)"})
    wf.to_yaml(tmp_path / "eos.yaml")
    assert Workflow.from_yaml(tmp_path / "eos.yaml").model == wf.model
    with pytest.raises(UsageError, match="format 'doc'"):
        wf.to_yaml(tmp_path / "x", format="doc")
    with pytest.raises(UsageError, match="can't be read"):
        Workflow.from_yaml(tmp_path / "missing.yaml")


def test_picture_of_a_workflow_has_its_edges() -> None:
    wf = Workflow("eos")
    wf.step("relax", "a = 1", outputs=["a"])
    wf.step("fit", "b = a")
    assert repr(wf).splitlines()[-1].split()[1:] == ["fit", "←", "relax"]
    assert 'data-kale-step="fit"' in wf._repr_mimebundle_()["text/html"]


# which run, which step


def test_run_is_found_by_id_workflow_or_beginning(client: FakeClient) -> None:
    for run in ("eos-1", "eos-2"):
        client.add(run, {"fit": {}})
    client.add("melt-1", {"md": {}}, workflow="melt")
    assert find_run(client, "eos-1", Scope()) == "eos-1"
    assert find_run(client, "eos", Scope()) == "eos-2"
    assert find_run(client, "mel", Scope()) == "melt-1"
    assert find_run(client, None, Scope(workflow="eos")) == "eos-2"
    with pytest.raises(UsageError, match="2 runs begin with 'eos-'"):
        find_run(client, "eos-", Scope())
    with pytest.raises(UnknownRunError, match="Did you mean eos-1"):
        find_run(client, "eso-1", Scope())
    with pytest.raises(UnknownRunError, match="no run of workflow none"):
        find_run(client, None, Scope(workflow="none"))


def test_bare_step_is_that_of_the_newest_run_that_has_it(client: FakeClient) -> None:
    client.add("eos-1", {"fit": {"state": "completed"}, "relax": {"state": "completed"}}, state="completed")
    client.add("eos-2", {"relax": {"state": "running"}})
    assert find_step(client, "relax", Scope(workflow="eos")).run == "eos-2"
    assert find_step(client, "fit", Scope(workflow="eos")).run == "eos-1"
    assert find_step(client, "eos-1/relax", Scope(workflow="eos")).run == "eos-1"
    with pytest.raises(UnknownStepError, match="Did you mean fit"):
        find_step(client, "ftt", Scope(workflow="eos"))
    with pytest.raises(UnknownStepError, match="Did you mean relax"):
        find_step(client, "eos-2/relx", Scope())


def test_acting_on_a_step_that_is_live_twice_lists_the_candidates(client: FakeClient) -> None:
    client.add("eos-1", {"relax": {"state": "running"}})
    client.add("eos-2", {"relax": {"state": "completed"}})
    assert find_step(client, "relax", Scope(workflow="eos"), is_acting=True).run == "eos-1"
    client.add("eos-3", {"relax": {"state": "queued"}})
    with pytest.raises(UsageError, match=r"eos-3/relax \(queued\), eos-1/relax \(running\)"):
        find_step(client, "relax", Scope(workflow="eos"), is_acting=True)


def test_point_is_found_by_its_value_in_the_run_s_own_workflow(client: FakeClient, tmp_path: Path) -> None:
    wf = Workflow("eos")
    wf.step("curve", "e = m", outputs=["e"], each={"m": ["Al", "Cu"]})
    status = client.add("eos-1", {"curve": {"state": "running", "points": {"0": {"state": "completed"}, "1": {"state": "running"}}}})
    Path(status["folder"]).mkdir(parents=True)
    wf.to_yaml(Path(status["folder"]) / "workflow.yaml")
    assert find_step(client, "curve[m=Cu]", Scope()).label == "curve[1]"
    assert find_step(client, "curve[0]", Scope()).state == "completed"
    whole = find_step(client, "curve", Scope())
    with pytest.raises(UsageError, match=r"curve\[m=Al\], curve\[m=Cu\]"):
        one_job(client, whole)
