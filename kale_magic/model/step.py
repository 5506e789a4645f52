"""A step: the unit of work that one cell declares, and the points of its sweep."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from kale_magic.model.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Mapping



class StepKind(StrEnum):
    """How a step's code is run."""

    PYTHON = "python"  # a Python cell in our own warm kernel
    SHELL = "shell"  # bash, no kernel
    KERNEL = "kernel"  # a cell in another installed kernel
    NOTEBOOK = "notebook"  # a notebook file, run from its first cell to its last
    SCRIPT = "script"  # a batch script with its own #SBATCH/#PBS lines, run as it stands


@dataclass(frozen=True, slots=True)
class Axis:
    """One ``--each``: the parameter's name, its values in order, and their text.

    ``source`` is the expression as written where it is ``range(..)`` or ``linspace(..)``, else the list as a literal.
    """

    name: str
    values: tuple[object, ...]
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one ``%%kale_step`` cell declares. Names in ``inputs`` are ``x`` or ``producer.x``. ``formats`` are declared forms of outputs, of :data:`kale_proxy.values.FORMS`.

    ``notebook`` is the path, relative to the workflow's folder, of a step of that kind. ``is_gate``: it waits for a person before its code; ``is_gate_release``: before it is queued. ``reuse_kernel``: the points of its sweep run one after
    another in kernels that stay warm. ``hold_s`` and ``hold_on_failure_s`` say how long its kernel stays for a look after it was stopped or has failed, ``warn_s`` how long before its walltime ends it is told.
    With ``idle_s`` the kernel stays open after the code, for a notebook whose own kernel it is, until nobody has
    used it for so long. ``first_line`` is the line of the cell at which ``code`` begins, so that messages give the line the
    user sees; it is no part of the workflow.
    """

    name: str
    code: str
    kind: StepKind = StepKind.PYTHON
    kernel: str | None = None
    notebook: str | None = None
    description: str = ""
    after: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    formats: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, object] = field(default_factory=dict)
    each: tuple[Axis, ...] = ()
    is_zipped: bool = False
    files_in: tuple[str, ...] = ()
    files_out: tuple[str, ...] = ()
    resources: Resources = field(default_factory=Resources)
    retries: int = 0
    is_gate: bool = False
    is_gate_release: bool = False
    no_cache: bool = False
    reuse_kernel: bool = False
    hold_s: int | None = None
    hold_on_failure_s: int | None = None
    warn_s: int | None = None
    idle_s: int | None = None
    executor: str | None = None
    tags: tuple[str, ...] = ()
    first_line: int = field(default=1, compare=False)

    @property
    def is_sweep(self) -> bool:
        """Whether the step has ``--each`` and so runs as several jobs."""
        return bool(self.each)

    @property
    def point_count(self) -> int:
        """How many jobs the step is: the number of :meth:`points`."""
        lengths = [len(axis.values) for axis in self.each]
        return lengths[0] if self.is_zipped and lengths else math.prod(lengths)

    def points(self) -> list[dict[str, object]]:
        """Return the swept parameters of each point, in point order (the last axis varies fastest).

        A step without ``--each`` has one point without swept parameters.
        """
        names = [axis.name for axis in self.each]
        columns = [axis.values for axis in self.each]
        rows = zip(*columns, strict=True) if self.is_zipped and columns else itertools.product(*columns)
        return [dict(zip(names, row, strict=True)) for row in rows]


def reuse_conflict(step: Step) -> str:
    """Return why a step that asks for ``--reuse-kernel`` can't have it, as the end of a sentence; empty if it can."""
    if step.kind is not StepKind.PYTHON:
        return "is for Python cells"
    if not step.is_sweep:
        return "is for the points of a sweep, and it has no --each"
    if (step.resources.ntasks or 1) > 1 or (step.resources.nodes or 1) > 1:
        return "is for points of one process, and it has --ntasks or --nodes"
    if step.resources.container:
        return "is for kernels of Kale's own, and it has a --container"
    if step.is_gate and not step.is_gate_release:
        return "leaves no kernel to wait at a --gate: write --gate-release"
    if step.hold_s is not None or step.hold_on_failure_s is not None:
        return "leaves no kernel to be held for a look: leave --hold and --hold-on-failure out"
    return ""


def clean_code(text: str) -> str:
    """Return a cell's code in the form in which it is kept: no empty lines around it, one newline at its end."""
    body = re.sub(r"\A(?:[^\S\n]*\n)+", "", text.replace("\r\n", "\n")).rstrip()
    return f"{body}\n" if body else ""


def leaves_folder(pattern: str) -> bool:
    """Whether a path or glob of ``--files-in`` or ``--files-out`` points out of the workflow's folder."""
    return pattern.startswith(("/", "~")) or ".." in pattern.replace("\\", "/").split("/") or "\0" in pattern
