"""Values saved by one step are the same when the next one loads them, and refusals name the thing."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kale_proxy.values import ValueFileError, load, read_index, save_all


@pytest.mark.parametrize(
    ("value", "suffix"),
    [
        (7, ".json"), (2.5, ".json"), ("é\n", ".json"), (None, ".json"), ([1, [2, "x"]], ".json"), ({"a": {"b": True}}, ".json"),
        ((1, 2), ".pkl"), ({1: 2}, ".pkl"), ({1, 2}, ".pkl"), (b"\0", ".pkl"), (1 + 2j, ".pkl"), ([(1, 2)], ".pkl"), (math.inf, ".pkl"),
        (Path("a/b"), ".pkl"), (np.float64(0.1), ".pkl"),
    ],
)
def test_value_comes_back_equal_and_of_its_type(tmp_path, value, suffix):
    index = save_all({"x": value}, tmp_path)
    back = load(tmp_path, "x")
    assert back == value
    assert type(back) is type(value)
    assert index["x"]["file"] == f"x{suffix}"
    assert read_index(tmp_path) == index


def test_arrays_keep_dtype_and_order_without_pickle(tmp_path):
    array = np.asfortranarray(np.arange(12, dtype=">i2").reshape(3, 4))
    index = save_all({"a": array}, tmp_path)
    back = load(tmp_path, "a")
    assert index["a"] == {"file": "a.npy", "type": "numpy.ndarray", "shape": [3, 4], "dtype": ">i2", "bytes": 128 + 24}
    assert back.dtype == array.dtype
    assert back.flags.f_contiguous
    assert (back == array).all()


def test_subclass_object_array_and_table_survive(tmp_path):
    table = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    masked = np.ma.masked_array([1, 2], mask=[True, False])
    save_all({"t": table, "m": masked, "o": np.array([None, "x"], dtype=object)}, tmp_path)
    pd.testing.assert_frame_equal(load(tmp_path, "t"), table)
    assert load(tmp_path, "m").mask.tolist() == [True, False]
    assert load(tmp_path, "o").tolist() == [None, "x"]


def test_value_that_cannot_be_saved_names_itself_and_its_type(tmp_path):
    with pytest.raises(ValueFileError, match=r"`f` \(_io.TextIOWrapper\) can't be saved"), open(os.devnull) as stream:
        save_all({"f": stream}, tmp_path)
    assert list(tmp_path.glob("*.tmp")) == []


def test_class_of_the_cell_is_refused_and_of_the_common_cell_is_not(tmp_path):
    main = __import__("__main__")
    kind = type("Thing", (), {"__module__": "__main__"})
    main.Thing = kind
    try:
        with pytest.raises(ValueFileError, match=r"`Thing`.*%%kale_common"):
            save_all({"x": kind()}, tmp_path)
        save_all({"x": kind()}, tmp_path, portable=["Thing"])
        assert type(load(tmp_path, "x")) is kind
    finally:
        del main.Thing


def test_pickle_that_others_can_write_is_not_read(tmp_path):
    save_all({"x": {1}}, tmp_path)
    (tmp_path / "x.pkl").chmod(0o666)
    with pytest.raises(ValueFileError, match="not unpickled"):
        load(tmp_path, "x")


def test_missing_and_damaged_values_say_so(tmp_path):
    with pytest.raises(ValueFileError, match="no value `y`"):
        load(tmp_path, "y")
    save_all({"x": {1}}, tmp_path)
    (tmp_path / "x.pkl").write_bytes(b"junk")
    with pytest.raises(ValueFileError, match="`x` can't be loaded"):
        load(tmp_path, "x")
