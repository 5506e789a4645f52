"""In what two declarations of a step differ, in words: for the cache, the dry run and the comparison of runs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kale_magic.model.step import StepKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kale_magic.model.step import Step

_ASKED = ("modules", "setup", "env", "container")
_LONGEST = 40


def step_differences(old: Step, new: Step, *, old_common: str = "", new_common: str = "") -> list[str]:
    """Return what changed from one declaration of a step to another, of what its results depend on; empty: nothing.

    Parameters
    ----------
    old, new : Step
        Of one name.
    old_common, new_common : str
        The common code of their workflows, which Python steps have before theirs.
    """
    found = []
    if (old.kind, old.kernel) != (new.kind, new.kernel):
        found.append(f"kernel changed: {old.kernel or old.kind.value} -> {new.kernel or new.kind.value}")
    if old.notebook != new.notebook:
        found.append(f"notebook changed: {old.notebook} -> {new.notebook}")
    if line := first_difference(old.code, new.code):
        found.append(f"code changed: line {line}")
    if new.kind is StepKind.PYTHON and (line := first_difference(old_common, new_common)):
        found.append(f"common code changed: line {line}")
    found += param_differences(old.params, new.params)
    if _sweep(old) != _sweep(new):
        found.append("sweep changed")
    for output in new.outputs:
        if output not in old.outputs:
            found.append(f"output `{output}` is new")
    for name in new.outputs:
        if name in old.outputs and old.formats.get(name) != new.formats.get(name):
            found.append(f"--formats of {name} changed")
    for option, before, after in (("--files-in", old.files_in, new.files_in), ("--files-out", old.files_out, new.files_out)):
        if before != after:
            found.append(f"{option} changed")
    for name in _ASKED:
        if getattr(old.resources, name) != getattr(new.resources, name):
            found.append(f"--{name} changed")
    return found


def param_differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Return which parameters were added, removed or changed."""
    found = []
    for name in dict.fromkeys([*old, *new]):
        if name not in new:
            found.append(f"parameter {name} is gone")
        elif name not in old:
            found.append(f"parameter {name} is new")
        elif repr(old[name]) != repr(new[name]):
            found.append(f"parameter {name} changed: {_short(old[name])} -> {_short(new[name])}")
    return found


def first_difference(old: str, new: str) -> int:
    """Return the number of the first line in which two texts differ, counted from 1; 0 if they are the same."""
    if old == new:
        return 0
    before, after = old.splitlines(), new.splitlines()
    for number, (one, other) in enumerate(zip(before, after, strict=False), 1):
        if one != other:
            return number
    return min(len(before), len(after)) + (len(before) != len(after))


def _sweep(step: Step) -> tuple[object, ...]:
    return (step.is_zipped if step.each else False, tuple((axis.name, repr(axis.values)) for axis in step.each))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
