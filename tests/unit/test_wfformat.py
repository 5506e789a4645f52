"""WfFormat in both directions: real instances become workflows, workflows and runs become instances."""

import gzip
import json
from pathlib import Path

import pytest

from kale_magic import Workflow
from kale_magic.errors import FormatError
from kale_magic.formats import native, wfformat, wfformat_read
from kale_magic.formats.load import load
from kale_magic.model import dataflow

DATA = Path(__file__).parent.parent / "data" / "wfformat"


def instance(name):
    """Return the text of an instance that the wfcommons package generated from real executions."""
    return gzip.decompress((DATA / f"{name}.json.gz").read_bytes()).decode()


@pytest.mark.parametrize(("name", "count"), [("seismology", 108), ("blast", 108), ("cycles", 137)])
def test_instance_becomes_a_workflow_of_the_same_shape(name, count):
    data = json.loads(instance(name))
    workflow = wfformat_read.load(instance(name), name)
    plan = dataflow.resolve(workflow)
    tasks = {task["id"]: task for task in data["workflow"]["specification"]["tasks"]}
    assert len(tasks) == count
    assert set(plan.steps) == {*tasks, "stage_in"}
    for task in tasks.values():
        assert set(plan.steps[task["id"]].parents) - {"stage_in"} == set(task["parents"])
    times = {task["id"]: task["runtimeInSeconds"] for task in data["workflow"]["execution"]["tasks"]}
    assert {step: workflow.steps[step].params["seconds"] for step in times} == times
    assert native.load(native.dump(workflow)) == workflow


def test_file_of_an_instance_is_told_apart_by_its_content(tmp_path):
    (tmp_path / "x.json").write_text(instance("blast"))
    assert "split_fasta_00000001" in load(tmp_path / "x.json").steps
    assert "split_fasta_00000001" in Workflow.from_yaml(tmp_path / "x.json").model.steps


def test_workflow_becomes_an_instance_with_a_task_for_each_point(tmp_path):
    wf = Workflow("eos")
    wf.step("curve", "e = m", outputs=["e"], each={"m": ["Al", "Cu"]})
    wf.step("fit", "print(e)")
    assert any("no code" in line for line in wf.to_yaml(tmp_path / "x.json", format="wfformat"))
    specification = json.loads((tmp_path / "x.json").read_text())["workflow"]["specification"]
    assert [task["id"] for task in specification["tasks"]] == ["curve.0", "curve.1", "fit"]
    assert specification["tasks"][2]["parents"] == ["curve.0", "curve.1"]
    assert specification["tasks"][2]["inputFiles"] == ["curve.0/e", "curve.1/e"]
    assert specification["tasks"][0]["children"] == ["fit"]
    assert list(load(tmp_path / "x.json").steps) == ["curve_0", "curve_1", "fit"]


def test_run_gives_times_cores_memory_and_machines(tmp_path):
    wf = Workflow("eos")
    wf.step("a", "x = 1", outputs=["x"], cpus=2)
    wf.step("b", "print(x)")
    for name, start in (("a", 0), ("b", 3)):
        folder = tmp_path / "steps" / name
        folder.mkdir(parents=True)
        result = {"started_at": f"2026-11-28T07:00:0{start}.000Z", "ended_at": f"2026-11-28T07:00:0{start + 2}.500Z", "node": "node1",
                  "cpu_s": 1.25, "peak_rss_bytes": 1000, "outputs": {"x": {"bytes": 7}} if name == "a" else {}}  # fmt: skip
        (folder / "result.json").write_text(json.dumps(result))
    data = json.loads(wfformat.dump(wf.model, tmp_path))["workflow"]
    assert data["specification"]["files"] == [{"id": "a/x", "sizeInBytes": 7}]
    assert data["execution"]["makespanInSeconds"] == 5.5
    assert data["execution"]["machines"] == [{"system": "linux", "nodeName": "node1"}]
    first = data["execution"]["tasks"][0]
    assert (first["id"], first["runtimeInSeconds"], first["coreCount"], first["avgCPU"], first["memoryInBytes"]) == ("a", 2.5, 2, 50.0, 1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schemaVersion="1.3"), r"schemaVersion: Kale reads WfFormat 1.5 and 1.6, not '1.3'"),
        (lambda d: d["workflow"]["specification"]["tasks"][3].update(parents=["nobody"]), r"line \d+, column \d+: 3.parents.0: there is no task 'nobody'"),
        (lambda d: d["workflow"]["specification"]["tasks"][0].update(id=7), r"line \d+, .*takes text, not 7"),
        (lambda d: d["workflow"]["specification"].update(tasks={}), r"takes a list, not an object"),
        (lambda d: d["workflow"]["specification"]["files"][0].update(sizeInBytes=-1), r"sizeInBytes: takes a whole number"),
        (lambda d: d["workflow"]["execution"]["tasks"][0].update(runtimeInSeconds="long"), r"runtimeInSeconds: takes a number"),
        (lambda d: d["workflow"]["specification"]["tasks"][0].update(parents=[d["workflow"]["specification"]["tasks"][0]["id"]]), r"waits for itself"),
    ],
)  # fmt: skip
def test_a_damaged_instance_is_refused_with_the_place(change, message):
    data = json.loads(instance("blast"))
    change(data)
    with pytest.raises(FormatError, match=message):
        wfformat_read.load(json.dumps(data, indent=1), "x.json")


def test_ids_that_look_like_ways_out_of_the_folder_stay_inside():
    data = json.loads(instance("blast"))
    data["workflow"]["specification"]["tasks"][0]["outputFiles"] = ["../../etc/passwd", "/abs/x'y", "a/./b"]
    step = wfformat_read.load(json.dumps(data), "x").steps["split_fasta_00000001"]
    assert step.files_out == ("files/etc/passwd", "files/abs/x_y", "files/a/b")
