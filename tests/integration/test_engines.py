"""Exports run by the engines themselves, without Kale, to the bytes that a run of ours leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from kale_magic import Workflow
from kale_magic.formats import wfformat
from tests.unit.test_wfformat import instance

BIN = Path(sys.executable).parent
TOIL = Path(__file__).parents[2] / ".venv-toil" / "bin" / "toil-cwl-runner"
DEADLINE_S = 110


def engine(*words, cwd, code=0, timeout=DEADLINE_S):
    """Run an engine of this environment, its ``python3`` first on the path; return what it said."""
    command = [str(BIN / words[0]), *map(str, words[1:])]
    environment = {**os.environ, "PATH": f"{BIN}:{Path(command[0]).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


def workflow(folder):
    """Return a workflow that uses what engines differ in: values of all kinds, two sweeps, files, a shell step, order alone."""
    (folder / "data").mkdir()
    (folder / "data/table.csv").write_text("1,2\n")
    (folder / "beside.py").write_text("K = 7\n")
    wf = Workflow("eos", description="Energies.", folder=folder)
    wf.common("import beside\nimport numpy as np\nclass Point:\n    def __init__(self, x):\n        self.x = x\n")
    wf.step(
        "relax", "x = n + 1 + beside.K\np = Point(x)\na = np.arange(3.0) * f\nprint('hi', name, tiny, pair)",
        outputs=["x", "p", "a"], params={"n": 1, "name": "x 'y' $(a) ${b} \\", "tiny": 1e-5, "pair": (1, 2), "f": 10.0}, cpus=1, memory="200MB",
    )  # fmt: skip
    wf.step("curve", "e = [metal, t, x]\nopen(f'out_{metal}_{t}.txt', 'w').write(metal)", outputs=["e"], each={"metal": ["Al", "Cu"], "t": [0.0, 0.5]}, files_out=["out_*.txt"])
    wf.step("zipped", "z = (i, j)", outputs=["z"], each={"i": "range(3)", "j": ["a", None, 2.5]}, zip=True)
    wf.step("sh", "cat data/*.csv > made.txt\ny=$(( x + $(cat made.txt | wc -l) ))", shell=True, inputs=["relax.x"], outputs=["y"], files_in=["data/*.csv"], files_out=["made.txt"])
    wf.step("fit", "r = (e, e_params, z, z_params, p.x, y, a.tolist(), open('made.txt').read())\nimport glob\ng = sorted(glob.glob('out_*.txt'))",
            outputs=["r", "g"], files_in=["made.txt", "out_*.txt"], after=["curve"])  # fmt: skip
    wf.step("last", "%matplotlib inline\nw = g", outputs=["w"], after=["fit"])
    return wf


def ours(wf):
    """Run a workflow by Kale; return the bytes of every declared output, by STEP/NAME.SUFFIX or STEP/POINT/NAME.SUFFIX."""
    run = wf.submit()
    run.wait(timeout=DEADLINE_S)
    assert run.state == "completed", run.states()
    return outputs_of(run.folder)


def outputs_of(folder):
    """Return the same of a run's folder."""
    steps = Path(folder) / "steps"
    found = {}
    for path in steps.rglob("outputs/*"):
        if path.name != "index.json":
            found["/".join([*path.relative_to(steps).parts[:-2], path.name])] = path.read_bytes()
    return found


def of_cwl(wf, said):
    """Return the same of what cwltool printed."""
    found = {}
    for key, value in json.loads(said).items():
        step, _, name = key.partition(".")
        if name == "kale_files":
            continue
        points = enumerate(value) if isinstance(value, list) else [(None, value)]
        for number, file in points:
            path = Path(file.get("path") or unquote(file["location"].removeprefix("file://")))
            part = [step] if number is None else [step, str(number)]
            found["/".join([*part, name + path.suffix])] = path.read_bytes()
    return found


def of_snakemake(folder):
    results = folder / "results"
    return {
        path.relative_to(results).as_posix(): path.read_bytes()
        for path in results.rglob("*") if path.is_file() and path.suffix != ".log" and path.name != "index.json"
    }  # fmt: skip


@pytest.fixture
def eos(tmp_path):
    folder = tmp_path / "wf"
    folder.mkdir()
    return workflow(folder)


@pytest.mark.slow
def test_cwltool_runs_both_forms_to_the_same_bytes_as_kale(kale_home, eos, tmp_path):
    wanted = ours(eos)
    assert len(wanted) == 14
    for target in ("folder", "one.cwl"):
        assert not any("left out" in line for line in eos.to_yaml(tmp_path / target, format="cwl"))
        main = tmp_path / target / "workflow.cwl" if target == "folder" else tmp_path / target
        engine("cwltool", "--validate", "--strict", main, cwd=tmp_path)
        done = engine("cwltool", "--parallel", "--outdir", tmp_path / f"{target}-out", main, cwd=tmp_path)
        assert of_cwl(eos, done.stdout) == wanted
        assert "Warning" not in done.stderr
    assert (tmp_path / "folder-out/curve.files.Al.0.5/out_Al_0.5.txt").read_text() == "Al"


@pytest.mark.slow
def test_cwltool_takes_other_parameters_from_a_job_file(eos, tmp_path):
    eos.to_yaml(tmp_path / "out", format="cwl")
    (tmp_path / "job.json").write_text(json.dumps({"relax.n": 5, "relax.pair": "(3, 4)", "zipped.j": ["'q'"] * 3}))
    done = engine("cwltool", "--outdir", tmp_path / "o", tmp_path / "out/workflow.cwl", tmp_path / "job.json", cwd=tmp_path)
    found = of_cwl(eos, done.stdout)
    assert found["relax/x.json"] == b"13"
    assert (tmp_path / "o/zipped.z.2.q.pkl").exists()


@pytest.mark.slow
def test_snakemake_runs_the_folder_to_the_same_bytes_as_kale(kale_home, eos, tmp_path):
    wanted = ours(eos)
    eos.to_yaml(tmp_path / "out", format="snakemake")
    engine("snakemake", "-c2", cwd=tmp_path / "out")
    assert of_snakemake(tmp_path / "out") == wanted
    assert "hi x 'y' $(a) ${b} \\ 1e-05 (1, 2)\n" in (tmp_path / "out/results/relax/stdout.log").read_text()


@pytest.mark.slow
def test_snakemake_runs_again_only_what_a_change_reaches(eos, tmp_path):
    out = tmp_path / "out"
    eos.to_yaml(out, format="snakemake")
    engine("snakemake", "-c2", cwd=out)
    eos.to_yaml(out, format="snakemake")
    assert "Nothing to be done" in engine("snakemake", "-c2", cwd=out).stderr
    eos.step("sh", "cat data/*.csv > made.txt\ny=100", shell=True, inputs=["relax.x"], outputs=["y"], files_in=["data/*.csv"], files_out=["made.txt"])
    eos.to_yaml(out, format="snakemake")
    said = engine("snakemake", "-c2", cwd=out).stderr
    assert {line.split()[1].rstrip(":") for line in said.splitlines() if "rule " in line and line.endswith(":")} - {"all"} == {"sh", "fit", "last"}
    assert (out / "results/sh/y.json").read_text() == "100"


@pytest.mark.slow
def test_a_step_that_fails_fails_the_engine_and_says_why(tmp_path):
    wf = Workflow("bad")
    wf.step("first", "x = 1", outputs=["x"])
    wf.step("breaks", "y = x / 0", outputs=["y"])
    wf.step("never", "print(y)")
    wf.to_yaml(tmp_path / "smk", format="snakemake")
    engine("snakemake", "-c1", cwd=tmp_path / "smk", code=1)
    assert "ZeroDivisionError" in (tmp_path / "smk/results/breaks/stderr.log").read_text()
    assert not (tmp_path / "smk/results/never/index.json").exists()
    wf.to_yaml(tmp_path / "bad.cwl", format="cwl")
    assert "ZeroDivisionError" in engine("cwltool", "bad.cwl", cwd=tmp_path, code=1).stderr


@pytest.mark.slow
def test_fireworks_loads_and_runs_the_folder_to_the_same_bytes_as_kale(kale_home, eos, tmp_path):
    wanted = ours(eos)
    out = tmp_path / "out"
    assert not any("left out" in line for line in eos.to_yaml(out, format="fireworks"))
    (tmp_path / "rockets.py").write_text(
        "import fireworks.core.launchpad, mongomock, mongomock.gridfs\n"
        "mongomock.gridfs.enable_gridfs_integration()\n"
        "fireworks.core.launchpad.MongoClient = mongomock.MongoClient\n"
        "from fireworks import FWorker, LaunchPad, Workflow\n"
        "from fireworks.core.rocket_launcher import rapidfire\n"
        "pad = LaunchPad(strm_lvl='ERROR')\n"
        "pad.reset('', require_password=False)\n"
        "pad.add_wf(Workflow.from_file('workflow.yaml'))\n"
        "rapidfire(pad, FWorker(), strm_lvl='ERROR')\n"
        "print(pad.get_wf_summary_dict(pad.get_wf_ids()[0], mode='less')['state'])\n"
    )
    assert engine("python", tmp_path / "rockets.py", cwd=out).stdout.split()[-1] == "COMPLETED"
    assert of_snakemake(out) == wanted


@pytest.mark.slow
def test_a_real_instance_runs_as_dummy_work_and_its_run_is_an_instance_again(kale_home, tmp_path):
    (tmp_path / "blast.json").write_text(instance("blast"))
    run = Workflow.from_model(Workflow.from_yaml(tmp_path / "blast.json").model, tmp_path).submit(params={"speed": 1e9, "size": 0.001})
    run.wait(timeout=DEADLINE_S)
    assert run.state == "completed"
    wf = Workflow.from_yaml(tmp_path / "blast.json")
    text = wfformat.dump(wf.model, Path(run.folder))
    execution = json.loads(text)["workflow"]["execution"]
    assert len(execution["tasks"]) == 109
    assert all(task["runtimeInSeconds"] >= 0 and task["memoryInBytes"] > 0 for task in execution["tasks"])
    sizes = {file["id"]: file["sizeInBytes"] for file in json.loads(instance("blast"))["workflow"]["specification"]["files"]}
    written = {path.name: path.stat().st_size for path in (tmp_path / "files").iterdir()}
    assert written == {name: round(size * 0.001) for name, size in sizes.items()}


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["cwl", "snakemake"])
def test_environment_setup_kernels_and_scripts_are_as_in_kale(kale_home, tmp_path, format_):
    wf = Workflow("more", folder=tmp_path)
    wf.step("env", "import os\nv = [os.environ['A'], os.environ['B'], os.environ['C']]", outputs=["v"],
            env={"A": "$B/x", "C": "${NOT_SET_ANYWHERE}y"}, setup=["export B='two words'"])  # fmt: skip
    wf.step("other", "w = [v, n, 1.5]\nprint(w)", kernel="python3", inputs=["env.v"], outputs=["w"], params={"n": (1, None)})
    wf.step("swept", "u = k * 2", kernel="python3", outputs=["u"], each={"k": [1, 2]})
    wf.step("gather", "t = u\ns = u_params", kernel="python3", inputs=["swept.u"], outputs=["t", "s"])
    cells = [nbformat.v4.new_code_cell("n = 0", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]})]
    cells += [nbformat.v4.new_code_cell("n = 3", metadata={"tags": ["skip-execution"]}), nbformat.v4.new_code_cell("b = [n, v[0]]")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "other.ipynb")
    wf.step("book", notebook="other.ipynb", params={"n": 7}, inputs=["env.v"], outputs=["b"])
    wf.step("job", "#!/bin/bash\n#SBATCH -n 1\necho from $0 > script.txt", after=["other"], files_out=["script.txt"])
    wanted = ours(wf)
    assert json.loads(wanted["env/v.json"]) == ["two words/x", "two words", "y"]
    assert json.loads(wanted["book/b.json"]) == [7, "two words/x"]
    said = "\n".join(wf.to_yaml(tmp_path / "out", format=format_))
    assert "nbclient must be installed" in said
    if format_ == "cwl":
        done = engine("cwltool", "--outdir", tmp_path / "o", tmp_path / "out/workflow.cwl", cwd=tmp_path)
        found = of_cwl(wf, done.stdout)
    else:
        engine("snakemake", "-c2", cwd=tmp_path / "out")
        found = of_snakemake(tmp_path / "out")
    assert found == wanted


def test_command_line_exports_a_run_with_its_times(kale_home, tmp_path):
    wf = Workflow("eos", folder=tmp_path)
    wf.step("a", "x = n", outputs=["x"], params={"n": 1})
    wf.to_yaml(tmp_path / "eos.yaml")
    run = wf.submit(params={"n": 2})
    run.wait(timeout=DEADLINE_S)
    engine("jupyter-kale", "export", "eos.yaml", "-o", "x.json", "--format", "wfformat", "--run", run.name, cwd=tmp_path)
    assert json.loads((tmp_path / "x.json").read_text())["workflow"]["execution"]["tasks"][0]["id"] == "a"
    engine("jupyter-kale", "export", "eos.yaml", "-o", "run.yaml", "--run", run.name, cwd=tmp_path)
    assert "n: 2" in (tmp_path / "run.yaml").read_text()
    said = engine("jupyter-kale", "export", "eos.yaml", "-o", "-", "--format", "cwl", cwd=tmp_path, code=2).stderr
    assert "cwl can't go to stdout" in said


@pytest.mark.slow
@pytest.mark.skipif(not TOIL.exists(), reason="needs Toil, in an environment of its own: make toil")
def test_toil_runs_the_one_file_to_the_same_bytes_as_kale(kale_home, eos, tmp_path):
    wanted = ours(eos)
    eos.to_yaml(tmp_path / "one.cwl", format="cwl")
    done = engine(TOIL, "--no-container", "--jobStore", tmp_path / "jobs", "--outdir", tmp_path / "out", "one.cwl", cwd=tmp_path)
    assert of_cwl(eos, done.stdout) == wanted
