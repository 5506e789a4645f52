"""A table of pyplot figures per visit, so that a visitor neither shows, closes nor draws into the step's figures.

``matplotlib._pylab_helpers.Gcf.figs`` is replaced by a dict that stands for the table of whoever asks.
What a visitor plots is shown when the visitor's cell ends and then closed, whatever backend the step
uses. matplotlib is not imported here: an import hook waits for it, and when a visitor is the first to
import pyplot, the set-up that belongs to the shell is made for the step, as if the step had imported it.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections import OrderedDict
from functools import wraps
from typing import TYPE_CHECKING, Any

from .visit_context import CURRENT, current

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from .visit_session import Visit

_HELPERS = "matplotlib._pylab_helpers"
_PYPLOT = "matplotlib.pyplot"
_INLINE = "matplotlib_inline.backend_inline"
_DICT_METHODS = (
    "__contains__ __delitem__ __eq__ __getitem__ __iter__ __len__ __repr__ __reversed__ __setitem__ "
    "clear copy get items keys move_to_end pop popitem setdefault update values"
)


class FigureTable(OrderedDict[Any, Any]):
    """Stands for the figure table of the running code: the step's, or a visit's."""

    step_figures: OrderedDict[Any, Any]

    def __bool__(self) -> bool:
        return len(self) > 0


def _forwarding(name: str) -> Callable[..., Any]:
    def method(self: FigureTable, *args: Any, **kwargs: Any) -> Any:
        visit = current()
        return getattr(self.step_figures if visit is None else visit.figures, name)(*args, **kwargs)

    method.__name__ = name
    return method


for _name in _DICT_METHODS.split():
    setattr(FigureTable, _name, _forwarding(_name))


def isolate_figures() -> None:
    """Part the figures of the step and of visits, now or as soon as matplotlib is imported; idempotent."""
    if not any(isinstance(finder, _Hook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Hook())
    for name, patch in _PATCHES.items():
        module = sys.modules.get(name)
        if module is not None and patch is not None:
            patch(module)


def _patch_helpers(module: ModuleType) -> None:
    manager: Any = module.Gcf
    if not isinstance(manager.figs, FigureTable):
        table = FigureTable()
        table.step_figures = manager.figs
        manager.figs = table


def _patch_inline(module: ModuleType) -> None:
    """Keep a visitor's figures out of the list of what the step's cell is to show at its end."""
    inline: Any = module
    make, show = inline.new_figure_manager_given_figure, inline.show
    if hasattr(make, "__wrapped__"):
        return

    @wraps(make)
    def make_manager(number: Any, figure: Any) -> Any:
        return (
            make(number, figure)
            if current() is None
            else inline.backend_agg.new_figure_manager_given_figure(number, figure)
        )

    @wraps(show)
    def show_all(*args: Any, **kwargs: Any) -> None:
        visit = current()
        if visit is None:
            show(*args, **kwargs)
        else:
            show_figures(visit)

    inline.new_figure_manager_given_figure, inline.show = make_manager, show_all
    backend: Any = getattr(sys.modules.get(_PYPLOT), "_backend_mod", None)
    if getattr(backend, "show", None) is show:  # pyplot keeps the functions it found when it chose the backend
        backend.show = staticmethod(show_all)


_PATCHES: dict[str, Callable[[ModuleType], None] | None] = {
    _HELPERS: _patch_helpers,
    _PYPLOT: None,
    _INLINE: _patch_inline,
}


class _Hook(importlib.abc.MetaPathFinder):
    """Imports three modules of matplotlib in the step's name, and patches two."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname not in _PATCHES:
            return None
        for finder in list(sys.meta_path):
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                _wrap_loader(spec, _PATCHES[fullname])
                return spec
        return None


def _wrap_loader(spec: ModuleSpec, patch: Callable[[ModuleType], None] | None) -> None:
    loader: Any = spec.loader
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module
        token = CURRENT.set(None)
        try:
            execute(module)
        finally:
            CURRENT.reset(token)
        if patch is not None:
            patch(module)

    loader.exec_module = exec_module


def prepare_formats(shell: Any) -> bool:
    """Let the visitor's shell turn a figure into an image; False while there is no matplotlib."""
    module = sys.modules.get("matplotlib.figure")
    figure_class = getattr(module, "Figure", None)  # absent while the step is importing it
    if figure_class is None:
        return False
    formatters = shell.display_formatter.formatters.values()
    if any(figure_class in getattr(formatter, "type_printers", ()) for formatter in formatters):
        return True
    from IPython.core.pylabtools import select_figure_formats

    formats, options = {"png"}, {"bbox_inches": "tight"}
    config = getattr(sys.modules.get(_INLINE), "InlineBackend", None)
    if config is not None and config.initialized():
        formats, options = config.instance().figure_formats, config.instance().print_figure_kwargs
    select_figure_formats(shell, formats, **options)
    return True


def show_figures(visit: Visit) -> None:
    """Display the visit's figures and close them; called in the visit's context."""
    from IPython.display import display

    prepare_formats(visit.shell)
    try:
        for manager in list(visit.figures.values()):
            display(manager.canvas.figure)
    finally:
        forget_figures(visit)


def forget_figures(visit: Visit) -> None:
    """Close the visit's figures; one of the step's that the visitor made current stays open for the step."""
    if not visit.figures:
        return
    helpers: Any = sys.modules[_HELPERS]
    of_step = list(helpers.Gcf.figs.step_figures.values())
    for manager in list(visit.figures.values()):
        if manager not in of_step:
            manager.canvas.mpl_disconnect(manager._cidgcf)
            manager.destroy()
    visit.figures.clear()
