"""A workflow as a plain dict of JSON values, and back: what goes to the manager and into a YAML file.

Owns the names and the order of the keys (``kale-magic.org/v1``); fields at their default are left out. Knows
nothing of YAML text. Called by client, manager and :mod:`kale_magic.formats.native`.
"""

from __future__ import annotations

import keyword
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from kale_magic.errors import FormatError, StepSyntaxError, WorkflowError
from kale_magic.model.literals import MAX_POINTS, decode_value, encode_value, parse_each, to_literal
from kale_magic.model.resources import Resources, format_memory, format_walltime, parse_memory, parse_walltime
from kale_magic.model.step import Axis, Step, StepKind, leaves_folder, reuse_conflict
from kale_magic.model.stepname import STEP_NAME
from kale_magic.model.workflow import Workflow
from kale_proxy.values import FORMS

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMA_ID = "kale-magic.org/v1"
_TEXTS = ("description", "executor", "directory")
_COUNTS = ("nodes", "ntasks", "cpus", "gpus")
_WORDS = ("queue", "account", "qos", "constraint", "reservation", "container")
_LISTS = ("native", "modules", "setup")
_STEP_LISTS = ("after", "inputs", "outputs", "files_in", "files_out", "tags")
_TIMES = ("hold", "hold_on_failure", "warn", "idle")
_STEP_KEYS = (
    "description", "kind", "kernel", "notebook", "after", "inputs", "outputs", "formats", "params", "each", "zip", "files_in", "files_out",
    "gate", "gate_release", "resources", "retries", "hold", "hold_on_failure", "warn", "idle", "reuse_kernel", "no_cache", "executor", "tags", "code",
)  # fmt: skip
_RESOURCE_KEYS = (
    *_COUNTS, "memory", "walltime", "queue", "account", "qos", "constraint", "reservation",
    "modules", "env", "setup", "container", "native",
)  # fmt: skip

Path = tuple[str | int, ...]
_T = TypeVar("_T")


class Misfit(Exception):  # noqa: N818 - becomes a FormatError once the place in the text is known
    """A value is not what its place takes; ``path`` leads to it from the top of the dict."""

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


def workflow_to_dict(workflow: Workflow) -> dict[str, Any]:
    """Return the dict that :func:`workflow_from_dict` reads back to an equal workflow.

    Raises
    ------
    WorkflowError
        A parameter has no literal form.
    """
    # in the order of the steps, so that a notebook made from the file gives the same file
    names = dict.fromkeys([*workflow.steps, *workflow.markdown])
    markdown = {name: workflow.markdown[name] for name in names if name and name in workflow.markdown}
    narrative = {"workflow": workflow.markdown.get("", ""), "steps": markdown}
    return {
        "schema": SCHEMA_ID,
        "name": workflow.name,
        **_present({key: getattr(workflow, key) for key in _TEXTS}),
        **_present({"markdown": _present(narrative), "common": dict(workflow.common)}),
        "steps": {name: _step_to_dict(step) for name, step in workflow.steps.items()},
    }


def _present(items: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in items.items() if value is not None and value not in ("", [], {}, False)}


def _step_to_dict(step: Step) -> dict[str, Any]:
    items: dict[str, Any] = {key: list(getattr(step, key)) for key in _STEP_LISTS}
    items |= {key: getattr(step, key) for key in ("description", "kernel", "notebook", "executor", "retries", "code")}
    items |= {
        "kind": None if step.kind is StepKind.PYTHON else step.kind.value,
        "params": {key: encode_value(value, f"{key} of step {step.name}") for key, value in step.params.items()},
        "each": {axis.name: _axis_to_data(axis, step.name) for axis in step.each},
        "formats": dict(step.formats),
        "zip": step.is_zipped,
        "resources": _resources_to_dict(step.resources),
        "retries": step.retries or None,
        "no_cache": step.no_cache,
        "reuse_kernel": step.reuse_kernel,
        "gate": step.is_gate,
        "gate_release": step.is_gate_release,
        **{key: None if (held := getattr(step, f"{key}_s")) is None else format_walltime(held) for key in _TIMES},
    }
    return {**_present({key: items[key] for key in _STEP_KEYS[:-1]}), "code": step.code}


def _axis_to_data(axis: Axis, step: str) -> Any:
    if not axis.source.lstrip().startswith(("[", "(")):
        try:
            if parse_each(axis.source) == axis.values:
                return axis.source
        except ValueError:
            pass
    return [encode_value(value, f"{axis.name} of step {step}") for value in axis.values]


def _resources_to_dict(resources: Resources) -> dict[str, Any]:
    items: dict[str, Any] = {key: getattr(resources, key) for key in (*_COUNTS, *_WORDS)}
    items |= {key: list(getattr(resources, key)) for key in _LISTS}
    items["memory"] = None if resources.memory_bytes is None else format_memory(resources.memory_bytes)
    items["walltime"] = None if resources.walltime_s is None else format_walltime(resources.walltime_s)
    items["env"] = dict(resources.env)
    # 0 GPUs is an answer, so only None counts as absent
    return {key: items[key] for key in _RESOURCE_KEYS if items[key] is not None and items[key] not in ([], {})}


def workflow_from_dict(data: Any) -> Workflow:
    """Return the workflow of a dict that :func:`workflow_to_dict` made, or one of the same form.

    Raises
    ------
    FormatError
        Something in it is not what its place takes; the message names the place.
    """
    try:
        return read_workflow(data)
    except Misfit as exc:
        raise FormatError(f"{'.'.join(map(str, exc.path)) or 'The workflow'}: {exc.message}") from exc


def read_workflow(data: Any) -> Workflow:
    """Do what :func:`workflow_from_dict` does, but raise :class:`Misfit`, for callers that know the places in a text."""
    top = _mapping(data, (), ("schema", "name", *_TEXTS, "markdown", "common", "steps"))
    if top.get("schema") != SCHEMA_ID:
        raise Misfit(("schema",), f"this Kale reads {SCHEMA_ID!r}, not {top.get('schema')!r}.")
    narrative = _mapping(top.get("markdown", {}), ("markdown",), ("workflow", "steps"))
    markdown = {"": _text(narrative["workflow"], ("markdown", "workflow"))} if narrative.get("workflow") else {}
    markdown |= _texts(narrative.get("steps", {}), ("markdown", "steps"))
    name = _text(top.get("name", ""), ("name",))
    _check_name(name, ("name",))
    common = _texts(top.get("common", {}), ("common",))
    for block in common:
        _check_name(block, ("common", block))
    for step in filter(None, markdown):
        _check_name(step, ("markdown", "steps", step))
    return Workflow(
        name=name,
        common=common,
        markdown=markdown,
        steps=_steps_from_dict(top.get("steps", {})),
        **{key: _text(top[key], (key,)) for key in _TEXTS if key in top},
    )


def _check_name(name: str, path: Path) -> None:
    if not STEP_NAME.fullmatch(name):
        raise Misfit(path, f"{name!r} is no name: it takes a letter, then up to 63 letters, digits, _ or -.")


def _steps_from_dict(data: Any) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    seen: dict[str, str] = {}
    for name, step in _mapping(data, ("steps",)).items():
        path: Path = ("steps", name)
        _check_name(name, path)
        if name.lower() in seen:
            raise Misfit(path, f"{name!r} and {seen[name.lower()]!r} differ only in case.")
        seen[name.lower()] = name
        steps[name] = _step_from_dict(name, step, path)
    return steps


def _step_from_dict(name: str, data: Any, path: Path) -> Step:
    items = _mapping(data, path, _STEP_KEYS)
    if "code" not in items:
        raise Misfit(path, "the step has no code.")
    kind = items.get("kind", "kernel" if items.get("kernel") else "python")
    if (kind == StepKind.NOTEBOOK) != bool(items.get("notebook")):
        raise Misfit(path, "a step of kind notebook names its notebook, and no other has one.")
    if leaves_folder(str(items.get("notebook") or "")):
        raise Misfit((*path, "notebook"), f"{items['notebook']!r} is absolute or leaves the workflow's folder.")
    if kind not in list(StepKind):
        raise Misfit((*path, "kind"), f"{kind!r} is none of {', '.join(StepKind)}.")
    for key in ("files_in", "files_out"):
        for number, pattern in enumerate(_list(items.get(key, []), (*path, key))):
            if leaves_folder(pattern):
                raise Misfit((*path, key, number), f"{pattern!r} is absolute or leaves the workflow's folder.")
    lists: dict[str, Any] = {key: _names(items.get(key, []), (*path, key)) for key in _STEP_LISTS}
    words: dict[str, Any] = {key: _text(items[key], (*path, key)) for key in ("kernel", "notebook", "executor") if key in items}
    times: dict[str, Any] = {f"{key}_s": _made(partial(parse_walltime, str(items[key])), (*path, key)) for key in _TIMES if key in items}
    params = _mapping(items.get("params", {}), (*path, "params"))
    step = Step(
        name=name,
        kind=StepKind(kind),
        code=_text(items["code"], (*path, "code")),
        description=_text(items.get("description", ""), (*path, "description")),
        params={_variable(key, (*path, "params", key)): _value(value, (*path, "params", key)) for key, value in params.items()},
        formats=_formats(items.get("formats", {}), lists["outputs"], (*path, "formats")),
        each=_axes(items.get("each", {}), (*path, "each")),
        is_zipped=_flag(items.get("zip", False), (*path, "zip")),
        resources=_resources_from_dict(items.get("resources", {}), (*path, "resources")),
        retries=_count(items.get("retries", 0), (*path, "retries")),
        is_gate=_flag(items.get("gate", False), (*path, "gate")),
        is_gate_release=_flag(items.get("gate_release", False), (*path, "gate_release")),
        no_cache=_flag(items.get("no_cache", False), (*path, "no_cache")),
        reuse_kernel=_flag(items.get("reuse_kernel", False), (*path, "reuse_kernel")),
        **times,
        **lists,
        **words,
    )
    if step.kind is not StepKind.NOTEBOOK and (step.kind is StepKind.KERNEL) != bool(step.kernel):
        raise Misfit(path, "a step of kind kernel names its kernel, and no other has one.")
    if step.idle_s is not None and step.kind is not StepKind.PYTHON:
        raise Misfit((*path, "idle"), "only the kernel of a Python step can stay open for a notebook.")
    if step.reuse_kernel and (conflict := reuse_conflict(step)):
        raise Misfit((*path, "reuse_kernel"), f"--reuse-kernel {conflict}.")
    if step.is_zipped and len({len(axis.values) for axis in step.each}) > 1:
        raise Misfit((*path, "each"), "with zip all lists need the same length.")
    if step.point_count > MAX_POINTS:
        raise Misfit((*path, "each"), f"{step.point_count} points; a sweep has at most {MAX_POINTS}.")
    return step


def _formats(data: Any, outputs: tuple[str, ...], path: Path) -> dict[str, str]:
    found = _texts(data, path)
    for name, form in found.items():
        if name not in outputs:
            raise Misfit((*path, name), f"the step has no output {name!r}.")
        if form not in FORMS:
            raise Misfit((*path, name), f"{form!r} is none of {', '.join(FORMS)}.")
    return found


def _axes(data: Any, path: Path) -> tuple[Axis, ...]:
    axes = []
    for name, values in _mapping(data, path).items():
        _variable(name, (*path, name))
        if isinstance(values, str):
            axes.append(Axis(name, _made(partial(parse_each, values), (*path, name)), values))
        elif isinstance(values, list) and values:
            decoded = tuple(_value(value, (*path, name, number)) for number, value in enumerate(values))
            axes.append(Axis(name, decoded, to_literal(list(decoded))))
        else:
            raise Misfit((*path, name), "takes a list with values, or range(..), linspace(..) or logspace(..).")
    return tuple(axes)


def _resources_from_dict(data: Any, path: Path) -> Resources:
    items = _mapping(data, path, _RESOURCE_KEYS)
    made: dict[str, Any] = {key: _count(items[key], (*path, key)) for key in _COUNTS if key in items}
    made |= {key: _text(items[key], (*path, key)) for key in _WORDS if key in items}
    made |= {key: tuple(_list(items.get(key, []), (*path, key))) for key in _LISTS}
    made["env"] = tuple(_texts(items.get("env", {}), (*path, "env")).items())
    if "memory" in items:
        made["memory_bytes"] = _made(lambda: parse_memory(str(items["memory"])), (*path, "memory"))
    if "walltime" in items:
        made["walltime_s"] = _made(lambda: parse_walltime(str(items["walltime"])), (*path, "walltime"))
    return Resources(**made)


def _made(make: Callable[[], _T], path: Path) -> _T:
    try:
        return make()
    except (StepSyntaxError, WorkflowError, ValueError) as exc:
        raise Misfit(path, str(exc)) from exc


def _value(data: Any, path: Path) -> object:
    return _made(lambda: decode_value(data), path)


def _mapping(data: Any, path: Path, allowed: tuple[str, ...] | None = None) -> dict[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise Misfit(path, f"takes names with values, not {_shown(data)}.")
    for key in data:
        if allowed is not None and key not in allowed:
            raise Misfit((*path, key), f"{key!r} is not known here; allowed are {', '.join(allowed)}.")
    return data


def _texts(data: Any, path: Path) -> dict[str, str]:
    return {key: _text(value, (*path, key)) for key, value in _mapping(data, path).items()}


def _list(data: Any, path: Path) -> list[str]:
    if not isinstance(data, list):
        raise Misfit(path, f"takes a list of text, not {_shown(data)}.")
    return [_text(item, (*path, number)) for number, item in enumerate(data)]


def _names(data: Any, path: Path) -> tuple[str, ...]:
    names = _list(data, path)
    for number, name in enumerate(names):
        if name in names[:number]:
            raise Misfit((*path, number), f"{name!r} stands there twice.")
        if path[-1] == "outputs":
            _variable(name, (*path, number))
    return tuple(names)


def _variable(name: str, path: Path) -> str:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise Misfit(path, f"{name!r} is no name of a variable.")
    return name


def _text(data: Any, path: Path) -> str:
    if not isinstance(data, str):
        raise Misfit(path, f"takes text, not {_shown(data)}.")
    return data


def _flag(data: Any, path: Path) -> bool:
    if not isinstance(data, bool):
        raise Misfit(path, f"takes true or false, not {_shown(data)}.")
    return data


def _count(data: Any, path: Path) -> int:
    if not isinstance(data, int) or isinstance(data, bool) or data < 0:
        raise Misfit(path, f"takes a whole number, not {_shown(data)}.")
    return data


def _shown(data: Any) -> str:
    return "a mapping" if isinstance(data, dict) else "a list" if isinstance(data, list) else repr(data)[:60]
