"""From a parsed line and a cell's body to a checked Step: what can be known to be wrong when it is declared.

Called by :mod:`kale_magic.dsl.session`, and :func:`check_step` by the Python API for steps made there.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from kale_magic.dsl.cells import is_batch_script, narrated
from kale_magic.errors import StepSyntaxError, UsageError, WorkflowError
from kale_magic.model._hints import never_assigned
from kale_magic.model.literals import MAX_POINTS
from kale_magic.model.names import analyse
from kale_magic.model.resources import Resources
from kale_magic.model.step import Step, StepKind, leaves_folder, reuse_conflict
from kale_magic.model.stepname import STEP_NAME
from kale_proxy.values import FORMS

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import SimpleNamespace

_ONLY_COMMENTS = re.compile(r"(?:\s*(?:#[^\n]*)?\n)*")
_INPUT = re.compile(r"(?:(?P<step>[A-Za-z][\w-]*)\.)?(?P<name>\w+)")


def check_name(name: str, what: str = "step") -> str:
    """Return a step's, workflow's or block's name if it may be one.

    Raises
    ------
    StepSyntaxError
        It has other signs, or is too long.
    """
    if not STEP_NAME.fullmatch(name):
        ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        way_out = re.sub(r"[^A-Za-z0-9_-]+", "_", ascii_name).strip("_")[:64]
        hint = f" Write {way_out}." if STEP_NAME.fullmatch(way_out) else ""
        raise StepSyntaxError(
            f"{name!r} is no name for a {what}: it takes a letter, then letters, digits, _ or -, 64 at most.{hint}",
        )
    return name


def build_step(given: SimpleNamespace, body: str, *, first_line: int, common: Collection[str] | None) -> Step:
    """Return the step that a cell declares.

    Parameters
    ----------
    given : SimpleNamespace
        What :func:`kale_magic.dsl.options.parse` returned for ``step`` or ``submit_cell``.
    body : str
        The cell below the magic's line.
    first_line : int
        The line of the cell at which the body begins.
    common : collection of str or None
        Names the common blocks make; None if that can't be known.

    Raises
    ------
    StepSyntaxError, UsageError, WorkflowError
        What is wrong, with the line and column of the cell where there are such.
    """
    name = check_name(given.name)
    kind = _kind(given, body)
    if not body.strip() and kind is not StepKind.NOTEBOOK:
        raise StepSyntaxError(f"The cell of step {name} is empty.", "Write what the step does below the line.", line=first_line)
    try:
        text = narrated(body.replace("\r\n", "\n"), is_python=kind in {StepKind.PYTHON, StepKind.NOTEBOOK})
    except StepSyntaxError as exc:
        raise _in_cell(exc, name, first_line) from None
    if kind is StepKind.NOTEBOOK and not _ONLY_COMMENTS.fullmatch(text.code):
        raise StepSyntaxError(f"Step {name} is the notebook {given.notebook}: its cell may have a description, but no code.", line=first_line)
    if (not text.code and kind is not StepKind.NOTEBOOK) or (kind is StepKind.PYTHON and _ONLY_COMMENTS.fullmatch(text.code)):
        raise StepSyntaxError(f"Step {name} has no code, only text.", "Write what it does below.", line=first_line)
    step = Step(
        name=name,
        code="" if kind is StepKind.NOTEBOOK else text.code,
        kind=kind,
        kernel=given.kernel,
        notebook=given.notebook,
        description=text.description,
        after=given.after,
        inputs=given.inputs,
        outputs=given.outputs,
        formats={name: str(form) for name, form in given.formats.items()},
        params=given.params,
        each=given.each,
        is_zipped=given.zip,
        files_in=given.files_in,
        files_out=given.files_out,
        resources=_resources(given),
        retries=given.retries or 0,
        is_gate=given.gate or given.gate_release,
        is_gate_release=given.gate_release,
        no_cache=given.no_cache,
        reuse_kernel=given.reuse_kernel,
        hold_s=given.hold,
        hold_on_failure_s=given.hold_on_failure,
        warn_s=given.warn,
        executor=given.executor,
        tags=given.tags,
        first_line=first_line + text.skipped,
    )
    check_step(step, common=common)
    return step


def _kind(given: SimpleNamespace, body: str) -> StepKind:
    if given.shell and given.kernel:
        raise UsageError(f"Step {given.name} has --shell and --kernel {given.kernel}.", "Leave one of them out.")
    if given.notebook and given.shell:
        raise UsageError(f"Step {given.name} has --shell and --notebook {given.notebook}.", "Leave one of them out.")
    if given.notebook:
        return StepKind.NOTEBOOK
    if given.shell:
        return StepKind.SHELL
    if given.kernel:
        return StepKind.KERNEL
    return StepKind.SCRIPT if is_batch_script(body) else StepKind.PYTHON


def _resources(given: SimpleNamespace) -> Resources:
    return Resources(
        nodes=given.nodes,
        ntasks=given.ntasks,
        cpus=given.cpus,
        gpus=given.gpus,
        memory_bytes=given.memory,
        walltime_s=given.walltime,
        queue=given.queue,
        account=given.account,
        qos=given.qos,
        constraint=given.constraint,
        reservation=given.reservation,
        native=given.native,
        modules=given.modules,
        env=tuple(given.env.items()),
        setup=given.setup,
        container=given.container,
    )


def check_step(step: Step, *, common: Collection[str] | None = ()) -> None:
    """Refuse what can be known to be wrong in one step alone.

    Parameters
    ----------
    step : Step
        From a cell or from the Python API.
    common : collection of str or None
        Names the common blocks make; None if that can't be known.

    Raises
    ------
    StepSyntaxError
        Its name, its code (with line and column of the cell), or a path.
    UsageError
        Its options contradict each other.
    WorkflowError
        It declares an output that its code never assigns.
    """
    check_name(step.name)
    _check_words(step)
    _check_sweep(step)
    for option, patterns in (
        ("--files-in", step.files_in),
        ("--files-out", step.files_out),
        ("--notebook", (step.notebook or "",)),
    ):
        for pattern in patterns:
            if leaves_folder(pattern):
                raise StepSyntaxError(
                    f"{option} {pattern} of step {step.name} is absolute or leaves the workflow's folder.",
                    "Name it relative to the folder, through a link if need be, or pass the path by --params.",
                )
    if step.kind is not StepKind.PYTHON:
        return
    try:
        names = analyse(step.code)
    except StepSyntaxError as exc:
        raise _in_cell(exc, step.name, step.first_line) from None
    if names.is_open or common is None:
        return
    given = {*step.params, *(axis.name for axis in step.each), *(text.rpartition(".")[2] for text in step.inputs), *common}
    for output in step.outputs:
        if output not in names.assigned and output not in names.free and output not in given:
            raise WorkflowError(*never_assigned(step.name, output, names))


def _check_words(step: Step) -> None:
    if step.is_gate and not step.is_gate_release and step.kind in {StepKind.SHELL, StepKind.SCRIPT}:
        raise UsageError(f"Step {step.name} is a gate, which needs a kernel to work in; a {step.kind} step has none.", "Write --gate-release.")
    if step.resources.container and step.kind is StepKind.KERNEL and step.kernel != "python3":
        raise UsageError(f"Step {step.name} has --container and --kernel {step.kernel}.", "In a container the kernel is the image's own python3: leave --kernel out, or write a --shell step.")
    if step.reuse_kernel and (conflict := reuse_conflict(step)):
        raise UsageError(f"Step {step.name}: --reuse-kernel {conflict}.")
    for output in step.outputs:
        if not output.isidentifier():
            raise UsageError(f"--outputs {output!r} of step {step.name} is no name of a variable.", "Write --outputs u,v.")
    for name, form in step.formats.items():
        if name not in step.outputs:
            raise UsageError(f"--formats {name}={form} of step {step.name}: it has no output {name}.", "Name it by --outputs.")
        if form not in FORMS:
            raise UsageError(f"--formats {name}={form} of step {step.name} is none of {', '.join(FORMS)}.")
    for text in step.inputs:
        match = _INPUT.fullmatch(text)
        if match is None or not match["name"].isidentifier():
            raise UsageError(f"--inputs {text!r} of step {step.name} is no name.", "Write --inputs x or --inputs relax.x.")


def _check_sweep(step: Step) -> None:
    for axis in step.each:
        if axis.name in step.params:
            raise UsageError(f"Step {step.name} has {axis.name} in --each and in --params.", "Leave one of them out.")
    if step.is_zipped:
        lengths = {axis.name: len(axis.values) for axis in step.each}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            raise UsageError(f"--zip of step {step.name} needs lists of the same length: {shown}.", "Without --zip it is their product.")
    if step.point_count > MAX_POINTS:
        raise UsageError(f"Step {step.name} would have {step.point_count} points; a sweep has at most {MAX_POINTS}.")


def _in_cell(exc: StepSyntaxError, name: str, first_line: int) -> StepSyntaxError:
    line = exc.line + first_line - 1 if exc.line else 0
    where = f", line {line}" if line else ""
    # Python counts from the code's first line: "after 'for' statement on line 1"
    message = re.sub(r"\bon line (\d+)", lambda match: f"on line {int(match[1]) + first_line - 1}", exc.message)
    return StepSyntaxError(f"Step {name}{where}: {message}", exc.hint, line=line, column=exc.column)

