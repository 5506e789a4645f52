"""A visitor's names: a layer over the step's namespace that takes all writes, or passes them on.

Reading falls through to the step's live namespace; a name that is assigned or deleted changes the
visitor's layer only. It works as the globals of functions because CPython looks a global up by
``PyObject_GetItem`` when globals are not exactly a dict, and so honours ``__missing__``; for what class
bodies take from globals by ``PyDict_GetItem``, :class:`StepBuiltins` comes in last. With
:class:`WriteThrough` (a visit opened for writing) names go to the step, except those that IPython
itself keeps in a namespace (``_``, ``Out``, ``In``, ...), which stay the visitor's.

Objects are not protected: ``data.append(1)`` changes the step's list.
"""

from __future__ import annotations

import builtins
import re
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .visit_context import current

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterator, KeysView, ValuesView

_KEPT_BY_IPYTHON = re.compile(
    r"_{1,3}|_i{1,3}|_i?\d+|_[iod]h|_exit_code|In|Out|exit|quit|open|print|get_ipython|__kale_show__"
)


def is_private(name: str) -> bool:
    """Tell whether IPython or the visit keeps this name in a namespace for itself."""
    return _KEPT_BY_IPYTHON.fullmatch(name) is not None


class Layer(dict[str, Any]):
    """A dict whose missing keys are looked up, at that moment, in another dict.

    Parameters
    ----------
    base : dict
        The step's namespace; never written to.

    Notes
    -----
    Iterating, ``len`` and copying use one snapshot (``dict.copy`` is a single C call, so a step that
    adds names meanwhile can't make them fail). ``dict``'s own methods reach the layer alone:
    ``dict.items(layer)`` are the visitor's own names.
    """

    def __init__(self, base: dict[str, Any]) -> None:
        super().__init__()
        self.base = base

    def __missing__(self, name: str) -> Any:
        return self.base[name]

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, name) or name in self.base

    def get(self, name: str, default: Any = None) -> Any:
        """Look up here, then in the base."""
        try:
            return self[name]
        except KeyError:
            return default

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Set a name that neither has."""
        try:
            return self[name]
        except KeyError:
            self[name] = default
            return default

    def copy(self) -> dict[str, Any]:
        """Return a plain dict of everything visible."""
        merged = dict.copy(self.base)
        merged.update(list(dict.items(self)))
        return merged

    def __iter__(self) -> Iterator[str]:
        return iter(self.copy())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self.copy())

    def __len__(self) -> int:
        return len(self.copy())

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """All names visible now."""
        return self.copy().keys()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """All names visible now, and their values."""
        return self.copy().items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """All values visible now."""
        return self.copy().values()

    def __repr__(self) -> str:
        return repr(self.copy())

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __eq__(self, other: object) -> bool:
        return self.copy() == other

    __hash__ = None


class StepBuiltins(dict[str, Any]):
    """The ``__builtins__`` of a layer: the step's names come before the true builtins.

    Parameters
    ----------
    base : dict
        The step's namespace; never written to.
    """

    def __init__(self, base: dict[str, Any]) -> None:
        super().__init__(vars(builtins))  # C code finds ``__import__`` in the dict itself
        self._base = base

    def __getitem__(self, name: str) -> Any:
        try:
            return self._base[name]
        except KeyError:
            return vars(builtins)[name]


class WriteThrough(Layer):
    """A layer that hands the user's names on to the step's namespace."""

    def __setitem__(self, name: str, value: Any) -> None:
        if is_private(name):
            dict.__setitem__(self, name, value)
        else:
            self.base[name] = value

    def __delitem__(self, name: str) -> None:
        if is_private(name):
            dict.__delitem__(self, name)
        else:
            del self.base[name]

    def update(self, *others: Any, **names: Any) -> None:
        """Set several names, each where it belongs."""
        for name, value in dict(*others, **names).items():
            self[name] = value

    def pop(self, name: str, *default: Any) -> Any:
        """Remove a name from where it belongs."""
        return dict.pop(self, name, *default) if is_private(name) else self.base.pop(name, *default)


def share_main_module() -> None:
    """Let ``__main__`` mean the visitor's own module while a visitor's code asks for it.

    A class or function that a visitor defines says it is of ``__main__``; pickle, dataclasses and
    ``typing.get_type_hints`` then look for it in ``sys.modules["__main__"]``, which is the step's.
    """
    main = sys.modules["__main__"]
    step_type: Any = type(main)
    if getattr(step_type, "_kale_shared", False):
        return

    class SharedMain(step_type):  # type: ignore[misc]
        _kale_shared = True

        def __getattribute__(self, name: str) -> Any:
            module = _module_of_visit(self)
            return super().__getattribute__(name) if module is None else getattr(module, name)

        def __setattr__(self, name: str, value: Any) -> None:
            module = _module_of_visit(self)
            super().__setattr__(name, value) if module is None else setattr(module, name, value)

        def __delattr__(self, name: str) -> None:
            module = _module_of_visit(self)
            super().__delattr__(name) if module is None else delattr(module, name)

    ModuleType.__setattr__(main, "__class__", SharedMain)  # IPython's module turns attributes into the user's names


def _module_of_visit(main: ModuleType) -> ModuleType | None:
    """Return the running visitor's module; None for the step, and for a visitor who writes into the step's."""
    visit = current()
    if visit is None or visit.shell is None:
        return None
    module: ModuleType = visit.shell.user_module
    return None if module is main else module
