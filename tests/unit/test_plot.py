"""Plots of metrics and of tables: what is drawn, from which files, and what a mistake says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from kale_magic.api.plots import Source, of_metrics, of_table
from kale_magic.errors import UsageError
from kale_magic.render.chart import chart_svg, chart_text
from tests.unit.magics_shell import Notebook


def record(folder: Path, *lines: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"at": "2026-11-28T00:00:00Z", **line}) + "\n" for line in lines))
    return folder


def paths(svg: str) -> list[str]:
    tree = ET.fromstring(svg)
    return [element.get("d", "") for element in tree.iter("{http://www.w3.org/2000/svg}path") if element.get("stroke-width") == "1.5"]


def test_a_line_goes_through_its_points_and_peaks_survive_thinning():
    points = [(float(x), 0.0) for x in range(100_000)]
    points[51_234] = (51_234.0, 7.0)
    (path,) = paths(chart_svg({"loss": points}, title="fit", x="step"))
    assert len(path.split("L")) < 1000
    heights = [float(part.split()[-1]) for part in path.lstrip("M").split("L")]
    assert min(heights) < max(heights) - 100


def test_a_value_that_is_not_finite_breaks_the_line():
    svg = chart_svg({"a": [(0, 1), (1, 2), (2, math.nan), (3, 1), (4, math.inf), (5, 2)]})
    assert (len(paths(svg)), svg.count("<circle")) == (1, 2)


@pytest.mark.parametrize("points", [[], [(1.0, 5.0)], [(0.0, 3.0), (1.0, 3.0)], [(0, 1e-300), (1, 1e300)], [(2, -4), (2, -4)]])
def test_every_extent_of_values_can_be_drawn(points):
    ET.fromstring(chart_svg({"<a & b>": points}, title="x < y"))
    assert chart_text({"a": points})


def test_text_says_last_least_and_greatest():
    assert chart_text({"loss": [(0, 4), (1, 1), (2, 2)]}) == "loss: █▁▃ last 2, 1 to 4, 3 values"


def test_metrics_have_their_step_or_a_count_as_x(tmp_path):
    folder = record(tmp_path / "fit", {"step": 10, "loss": 1.5, "note": "text"}, {"progress": 1, "of": 2}, {"step": 20, "loss": None, "acc": 1})
    found = of_metrics([Source(label="", folder=folder)], [])
    assert found["acc"] == [(20.0, 1.0)]
    assert found["loss"][0] == (10.0, 1.5)
    assert math.isnan(found["loss"][1][1])
    assert list(of_metrics([Source(label="metal=Al", folder=folder)], ["acc"])) == ["metal=Al acc"]
    record(folder, {"loss": 1}, {"loss": 2})
    assert of_metrics([Source(label="", folder=folder)], ["loss"]) == {"loss": [(0.0, 1.0), (1.0, 2.0)]}


@pytest.mark.parametrize("text", ["t,e\n0,1\n1,4\n", "t\te\n0\t1\n1\t4\n", "# t e\n0 1\n1 4\n", "t;e\n0;1\n1;4\n2;9"])
def test_tables_of_every_common_form_are_read_but_for_a_line_being_written(tmp_path, text):
    (tmp_path / "r.csv").write_text(text)
    assert of_table(tmp_path / "r.csv", "t", ["e"]) == {"e": [(0.0, 1.0), (1.0, 4.0)]}


def test_a_column_that_is_not_there_is_named_and_a_file_to_come_is_no_mistake(tmp_path):
    assert of_table(tmp_path / "later.csv", "t", ["e"]) == {}
    (tmp_path / "r.csv").write_text("t,e\n0,1\n")
    with pytest.raises(UsageError, match=r"no column 'f'. It has: t, e"):
        of_table(tmp_path / "r.csv", "t", ["f"])


def test_the_plot_of_a_step_is_one_display_with_text_and_picture(notebook: Notebook, tmp_path: Path):
    notebook.client.add("eos-1", {"fit": {"state": "completed"}}, state="completed")
    record(Path(notebook.client.folder) / ".kale/runs/eos-1/steps/fit", {"step": 1, "loss": 3}, {"step": 2, "loss": 1})
    notebook.run("%kale_plot fit loss")
    (shown,) = [item["data"] for item in notebook.displays.seen]
    assert "eos-1/fit (completed)" in shown["text/plain"]
    assert "last 1, 1 to 3, 2 values" in shown["text/plain"]
    assert 'data-kale="plots"' in shown["text/html"]


def test_columns_need_a_file_and_a_file_takes_no_metrics(notebook: Notebook):
    notebook.client.add("eos-1", {"fit": {"state": "completed"}}, state="completed")
    assert "--x and --y name columns of a --file" in notebook.fail("%kale_plot fit --x t")
    assert "Write --y loss" in notebook.fail("%kale_plot fit loss --file r.csv")


def test_a_file_is_the_steps_own_or_in_the_workflows_folder(notebook: Notebook):
    notebook.client.add("eos-1", {"fit": {"state": "completed"}}, state="completed")
    Path(notebook.client.folder).mkdir(exist_ok=True)
    (Path(notebook.client.folder) / "r.csv").write_text("t,e\n0,1\n1,4\n")
    notebook.run("%kale_plot fit --file r.csv --x t --y e")
    assert "e: ▁█ last 4" in notebook.displays.seen[-1]["data"]["text/plain"]


def test_a_push_of_a_name_that_the_notebook_has_not_says_how_to_push_a_value(notebook: Notebook):
    notebook.client.add("eos-1", {"fit": {"state": "completed"}}, state="completed")
    assert "The notebook has no variable `lr`. Write lr=VALUE" in notebook.fail("%kale_push fit lr")


def test_a_push_to_what_has_failed_is_refused(notebook: Notebook):
    notebook.client.add("eos-1", {"fit": {"state": "failed", "reason": "boom"}}, state="failed")
    assert "there is nothing to push into" in notebook.fail("%kale_push fit lr=1")
