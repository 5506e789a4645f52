"""From keyword arguments and a text or a function to a step, for :class:`kale_magic.api.workflow.Workflow`."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import TYPE_CHECKING, Any

from kale_magic.dsl.build import check_name, check_step
from kale_magic.dsl.cells import is_batch_script
from kale_magic.errors import StepSyntaxError, UsageError
from kale_magic.model.literals import parse_each, plain, to_literal
from kale_magic.model.resources import Resources, parse_memory, parse_walltime
from kale_magic.model.step import Axis, Step, StepKind, clean_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

_LISTS = ("after", "inputs", "outputs", "files_in", "files_out", "tags")


def make_step(name: str, source: str, options: Mapping[str, Any], common: Iterable[str] | None) -> Step:
    """Return the checked step that ``source`` and ``options`` describe.

    Parameters
    ----------
    name, source : str
        The step's name and its cell.
    options : mapping
        As :meth:`kale_magic.api.workflow.Workflow.step` lists them.
    common : iterable of str or None
        Names that the common blocks make; None if that can't be known.

    Raises
    ------
    StepSyntaxError, UsageError, WorkflowError
        As :func:`kale_magic.dsl.build.check_step`; an option is unknown.
    """
    given = dict(options)
    check_name(name)
    code = clean_code(textwrap.dedent(source))
    notebook = given.pop("notebook", None)
    if not code and notebook is None:
        raise StepSyntaxError(f"Step {name} has no code.")
    is_shell, kernel = bool(given.pop("shell", False)), given.pop("kernel", None)
    if is_shell and kernel:
        raise UsageError(f"Step {name} has shell and kernel {kernel}.", "Leave one of them out.")
    if notebook is not None and (code or is_shell):
        raise UsageError(f"Step {name} is the notebook {notebook}, so it has no other code.")
    kind = StepKind.SHELL if is_shell else StepKind.KERNEL if kernel else StepKind.PYTHON
    kind = kind if notebook is None else StepKind.NOTEBOOK
    if kind is StepKind.PYTHON and is_batch_script(code):
        kind = StepKind.SCRIPT
    lists: dict[str, Any] = {key: names_of(given.pop(key, ())) for key in _LISTS}
    step = Step(
        name=name,
        code=code,
        kind=kind,
        kernel=kernel,
        notebook=None if notebook is None else str(notebook),
        description=str(given.pop("description", "")),
        formats={key: str(form) for key, form in (given.pop("formats", None) or {}).items()},
        params={key: plain(value, f"{key} of step {name}") for key, value in (given.pop("params", None) or {}).items()},
        each=tuple(_axis(name, key, value) for key, value in (given.pop("each", None) or {}).items()),
        is_zipped=bool(given.pop("zip", False)),
        retries=int(given.pop("retries", 0)),
        is_gate=bool(given.pop("gate", False)) or bool(given.get("gate_release")),
        is_gate_release=bool(given.pop("gate_release", False)),
        no_cache=bool(given.pop("no_cache", False)),
        reuse_kernel=bool(given.pop("reuse_kernel", False)),
        hold_s=_seconds(given.pop("hold", None)),
        hold_on_failure_s=_seconds(given.pop("hold_on_failure", None)),
        warn_s=_seconds(given.pop("warn", None)),
        executor=given.pop("executor", None),
        resources=_resources(given),
        **lists,
    )
    if given:
        raise UsageError(f"Step {name}: there is no option {next(iter(given))!r}.")
    check_step(step, common=None if common is None else frozenset(common))
    return step


def _axis(step: str, name: str, values: Any) -> Axis:
    if isinstance(values, str):
        try:
            return Axis(name, parse_each(values), values)
        except ValueError as exc:
            raise UsageError(f"Step {step}, each {name}: {exc}") from exc
    items = tuple(plain(value, f"{name} of step {step}") for value in values)
    if not items:
        raise UsageError(f"Step {step}: each {name} has no values.")
    return Axis(name, items, to_literal(list(items)))


def _seconds(time: object) -> int | None:
    return None if time is None else parse_walltime(str(time))


def _resources(options: dict[str, Any]) -> Resources:
    """Take the resources out of ``options``."""
    found: dict[str, Any] = {}
    if (memory := options.pop("memory", None)) is not None:
        found["memory_bytes"] = parse_memory(str(memory))
    if (walltime := options.pop("walltime", None)) is not None:
        found["walltime_s"] = parse_walltime(str(walltime))
    for key in ("nodes", "ntasks", "cpus", "gpus"):
        if (count := options.pop(key, None)) is not None:
            if not isinstance(count, int) or count < (0 if key == "gpus" else 1):
                raise UsageError(f"{key}={count!r} is not a whole number that can be asked for.")
            found[key] = count
    for key in ("queue", "account", "qos", "constraint", "reservation", "container"):
        if (word := options.pop(key, None)) is not None:
            found[key] = str(word)
    for key in ("native", "modules", "setup"):
        found[key] = names_of(options.pop(key, ()))
    found["env"] = tuple((str(key), str(value)) for key, value in (options.pop("env", None) or {}).items())
    return Resources(**found)


def names_of(value: Sequence[str] | str) -> tuple[str, ...]:
    """Return names given as a list, or as one name."""
    return (value,) if isinstance(value, str) else tuple(value)


def cell_of(function: Callable[..., Any], options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the cell that does what a function does, and the options with its arguments in them."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as exc:
        raise UsageError(f"The source of {function!r} can't be found.", "Give the step's source as text.") from exc
    node = ast.parse(source).body[0]
    if not isinstance(node, ast.FunctionDef):
        raise UsageError(f"{function!r} is no plain function.", "Give the step's source as text.")
    params, inputs = _arguments(function)
    found = {**options, "params": {**params, **(options.get("params") or {})}}
    swept = options.get("each") or {}
    found["inputs"] = tuple(dict.fromkeys([*names_of(options.get("inputs", ())), *(n for n in inputs if n not in swept)]))
    found.setdefault("description", inspect.getdoc(function) or "")
    lines = source.splitlines()
    returns = [part for part in _own_nodes(node) if isinstance(part, ast.Return) and part.value is not None]
    if returns:
        text = "\n".join(lines[node.lineno - 1 :])
        outputs = names_of(options.get("outputs", ()))
        call = f"{node.name}({', '.join([*inputs, *(f'{name}={name}' for name in params)])})"
        return f"{text}\n\n\n{', '.join(outputs)} = {call}\n" if outputs else f"{text}\n\n\n{call}\n", found
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if not body:
        raise StepSyntaxError(f"Function {node.name} has no code.")
    if body[0].lineno == node.lineno:  # def f(x): y = x
        return "\n".join(map(ast.unparse, body)), found
    return textwrap.dedent("\n".join(lines[body[0].lineno - 1 :])), found


def _arguments(function: Callable[..., Any]) -> tuple[dict[str, object], list[str]]:
    params: dict[str, object] = {}
    inputs: list[str] = []
    for name, argument in inspect.signature(function).parameters.items():
        if argument.kind not in {argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY}:
            raise UsageError(f"Argument {name} of {function.__name__} can't be an input of a step.", "Name each one.")
        if argument.default is argument.empty:
            inputs.append(name)
        else:
            params[name] = argument.default
    return params, inputs


def _own_nodes(function: ast.FunctionDef) -> Iterable[ast.AST]:
    """Walk a function's body without the functions and classes inside it."""
    stack: list[ast.AST] = list(function.body)
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            stack += ast.iter_child_nodes(node)
