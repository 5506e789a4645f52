"""The droplet of the first Kale, 63 steps: the demo's science, and the same bytes from two other engines."""

import re
from pathlib import Path

import pytest

from kale_magic import Workflow, connect
from tests.integration.test_engines import engine, of_cwl, of_snakemake, outputs_of

DEMO = Path(__file__).parents[2] / "demo_notebooks" / "05_droplet.ipynb"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_droplets_spread_by_huppert_s_law_and_the_exports_end_in_the_same_bytes(notebook_runner, cell_text, tmp_path) -> None:
    text = {cell.id: cell_text(cell) for cell in notebook_runner(DEMO, timeout=250).cells if cell.cell_type == "code"}
    assert text["declare"].startswith("63 steps, 79 edges\n")
    seen = re.search(r"had (\d+) parcels when this visit began, and has (\d+) now", text["look"])
    assert seen
    assert int(seen[1]) >= int(seen[2]) > 10
    assert text["wait"] == "completed\n"
    found = re.search(r"b = ([\d.]+).*radius ([+-][\d.]+)% of the law's", text["check"])
    assert found
    assert float(found[1]) == pytest.approx(0.125, abs=0.005)
    assert 0 < float(found[2]) < 5

    wf = Workflow.from_yaml(tmp_path / "droplet.yaml")
    (run,) = connect().runs(tmp_path)
    wanted = outputs_of(run.folder)
    assert len(wanted) == 1 + 6 * (1 + 2 + 3 * 2 + 3 + 1) + 2
    files = {path.name: path.read_bytes() for path in tmp_path.glob("spread_*.txt")}
    assert len(files) == 18

    snakemake = tmp_path / "droplet_snakemake"
    engine("snakemake", "-c2", cwd=snakemake, timeout=200)
    assert of_snakemake(snakemake) == wanted
    assert {name: (snakemake / name).read_bytes() for name in files} == files

    said = engine("cwltool", "--parallel", "--outdir", tmp_path / "cwl", "droplet.cwl", cwd=tmp_path, timeout=200).stdout
    assert of_cwl(wf, said) == wanted
    assert {name: next((tmp_path / "cwl").rglob(name)).read_bytes() for name in files} == files
