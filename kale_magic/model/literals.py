"""Values that people write on a magic's line and in a file: Python literals, and the ranges of ``--each``.

Owns their exact text form and back, and the form inside JSON and YAML. Refuses everything that would
have to be run: no name, no call but ``range``, ``linspace`` and ``logspace``. Used by dsl, codec and client.
"""

from __future__ import annotations

import ast
import math
from typing import TYPE_CHECKING, Any, cast

from kale_magic.errors import WorkflowError

if TYPE_CHECKING:
    from collections.abc import Callable

MARK = "literal"  # {"literal": "(1, 2)"} stands for a value that JSON has no form for
MAX_POINTS = 100_000
_MAX_DEPTH = 60
_MAX_KEY = 500  # YAML readers stop looking for the colon after 1,024 signs
_CONSTANTS = {"nan": math.nan, "inf": math.inf}
_SCALARS: tuple[type[Any], ...] = (int, float, complex, str, bytes)
_SHAPE = "Write a list such as ['Al', 'Cu'], range(5), linspace(0, 1, 11) or logspace(-3, 0, 4)."


def plain(value: object, where: str = "a parameter") -> object:
    """Return ``value`` as exact built-in types; a NumPy scalar becomes the number it is.

    Raises
    ------
    WorkflowError
        ``value`` holds something that has no literal; ``where`` names it.
    """
    if value is None or value is Ellipsis or type(value) in {bool, int, float, complex, str, bytes}:
        return value
    if isinstance(value, list | tuple | set | frozenset):
        items = [plain(item, where) for item in value]
        return items if isinstance(value, list) else tuple(items) if isinstance(value, tuple) else set(items)
    if isinstance(value, dict):
        return {plain(key, where): plain(item, where) for key, item in value.items()}
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return plain(value.item(), where)
    base = next((kind for kind in _SCALARS if isinstance(value, kind)), None)
    if base is not None:
        return base(value)
    raise WorkflowError(
        f"{where} is a {type(value).__name__}, which has no literal.",
        "Parameters are numbers, text, lists, tuples, dicts, sets, True, False or None; hand other values on by --outputs.",
    )


def to_literal(value: object, where: str = "a parameter") -> str:
    """Return the text that :func:`from_literal` reads back to an equal value of the same types.

    ``ast.literal_eval`` reads it too, unless it holds a ``nan``, which Python has no literal for.
    """
    return _write(plain(value, where))


def _write(value: object) -> str:
    if isinstance(value, bool) or value is None or isinstance(value, int | str | bytes):
        return repr(value)
    if isinstance(value, float):
        return repr(value).replace("inf", "1e999")
    if isinstance(value, complex):
        sign = "-" if math.copysign(1, value.imag) < 0 else "+"
        return f"({_write(value.real)}{sign}{_write(abs(value.imag))}j)"
    if isinstance(value, list):
        return f"[{', '.join(map(_write, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_write, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, set):
        return f"{{{', '.join(sorted(map(_write, value)))}}}" if value else "set()"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_write(key)}: {_write(item)}" for key, item in value.items()) + "}"
    return "..."


def from_literal(text: str) -> object:
    """Return the value of a Python literal, ``nan`` and ``inf`` included.

    Raises
    ------
    ValueError
        The text is no literal.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _read(tree.body, 0)
    except (SyntaxError, MemoryError, RecursionError, TypeError) as exc:
        raise ValueError(f"{text!r} is no literal") from exc


def _read(node: ast.AST, depth: int) -> object:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        items = [_read(item, depth + 1) for item in node.elts]
        return {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)](items)
    if isinstance(node, ast.Dict):
        if None in node.keys:
            raise ValueError("unpacking is no literal")
        pairs = zip(filter(None, node.keys), node.values, strict=True)
        return {_read(key, depth + 1): _read(item, depth + 1) for key, item in pairs}
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.Call) and ast.unparse(node) == "set()":
        return set()
    return _read_number(node, depth)


def _read_number(node: ast.AST, depth: int) -> object:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        number = _read(node.operand, depth + 1)
        if type(number) in {int, float, complex}:
            return -cast("float", number) if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        real, imaginary = _read(node.left, depth + 1), _imaginary(node.right, depth)
        if type(real) in {int, float} and imaginary is not None:
            return complex(cast("float", real), -imaginary if isinstance(node.op, ast.Sub) else imaginary)
    raise ValueError(f"{ast.unparse(node)!r} is no literal")


def _imaginary(node: ast.AST, depth: int) -> float | None:
    if isinstance(node, ast.Name) and node.id == "nanj":
        return math.nan
    number = _read(node, depth + 1)
    return number.imag if isinstance(number, complex) and number.real == 0 else None


def literal_or_text(text: str) -> object:
    """Return the value of a literal, or the text itself: how ``--params`` reads ``n=10`` and ``name=Al``.

    A bare ``nan`` or ``inf`` is text, as it is to Python.
    """
    if text.strip().lstrip("+-") in _CONSTANTS:
        return text
    try:
        return from_literal(text)
    except ValueError:
        return text


def encode_value(value: object, where: str = "a parameter") -> Any:
    """Return the JSON form of a value: itself where JSON has it exactly, else ``{"literal": "(1, 2)"}``."""
    value = plain(value, where)
    return value if _is_json(value) else {MARK: _write(value)}


def _is_json(value: object) -> bool:
    if value is None or isinstance(value, bool | int):
        return True
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, dict):
        is_plain = all(isinstance(key, str) and len(key) < _MAX_KEY and _is_json(key) for key in value)
        return is_plain and set(value) != {MARK} and all(map(_is_json, value.values()))
    return False


def decode_value(data: Any) -> object:
    """Return the value of :func:`encode_value`'s form.

    Raises
    ------
    ValueError
        What is marked as a literal is none.
    """
    if isinstance(data, dict) and set(data) == {MARK}:
        return from_literal(str(data[MARK]))
    return data


def parse_each(text: str) -> tuple[object, ...]:
    """Return the values that an ``--each`` expression means, in order; nothing is ever run.

    ``linspace`` gives the very floats of numpy.linspace; ``logspace`` those of numpy.logspace to the last bit or two,
    since NumPy raises to a power by vector instructions of its own.

    Raises
    ------
    ValueError
        The message says what is allowed.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, MemoryError, RecursionError) as exc:
        raise ValueError(f"{text!r} can't be read. {_SHAPE}") from exc
    if isinstance(node, ast.Call):
        return _call(node, text)
    try:
        value = _read(node, 0)
    except (ValueError, TypeError, RecursionError) as exc:
        raise ValueError(f"{text!r} is no list of literals. {_SHAPE}") from exc
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"{text} is one number, not a list. Write range({text}) or [{text}].")  # noqa: TRY004
    if not isinstance(value, list | tuple):
        raise ValueError(f"{text} is no list. {_SHAPE}")  # noqa: TRY004 - the text is at fault
    return _checked(tuple(value), text)


def _checked(values: tuple[object, ...], text: str) -> tuple[object, ...]:
    if not values:
        raise ValueError(f"{text} has no values, so the step would have no points.")
    if len(values) > MAX_POINTS:
        raise ValueError(f"{text} has {len(values)} values; a sweep has at most {MAX_POINTS} points.")
    return values


def _call(node: ast.Call, text: str) -> tuple[object, ...]:
    name = ast.unparse(node.func).removeprefix("np.").removeprefix("numpy.")
    function = _FUNCTIONS.get(name)
    if function is None:
        raise ValueError(f"{text!r} is not run: only range, linspace and logspace are known. {_SHAPE}")
    try:
        args = [_read(arg, 0) for arg in node.args]
        named = {str(keyword.arg): _read(keyword.value, 0) for keyword in node.keywords}
        return _checked(tuple(function(*args, **named)), text)
    except (TypeError, OverflowError, ZeroDivisionError, RecursionError) as exc:
        raise ValueError(f"{text}: {exc}. {_SHAPE}") from exc
    except ValueError as exc:
        raise ValueError(f"{text}: {str(exc).rstrip('.')}. {_SHAPE}") from exc


def _range(*args: int) -> list[int]:
    values = range(*args)
    if len(values) > MAX_POINTS:
        raise ValueError(f"it has {len(values)} values; a sweep has at most {MAX_POINTS} points.")
    return list(values)


def _linspace(start: float, stop: float, num: int = 50, endpoint: bool = True) -> list[float]:
    if not isinstance(num, int) or num > MAX_POINTS:
        raise ValueError(f"linspace takes a whole number of points up to {MAX_POINTS}, not {num!r}.")
    start, stop = start * 1.0, stop * 1.0
    steps = num - 1 if endpoint else num
    delta = stop - start
    step = delta / steps if steps > 0 else math.nan
    # NumPy multiplies first where the step itself would round to zero (numpy/_core/function_base.py).
    values = [(i * step if step != 0 else i / steps * delta) + start for i in range(num)] if steps > 0 else [start][:num]
    if endpoint and num > 1:
        values[-1] = stop
    return values


def _logspace(start: float, stop: float, num: int = 50, endpoint: bool = True, base: float = 10.0) -> list[float]:
    return [float(base) ** exponent for exponent in _linspace(start, stop, num, endpoint)]


_FUNCTIONS: dict[str, Callable[..., list[Any]]] = {"range": _range, "linspace": _linspace, "logspace": _logspace}
