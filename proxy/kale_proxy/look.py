"""What a visitor asks a step's kernel for: its variables, and values copied out to files, or in from them.

Runs inside the step's kernel, in a visit, with the visit's ``globals()``; standard library only. The step
goes on meanwhile, so a container may change under our hands: such an error is tried again.
"""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_proxy import values

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

_ATTEMPTS = 5
_OF_THE_SHELL = frozenset({"In", "Out", "exit", "quit", "get_ipython", "open", "display"})
_NOT_VALUES = (types.ModuleType, type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def describe(namespace: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return name, type, shape, dtype and bytes of each variable, in order of name.

    Modules, functions, classes, and what the shell itself puts there are left out. ``bytes`` is the memory
    of an array or table, else of the object alone without what it refers to.

    Parameters
    ----------
    namespace : mapping of str to object
        The visit's globals.
    """
    found = []
    for name in sorted(namespace.keys(), key=str.casefold):
        if name.startswith("_") or name in _OF_THE_SHELL:
            continue
        value = namespace.get(name)
        if isinstance(value, _NOT_VALUES):
            continue
        kind = type(value)
        found.append({"name": name, "type": _type_name(kind), **_shape(value), "bytes": _bytes(value)})
    return found


def save(namespace: Mapping[str, Any], names: Sequence[str], folder: str) -> None:
    """Save variables into ``folder``; each is one consistent copy, or an error.

    Raises
    ------
    NameError
        The step has no variable of a name (yet).
    kale_proxy.values.ValueFileError
        A value can't be saved.
    """
    for name in names:
        if name not in namespace.keys():  # noqa: SIM118 - the mapping of a visit answers by keys()
            raise NameError(f"name '{name}' is not defined", name=name)
    portable = frozenset(name for name in namespace.keys() if not name.startswith("_"))  # noqa: SIM118
    for attempt in range(_ATTEMPTS):
        try:
            values.save_all({name: namespace[name] for name in names}, Path(folder), portable=portable)
            return
        except (RuntimeError, values.ValueFileError) as exc:
            if "changed size during iteration" not in str(exc) or attempt == _ATTEMPTS - 1:
                raise


def take(namespace: MutableMapping[str, Any], names: Sequence[str], folder: str, by: str) -> None:
    """Give the step values from ``folder``: as its variables, and as its parameters where it has such.

    ``by`` says who it was, for the step's events.

    Raises
    ------
    kale_proxy.values.ValueFileError
        A value can't be loaded; then nothing is changed.
    """
    from kale_proxy import checkpoints, inside

    found = {name: values.load(Path(folder), name) for name in names}
    changed = {name: value for name, value in found.items() if name in inside.params}
    namespace.update(found)
    if changed:
        inside.change(changed, by)
    if (others := [name for name in names if name not in changed]) and checkpoints.step_folder():
        checkpoints.record_event(checkpoints.step_folder(), "pushed", by=by, names=others)


def describe_json(namespace: Mapping[str, Any]) -> str:
    """Return :func:`describe` as one line of JSON."""
    return json.dumps(describe(namespace))


def _type_name(kind: type) -> str:
    return kind.__name__ if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}.{kind.__name__}"


def _shape(value: object) -> dict[str, Any]:
    try:
        return values.shape_of(value)
    except Exception:  # a property of the user's own class
        return {}


def _bytes(value: Any) -> int:
    try:
        size = getattr(value, "nbytes", None)
        if isinstance(size, int):
            return size
        usage = getattr(value, "memory_usage", None)
        if callable(usage):
            total = usage()
            return int(getattr(total, "sum", lambda: total)())
        return sys.getsizeof(value)
    except Exception:  # the same
        return 0
