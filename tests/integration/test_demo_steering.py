"""The demos of steering, run headless as a person would: what the cells show, and the science against known answers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from nbformat import NotebookNode

DEMOS = Path(__file__).parents[2] / "demo_notebooks"
pytestmark = pytest.mark.timeout(300)


def shown(notebook: NotebookNode, cell_text: Callable[[NotebookNode], str]) -> dict[str, str]:
    """Return what a person reads under each code cell, by the cell's id."""
    return {cell.id: cell_text(cell) for cell in notebook.cells if cell.cell_type == "code"}


def test_a_blast_wave_is_paused_steered_refined_and_follows_the_similarity_solution(notebook_runner, cell_text) -> None:
    text = shown(notebook_runner(DEMOS / "02_supernova_blast.ipynb", timeout=250), cell_text)
    assert "radius" in text["plot"]
    assert "blast" in text["pause"]
    assert "it stands" in text["still"]
    assert "goes on" in text["resume"]
    assert "is frozen" in text["freeze"]
    assert "frozen: every process of it is stopped" in text["frozen"]
    assert "pace is 0.01 and params.pace is 0.01" in text["faster"]
    assert "stopped" in text["stop"]
    begun = re.search(r"from t = ([\d.]+) on 480 shells", text["logs"])
    assert begun
    assert 0.02 < float(begun[1]) < 0.5
    found = re.search(r"similarity solution [\d.]+: ([+-][\d.]+)%; slope ([\d.]+)", text["check"])
    assert found
    assert abs(float(found[1])) < 1.5
    assert float(found[2]) == pytest.approx(0.4, abs=0.02)


def test_bad_trials_are_stopped_one_is_edited_and_goes_on_and_the_best_reads_the_digits(notebook_runner, cell_text) -> None:
    text = shown(notebook_runner(DEMOS / "04_live_hyperparameters.ipynb", timeout=250), cell_text)
    assert "rate=3.0 accuracy" in text["plot"]
    begun = re.search(r"rate 0.1, from epoch (\d+)", text["again-log"])
    assert begun
    assert 5 <= int(begun[1]) < 40
    best = re.search(r"best: rate (\S+), ([\d.]+)%.*edited trial: ([\d.]+)%", text["best"])
    assert best
    assert best[1] in {"0.3", "0.03", "0.1"}
    assert float(best[2]) > 96
    assert float(best[3]) > 94


def test_a_person_picks_a_part_of_the_slide_and_its_map_is_that_of_the_tissue(notebook_runner, cell_text, tmp_path) -> None:
    notebook = notebook_runner(DEMOS / "03_mass_spec_imaging.ipynb", timeout=250)
    text = shown(notebook, cell_text)
    pictures = next(cell for cell in notebook.cells if cell.id == "look")
    assert any("image/png" in output.get("data", {}) for output in pictures.outputs)
    assert "goes on with box=(0, 24, 24, 48)" in text["decide"]
    assert len(re.findall(r"found at .* \([+-][0-5] ppm\)", text["logs"])) == 7
    found = re.search(r"7 peaks.*agrees with the truth: ([\d.]+)", text["check"])
    assert found
    assert float(found[1]) > 0.95
    (events,) = tmp_path.glob(".kale/runs/*/steps/region/events.jsonl")
    assert "(0, 24, 24, 48)" in events.read_text()
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.r
@pytest.mark.skipif(shutil.which("R") is None, reason="R is missing: make system-deps")
def test_the_tour_of_looking_deciding_and_changing_finds_feigenbaums_number(notebook_runner, cell_text, tmp_path) -> None:
    notebook = notebook_runner(DEMOS / "07_into_chaos.ipynb", timeout=250)
    text = shown(notebook, cell_text)
    assert "points 1, 3, 5, 7, 9, 11 and 104 more never ran with these parameters; 111 of 221 cached since" in text["dry"]
    assert "{'cached': 111, 'completed': 110}" in text["counts"]
    assert "221/221, 111 cached" in text["second"]
    assert "parameter above changed: 0.0 -> 0.3" in text["diff"]
    assert "its kernel stays open for 300 s" in text["wait-held"]
    assert "n = 3; the root 3.5546408627" in text["post-mortem"]
    assert "3.569945" not in text["roots"]  # beyond is chaos
    assert "3.569913465" in text["roots"]
    assert "waits for a person; nothing is allocated meanwhile" in text["see-gate"]
    assert "goes on with trusted=10" in text["decide"]
    assert "asks: Who signs?" in text["answer"]
    assert text["signed"].strip() == "delta = 4.66920, found by the reader"
    assert "R_3 = 3.554641" in text["run-notebook"]
    assert "the old one is kept beside it" in text["push"]
    assert "Stale now: listing" in text["push"]
    assert "runs because: input `R` changed" in text["stale"]
    assert "R found delta = 4.66" in text["language-run"]
    assert "5 doublings count" in text["language-run"]
    found = re.search(r"delta = ([\d.]+), .* r = 4: ([\d.]+)", text["check"])
    assert found
    assert float(found[1]) == pytest.approx(4.669201609, rel=1e-4)
    assert float(found[2]) == pytest.approx(0.6931, abs=0.03)
    figure = next(cell for cell in notebook.cells if cell.id == "figure")
    assert any("image/png" in output.get("data", {}) for output in figure.outputs)
    assert len(list(tmp_path.glob(".kale/runs/*/steps/diagram/points-*.jsonl"))) <= 8
