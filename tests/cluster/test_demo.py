"""The demo on a cluster, run from the laptop as a person would: through the login host, by real ssh, as real Slurm jobs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.conftest import Cluster

DEMO = Path(__file__).parents[2] / "demo_notebooks" / "06_on_the_cluster.ipynb"
pytestmark = [pytest.mark.ssh, pytest.mark.slurm, pytest.mark.timeout(400)]


def test_the_workflow_runs_on_the_nodes_and_is_seen_from_the_laptop(
    cluster: Cluster, notebook_runner: Callable[..., Any], cell_text: Callable[[Any], str]
) -> None:
    with contextlib.suppress(shutil.SameFileError):
        shutil.copy(cluster.laptop / "config.toml", os.environ["KALE_HOME"])
    with cluster.hosts.laptop.here():
        notebook = notebook_runner(DEMO, timeout=300)
    said = {cell.source.split("\n")[0]: cell_text(cell) for cell in notebook.cells if cell.cell_type == "code"}
    assert "#SBATCH --time=00:10:00" in said["%kale_submit --dry-run --only curve"]
    attached = said["%%kale_attach expansion"]
    assert re.search(r"on node\d, Slurm job \d+: \d+% done", attached), attached
    assert any(output.get("data", {}).get("image/png") for cell in notebook.cells if cell.source.startswith("%%kale_attach") for output in cell.outputs)
    assert re.search(r"\d+ time steps so far, the last with a = 3\.6\d+ Å", said["%kale_pull expansion edge --as snapshot"])
    assert said["%kale_status"].count("completed") >= 4
    assert "Cu at 300 K" in said["%kale_logs compare"]
    found = re.search(r"Cu at 300 K: a = ([\d.]+) Å, ([+-][\d.]+)%", said["%kale_pull compare table alpha room_edge"])
    assert found
    assert abs(float(found[1]) - 3.61) < 0.02
    assert "#SBATCH --array=0-6" in said["%kale_logs curve --script"]
    assert "short" in said["%kale_pool list"]
    assert "idle" in said["%kale_pool list"]
    again = said["%kale_submit --pool short --params temperatures=[250,500,750] steps=120 --wait"]
    assert "2 cached" in again or again.count("cached") >= 2
    other = re.search(r"expansion ([\d.]+)e-6 / K from three other temperatures, ([\d.]+)e-6", said["%kale_pull compare alpha --as alpha_again"])
    assert other
    assert 10 < float(other[1]) < 35
    assert other[1] != other[2]
    assert "closes" in said["%kale_pool close short"]
