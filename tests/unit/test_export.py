"""Exports to other engines' formats, as text: what is where, what is lost, and how values keep their type."""

import json

import nbformat
import pytest
import yaml

from kale_magic import Workflow
from kale_magic.errors import UsageError, WorkflowError
from kale_magic.formats import cwl, snakemake
from kale_magic.formats.export import export
from kale_magic.formats.losses import _FEATURES, losses
from kale_magic.formats.project import project_of
from tests.unit.workflows import full_workflow


def _diamond():
    wf = Workflow("eos", description="Energies.")
    wf.common("import math\n")
    wf.step("relax", "x = n + 1", outputs=["x"], params={"n": 1, "t": (1, 2), "f": 2.0, "w": "a"}, cpus=2, memory="1GB")
    wf.step("curve", "e = m * x * k", outputs=["e"], each={"m": [1.5, 2.5], "k": [1, "a"]}, walltime="00:10:00")
    wf.step("fit", "r = sum(e)\nq = e_params", outputs=["r"], after=["note"])
    wf.step("note", "echo hello", shell=True)
    return wf


def test_cwl_parameters_have_the_type_that_holds_them_exactly(tmp_path):
    _diamond().to_yaml(tmp_path / "out", format="cwl")
    main = yaml.safe_load((tmp_path / "out/workflow.cwl").read_text())
    assert main["inputs"]["relax.n"] == {"type": "int", "default": 1}
    assert main["inputs"]["relax.t"] == {"type": "string", "default": "(1, 2)"}
    assert main["inputs"]["relax.f"] == {"type": "double", "default": 2.0}
    assert main["inputs"]["curve.m"] == {"type": "double[]", "default": [1.5, 2.5]}
    assert main["inputs"]["curve.k"] == {"type": "string[]", "default": ["1", "'a'"]}
    told = json.loads(yaml.safe_load((tmp_path / "out/steps/relax.cwl").read_text())["inputs"]["kale_told"]["default"])
    assert told["literals"] == ["t"]


def test_cwl_sweep_is_a_scatter_and_its_consumer_gathers(tmp_path):
    _diamond().to_yaml(tmp_path / "out", format="cwl")
    steps = yaml.safe_load((tmp_path / "out/workflow.cwl").read_text())["steps"]
    assert steps["curve"]["scatter"] == ["m", "k"]
    assert steps["curve"]["scatterMethod"] == "flat_crossproduct"
    assert steps["fit"]["in"]["e"] == "curve/e"
    assert steps["fit"]["in"]["kale_after"]["source"] == ["note/kale_log"]
    assert steps["fit"]["in"]["curve.m"] == "curve.m"


def test_cwl_resources_are_a_requirement(tmp_path):
    _diamond().to_yaml(tmp_path / "out", format="cwl")
    asked = yaml.safe_load((tmp_path / "out/steps/relax.cwl").read_text())["requirements"]
    assert asked["ResourceRequirement"] == {"coresMin": 2, "ramMin": 1024}
    limits = yaml.safe_load((tmp_path / "out/steps/curve.cwl").read_text())["requirements"]
    assert limits["ToolTimeLimit"] == {"timelimit": 600}


def test_cwl_in_one_file_needs_no_other(tmp_path):
    _diamond().to_yaml(tmp_path / "eos.cwl", format="cwl")
    assert [path.name for path in tmp_path.iterdir()] == ["eos.cwl"]
    text = (tmp_path / "eos.cwl").read_text()
    assert "location" not in text
    assert yaml.safe_load(text)["steps"]["relax"]["run"]["inputs"]["kale_code"]["default"]["contents"] == "x = n + 1\n"


def test_snakefile_asks_for_resources_by_snakemakes_names(tmp_path):
    wf = Workflow("eos")
    wf.step("a-b", "x = 1", cpus=3, memory="2GB", walltime="90s", queue="long", retries=2, reservation="r", native=["#SBATCH --exclusive"])
    wf.step("class", "y = 1", each={"i": "range(3)"})
    wf.to_yaml(tmp_path, format="snakemake")
    text = (tmp_path / "Snakefile").read_text()
    assert "rule a_b:" in text
    assert "rule class_:" in text
    assert "threads: 3" in text
    assert "mem_mb=2048," in text
    assert "runtime=2," in text
    assert "slurm_partition='long'," in text
    assert "slurm_extra='--reservation=r --exclusive'," in text
    assert "retries: 2" in text
    assert 'expand("results/class/{point}/index.json", point=range(3))' in text


def test_exporting_again_leaves_files_that_are_the_same(tmp_path):
    wf = _diamond()
    wf.to_yaml(tmp_path, format="snakemake")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    wf.step("note", "echo other", shell=True)
    wf.to_yaml(tmp_path, format="snakemake")
    changed = {path.name for path, at in before.items() if path.is_file() and path.stat().st_mtime_ns != at}
    assert changed == {"note.sh"}


@pytest.mark.parametrize("format_", ["cwl", "snakemake"])
def test_what_a_format_cannot_hold_is_said(tmp_path, format_):
    wf = Workflow("eos", executor="slurm")
    wf.step("a", "x = 1", tags=["slow"])
    wf.step("b", "x = 1", tags=["slow"], gpus=1)
    said = "\n".join(wf.to_yaml(tmp_path / "out", format=format_))
    assert "--tags (steps a, b)" in said
    assert "executor slurm" in said
    assert ("--gpus (step b)" in said) == (format_ == "cwl")


@pytest.mark.parametrize("format_", ["cwl", "snakemake", "fireworks", "wfformat"])
def test_what_a_person_decides_or_looks_at_is_said_to_be_lost(tmp_path, format_):
    wf = Workflow("eos")
    wf.step("look", "x = 1", gate=True, hold="5m")
    wf.step("later", "x = 1", gate_release=True)
    wf.step("ask", "name = input('name? ')", no_cache=True)
    wf.step("answer", "read -p 'name? ' name\necho $name", shell=True)
    wf.step("lines", "while read line; do echo $line; done < in.txt\nls | read first\nread second < in.txt", shell=True)
    said = "\n".join(wf.to_yaml(tmp_path / "out", format=format_))
    assert ("read from a person (step answer): nobody answers, and it reads end of file" in said) == (format_ != "wfformat")
    assert "--gate (steps look, later): nobody is asked, they go on by themselves with their --params" in said
    assert "--hold and --hold-on-failure (step look): left out" in said
    assert ("input() (step ask): nobody answers" in said) == (format_ != "wfformat")
    assert ("--no-cache (step ask): left out" in said) == (format_ != "cwl")
    if format_ == "cwl":
        assert yaml.safe_load((tmp_path / "out/steps/ask.cwl").read_text())["requirements"]["WorkReuse"] == {"enableReuse": False}


@pytest.mark.parametrize("format_", ["cwl", "snakemake", "fireworks"])
def test_a_notebook_goes_along_without_its_outputs_and_with_what_it_imports(tmp_path, format_):
    cells = [nbformat.v4.new_code_cell("import lib\nprint(lib.K)", outputs=[nbformat.v4.new_output("stream", text="seen")], execution_count=7)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "other.ipynb")
    (tmp_path / "lib.py").write_text("K = 1\n")
    wf = Workflow("eos", folder=tmp_path)
    wf.step("nb", notebook="other.ipynb", params={"n": 1})
    said = wf.to_yaml(tmp_path / "out", format=format_)
    assert said == ["step nb is a notebook: its kernel and nbclient must be installed where it runs"]
    (cell,) = nbformat.read(tmp_path / "out/steps/nb.ipynb", as_version=4).cells
    assert (cell.source, cell.outputs, cell.execution_count) == ("import lib\nprint(lib.K)", [], None)
    assert (tmp_path / "out/lib.py").read_text() == "K = 1\n"


@pytest.mark.parametrize(("text", "message"), [(None, "other.ipynb can't be read: No such file"), ("[]", "is no notebook of format 4"), ('{"worksheets": []}', "is no notebook")])
def test_a_notebook_that_cannot_go_along_is_said_in_a_sentence(tmp_path, text, message):
    if text is not None:
        (tmp_path / "other.ipynb").write_text(text)
    wf = Workflow("eos", folder=tmp_path)
    wf.step("nb", notebook="other.ipynb")
    with pytest.raises(UsageError, match=f"Step nb: .*{message}"):
        wf.to_yaml(tmp_path / "out", format="snakemake")


def test_every_feature_that_nobody_holds_is_listed_once():
    found = losses(full_workflow(), frozenset(), "X")
    for word in ("--ntasks", "--cpus", "--gpus", "--memory", "--walltime", "--queue", "--retries", "--tags", "Markdown"):
        assert sum(word in line for line in found) == (word != "--gpus"), word  # it asks for 0 of them


def test_a_step_that_uses_kale_inside_is_said_to_need_it(tmp_path):
    wf = Workflow("eos")
    wf.step("a", "from kale_magic.inside import metric\nmetric(e=1)")
    assert any("pip install kale-magic" in line for line in wf.to_yaml(tmp_path / "out", format="cwl"))


def test_data_and_modules_beside_the_notebook_go_along(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.csv").write_text("1\n")
    (tmp_path / "lib.py").write_text("K = 1\n")
    wf = Workflow("eos", folder=tmp_path)
    wf.step("a", "import lib\nx = open('data/a.csv').read()", files_in=["data/*.csv"])
    for format_ in ("cwl", "snakemake"):
        wf.to_yaml(tmp_path / format_, format=format_)
        assert (tmp_path / format_ / "data/a.csv").read_text() == "1\n"
        assert (tmp_path / format_ / "lib.py").read_text() == "K = 1\n"


def test_a_format_of_several_files_refuses_a_file(tmp_path):
    (tmp_path / "there").write_text("mine")
    with pytest.raises(UsageError, match="needs a folder"):
        _diamond().to_yaml(tmp_path / "there", format="snakemake")
    assert (tmp_path / "there").read_text() == "mine"


def test_a_workflow_that_does_not_fit_together_is_not_exported(tmp_path):
    wf = Workflow("eos")
    wf.step("a", "print(nobody)")
    with pytest.raises(WorkflowError, match="nobody"):
        wf.to_yaml(tmp_path / "out", format="cwl")
    assert not (tmp_path / "out").exists()


def test_an_unknown_format_lists_those_there_are(tmp_path):
    with pytest.raises(UsageError, match=r"'doc'.*kale, cwl, snakemake"):
        export(_diamond().model, tmp_path / "x", "doc")


def test_names_that_python_or_snakemake_keep_for_themselves_become_others(tmp_path):
    wf = Workflow("eos")
    for name in ("all", "lambda", "a-b", "a_b"):
        wf.step(name, "x = 1")
    names = snakemake.rule_names(project_of(wf.model, tmp_path))
    assert len(set(names.values())) == 4
    assert all(name.isidentifier() for name in names.values())
    assert "all" not in names.values()
    assert "lambda" not in names.values()


def test_a_file_name_that_cwltool_refuses_is_said(tmp_path):
    (tmp_path / "a b.csv").write_text("1\n")
    wf = Workflow("eos", folder=tmp_path)
    wf.step("a", "x = 1", files_in=["*.csv"])
    assert any("--relax-path-checks" in line for line in cwl.warnings(project_of(wf.model, tmp_path), is_folder=True))


def test_a_feature_that_no_export_knows_yet_is_said_to_be_lost(monkeypatch):
    wf = Workflow("eos")
    wf.step("a", "x = 1", retries=2)
    monkeypatch.delitem(_FEATURES, "retries")
    assert losses(wf.model, frozenset(_FEATURES), "X") == ["X can't hold --retries (step a): left out"]
