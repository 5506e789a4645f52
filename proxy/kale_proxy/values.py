"""Values that go from step to step: one file each in the step's ``outputs`` folder, and an index.

Plain data that JSON keeps exactly is written as ``.json``, a numpy array as ``.npy`` (its bytes are
written and read without passing through pickle), a column table or anything else as ``.pkl``
(protocol 5, whose large buffers go to the file without a copy: PEP 574). Files that another user
owns or could have written are never unpickled. Standard library only; numpy is used when the value
itself has brought it.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pickle
import stat
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

INDEX = "index.json"
FORMS = ("json", "npy", "csv", "parquet")  # that other languages read too
SUFFIXES = (*(f".{form}" for form in FORMS), ".pkl")
_JSON_MAX_ITEMS = 10_000
_NO_ARROW = "pandas reads and writes Parquet by pyarrow, which is not installed"


class ValueFileError(Exception):
    """A value can't be saved or loaded; the message names it, its type and the way out."""


def save_all(
    values: Mapping[str, object], folder: Path, *, portable: Iterable[str] = (), forms: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """Save each value in ``folder`` and write the index; return the index.

    Parameters
    ----------
    values : mapping of str to object
        Names and values.
    folder : Path
        Made with mode 0700 when missing.
    portable : iterable of str
        Names of ``__main__`` that the reader will have too (those of the common cell), so that
        objects of their classes may be pickled by reference.
    forms : mapping of str to str, optional
        Declared forms, by name: one of :data:`FORMS`.

    Raises
    ------
    ValueFileError
        A value can't be saved; the message names it and its type.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = frozenset(portable)
    index = {name: save(name, value, folder, portable=known, form=(forms or {}).get(name, "")) for name, value in values.items()}
    write_atomic(folder / INDEX, json.dumps(index, indent=1).encode())
    return index


def save(name: str, value: object, folder: Path, *, portable: frozenset[str] = frozenset(), form: str = "") -> dict[str, Any]:
    """Save one value; return its description: file, type, shape, dtype, bytes. Raises ValueFileError as above."""
    info, suffix = write(name, value, lambda suffix: _replacing(folder / f"{name}{suffix}"), str(folder), portable=portable, form=form)
    path = folder / f"{name}{suffix}"
    info["file"] = path.name
    info["bytes"] = path.stat().st_size
    return info


def write(
    name: str, value: object, opened: Callable[[str], Any], where: str, *, portable: frozenset[str] = frozenset(), form: str = ""
) -> tuple[dict[str, Any], str]:
    """Write one value to a stream; return its description but for file and bytes, and the suffix of its form.

    ``opened(suffix)`` is a context manager that gives the stream; ``where`` names the place for messages. ``form`` is a
    declared one, of :data:`FORMS`. Raises ValueFileError as :func:`save_all`.
    """
    kind = type(value)
    info: dict[str, Any] = {"file": "", "type": _type_name(kind), **shape_of(value)}
    if form:
        try:
            with opened(f".{form}") as stream:
                _WRITERS[form](value, stream)
        except Exception as exc:
            reason = str(exc) if isinstance(exc, ValueFileError) else f"{type(exc).__name__}: {_one_line(exc)}"
            raise ValueFileError(f"`{name}` ({info['type']}) can't be written as {form}: {reason}") from exc
        return info, f".{form}"
    text = _as_json(value)
    if text is not None:
        with opened(".json") as stream:
            stream.write(text.encode())
        return info, ".json"
    if _is_plain_array(value):
        with opened(".npy") as stream:
            sys.modules["numpy"].save(stream, value, allow_pickle=False)
        return info, ".npy"
    try:
        with opened(".pkl") as stream:
            _Pickler(stream, portable).dump(value)
    except ValueFileError as exc:
        raise ValueFileError(f"`{name}` ({info['type']}) can't be saved: {exc}") from exc
    except OSError as exc:
        raise ValueFileError(f"`{name}` ({info['type']}) can't be written to {where}: {exc.strerror or exc}") from exc
    except Exception as exc:
        reason = f"{type(exc).__name__}: {exc}"
        raise ValueFileError(f"`{name}` ({info['type']}) can't be saved: {reason}") from exc
    return info, ".pkl"


def load(folder: Path, name: str) -> object:
    """Load the value ``name`` that :func:`save` put into ``folder``.

    Raises
    ------
    ValueFileError
        There is no such value, it is damaged, or another user owns or could have written it.
    """
    try:
        path = find(folder, name)
    except ValueFileError:
        packed = _pack().value(folder, name)
        if packed is None:
            raise
        return _read(packed.suffix, io.BytesIO(packed.data), packed.info, packed.path, name)
    return load_file(path, name)


def load_file(path: Path, name: str) -> object:
    """Load the value ``name`` from the file that it is in; raises ValueFileError as :func:`load`."""
    if path.suffix == ".npy":
        import numpy as np

        return np.load(path, allow_pickle=False)
    with path.open("rb") as stream:
        return _read(path.suffix, stream, os.fstat(stream.fileno()), path, name)


def _read(suffix: str, stream: Any, info: os.stat_result, path: Path, name: str) -> object:
    if suffix == ".json":
        return json.loads(stream.read())
    if suffix == ".npy":
        import numpy as np

        return np.load(stream, allow_pickle=False)
    if suffix in {".csv", ".parquet"}:
        return _read_table(suffix, stream, path, name)
    if info.st_uid != os.getuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueFileError(f"{path} belongs to or can be written by another user: it is not unpickled")
    try:
        return pickle.load(stream)  # noqa: S301 - a file of this user alone, checked above
    except Exception as exc:
        raise ValueFileError(f"`{name}` can't be loaded from {path}: {type(exc).__name__}: {exc}") from exc


def _read_table(suffix: str, stream: Any, path: Path, name: str) -> object:
    try:
        import pandas as pd
    except ImportError as exc:
        raise ValueFileError(f"`{name}` is a table ({path}), which becomes a pandas DataFrame, and pandas is not installed here") from exc
    try:
        if suffix == ".parquet":
            return pd.read_parquet(stream)
        exact = {"float_precision": "round_trip"} if int(pd.__version__.partition(".")[0]) < 3 else {}  # where that is not the default
        return pd.read_csv(stream, **exact)
    except ImportError as exc:
        raise ValueFileError(f"`{name}` is Parquet ({path}), and {_NO_ARROW} here: install it, or declare --formats {name}=csv where it is made") from exc
    except Exception as exc:
        raise ValueFileError(f"`{name}` can't be loaded from {path}: {type(exc).__name__}: {_one_line(exc)}") from exc


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())


def _pack() -> Any:
    """Return the module that reads what the points of a sweep have left together; most steps need it not."""
    from kale_proxy import pack

    return pack


def find(folder: Path, name: str) -> Path:
    """Return the file of the value ``name``; raises ValueFileError when there is none."""
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.exists():
            return path
    raise ValueFileError(f"there is no value `{name}` in {folder}")


def file_of(folder: Path, name: str, scratch: Path) -> Path:
    """Return a file with the value ``name`` alone: its own, or one in ``scratch`` of what is kept together with others."""
    try:
        return find(folder, name)
    except ValueFileError:
        packed = _pack().value(folder, name)
        if packed is None:
            raise
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = scratch / f"{folder.parent.parent.name}-{folder.parent.name}-{name}{packed.suffix}"
        write_atomic(path, packed.data)
        return path


def read_index(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the index of ``folder``, empty when nothing was saved there."""
    try:
        data: dict[str, dict[str, Any]] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return _pack().index(folder) or {}
    return data


def shape_of(value: object) -> dict[str, Any]:
    """Return ``shape`` and ``dtype`` of an array or table, ``shape`` [n] of a sized container, else nothing."""
    info: dict[str, Any] = {}
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and all(isinstance(n, int) for n in shape):
        info["shape"] = list(shape)
        dtype = getattr(value, "dtype", None)
        if dtype is not None:
            info["dtype"] = str(dtype)
    elif isinstance(value, (list, tuple, dict, set, frozenset)):
        info["shape"] = [len(value)]
    return info


def write_atomic(path: Path, data: bytes, *, is_durable: bool = False) -> None:
    """Replace ``path`` by ``data`` so that a reader sees the old or the new, mode 0600; fsync when durable."""
    with _replacing(path, is_durable=is_durable) as stream:
        stream.write(data)


@contextlib.contextmanager
def _replacing(path: Path, *, is_durable: bool = False) -> Any:
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(fd, "wb") as stream:
            yield stream
            if is_durable:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _type_name(kind: type) -> str:
    return kind.__name__ if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}.{kind.__name__}"


def _is_plain_array(value: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(value) is numpy.ndarray and not getattr(value, "dtype").hasobject  # noqa: B009 - numpy has no stubs here


def _as_json(value: object) -> str | None:
    """Return JSON when it gives exactly the same value back (only builtin types, str keys, no nan)."""
    if not _is_json(value, [_JSON_MAX_ITEMS]):
        return None
    try:
        return json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return None


def _is_json(value: object, budget: list[int], depth: int = 0) -> bool:
    budget[0] -= 1
    kind = type(value)
    if kind in {str, int, float, bool, types.NoneType}:
        return True
    if budget[0] < 0 or depth > 50:
        return False
    if kind is list:
        return all(_is_json(item, budget, depth + 1) for item in value)  # type: ignore[attr-defined]
    if kind is dict:
        return all(type(k) is str and _is_json(v, budget, depth + 1) for k, v in value.items())  # type: ignore[attr-defined]
    return False


def _write_json(value: object, stream: Any) -> None:
    value = _plain(value)
    if not _is_json(value, [sys.maxsize]):
        raise ValueFileError("JSON has nothing like it: only numbers, text, true, false, none, lists, and dicts with text as keys")
    try:
        stream.write(json.dumps(value, allow_nan=False).encode())
    except ValueError as exc:
        raise ValueFileError("JSON has no nan and no inf") from exc


def _plain(value: object, depth: int = 0) -> object:
    """Return numpy's numbers and arrays as Python's, and tuples as lists: what was declared as JSON may lose its type."""
    if isinstance(value, (list, tuple)) and depth < 50:
        return [_plain(item, depth + 1) for item in value]
    if type(value) is dict and depth < 50:
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value


def _write_npy(value: object, stream: Any) -> None:
    import numpy as np

    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise ValueFileError(f"it is no array of numbers (numpy makes {array.dtype} of it)")
    np.save(stream, array, allow_pickle=False)


def _write_csv(value: Any, stream: Any) -> None:
    stream.write(_table(value).to_csv(index=False).encode())


def _write_parquet(value: Any, stream: Any) -> None:
    try:
        stream.write(_table(value).to_parquet(index=False))
    except ImportError as exc:
        raise ValueFileError(f"{_NO_ARROW}: install it, or declare csv") from exc


def _table(value: Any) -> Any:
    """Return a table as a DataFrame whose index, if it is more than a count, has become a column."""
    pd: Any = sys.modules.get("pandas")
    if type(value).__module__.startswith("pyarrow.") and hasattr(value, "to_pandas"):
        value = value.to_pandas()
        pd = sys.modules.get("pandas")
    if isinstance(value, (dict, list)) and value:
        with contextlib.suppress(Exception):
            import pandas  # noqa: ICN001 - a name that may be none

            pd = pandas
            if all(isinstance(item, (list, dict)) for item in (value.values() if isinstance(value, dict) else value)):
                value = pd.DataFrame(value)
    if pd is None or not isinstance(value, pd.DataFrame):
        raise ValueFileError("it is no table: make it a pandas DataFrame, a dict of lists, or a list of dicts")
    return value if type(value.index) is pd.RangeIndex else value.reset_index()


_WRITERS = {"json": _write_json, "npy": _write_npy, "csv": _write_csv, "parquet": _write_parquet}


def describe_file(path: Path, name: str) -> dict[str, Any]:
    """Return the description of a value that a program in another language wrote; raises ValueFileError if it is damaged."""
    info: dict[str, Any] = {"file": path.name, "type": "table"}
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", errors="replace", newline="") as stream:
            rows = csv.reader(stream)
            width = len(next(rows, []))
            info["shape"] = [sum(1 for _ in rows), width]
    elif path.suffix == ".parquet":
        with path.open("rb") as stream:  # the format begins and ends with its mark (parquet.apache.org/docs/file-format)
            head, size = stream.read(4), stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 4))
            if head != b"PAR1" or stream.read() != b"PAR1":
                raise ValueFileError(f"{path} is no Parquet file, or a part of one")
    else:
        value = load_file(path, name)
        info |= {"type": _type_name(type(value)), **shape_of(value)}
    return {**info, "bytes": path.stat().st_size}


class _Pickler(pickle.Pickler):
    """Refuses what the reading step could not find again: classes and functions of the cell itself."""

    def __init__(self, stream: io.BufferedWriter, portable: frozenset[str]) -> None:
        super().__init__(stream, protocol=5)
        self._portable = portable

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, (type, types.FunctionType)) and obj.__module__ == "__main__":
            if obj.__qualname__.partition(".")[0] not in self._portable:
                raise ValueFileError(
                    f"it needs `{obj.__qualname__}`, which is defined in this step's cell, "
                    "so the next step could not load it: define it in %%kale_common"
                )
        elif isinstance(obj, types.GeneratorType):
            raise ValueFileError("a generator can't be saved: make a list of it")
        return NotImplemented
