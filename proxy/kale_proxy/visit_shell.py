"""The visitor's own InteractiveShell: history, ``_``, ``Out``, flags, formatters and magics apart from the step's.

It is not the singleton of its class, and it puts nothing into ``sys``, ``builtins``, ``os.environ`` or
``atexit``. What would change the whole process (``%cd``, ``%env``, ``exit``, ...) is refused.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import sys
from contextlib import nullcontext
from types import new_class
from typing import TYPE_CHECKING, Any

from .visit_context import CURRENT, current
from .visit_figures import forget_figures, prepare_formats, show_figures
from .visit_namespace import is_private

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from .visit_session import Visit

_REFUSED_MAGICS = ("aimport", "autoreload", "cd", "env", "gui", "popd", "pushd", "run", "set_env")
_REFUSED_CELL_MAGICS = ("capture",)
_LAST_ERROR = ("last_type", "last_value", "last_traceback", "last_exc")
_MISSING = object()


def make_shell(visit: Visit, namespace: dict[str, Any], step_shell: Any) -> Any:
    """Build the shell of a visit; about 4 ms, in the visit's own thread.

    Parameters
    ----------
    visit : Visit
        Whose shell it is; it can ask ``visit.host`` about the step.
    namespace : dict
        A :class:`visit_namespace.Layer` over the step's namespace.
    step_shell : ZMQInteractiveShell
        The step's shell: its class, printers and hidden names are taken over.
    """
    kernel = visit.host.kernel
    shell_class = _derive(VisitShell, type(step_shell))
    shell = shell_class.__new__(shell_class)
    shell.visit = visit
    options: dict[str, Any] = {"user_module": step_shell.user_module} if visit.writes else {}
    token = CURRENT.set(None)
    try:
        shell.__init__(
            parent=kernel,
            profile_dir=kernel.profile_dir,
            user_ns=namespace,
            kernel=kernel,
            compiler_class=_derive(ExpressionCompiler, kernel.compiler_class),
            **options,
        )
    finally:
        CURRENT.reset(token)
    atexit.unregister(shell.atexit_operations)
    for name, value in step_shell.user_ns_hidden.copy().items():
        if not is_private(name):  # _1, _ and the like hold the step's results
            shell.user_ns_hidden.setdefault(name, value)
    visit.fill_namespace(shell)
    _register_magics(shell)
    shell.events.register("pre_execute", shell.prepare_cell)
    shell.events.register("post_execute", shell.finish_cell)
    return shell


def release_shell(shell: Any) -> None:
    """Drop everything a closed visit's shell holds, so that the step's objects are freed when the step lets go."""
    dict.clear(shell.user_ns)
    shell._trait_values.clear()
    shell.__dict__.clear()


def no_tee(_channel: str = "", **_: Any) -> AbstractContextManager[None]:
    """Stand for ``InteractiveShell._tee``, which keeps a cell's output for ``%notebook``.

    It swaps ``write`` of the stream that all shells share, and two that overlap leave the wrong one behind:
    the step's prints would end in a visitor's history.
    """
    return nullcontext()


_derived: dict[tuple[type, Any], Any] = {}


def _derive(mixin: type, base: Any) -> Any:
    """Return the class ``mixin`` over ``base``, made once: ipykernel is not known when this module is imported."""
    key = (mixin, base)
    if key not in _derived:
        _derived[key] = new_class(mixin.__name__, (mixin, base))
    return _derived[key]


if TYPE_CHECKING:
    _Shell = Any
    _Compiler = Any
else:
    _Shell = _Compiler = object


class ExpressionCompiler(_Compiler):  # type: ignore[misc]
    """Shows a cell's value by the visit's own hook.

    ``sys.displayhook`` belongs to the step, which may have replaced it (``%%capture``).
    """

    def __call__(self, source: Any, filename: str, symbol: str, *args: Any) -> Any:
        """Compile one statement of a cell."""
        if symbol == "single" and isinstance(source, ast.Interactive):
            body = source.body
            if all(isinstance(node, ast.Expr) for node in body):
                for node in body:
                    _wrap_value(node)
                source, symbol = ast.Module(body, []), "exec"
        return super().__call__(source, filename, symbol, *args)


def _wrap_value(node: Any) -> None:
    function = ast.copy_location(ast.Name("__kale_show__", ast.Load()), node.value)
    node.value = ast.copy_location(ast.Call(function, [node.value], []), node.value)


class VisitShell(_Shell):  # type: ignore[misc]
    """Mixed over the class of the step's shell; see the module."""

    visit: Visit
    _last_error: Any = None
    _printers: list[list[Any]]
    _has_formats = False

    _tee = staticmethod(no_tee)

    def init_sys_modules(self) -> None:
        """Leave ``sys.modules['__main__']`` to the step."""

    def init_environment(self) -> None:
        """Leave ``os.environ`` alone."""

    def init_io(self) -> None:
        """Nothing to replace."""

    def init_prompts(self) -> None:
        """Leave ``sys.ps1`` alone."""

    def init_logstart(self) -> None:
        """Start no log file."""

    def init_builtins(self) -> None:
        """Leave ``builtins`` alone."""
        from IPython.core.builtin_trap import BuiltinTrap

        class NoTrap(BuiltinTrap):  # type: ignore[misc]
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                pass

        self.builtin_trap = NoTrap(shell=self)

    def init_history(self) -> None:
        """Keep history in memory: a database on a network home can hang."""
        from IPython.core.history import HistoryManager

        self.history_manager = HistoryManager(shell=self, parent=self, enabled=False)
        self.configurables.append(self.history_manager)

    def init_display_pub(self) -> None:
        """Publish by the step's publisher, which knows the parent of each context."""
        self.display_pub = self.visit.host.step_shell.display_pub

    def init_displayhook(self) -> None:
        """Make a hook of one's own, and don't touch ``sys.displayhook``."""
        from IPython.core.display_trap import DisplayTrap

        class NoTrap(DisplayTrap):  # type: ignore[misc]
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                pass

        super().init_displayhook()
        self.display_trap = NoTrap()
        step_hook = self.visit.host.step_shell.displayhook
        for name in ("session", "pub_socket", "topic"):
            setattr(self.displayhook, name, getattr(step_hook, name))

    def init_display_formatter(self) -> None:
        """Make formatters of one's own, and note the tables of the step's printers."""
        super().init_display_formatter()
        own = self.display_formatter.formatters
        self._printers = [
            [getattr(formatter, table), getattr(own[mime], table), 0]
            for mime, formatter in self.visit.host.step_shell.display_formatter.formatters.items()
            if mime in own
            for table in ("type_printers", "singleton_printers", "deferred_printers")
            if hasattr(formatter, table)
        ]

    @property
    def excepthook(self) -> Any:
        """``sys.excepthook`` as it is, so that IPython's swap around each cell changes nothing."""
        return sys.excepthook

    def prepare_cell(self) -> None:
        """Take over printers that the step has registered since, and matplotlib's formats."""
        for entry in self._printers:
            of_step, own, size = entry
            if len(of_step) != size:
                entry[2] = len(of_step)
                for key, printer in list(of_step.items()):
                    own.setdefault(key, printer)
        if not self._has_formats:
            self._has_formats = prepare_formats(self)

    def finish_cell(self) -> None:
        """Show the figures of this cell, as inline plotting does."""
        visit = self.visit
        if visit.figures:
            depth = visit.window.open()
            try:
                show_figures(visit)
            finally:
                visit.window.close(depth)

    async def run_code(self, code_obj: Any, result: Any = None, *, async_: bool = False) -> Any:
        """Run the visitor's own code; the only stretch in which it may be interrupted."""
        window = self.visit.window
        depth = window.open()
        try:
            return await super().run_code(code_obj, result, async_=async_)
        finally:
            window.close(depth)

    def user_expressions(self, expressions: Any) -> Any:
        """Evaluate what a client asks for along with a cell."""
        window = self.visit.window
        depth = window.open()
        try:
            return super().user_expressions(expressions)
        finally:
            window.close(depth)

    def _get_exc_info(self, exc_tuple: Any = None) -> Any:
        """Remember the error here, not in ``sys.last_*``, where it would keep objects alive for the step."""
        kept = {name: getattr(sys, name, _MISSING) for name in _LAST_ERROR}
        if exc_tuple is None and sys.exc_info()[0] is None:
            exc_tuple = self._last_error
        try:
            self._last_error = super()._get_exc_info(exc_tuple)
            return self._last_error
        finally:
            for name, value in kept.items():
                if value is not _MISSING:
                    setattr(sys, name, value)
                elif hasattr(sys, name):
                    delattr(sys, name)

    def ask_exit(self) -> None:
        """Tell the front end to leave; the kernel stays."""
        print("A visit does not end the step: close this notebook or console to leave.", file=sys.stderr)
        self.payload_manager.write_payload({"source": "ask_exit", "keepkernel": True})

    def _update_exit_now(self, change: Any) -> None:
        """Replace ipykernel's observer of ``exit_now``, which stops the kernel's loop."""

    def enable_gui(self, gui: Any = None) -> None:
        """Start no event loop."""

    def enable_matplotlib(self, gui: Any = None) -> tuple[None, None]:  # noqa: ARG002
        """Change nothing: plots are inline in a visit already."""
        return None, None

    def reset(self, new_session: bool = True, aggressive: bool = False) -> None:  # noqa: ARG002
        """Forget the visitor's names, not the step's."""
        dict.clear(self.user_ns)
        self.visit.fill_namespace(self)
        self.init_user_ns()
        self.displayhook.flush()
        forget_figures(self.visit)
        if new_session:
            self.execution_count = 1


def _register_magics(shell: Any) -> None:
    for name in _REFUSED_MAGICS:
        shell.register_magic_function(_refusal(name), "line", name)
    for name in _REFUSED_CELL_MAGICS:
        shell.register_magic_function(_refusal(name), "line_cell", name)
    shell.register_magic_function(_inline_already, "line", "matplotlib")
    shell.register_magic_function(_where, "line", "where")
    shell.register_magic_function(_locals, "line", "locals")


def _refusal(name: str) -> Callable[..., None]:
    def refuse(_line: str, _cell: str | None = None) -> None:
        from IPython.core.error import UsageError

        raise UsageError(
            f"%{name} changes the whole process, so a visit may not: run it in the step's own shell (--main)"
        )

    refuse.__doc__ = f"Refused in a visit: %{name} changes the whole process."
    return refuse


def _inline_already(_line: str) -> None:
    """Do nothing: plots are inline in a visit."""


def _where(_line: str) -> None:
    """Print where the step's code is, innermost line last."""
    visit = current()
    if visit is not None:
        builtins.print("".join(visit.host.where()), end="", file=visit.host.stream("stdout"))


def _locals(line: str) -> dict[str, Any]:
    """Return a copy of the local names of the step's N-th frame, innermost 0: ``%locals [N]``."""
    from IPython.core.error import UsageError

    visit = current()
    text = line.strip() or "0"
    if visit is None or not text.isdigit():
        raise UsageError("%locals [N]: N is a number of frames outward from the innermost, 0")
    frames = visit.host.frames()
    if int(text) >= len(frames):
        raise UsageError(f"the step is in {len(frames)} frames of user code; there is no frame {text}")
    return dict(frames[int(text)].f_locals)
