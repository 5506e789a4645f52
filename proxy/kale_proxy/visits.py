"""Visits: several clients work inside a step's kernel while it computes, and none disturbs it.

ipykernel 7 runs a *subshell* (JEP 91) beside the main shell, in a thread of the same process; bare, it
shares with the step what it must not: loop variables, figures, ``_`` and ``Out``, stdin, interrupts, the
kernel's end. :func:`install` turns each subshell into a visit with a shell of its own. The step's code
runs as before, at no cost.

Not protected, because it belongs to the process: objects (``data.append``, ``inplace=True``), the working
folder, the environment, random generators, rcParams, ``sys.stdout`` (``redirect_stdout``), memory. What a visitor's own threads and C code
print is the step's output. A visitor's C call that holds the GIL stops everyone until it returns, and no
C call of a visitor can be interrupted.

Callers: the step's kernel, before it is forked; and the agent, through :func:`bootstrap_source`, for a
kernel in an environment that has no Kale. Then, on the control channel, ``kale_visit_request`` with content

- ``{"op": "open", "write": bool}``: ``{"subshell_id"}``; shell requests carry it as ``header.subshell_id``
- ``{"op": "close", "subshell_id"}``: ``{"how": "deleted" | "abandoned"}``
- ``{"op": "interrupt", "subshell_id"}``: ``{"how": "raised" | "cancel" | "idle" | "unknown" | "stuck"}``
- ``{"op": "where"}``: ``{"where": [traceback lines], "held": bool}``
- ``{"op": "pause", "lease_s"}``: ``{"state": "held" | "armed", "where"}``; again to renew; see :mod:`kale_proxy.pause`
- ``{"op": "resume"}``

each answered by ``kale_visit_reply`` with ``status`` ok, or error and ``evalue``. Of the standard requests,
``interrupt_request`` and ``shutdown_request`` with ``header.subshell_id`` mean the visit, and
``delete_subshell_request`` closes it.
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from types import new_class
from typing import Any

from .visit_context import current
from .visit_figures import isolate_figures
from .visit_kernel import HANDLERS, VisitKernel
from .visit_session import VisitHost
from .visit_shell import no_tee

__all__ = ["bootstrap_source", "install"]

# In the order of their imports: the loader below executes them one after the other.
_MODULES = (
    "visit_context",
    "visit_namespace",
    "visit_interrupt",
    "pause",
    "visit_stdin",
    "visit_figures",
    "visit_debug",
    "visit_shell",
    "visit_session",
    "visit_kernel",
    "visits",
)

# Not under the name kale_proxy: another version of it may be installed where this runs.
_LOADER = """
import json, sys, types, zlib, base64
if "_kale_visits" not in sys.modules:
    package = sys.modules["_kale_visits"] = types.ModuleType("_kale_visits")
    package.__path__ = []
    for name, source in json.loads(zlib.decompress(base64.b85decode(payload))):
        module = types.ModuleType("_kale_visits." + name)
        module.__package__ = "_kale_visits"
        sys.modules[module.__name__] = module
        setattr(package, name, module)
        exec(compile(source, "<" + module.__name__ + ">", "exec"), module.__dict__)
sys.modules["_kale_visits.visits"].install()
"""


def install(kernel: Any = None) -> None:
    """Make the subshells of this process's kernel visits; a second call does nothing.

    In the main thread: either before the process forks, has threads or sockets, on a kernel whose
    session and streams are bound later, or in a running kernel, by a silent ``execute_request``.

    Parameters
    ----------
    kernel : ipykernel.ipkernel.IPythonKernel, optional
        By default the kernel of the running InteractiveShell.

    Raises
    ------
    RuntimeError
        There is no kernel, or its ipykernel knows no subshells (before 7).
    """
    from IPython.core.interactiveshell import InteractiveShell

    if kernel is None:
        kernel = getattr(InteractiveShell.instance(), "kernel", None)
    if not hasattr(kernel, "create_subshell_request"):
        raise RuntimeError("visits need an IPython kernel of ipykernel 7 or newer")
    if hasattr(kernel, "_kale"):
        return
    host = kernel._kale = VisitHost(kernel)
    kernel.__class__ = new_class(f"Visited{type(kernel).__name__}", (VisitKernel, type(kernel)))
    for name in HANDLERS:
        kernel.control_handlers[name] = getattr(kernel, name)
        if name in kernel.shell_handlers:
            kernel.shell_handlers[name] = getattr(kernel, name)
    host.pause.install_handler()
    _direct_to_running_shell(host.step_shell)
    isolate_figures()


def _direct_to_running_shell(step: Any) -> None:
    """Let ``get_ipython()``, ``display()`` and ``sys.displayhook`` find the shell whose code is running."""
    from IPython.core.interactiveshell import InteractiveShell

    def running_shell() -> Any:
        visit = current()
        return step if visit is None or visit.shell is None else visit.shell

    def show(value: Any = None) -> None:
        running_shell().displayhook(value)

    find = InteractiveShell.instance.__func__

    def instance(cls: Any, *args: Any, **kwargs: Any) -> Any:
        visit = current()
        return find(cls, *args, **kwargs) if visit is None or visit.shell is None else visit.shell

    step.display_trap.hook = show
    step._tee = no_tee
    step.builtin_trap.auto_builtins["get_ipython"] = running_shell
    InteractiveShell.instance = classmethod(instance)


def bootstrap_source() -> str:
    """Return one line of Python that installs visits in an IPython kernel whose environment has no Kale.

    The agent sends it as a silent ``execute_request`` to the main shell before the step's code. It leaves
    no name in the user's namespace.
    """
    folder = Path(__file__).parent
    sources = [(name, (folder / f"{name}.py").read_text(encoding="utf-8")) for name in _MODULES]
    payload = base64.b85encode(zlib.compress(json.dumps(sources).encode(), 9)).decode()
    return f"exec({_LOADER!r}, {{'payload': {payload!r}}})"
