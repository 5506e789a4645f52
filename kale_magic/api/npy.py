"""Numbers out of ``.npy`` files, without NumPy and without loading them: of a large array, evenly spread rows.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html . Objects are refused: nothing is unpickled.
"""

from __future__ import annotations

import ast
import math
import mmap
import re
import struct
from itertools import product
from typing import TYPE_CHECKING, Any

from kale_magic.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Columns = dict[str, list[float]]

_MAGIC = b"\x93NUMPY"
_CODES = {"f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q", "b1": "?"}
_KIND = re.compile(r"([<>|=])([a-z]\d+)")
_MOST_COLUMNS = 40


def columns_of(path: Path, most_rows: int) -> Columns:
    """Return columns of an array: ``value`` of one with one axis, ``c0``, ``c1``, ... of two, ``frame`` beside them of three.

    Of a structured array the columns are its fields. At most some ``most_rows`` rows, of each frame as many.

    Raises
    ------
    UsageError
        It can't be read, or has no numbers in at most three axes.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header, start = _header(data, path.name)
            return _read(data, start, header, path.name, most_rows)
    except OSError as exc:
        raise UsageError(f"{path.name} can't be read: {exc.strerror or exc}.") from exc
    except (ValueError, KeyError, SyntaxError, struct.error) as exc:
        raise UsageError(f"{path.name} is no whole .npy file of numbers.") from exc


def _header(data: mmap.mmap, name: str) -> tuple[dict[str, Any], int]:
    if data[:6] != _MAGIC:
        raise UsageError(f"{name} is no .npy file.")
    is_first = data[6] == 1
    (size,) = struct.unpack_from("<H" if is_first else "<I", data, 8)
    start = (10 if is_first else 12) + size
    header: dict[str, Any] = ast.literal_eval(data[start - size : start].decode("latin-1"))
    return header, start


def _read(data: mmap.mmap, start: int, header: dict[str, Any], name: str, most_rows: int) -> Columns:
    shape, fields, size = header["shape"], *_fields(header["descr"])
    is_record = isinstance(header["descr"], list)
    if len(shape) > (1 if is_record else 3) or not shape:
        raise UsageError(f"{name} has the shape {shape}: no rows and columns.", "Save an array of one, two or three axes.")
    strides = _strides(shape, size, is_fortran=bool(header["fortran_order"]))
    is_framed = len(shape) == 3
    columns = range(min(shape[-1], _MOST_COLUMNS)) if len(shape) > 1 else range(1)
    found: Columns = {"frame": []} if is_framed else {}
    names = list(fields) if is_record else [f"c{number}" for number in columns] if len(shape) > 1 else ["value"]
    found.update({key: [] for key in names})
    for place in _places(shape[: 2 if is_framed else 1], most_rows):
        at = start + sum(number * stride for number, stride in zip(place, strides, strict=False))
        if is_framed:
            found["frame"].append(float(place[0]))
        if is_record:
            for key, (code, offset) in fields.items():
                found[key].append(float(struct.unpack_from(code, data, at + offset)[0]))
        else:
            code = fields[""][0]
            for number, key in zip(columns, names, strict=True):
                found[key].append(float(struct.unpack_from(code, data, at + number * strides[-1])[0]))
    return found


def _places(shape: tuple[int, ...], most: int) -> Iterator[tuple[int, ...]]:
    """Return evenly spread places in the first axes, the first one being spared."""
    if len(shape) == 1:
        steps = [max(1, math.ceil(shape[0] / most))]
    else:
        frames = max(1, math.ceil(shape[0] / most))
        steps = [frames, max(1, math.ceil(shape[1] * math.ceil(shape[0] / frames) / most))]
    return product(*(range(0, length, step) for length, step in zip(shape, steps, strict=True)))


def _strides(shape: tuple[int, ...], size: int, *, is_fortran: bool) -> list[int]:
    order = range(len(shape)) if is_fortran else range(len(shape) - 1, -1, -1)
    found, step = [0] * len(shape), size
    for axis in order:
        found[axis] = step
        step *= shape[axis]
    return found


def _fields(descr: Any) -> tuple[dict[str, tuple[str, int]], int]:
    """Return code and place of each field of an element, and its size; fields of other kinds are passed over."""
    found, at = {}, 0
    for name, kind in [("", descr)] if isinstance(descr, str) else [(item[0], item[1]) for item in descr if len(item) == 2]:
        match = _KIND.fullmatch(kind)
        if match is None or match[2] not in _CODES:
            raise ValueError(kind)
        code = ("<" if match[1] in "<|=" else ">") + _CODES[match[2]]
        found[name] = (code, at)
        at += struct.calcsize(code)
    return found, at
