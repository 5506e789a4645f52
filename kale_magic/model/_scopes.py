"""One walk over a cell's tree, in the order in which Python would run it: what is used before it is bound.

Functions and lambdas run later, so what they use counts against everything the cell binds; comprehensions
and class bodies run where they stand. Called by :mod:`kale_magic.model.names` only.
"""

# ruff: noqa: N815, D401 - ast.NodeVisitor finds methods by these names; their docstrings tell the rule

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_BINDS = frozenset({"exec", "globals"})
_BINDS_WITHOUT_ARGUMENTS = frozenset({"locals", "vars"})
_SHELL_BINDS = frozenset({"push", "ex", "run_cell", "run_cell_magic", "safe_execfile"})
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class _Scope:
    """Names of a function, comprehension or class that stands inside the cell."""

    def __init__(self, names: set[str], *, is_class: bool = False, is_comprehension: bool = False) -> None:
        self.names = names
        self.globals: set[str] = set()
        self.is_class = is_class
        self.is_comprehension = is_comprehension


class Scan(ast.NodeVisitor):
    """Collect the free and the assigned names of a module; use :meth:`run` once."""

    def __init__(self) -> None:
        self.free: dict[str, int] = {}
        self.assigned: set[str] = set()
        self.is_open = False
        self._bound: set[str] = set()
        self._scopes: list[_Scope] = []
        self._late: list[tuple[str, int]] = []
        self._depth = 0  # of functions: inside one, code runs later
        self._nesting = 0  # of blocks: a `del` in one may not happen
        self._has_late_annotations = False

    def run(self, tree: ast.Module) -> None:
        """Walk the cell and settle what functions use against all that the cell binds."""
        for statement in tree.body:
            self.visit(statement)
        for name, line in self._late:
            if name not in self.assigned:
                self.free[name] = min(line, self.free.get(name, line))

    # names

    def visit_Name(self, node: ast.Name) -> None:
        """Count a use, an assignment or a deletion."""
        if isinstance(node.ctx, ast.Store):
            self._bind(node.id)
        else:
            self._use(node.id, node.lineno)
            if isinstance(node.ctx, ast.Del) and not self._scopes and not self._nesting:
                self._bound.discard(node.id)

    def _bind(self, name: str) -> None:
        for scope in reversed(self._scopes):
            if scope.is_comprehension:
                continue
            if name not in scope.globals:
                scope.names.add(name)
                return
            break
        self._bound.add(name)
        self.assigned.add(name)

    def _use(self, name: str, line: int) -> None:
        for level, scope in enumerate(reversed(self._scopes)):
            if name in scope.globals:
                break
            # methods do not see the names of the class around them
            if name in scope.names and not (scope.is_class and level and not self._only_comprehensions(level)):
                return
        if self._depth:
            self._late.append((name, line))
        elif name not in self._bound:
            self.free.setdefault(name, line)

    def _only_comprehensions(self, level: int) -> bool:
        return all(scope.is_comprehension for scope in self._scopes[len(self._scopes) - level :])

    def visit_Import(self, node: ast.Import) -> None:
        """``import a.b`` binds ``a``."""
        for alias in node.names:
            self._bind(alias.asname or alias.name.partition(".")[0])

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """``import *`` binds what no one can know here."""
        for alias in node.names:
            if alias.name == "*":
                self.is_open = True
            else:
                self._bind(alias.asname or alias.name)
        if node.module == "__future__" and any(alias.name == "annotations" for alias in node.names):
            self._has_late_annotations = True

    def visit_Global(self, node: ast.Global) -> None:
        """A function's global is the cell's name."""
        if self._scopes:
            self._scopes[-1].globals.update(node.names)

    def visit_Call(self, node: ast.Call) -> None:
        """``exec`` and its kin may bind anything."""
        if isinstance(node.func, ast.Name):
            is_bare = not node.args and node.func.id in _BINDS_WITHOUT_ARGUMENTS
            self.is_open |= is_bare or node.func.id in _BINDS
        elif isinstance(node.func, ast.Attribute) and node.func.attr in _SHELL_BINDS:
            self.is_open |= ast.unparse(node.func.value) == "get_ipython()"
        self.generic_visit(node)

    # statements whose parts run in another order than they are written

    def visit_Assign(self, node: ast.Assign) -> None:
        """The value first."""
        self.visit(node.value)
        self._visit_all(node.targets)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """``x += 1`` uses x, then binds it."""
        if isinstance(node.target, ast.Name):
            self._use(node.target.id, node.lineno)
        self.visit(node.value)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """``x: int`` alone binds nothing."""
        if not (self._has_late_annotations or self._depth):
            self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)
        elif not isinstance(node.target, ast.Name):
            self.visit(node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        """The value first; the name belongs to the scope around comprehensions."""
        self.visit(node.value)
        self.visit(node.target)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        """What is looped over, the target, the body."""
        self.visit(node.iter)
        self.visit(node.target)
        self._block(node.body, node.orelse)

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        """A loop's body may not run."""
        self.visit(node.test)
        self._block(node.body, node.orelse)

    def visit_If(self, node: ast.If) -> None:
        """What either branch binds counts as bound."""
        self.visit(node.test)
        self._block(node.body, node.orelse)

    def visit_Try(self, node: ast.Try | ast.TryStar) -> None:
        """Body, handlers, else, finally."""
        self._block(node.body, node.handlers, node.orelse, node.finalbody)

    visit_TryStar = visit_Try

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        """``as error`` ends with its handler."""
        if node.type is not None:
            self.visit(node.type)
        was_bound, was_assigned = node.name in self._bound, node.name in self.assigned
        if node.name:
            self._bind(node.name)
        self._visit_all(node.body)
        if node.name and not self._scopes:
            if not was_bound:
                self._bound.discard(node.name)
            if not was_assigned:
                self.assigned.discard(node.name)

    def visit_Match(self, node: ast.Match) -> None:
        """Patterns bind names."""
        self.visit(node.subject)
        self._block(node.cases)

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        """``case ... as name`` and the bare capture."""
        self.generic_visit(node)
        if node.name:
            self._bind(node.name)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        """``case [first, *rest]``."""
        if node.name:
            self._bind(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        """``case {"a": a, **rest}``."""
        self.generic_visit(node)
        if node.rest:
            self._bind(node.rest)

    def _block(self, *parts: Iterable[ast.AST]) -> None:
        self._nesting += 1
        for part in parts:
            self._visit_all(part)
        self._nesting -= 1

    def _visit_all(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            self.visit(node)

    # scopes

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Decorators and defaults run now, the body later."""
        self._visit_all(node.decorator_list)
        self._defaults(node.args)
        kinds = self._type_parameters(node)
        if not self._has_late_annotations:
            with_kinds = _Scope(kinds)
            self._scopes.append(with_kinds)
            self._visit_all(arg.annotation for arg in _arguments(node.args) if arg.annotation is not None)
            if node.returns is not None:
                self.visit(node.returns)
            self._scopes.pop()
        self._bind(node.name)
        self._function(node.args, node.body, kinds)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """Defaults run now, the body later."""
        self._defaults(node.args)
        self._function(node.args, [node.body], set())

    def _defaults(self, args: ast.arguments) -> None:
        self._visit_all(default for default in [*args.defaults, *args.kw_defaults] if default is not None)

    def _function(self, args: ast.arguments, body: Iterable[ast.AST], extra: set[str]) -> None:
        body = list(body)
        scope = _Scope({arg.arg for arg in _arguments(args)} | extra)
        local, global_ = _locals(body)
        scope.names |= local - global_
        scope.globals = global_
        self._scopes.append(scope)
        self._depth += 1
        self._visit_all(body)
        self._depth -= 1
        self._scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A class body runs where it stands, in a scope that its methods do not see."""
        self._visit_all([*node.decorator_list, *node.bases, *node.keywords])
        self._scopes.append(_Scope(self._type_parameters(node), is_class=True))
        self._visit_all(node.body)
        self._scopes.pop()
        self._bind(node.name)

    def _type_parameters(self, node: ast.AST) -> set[str]:
        return {parameter.name for parameter in getattr(node, "type_params", ())}

    def visit_TypeAlias(self, node: ast.AST) -> None:
        """``type Vector = list[float]`` binds a name; its value is worked out when asked for (Python >= 3.12)."""
        self.visit(node.name)  # type: ignore[attr-defined]

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        self.visit(node.generators[0].iter)
        scope = _Scope(set(), is_comprehension=True)
        self._scopes.append(scope)
        for number, generator in enumerate(node.generators):
            if number:
                self.visit(generator.iter)
            scope.names |= _targets(generator.target)
            self._visit_all([part for part in ast.walk(generator.target) if _is_use(part)])
            self._visit_all(generator.ifs)
        self._visit_all([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt])
        self._scopes.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension


def _is_use(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)


def _targets(target: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _arguments(args: ast.arguments) -> list[ast.arg]:
    return [*args.posonlyargs, *args.args, *args.kwonlyargs, *(arg for arg in (args.vararg, args.kwarg) if arg)]


def _locals(body: list[ast.AST]) -> tuple[set[str], set[str]]:
    """Return the names that a function's own body binds, and those it declares global."""
    local, global_ = set[str](), set[str]()
    stack: list[ast.AST] = list(body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Global):
            global_.update(node.names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            local.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            local.add(node.id)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            local.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            local.add(node.rest)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            local.add(node.name)
            stack += node.decorator_list
        elif isinstance(node, _COMPREHENSIONS):
            local |= {part.target.id for part in ast.walk(node) if isinstance(part, ast.NamedExpr)}
        elif not isinstance(node, ast.Lambda):
            stack += ast.iter_child_nodes(node)
    return local, global_
