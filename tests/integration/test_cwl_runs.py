"""Imported CWL run by Kale, to what cwltool makes of the same files; and exported again."""

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.test_cli import kale
from tests.integration.test_engines import engine

DATA = Path(__file__).parent.parent / "data" / "cwl"


def _texts(outputs):
    """Return the contents of the files in an output object."""
    if isinstance(outputs, list):
        return [_texts(item) for item in outputs]
    if isinstance(outputs, dict) and outputs.get("class") == "File":
        return Path(outputs["path"]).read_text()
    return {key: _texts(item) for key, item in outputs.items()} if isinstance(outputs, dict) else outputs


@pytest.mark.slow
@pytest.mark.parametrize("job", [{}, {"words": ["a", "b"], "times": 3, "is_loud": True}])
def test_a_cwl_workflow_runs_to_what_cwltool_makes_of_it(kale_home, tmp_path, job):
    here = shutil.copytree(DATA, tmp_path / "cwl")
    (here / "job.json").write_text(json.dumps(job))
    wanted = _texts(json.loads(engine("cwltool", "--outdir", tmp_path / "out", "lines.cwl", "job.json", cwd=here).stdout))
    found = json.loads(kale(here, "run", "lines.cwl", "--job", "job.json", "--json").stdout)
    assert found["state"] == "completed"
    assert len(found["steps"]["write"]["points"]) == len(job.get("words", "abc"))
    assert _texts(json.loads((here / "cwl/outputs.json").read_text())) == wanted


@pytest.mark.slow
def test_an_imported_workflow_becomes_a_notebook_and_is_exported_again(kale_home, tmp_path):
    here = shutil.copytree(DATA, tmp_path / "cwl")
    kale(here, "import", "lines.cwl", "-o", "lines.ipynb")
    kale(here, "export", "lines.ipynb", "-o", "smk", "--format", "snakemake")
    engine("snakemake", "-c2", cwd=here / "smk")
    assert Path(json.loads((here / "smk/cwl/outputs.json").read_text())["total"]["path"]).read_text() == "6\n"


def test_a_tool_that_fails_says_so_in_the_steps_reason(kale_home, tmp_path):
    (tmp_path / "bad.cwl").write_text("cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: [sh, -c, exit 3]\ninputs: []\noutputs: []\n")
    found = json.loads(kale(tmp_path, "run", "bad.cwl", "--json", code=1).stdout)
    assert "bad ended with exit code 3" in found["steps"]["bad"]["reason"]
    (tmp_path / "needs.cwl").write_text("cwlVersion: v1.2\nclass: CommandLineTool\nbaseCommand: echo\ninputs: {n: int}\noutputs: []\n")
    found = json.loads(kale(tmp_path, "run", "needs.cwl", "--json", code=1).stdout)
    assert "input n of needs needs a value: give it by --params or a job file" in found["steps"]["needs"]["reason"]
    kale(tmp_path, "run", "needs.cwl", "--params", "n=3")
