"""What the plots part draws: columns of files and metrics, points in space as the page gets them, and as a saved picture."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from kale_magic.api.npy import columns_of
from kale_magic.errors import UsageError
from kale_magic.render.chart import chart_svg
from kale_magic.render.cloud import MOST_POINTS, Cloud, cloud_of, cloud_svg, cloud_text
from kale_magic.widgets import tables
from kale_magic.widgets.plots import across, chosen
from kale_magic.widgets.viewmodel.cloud import packed

AXES = ("x", "y", "z", "t")


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "i2", "u1", "f2", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_read_as_numpy_reads_it(tmp_path: Path, dtype: str, order: str) -> None:
    array = np.asarray(np.arange(24).reshape(4, 3, 2), dtype=dtype, order=order)
    path = tmp_path / "a.npy"
    for shape, names in ((array, ["frame", "c0", "c1"]), (array[:, :, 0], ["c0", "c1", "c2"]), (array[:, 0, 0], ["value"])):
        np.save(path, np.asarray(shape, order=order))
        found = columns_of(path, 1000)
        assert list(found) == names
        flat = np.load(path).reshape(-1, shape.shape[-1] if shape.ndim > 1 else 1).astype(float)
        assert [found[name] for name in names if name != "frame"] == flat.T.tolist()
    np.save(path, array)
    assert columns_of(path, 1000)["frame"] == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0]


def test_npy_of_records_has_their_fields_and_a_large_one_is_read_in_places(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([(1, 2.5), (3, 4.5)], dtype=[("step", "<i4"), ("e", "<f8")]))
    assert columns_of(path, 10) == {"step": [1.0, 3.0], "e": [2.5, 4.5]}
    np.save(path, np.arange(20_000.0).reshape(10, 1000, 2))
    found = columns_of(path, 100)
    assert sorted(set(found["frame"])) == list(map(float, range(10)))  # no frame is left out before points are
    assert len(found["c0"]) == 100


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\xff\xff{"])
def test_what_is_no_npy_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UsageError, match=r"^a\.npy is no "):
        columns_of(tmp_path / "a.npy", 10)


def test_npy_of_objects_is_refused_and_one_that_is_half_written_too(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{}, 1], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="no whole"):
        columns_of(path, 10)
    np.save(path, np.arange(1000.0))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="no whole"):
        columns_of(path, 10_000)


def test_files_and_metrics_become_columns_of_one_length(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y,name\n1,2,Al\n3,,Cu\n5,6,Ni\n7,8")  # the last line is being written
    found = tables.read(tmp_path / "a.csv")
    assert (found["x"], found[tables.ROW]) == ([1.0, 3.0, 5.0], [0.0, 1.0, 2.0])
    assert [math.isnan(value) for value in found["y"]] == [False, True, False]
    (tmp_path / "b.jsonl").write_text('{"a": 1, "b": true}\n{"a": 2, "c": "x"}\n{"c": 5}\n{"a"')
    found = tables.read(tmp_path / "b.jsonl")
    assert list(found) == ["a", "c", tables.ROW]
    assert found["a"][:2] == [1.0, 2.0]
    lines = [{"at": "2026-11-28T00:00:00Z", "e": 1.0}, {"at": "2026-11-28T00:00:01Z", "e": 2.0, "step": 10}, {"progress": 1, "of": 2}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tables.of_metrics(tmp_path) == {"e": [1.0, 2.0], "step": [0.0, 10.0]}
    assert tables.of_metrics(tmp_path / "none") == {}


def test_axes_are_those_chosen_else_by_name_else_the_next() -> None:
    assert chosen(["x", "y", "z", "time", "row"], {}) == {"x": "x", "y": "y", "z": "z", "t": "time"}
    assert chosen(["a", "b", "c", "row"], {"z": "a"}) == {"x": "b", "y": "c", "z": "a", "t": "row"}
    assert chosen(["energy", "force", "step"], {"x": "gone"}) == {"x": "energy", "y": "force", "z": "energy", "t": "step"}
    assert chosen([], {}) == dict.fromkeys(AXES, "")


def cloud(frames: int, each: int) -> Cloud:
    rows = [(float(n), float(t), float(n * t), float(t)) for t in range(frames) for n in range(each)]
    return cloud_of({"a": dict(zip(AXES, map(list, zip(*rows, strict=True)), strict=True))}, AXES)


def test_page_gets_frames_in_order_within_their_extents() -> None:
    found = packed(cloud(3, 4))
    assert (found["frames"], found["ends"], found["total"]) == (["0", "1", "2"], [4, 8, 12], 12)
    assert found["spans"] == [["0", "3"], ["0", "2"], ["0", "6"]]
    numbers = struct.unpack(f"<{len(found['data']) // 2}H", found["data"])
    assert numbers[:4] == (0, 0, 0, 0)
    assert numbers[-4:] == (65535, 65535, 65535, 0)


def test_cloud_leaves_out_rows_that_are_not_whole_and_thins_what_is_too_much() -> None:
    table = {"x": [0.0, 1.0, math.nan, 3.0], "y": [0.0, math.inf, 2.0, 3.0], "z": [0.0, 1.0, 2.0, 3.0], "t": [9.0, 8.0, 7.0, 6.0]}
    found = cloud_of({"first": table, "second": {"x": [1.0]}}, AXES)
    assert [row[0] for row in found.rows] == [3.0, 0.0]  # by their moments
    large = cloud(50, 1000)
    assert large.total == 50_000
    assert len(large.rows) == MOST_POINTS
    assert len(large.frames()) == 50


@pytest.mark.parametrize("points", [0, 1, 5])
def test_saved_picture_of_a_cloud_has_its_points_and_says_its_extents(points: int) -> None:
    found = cloud_of({"a": {axis: [float(n) for n in range(points)] for axis in AXES}}, AXES)
    svg = cloud_svg(found, title="<a & b>")
    ET.fromstring(svg)
    assert svg.count("<circle") == points
    assert cloud_text(found) == ("no points yet" if not points else f"{points} points, " + ", ".join(f"{axis} 0 to {points - 1}" for axis in AXES))


def test_dots_have_no_lines_between_them() -> None:
    svg = chart_svg({"a": [(0, 1), (1, 2), (2, math.nan), (3, 1)]}, is_dotted=True)
    [path] = [element.get("d", "") for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}path") if element.get("stroke-width") == "4"]
    assert (path.count("M"), path.count("h0"), path.count("L")) == (3, 3, 0)


def test_lines_are_drawn_over_time_or_over_the_first_column() -> None:
    assert across(["e", "t", "row"], "") == "t"
    assert across(["volume", "energy", "row"], "") == "volume"
    assert across(["volume", "energy"], "energy") == "energy"
    assert across(["volume", "energy"], "gone") == "volume"
    assert across([], "") == ""
