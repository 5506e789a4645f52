"""CWL becomes steps: sweeps, edges, values of a job, and located sentences for what is not kept."""

from pathlib import Path

import pytest

from kale_magic.errors import FormatError
from kale_magic.formats import cwl_read, native
from kale_magic.formats.load import load
from kale_magic.model import dataflow

DATA = Path(__file__).parent.parent / "data" / "cwl"


def test_steps_edges_and_sweep_are_those_of_the_workflow():
    workflow = load(DATA / "lines.cwl")
    plan = dataflow.resolve(workflow)
    assert list(workflow.steps) == ["write", "count", "total", "shout", "cwl_outputs"]
    assert [axis.values for axis in workflow.steps["write"].each] == [("one", "two-words", "three")]
    assert workflow.steps["write"].params == {"times": 2}
    assert workflow.steps["write"].resources.cpus == 1
    assert plan.steps["count"].parents == ("write",)
    assert set(plan.steps["cwl_outputs"].parents) == {"count", "total", "shout"}
    assert native.load(native.dump(workflow)) == workflow


def test_job_file_gives_values(tmp_path):
    (tmp_path / "job.yml").write_text("words: [a]\ntimes: 5\nis_loud: true\n")
    workflow = load(DATA / "lines.cwl", tmp_path / "job.yml")
    assert workflow.steps["write"].params["times"] == 5
    assert workflow.steps["write"].each[0].values == ("a",)
    assert workflow.steps["shout"].params["is_loud"] is True



@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cwlVersion: draft-3\nclass: Workflow\n", r"x.cwl, line 1, column 1: cwlVersion: Kale reads CWL v1.0, v1.1, v1.2, not 'draft-3'"),
        ("cwlVersion: v1.2\nclass: Operation\n", r"line 2, column 1: class: 'Operation' is not read"),
        ("cwlVersion: v1.2\nclass: CommandLineTool\ninputs:\n  a: strin\noutputs: []\n", r"line 4, column 3: inputs.a: 'strin' is no type"),
        ("cwlVersion: v1.2\nclass: CommandLineTool\nrequirements:\n  DockerRequirement: {dockerPull: x}\ninputs: []\noutputs: []\n", r"line 4.*DockerRequirement.*containers are not run"),
        ("cwlVersion: v1.2\nclass: Workflow\ninputs: {a: int}\noutputs: {}\nsteps:\n  s: {run: ../x.cwl, in: {}, out: []}\n", r"line 6.*'../x.cwl' leads out of the workflow's folder"),
        ("cwlVersion: v1.2\nclass: Workflow\ninputs: {a: int}\noutputs: {}\nsteps:\n  s: {run: /etc/passwd, in: {}, out: []}\n", r"'/etc/passwd' is no file in the workflow's folder"),
        ("cwlVersion: v1.2\nclass: Workflow\ninputs: {}\noutputs: {o: {type: int, outputSource: s/o}}\nsteps: []\n", r"o comes from 'o', which no step or input gives|comes from"),
        ("cwlVersion: v1.0\nclass: Workflow\ninputs: {}\noutputs: {}\nsteps:\n  s: {run: {class: CommandLineTool, inputs: [], outputs: []}, when: $(true), in: {}, out: []}\n", r"'when' came with CWL v1.2"),
        ("cwlVersion: v1.2\nclass: CommandLineTool\ninputs: &a []\noutputs: *a\n", r"anchors and aliases"),
        ("cwlVersion: v1.2\nclass: CommandLineTool\ninputs:\n  f: {type: File, default: {class: File, location: ../secret}}\noutputs: []\n", r"leads out of the workflow's folder"),
    ],
)  # fmt: skip
def test_what_is_not_kept_is_refused_with_the_place(tmp_path, text, message):
    (tmp_path / "x.cwl").write_text(text)
    with pytest.raises(FormatError, match=message):
        load(tmp_path / "x.cwl")


def test_a_workflow_that_contains_itself_is_refused(tmp_path):
    (tmp_path / "x.cwl").write_text("cwlVersion: v1.2\nclass: Workflow\ninputs: {}\noutputs: {}\nsteps:\n  s: {run: x.cwl, in: {}, out: []}\n")
    with pytest.raises(FormatError, match="nested"):
        load(tmp_path / "x.cwl")


def test_steps_that_wait_for_each_other_are_refused(tmp_path):
    tool = "{class: CommandLineTool, inputs: {i: int}, outputs: {o: int}}"
    (tmp_path / "x.cwl").write_text(
        f"cwlVersion: v1.2\nclass: Workflow\ninputs: {{}}\noutputs: {{}}\nsteps:\n  a: {{run: {tool}, in: {{i: b/o}}, out: [o]}}\n  b: {{run: {tool}, in: {{i: a/o}}, out: [o]}}\n"
    )
    with pytest.raises(FormatError, match="a, b wait for each other"):
        load(tmp_path / "x.cwl")


def test_nothing_of_the_file_is_run_at_import(tmp_path):
    (tmp_path / "x.cwl").write_text(
        "cwlVersion: v1.2\nclass: CommandLineTool\nrequirements: {InlineJavascriptRequirement: {}}\ninputs: []\noutputs: []\n"
        f"arguments: ['${{ return require(\"fs\").writeFileSync(\"{tmp_path}/ran\", \"x\"); }}']\nbaseCommand: [touch, {tmp_path}/ran]\n"
    )
    load(tmp_path / "x.cwl")
    assert not (tmp_path / "ran").exists()


def test_common_blocks_need_nothing_but_themselves():
    names = dataflow.analyse("\n".join(cwl_read.common_blocks().values()))
    assert not names.free
    assert "cwl_step" in names.assigned


def test_requirements_of_a_job_win_and_formats_are_written_out(tmp_path):
    (tmp_path / "x.cwl").write_text(
        "cwlVersion: v1.2\nclass: CommandLineTool\n$namespaces: {edam: 'http://edamontology.org/'}\nbaseCommand: env\n"
        "requirements: {EnvVarRequirement: {envDef: {A: tool}}}\ninputs: {f: {type: File, format: edam:format_1}}\noutputs: []\n"
    )
    (tmp_path / "f.txt").write_text("")
    (tmp_path / "job.yml").write_text("f: {class: File, location: f.txt, format: edam:format_2}\ncwl:requirements: [{class: EnvVarRequirement, envDef: [{envName: A, envValue: job}]}]\n")
    step = load(tmp_path / "x.cwl", tmp_path / "job.yml").steps["x"]
    assert "{'envDef': {'A': 'job'}}" in step.code
    assert "'format': 'http://edamontology.org/format_1'" in step.code
    assert step.params["f"]["format"] == "http://edamontology.org/format_2"
    (tmp_path / "job.yml").write_text("f: {class: File, location: f.txt}\ncwl:requirements: [{class: DockerRequirement, dockerPull: x}]\n")
    with pytest.raises(FormatError, match="DockerRequirement.*containers are not run"):
        load(tmp_path / "x.cwl", tmp_path / "job.yml")


def test_files_of_a_job_are_named_from_its_own_folder(tmp_path):
    (tmp_path / "x.cwl").write_text("cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: cat\ninputs: {f: File}\noutputs: []\n")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/job.yml").write_text("f: {class: File, location: data/f.txt, secondaryFiles: [{class: File, path: g.txt}]}\n")
    given = load(tmp_path / "x.cwl", tmp_path / "jobs/job.yml").steps["x"].params["f"]
    assert (given["location"], given["secondaryFiles"][0]["path"]) == ("jobs/data/f.txt", "jobs/g.txt")
    (tmp_path / "jobs/job.yml").write_text("f: {class: File, location: ../../f.txt}\n")
    with pytest.raises(FormatError, match="leads out of the workflow's folder"):
        load(tmp_path / "x.cwl", tmp_path / "jobs/job.yml")
